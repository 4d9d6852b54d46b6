"""Week 2, day 7: chunked prefill, the scheduler that interleaves it, chunk sizes, priorities."""

import functools
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from types import FrameType
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from batch_models import BatchModel
from inputs import cases, float64
from oracle_models import chat, continue_greedily, ledger_question, random_model, tiny
from scripted import END_OF_TEXT, END_OF_TURN, byte_tokenizer, ids_of
from solution import attention, batch, chunked_prefill, kv_cache, qwen3
from tiny_llm_lab.course.checks import (
    CheckFailure,
    assert_close,
    assert_raises_clearly,
    assert_text_equal,
    assert_tokens_equal,
    check,
)

# The same examples in every run. The first failure is reported as it is: shrinking it would take
# longer than all other tests.
examples = functools.partial(
    settings,
    derandomize=True,
    database=None,
    deadline=None,
    report_multiple_bugs=False,
    phases=[Phase.explicit, Phase.generate],
)

tokenizer = functools.cache(byte_tokenizer)
PRIORITIES = ("interactive", "batch")


def letters(length: int, seed: int) -> str:
    """A text of so many tokens, one for each letter."""
    random = np.random.default_rng(seed)
    return "".join(random.choice(list("abcdfgijklmpqrsuvwxyz"), length))


# --- Task 1: cutting a prompt ----------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 2, 3, 7, 12, 13])
def test_task_1_consecutive_chunks(length: int) -> None:
    """Chunks of the given size, the last one shorter, which together are the prompt."""
    random = np.random.default_rng(length)
    tokens = random.integers(0, 5, length).tolist()  # tokens repeat: they cannot be told by value
    for size in (*range(1, length + 2), 100):
        chunks = chunked_prefill.chunk_prompt(list(tokens), size)
        what = f"chunk_prompt({length} tokens, {size})"
        lengths = [len(chunk) for chunk in chunks]
        expected = [min(size, length - start) for start in range(0, length, size)]
        check(
            lengths == expected,
            f"{what} has chunks of the wrong lengths.\n"
            f"  expected   {expected}\n"
            f"  got        {lengths}",
        )
        joined = [token for chunk in chunks for token in chunk]
        check(
            joined == tokens,
            f"{what}: the chunks together are not the prompt.\n"
            f"  expected   {tokens}\n"
            f"  got        {joined}",
        )


def test_task_1_any_sequence_and_nothing_of_it_changes() -> None:
    """A tuple and a range are cut as a list is; the caller's list stays as it is."""
    tokens = [3, 1, 4, 1, 5]
    chunked_prefill.chunk_prompt(tokens, 2)
    check(tokens == [3, 1, 4, 1, 5], f"chunk_prompt changes the caller's list to {tokens}.")
    for given_tokens in ((3, 1, 4, 1, 5), range(5)):
        chunks = chunked_prefill.chunk_prompt(given_tokens, 2)
        check(
            [list(chunk) for chunk in chunks]
            == [list(given_tokens)[start : start + 2] for start in (0, 2, 4)],
            f"chunk_prompt({given_tokens!r}, 2) is wrong: {chunks!r}",
        )


@pytest.mark.parametrize("tokens", [[], [1, 2, 3]], ids=["empty", "three-tokens"])
@pytest.mark.parametrize("size", [0, -1, -100])
def test_task_1_a_chunk_has_at_least_one_token(size: int, tokens: list[int]) -> None:
    """A size below 1 is an error, also for an empty prompt."""
    assert_raises_clearly(
        ValueError,
        lambda: list(chunked_prefill.chunk_prompt(tokens, size)),
        what=f"chunk_prompt({tokens}, {size})",
    )


# --- Task 2: one chunk at a time --------------------------------------------------------------


def request_of(
    length: int,
    step: int,
    script: str = "kl",
    seed: int = 1,
    model: Any = None,
    **options: Any,
) -> tuple[Any, BatchModel]:
    """A request of so many tokens, whose model continues it with `script`."""
    prompt = letters(length, seed)
    model = model or BatchModel(tokenizer(), {prompt: script})
    return batch.Request(model, tokenizer(), prompt, step, **options), model


def prefill_chunk(request: Any, expected: int) -> None:
    """Call `try_prefill` for a chunk of `expected` tokens; check what it returns, and `offset`."""
    before = request.offset
    processed = request.try_prefill()
    request.model.raise_failure()
    of = f"a chunk from token {before} on, of {len(request.prefill_tokens)}"
    check(
        processed == expected,
        f"try_prefill() returns the wrong number of tokens, for {of}, where prefill_max_step is "
        f"{request.prefill_max_step}.\n"
        f"  expected   {expected}\n"
        f"  got        {processed!r}",
    )
    check(
        request.offset == before + expected,
        f"offset is wrong after {of}.\n"
        f"  expected   {before + expected}\n"
        f"  got        {request.offset!r}",
    )


def check_chunks(model: BatchModel, ids: list[int], sizes: Sequence[int]) -> None:
    """The model's calls have to be these chunks of a prompt, in order, each at its offset."""
    lengths = [len(call.tokens[0]) for call in model.calls]
    check(
        lengths == list(sizes),
        f"The model is called with chunks of the wrong lengths.\n"
        f"  expected   {list(sizes)}\n"
        f"  got        {lengths}",
    )
    start = 0
    for number, (call, size) in enumerate(zip(model.calls, sizes, strict=True)):
        assert_tokens_equal(
            call.tokens[0],
            ids[start : start + size],
            what=f"chunk {number} of a prompt of {len(ids)} tokens",
        )
        check(
            call.offsets == [start],
            f"Chunk {number} goes through the model at the wrong offset.\n"
            f"  expected   {start}\n"
            f"  got        {call.offsets[0]}",
        )
        start += size


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_task_2_every_chunk_once_and_in_order(step: int) -> None:
    """Prompts of one token up to three chunks and one token, each chunk at its offset."""
    for length in range(1, 3 * step + 2):
        request, model = request_of(length, step)
        ids = list(request.prefill_tokens)
        sizes = [min(step, length - start) for start in range(0, length, step)]
        for number, size in enumerate(sizes):
            check(
                not request.is_prefill_done,
                f"is_prefill_done is True after {number} of {len(sizes)} chunks.",
            )
            prefill_chunk(request, size)
        check(
            request.is_prefill_done,
            f"is_prefill_done is still False after all {len(sizes)} chunks.",
        )
        check_chunks(model, ids, sizes)
        check(
            len(model.caches) == 1,
            f"create_kv_cache() is called {len(model.caches)} times for one request.\n"
            "  expected   once, before the first chunk",
        )
        check(request.prefill_tokens == ids, "try_prefill() changes prefill_tokens.")


def test_task_2_the_first_token_comes_after_the_last_chunk() -> None:
    """Until then there is none; then there is exactly one, and the caches are still there."""
    request, model = request_of(11, 4, "kl")
    first = model.next_token(request.prefill_tokens)
    for size, done in ((4, False), (4, False), (3, True)):
        prefill_chunk(request, size)
        tokens = [first] if done else []
        check(
            request.tokens == tokens and request.next_token == (first if done else None),
            f"The generated tokens are wrong after {request.offset} of 11 tokens of the prompt.\n"
            f"  expected   tokens {tokens}, next_token {tokens[0] if done else None}\n"
            f"  got        tokens {request.tokens}, next_token {request.next_token}",
        )
        check(not request.is_done, "The request has ended, though it has had only one token.")
        check(
            not any(cache.released for cache in model.caches[0]),
            "The caches are released, though the request goes on.",
        )


def test_task_2_the_sampler_is_asked_once() -> None:
    """After the last chunk, with the log-probabilities behind the last token of the prompt."""
    given_logprobs: list[mx.array] = []

    def sampler(logprobs: mx.array) -> mx.array:
        given_logprobs.append(mx.array(logprobs))
        return mx.array([77])

    request, model = request_of(13, 5, sampler=sampler)
    for number, size in enumerate((5, 5, 3)):
        check(
            not given_logprobs,
            f"The sampler is called after {number} of 3 chunks.\n"
            "  expected   once, after the last: the tokens before are the prompt's",
        )
        prefill_chunk(request, size)
    check(
        len(given_logprobs) == 1,
        f"The sampler is called {len(given_logprobs)} times for the first token.",
    )
    logits = model.logits(request.prefill_tokens)
    assert_close(
        given_logprobs[0],
        (logits - np.log(np.sum(np.exp(logits))))[None],
        what="what the sampler gets after the last chunk (log-probabilities)",
        reduction=len(logits),
        magnitude=np.abs(logits).max(),
        axes="B vocab",
    )
    check(
        request.tokens == [77] and request.next_token == 77,
        f"The sampler picks token 77, but the request has {request.tokens}.",
    )


@pytest.mark.parametrize("how", [END_OF_TEXT, END_OF_TURN, "length"])
def test_task_2_the_first_token_may_be_the_end(how: str) -> None:
    """An end-of-sequence token behind the prompt, or `max_tokens` of 1, ends the request."""
    script = "kl" if how == "length" else how
    request, model = request_of(9, 4, script, max_tokens=1 if how == "length" else 5)
    for size in (4, 4):
        prefill_chunk(request, size)
        check(not request.is_done, "The request has ended between two chunks.")
    prefill_chunk(request, 1)
    reason, count = ("length", 1) if how == "length" else ("stop", 0)
    check(
        request.finish_reason == reason and len(request.tokens) == count,
        f"The first token ends the request ({how}), but it does not end rightly.\n"
        f"  expected   finish_reason {reason!r}, {count} tokens\n"
        f"  got        finish_reason {request.finish_reason!r}, {len(request.tokens)} tokens",
    )
    check(request.is_prefill_done, "is_prefill_done is False, though the prompt is done.")
    model.check_released(when="when the first token is the end")


@pytest.mark.parametrize("how", ["done", "stop", "abort"])
def test_task_2_nothing_left_to_prefill_is_an_error(how: str) -> None:
    """After the last chunk, and after the request has ended, whyever; the model is not called."""
    request, model = request_of(8, 3, END_OF_TEXT if how == "stop" else "kl")
    for size in (3, 3, 2)[: 1 if how == "abort" else 3]:
        prefill_chunk(request, size)
    if how == "abort":
        request.finish("abort")
    calls, offset, tokens = len(model.calls), request.offset, list(request.tokens)
    assert_raises_clearly(
        RuntimeError, request.try_prefill, what=f"try_prefill() of a request that is over ({how})"
    )
    check(
        (len(model.calls), request.offset, request.tokens) == (calls, offset, tokens),
        "try_prefill() of a request that is over changes it, or calls the model.",
    )


@pytest.mark.parametrize("steps", [[1, 5, 2, 9], [9, 1, 1, 6], [16, 1], [3, 100]], ids=str)
def test_task_2_the_chunk_size_may_change(steps: list[int]) -> None:
    """`prefill_max_step` is looked at in every call."""
    request, model = request_of(17, 99)
    sizes: list[int] = []
    for step in steps:
        request.prefill_max_step = step
        sizes.append(min(step, 17 - request.offset))
        prefill_chunk(request, sizes[-1])
    check(request.is_prefill_done, "is_prefill_done is still False after 17 of 17 tokens.")
    check_chunks(model, request.prefill_tokens, sizes)


def test_task_2_requests_in_turns_do_not_mix() -> None:
    """Each request has caches of its own, also while several are between two chunks."""
    prompts = {letters(length, seed=20 + length): script for length, script in ((9, "m"), (7, "p"))}
    model = BatchModel(tokenizer(), prompts)
    requests = [batch.Request(model, tokenizer(), prompt, 3) for prompt in prompts]
    for sizes in ((3, 3), (3, 3), (3, 1)):
        for request, size in zip(requests, sizes, strict=True):
            prefill_chunk(request, size)
    for request, script in zip(requests, prompts.values(), strict=True):
        assert_tokens_equal(
            request.tokens,
            ids_of(tokenizer(), script),
            what="the first token of one of two requests in turns",
        )


def memory_in_use() -> int:
    """Bytes of all arrays that are alive, once nothing is being computed."""
    mx.synchronize()
    return mx.get_active_memory()


class PendingModel:
    """A model whose keys of one layer are computed from 4 MiB, and whose logits take 64 MiB.

    Nothing of it is computed before somebody asks.
    """

    def __init__(self, layer: int, length: int) -> None:
        self.layer, self.length = layer, length

    def create_kv_cache(self) -> list[Any]:
        return [kv_cache.TinyKvFullCache() for _ in range(3)]

    def raise_failure(self) -> None:
        """Nothing goes wrong here."""

    def __call__(self, inputs: mx.array, offset: int, cache: list[Any]) -> mx.array:
        L = inputs.shape[1]
        for index, layer_cache in enumerate(cache):
            ready = mx.ones((1, 1, L, 4)) * offset
            mx.eval(ready)
            pending = ready
            if index == self.layer:
                big = mx.ones((1024, 1024)) + offset
                mx.eval(big)
                pending = mx.broadcast_to(mx.sum(big, axis=0)[:4], (1, 1, L, 4))
            layer_cache.update_and_fetch(pending, ready, L, "causal")
        size = 8 if offset + L == self.length else 2**24 // L
        rows = mx.arange(offset, offset + L, dtype=mx.float32)[None, :, None]
        return rows + mx.arange(size, dtype=mx.float32)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_task_2_no_graph_grows_between_chunks(layer: int) -> None:
    """The keys and values of every layer are computed, what they come from is let go."""
    request, _ = request_of(23, 4, model=PendingModel(layer, 23))
    mx.eval(mx.ones(1))
    before = memory_in_use()
    for number in range(1, 6):
        prefill_chunk(request, 4)
        still = memory_in_use() - before
        check(
            still < 2**21,
            f"After {number} chunks, what the keys of layer {layer} are computed from is still in "
            "memory.\n"
            "  expected   the caches of all layers materialized after every chunk\n"
            f"  got        {still / 2**20:.0f} MiB that grow with the number of chunks",
        )


def test_task_2_nobody_looks_at_logits_between_chunks() -> None:
    """A chunk in the middle has logits too, but they are not needed, and so not computed."""
    request, _ = request_of(23, 4, model=PendingModel(0, 23))
    for number in range(5):
        before = memory_in_use()
        mx.reset_peak_memory()
        prefill_chunk(request, 4)
        more = mx.get_peak_memory() - before
        check(
            more < 2**25,
            f"The logits of chunk {number} of 6 are computed: {more / 2**20:.0f} MiB more memory.\n"
            "  expected   only the logits of the last chunk are looked at",
        )


def test_task_2_the_logits_do_not_depend_on_the_chunk_size() -> None:
    """A random model, as mlx-lm without chunks, for every chunk size from 1 to beyond."""
    mlx_model = random_model(seed=700, layers=2, vocab_size=300)
    student = Watched(qwen3.Qwen3Model(mlx_model))
    prompt = letters(14, seed=701)
    logits = float64(mlx_model(mx.array([ids_of(tokenizer(), prompt)])))[:, -1]
    args = mlx_model.args
    heads = args.num_attention_heads * args.head_dim
    for step in (*range(1, 16), 100):
        given_logprobs: list[mx.array] = []

        def sampler(logprobs: mx.array, seen: list[mx.array] = given_logprobs) -> mx.array:
            seen.append(logprobs)
            return mx.argmax(logprobs, axis=-1)

        student.largest = 0
        request = batch.Request(student, tokenizer(), prompt, step, sampler=sampler)
        while not request.is_prefill_done:
            prefill_chunk(request, min(step, 14 - request.offset))
        student.check_chunks(step)
        check(
            len(given_logprobs) == 1,
            f"The sampler is called {len(given_logprobs)} times for the first token.",
        )
        assert_close(
            given_logprobs[0],
            logits - np.log(np.sum(np.exp(logits))),
            what=f"the log-probabilities behind a prompt of 14 tokens in chunks of {step}",
            reduction=args.num_hidden_layers
            * (2 * args.hidden_size + heads + args.intermediate_size),
            magnitude=np.abs(logits).max(),
            axes="B vocab",
        )


class Watched:
    """A model, and the largest number of tokens that one row of a call has had."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.largest = 0

    def create_kv_cache(self) -> Any:
        return self.model.create_kv_cache()

    def raise_failure(self) -> None:
        """Nothing goes wrong here."""

    def __call__(self, inputs: mx.array, offset: Any, cache: Any) -> mx.array:
        self.largest = max(self.largest, inputs.shape[1])
        return self.model(inputs, offset, cache)

    def check_chunks(self, limit: int) -> None:
        check(
            self.largest <= limit,
            f"The model is called with {self.largest} tokens at once.\n"
            f"  expected   chunks of at most {limit}",
        )


# --- Task 3: a chunk, then a decode step -----------------------------------------------------


@dataclass
class Tracked:
    """What a request is to get, and what it has got so far."""

    ids: list[int]
    answer: list[int]
    reason: str
    prefilled: int = 0
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    ended: str = ""
    message: str = ""
    reported: bool = False

    @property
    def is_prefilled(self) -> bool:
        return self.prefilled == len(self.ids)


class Run:
    """A scheduler on a scripted model; checks after every step what has to hold in any run.

    - At most one chunk per step, of at most `prefill_step` tokens, and then at most one forward
      pass to decode; the chunks of a request are its prompt, in order.
    - Whoever was in a slot gets one token in every step: no decode waits for two chunks.
    - If somebody waits for a prefill and nobody for a slot, a chunk runs: the oldest request's.
    - Every token is the one that the request would get alone, and comes once.
    - Every request ends once, for the right reason, and its caches are released then.
    """

    def __init__(
        self,
        scripts: Mapping[str, str],
        *,
        make: Callable[..., Any] | None = None,
        batch_size: int = 2,
        prefill_step: int = 4,
        max_seq_len: int = 64,
        on_call: Callable[[str, list[list[int]], list[int]], None] | None = None,
        model: Any = None,
        in_order: bool = True,
        after_step: Callable[["Run"], None] | None = None,
        **options: Any,
    ) -> None:
        self.model = model or BatchModel(tokenizer(), scripts, on_call=on_call)
        self.scheduler = (make or batch.BatchScheduler)(
            self.model,
            tokenizer(),
            max_seq_len=max_seq_len,
            batch_size=batch_size,
            prefill_step=prefill_step,
            **options,
        )
        self.batch_size, self.max_seq_len = batch_size, max_seq_len
        self.largest_chunk = prefill_step
        self.in_order = in_order  # whether requests are prefilled in the order they came
        self.after_step = after_step
        self.requests: dict[int, Tracked] = {}
        self.limits: dict[int, int] = {}  # the most tokens of each answer
        self.slots: list[int] = []  # who is in a slot
        self.prefilled: list[int] = []  # who waits for one
        self.doomed: set[int] = set()  # the requests that are to fail
        self.calls_may_fail = False
        self.steps = 0
        self.chunk_order: list[int] = []

    def submit(
        self, prompt: str, max_tokens: int | None = None, *, doomed: bool = False, **options: Any
    ) -> int:
        """Submit a prompt that can be served."""
        ids = ids_of(tokenizer(), prompt)
        room = self.max_seq_len - len(ids)
        limit = room if max_tokens is None else min(room, max_tokens)
        answer: list[int] = []
        reason = "length"
        while len(answer) < limit:
            token = self.model.next_token([*ids, *answer])
            if token in tokenizer().eos_token_ids:
                reason = "stop"
                break
            answer.append(token)
        index = self.scheduler.submit(prompt, max_tokens, **options)
        check(
            index == len(self.requests),
            f"submit() returns {index!r} for the request number {len(self.requests)}.",
        )
        self.requests[index] = Tracked(ids, answer, reason)
        self.limits[index] = limit
        if doomed:
            self.doomed.add(index)
            self.calls_may_fail = True
        return int(index)

    def abort(self, index: int) -> None:
        """Abort a request that has not ended; its caches have to be released at once."""
        result = self.scheduler.abort(index)
        check(
            result is True,
            f"abort({index}) of a request that has not ended returns {result!r}, not True.",
        )
        request = self.requests[index]
        request.ended = "abort"
        self._forget_ended()
        self._check_caches(f"after abort({index})")
        self._check_work()

    def step(self) -> Any:
        """One step of the scheduler, checked."""
        check(
            self.steps < 400,
            "After 400 steps, these requests have not ended: "
            f"{[i for i, r in self.requests.items() if not r.reported]}.",
        )
        waiting = [i for i, r in self.requests.items() if not r.ended and not r.is_prefilled]
        nobody_waits_for_a_slot = not self.prefilled
        calls = len(self.model.calls)
        try:
            output = self.scheduler.step()
        except (NotImplementedError, CheckFailure):
            raise
        except Exception as error:
            self.model.raise_failure()
            raise CheckFailure(
                f"step() raises {type(error).__name__}: {error}\n"
                "  expected   no exception: whatever fails, at most one request ends by it"
            ) from error
        self.model.raise_failure()
        self.steps += 1
        new_calls = self.model.calls[calls:]
        failed = [event.prompt_idx for event in output.finished if event.reason == "error"]
        self._check_chunks(output, waiting, new_calls, failed)
        newly = [index for index, _ in output.chunks if self.requests[index].is_prefilled]
        self._check_decoding(output, newly, new_calls, failed)
        if waiting and nobody_waits_for_a_slot and self.in_order:
            check(
                output.chunks or any(index in failed for index in waiting),
                f"In step {self.steps}, no chunk runs, though request {waiting[0]} waits for its "
                "prefill and no prefilled request waits for a slot.\n"
                "  expected   a prefill advances by a chunk in every step",
            )
        self._take_tokens(output, newly)
        self._take_ends(output)
        self.prefilled += newly
        self._forget_ended()
        while self.prefilled and len(self.slots) < self.batch_size:
            self.slots.append(self.prefilled.pop(0))
        self._check_results()
        self._check_caches(f"after step {self.steps}")
        self._check_work()
        if self.after_step is not None:
            self.after_step(self)
        return output

    def finish(self) -> list[Any]:
        """Step until nothing is left; then everything has to be released."""
        outputs = []
        while any(not request.reported for request in self.requests.values()):
            outputs.append(self.step())
        self.model.check_released(when="at the end")
        return outputs

    def _forget_ended(self) -> None:
        """Take requests that have ended out of slots, and from where they wait for one."""
        self.slots = [index for index in self.slots if not self.requests[index].ended]
        self.prefilled = [index for index in self.prefilled if not self.requests[index].ended]

    def _check_chunks(
        self, output: Any, waiting: list[int], calls: list[Any], failed: list[int]
    ) -> None:
        check(
            len(output.chunks) <= 1,
            f"In step {self.steps}, {len(output.chunks)} prefill chunks run: {output.chunks}.\n"
            "  expected   at most one: whoever is decoding waits for all of them",
        )
        kinds = [call.kind for call in calls]
        check(
            kinds.count("prefill") <= 1,
            f"In step {self.steps}, the model is called for {kinds.count('prefill')} chunks.\n"
            "  expected   at most one: whoever is decoding waits for all of them",
        )
        check(
            "prefill" not in kinds[1:],
            f"In step {self.steps}, the chunk comes behind the decode step.\n"
            "  expected   a chunk, then one decode step",
        )
        for index, size in output.chunks:
            request = self.requests[index]
            check(
                not request.ended,
                f"A chunk of request {index} runs, which has ended ({request.ended}).",
            )
            check(
                1 <= size <= self.largest_chunk,
                f"A chunk of request {index} has {size} tokens.\n"
                f"  expected   at most {self.largest_chunk}",
            )
            check(
                not self.in_order or index == waiting[0],
                f"A chunk of request {index} runs while request {waiting[0]} waits.\n"
                "  expected   first come, first served",
            )
            chunk = request.ids[request.prefilled : request.prefilled + size]
            shown = [call.tokens[0] for call in calls if call.kind == "prefill"]
            check(
                shown == [chunk],
                f"Request {index} has {request.prefilled} tokens in its caches, and its next chunk "
                "is wrong.\n"
                f"  expected   {chunk}\n"
                f"  got        {shown[0] if shown else 'no call of the model'}",
            )
            request.prefilled += size
            self.chunk_order.append(index)
        check(
            output.chunks or "prefill" not in kinds or failed,
            f"A chunk runs in step {self.steps}, but the step's output does not report it.",
        )

    def _check_decoding(
        self,
        output: Any,
        newly: list[int],
        calls: list[Any],
        failed: list[int],
    ) -> None:
        decodes = [call for call in calls if call.kind == "decode"]
        check(
            len(decodes) <= 1,
            f"In step {self.steps}, {len(decodes)} forward passes decode.\n"
            "  expected   one for all slots",
        )
        check(
            self.calls_may_fail or all(call.kind != "alone" for call in calls),
            f"In step {self.steps}, a request decodes alone, though nothing has failed.\n"
            "  expected   one forward pass for all slots",
        )
        for index in self.slots:
            check(
                index in output.decoded or index in failed or self.requests[index].ended,
                f"Request {index} is in a slot, but is not decoded in step {self.steps}.\n"
                "  expected   one token in every step: a decode waits for one chunk at most",
            )
        check(
            len(set(output.decoded)) == len(output.decoded),
            f"A request is decoded twice in step {self.steps}: {output.decoded}.",
        )
        free = self.batch_size - len(self.slots)
        for index in output.decoded:
            check(
                not self.requests[index].ended,
                f"Request {index} is decoded, though it has ended ({self.requests[index].ended}).",
            )
            check(
                index in self.slots or (index in [*self.prefilled, *newly] and free > 0),
                f"Request {index} is decoded in step {self.steps}, but it has no slot.",
            )
        if decodes:
            rows = sum(bool(row) for row in decodes[0].rows)
            check(
                rows == len(output.decoded) or failed or self.calls_may_fail,
                f"In step {self.steps}, {rows} slots of the caches hold tokens, but "
                f"{len(output.decoded)} requests are decoded.",
            )

    def _take_tokens(self, output: Any, newly: list[int]) -> None:
        counts = Counter(event.prompt_idx for event in output.tokens)
        stopped = {e.prompt_idx for e in output.finished if e.reason == "stop"}
        for index in {*counts, *newly, *output.decoded}:
            expected = (index in newly) + (index in output.decoded) - (index in stopped)
            check(
                counts[index] == expected,
                f"Request {index} gets {counts[index]} tokens in step {self.steps}.\n"
                f"  expected   {expected}: one after its last chunk, and one for each decode step "
                "that it is in",
            )
        for event in output.tokens:
            request = self.requests[event.prompt_idx]
            number = len(request.tokens)
            check(
                number < len(request.answer) and event.token == request.answer[number],
                f"Token {number} of request {event.prompt_idx} is wrong.\n"
                f"  expected   {[*request.answer, 'the end'][number]}, as without neighbours and "
                "without chunks\n"
                f"  got        {event.token}",
            )
            request.tokens.append(event.token)
            request.text += event.text

    def _take_ends(self, output: Any) -> None:
        self.just_ended = []
        for event in output.finished:
            request = self.requests[event.prompt_idx]
            name = f"Request {event.prompt_idx}"
            check(not request.reported, f"{name} ends twice.")
            request.reported = True
            request.text += event.text
            self.just_ended.append(event.prompt_idx)
            if event.reason == "error":
                check(
                    event.prompt_idx in self.doomed,
                    f"{name} ends with an error, though nothing is wrong with it.\n"
                    f"  got        {event.message}",
                )
                request.ended, request.message = "error", event.message
                continue
            check(
                event.prompt_idx not in self.doomed or request.ended == "abort",
                f"{name} fails in the model, but ends with the reason {event.reason!r}.",
            )
            expected = request.ended or request.reason
            check(
                event.reason == expected,
                f"{name} ends for the wrong reason.\n"
                f"  expected   {expected!r}\n"
                f"  got        {event.reason!r}",
            )
            request.ended = event.reason
            check(
                event.reason == "abort" or request.tokens == request.answer,
                f"{name} ends after {len(request.tokens)} of {len(request.answer)} tokens.",
            )
        for index, request in self.requests.items():
            check(
                not request.ended or request.reported,
                f"Request {index} has been aborted, but no step reports its end.",
            )
            check(
                request.ended
                or not request.answer
                or len(request.tokens) < len(request.answer)
                # An end-of-sequence token is a token more.
                or request.reason == "stop"
                or index in self.doomed,
                f"Request {index} has all of its tokens, but does not end.",
            )

    def _check_results(self) -> None:
        results = self.scheduler.collect_results()
        expected = [(index, self.requests[index].text) for index in self.just_ended]
        check(
            sorted(results) == sorted(expected),
            "collect_results() is wrong: a result for each request that has ended, once.\n"
            f"  expected   {expected}\n"
            f"  got        {results}",
        )
        for index, text in results:
            assert_text_equal(
                text,
                tokenizer().decode(self.requests[index].tokens),
                what=f"the text of request {index}, by its tokens",
            )

    def _check_caches(self, when: str) -> None:
        """Only who is between two chunks, or waits for a slot, has caches of its own."""
        started = [i for i, r in self.requests.items() if not r.ended and r.prefilled > 0]
        own = [i for i in started if i not in self.slots]
        held = [
            [layer for layer, cache in enumerate(caches) if not cache.released]
            for caches in self.model.caches
        ]
        kept = sum(map(bool, held))
        check(
            kept <= len(own),
            f"{kept} requests have caches of their own {when}, in some or all layers.\n"
            f"  expected   {len(own)}: whoever is between two chunks, or waits for a slot; the "
            "caches of all others are released, in every layer",
        )

    def _check_work(self) -> None:
        expected = any(not request.ended for request in self.requests.values())
        got = self.scheduler.has_work_remaining()
        check(
            got == expected,
            f"has_work_remaining() is {got!r}, but "
            f"{sum(not r.ended for r in self.requests.values())} requests have not ended.",
        )


def scripts_of(*lengths: tuple[int, int], seed: int = 30) -> dict[str, str]:
    """Prompts with their scripts, of so many tokens each; the scripts end by themselves."""
    return {
        letters(prompt, seed + 2 * index): letters(script, seed + 2 * index + 1) + END_OF_TURN
        for index, (prompt, script) in enumerate(lengths)
    }


def serve(scripts: Mapping[str, str], **options: Any) -> Run:
    """Serve all prompts at once, to the end."""
    run = Run(scripts, **options)
    for prompt in scripts:
        run.submit(prompt)
    run.finish()
    return run


@pytest.mark.parametrize("step", [1, 2, 5])
def test_task_3_a_lone_prompt_of_any_length(step: int) -> None:
    """One token, exactly k chunks, k chunks and one, one less: in as many steps as chunks."""
    for length in sorted({1, step, step + 1, 3 * step - 1, 3 * step, 3 * step + 1} - {0}):
        for script in (0, 2):
            run = serve(scripts_of((length, script)), prefill_step=step)
            chunks = -(-length // step)
            check(
                run.chunk_order == [0] * chunks,
                f"A prompt of {length} tokens is prefilled in {len(run.chunk_order)} chunks of at "
                f"most {step}, not in {chunks}.",
            )


def test_task_3_a_chunk_then_a_decode_step() -> None:
    """While a long prompt is prefilled, whoever is decoding gets a token after every chunk."""
    scripts = scripts_of((3, 12), (14, 2))
    run = Run(scripts)
    victim, attacker = scripts
    run.submit(victim)
    run.step()
    run.submit(attacker)
    calls = len(run.model.calls)
    for _ in range(4):
        run.step()
    got = [
        (call.kind, len(call.tokens[0]) if call.kind == "prefill" else sum(map(bool, call.rows)))
        for call in run.model.calls[calls:]
    ]
    expected = [("prefill", 4), ("decode", 1)] * 3
    check(
        got[:6] == expected and got[6] == ("prefill", 2),
        "A request is decoding when a prompt of 14 tokens arrives, in chunks of 4, but the model "
        "is called in another order.\n"
        f"  expected   {[*expected, ('prefill', 2), ('decode', 2)]}\n"
        f"  got        {got}",
    )
    run.finish()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_task_3_tokens_are_the_same_for_every_chunk_size(batch_size: int) -> None:
    """Chunks from 1 token to beyond the longest prompt, beside neighbours of other lengths."""
    scripts = scripts_of((9, 4), (1, 6), (13, 0), (4, 3), (8, 1))
    for step in (1, 2, 3, 4, 6, 8, 9, 12):
        serve(scripts, batch_size=batch_size, prefill_step=step)
        scripts = dict(reversed(scripts.items()))


def test_task_3_a_prefilled_request_waits_for_a_slot() -> None:
    """It keeps its caches and its first token, and meanwhile nobody else is prefilled."""
    scripts = scripts_of((2, 15), (9, 3), (6, 1))
    run = Run(scripts, batch_size=1)
    for prompt in scripts:
        run.submit(prompt)
    for _ in range(4):
        run.step()
    check(
        run.requests[1].tokens == run.requests[1].answer[:1],
        "A prompt of 9 tokens, in chunks of 4, has no first token after 3 steps: a prefill goes on "
        "while all slots are taken.",
    )
    while not run.requests[0].ended:
        output = run.step()
        check(
            not output.chunks,
            f"A chunk of request {output.chunks and output.chunks[0][0]} runs while another "
            "prefilled request waits for a slot.\n"
            "  expected   no chunk: nobody could use its result",
        )
    for prompt in ("second", "third"):
        output = run.step()
        check(
            output.decoded == [1],
            f"A slot is free, but in the {prompt} step the requests {output.decoded} are decoded, "
            "not request 1, which has waited for it.",
        )
    run.finish()


def test_task_3_a_slot_is_taken_in_the_step_in_which_it_is_left() -> None:
    """Whoever waits for a slot is decoded in the very next step, and there is no step without."""
    scripts = scripts_of((2, 4), (5, 4), (5, 4))
    run = Run(scripts, batch_size=1)
    for prompt in scripts:
        run.submit(prompt)
    decoded = [output.decoded for output in run.finish()]
    # Request 2's two chunks run while request 1 is decoded: the slot is never empty.
    expected = [[0]] * 5 + [[1]] * 4 + [[2]] * 4
    check(
        sum(map(bool, decoded)) == len(decoded) and len(decoded) <= len(expected) + 1,
        "The only slot is empty in some step, though somebody is always there to take it.\n"
        f"  got        the requests decoded in each step: {decoded}",
    )


def test_task_3_events_as_soon_as_there_are_tokens() -> None:
    """A step's output has the chunk, the tokens and the ends of that step: enough to stream."""
    scripts = {
        letters(9, 40): f"one 🦊, in 日本{END_OF_TURN}",
        letters(2, 41): f"the end 🦊{END_OF_TEXT}",
    }
    run = Run(scripts, max_seq_len=200)
    for prompt in scripts:
        run.submit(prompt)
    outputs = run.finish()
    chunks = [chunk for output in outputs for chunk in output.chunks]
    check(
        chunks == [(0, 4), (0, 4), (0, 1), (1, 2)],
        "The chunks in the steps' outputs are wrong.\n"
        "  expected   [(0, 4), (0, 4), (0, 1), (1, 2)], in pairs of prompt index and tokens\n"
        f"  got        {chunks}",
    )
    for index, script in enumerate(scripts.values()):
        assert_text_equal(
            run.requests[index].text,
            script.removesuffix(END_OF_TURN).removesuffix(END_OF_TEXT),
            what=f"all pieces of text in the events of request {index}",
        )


def test_task_3_the_clock_of_events() -> None:
    """Events and phases are timed on the scheduler's clock."""
    now = [0.0]

    def on_call(kind: str, tokens: list[list[int]], offsets: list[int]) -> None:
        now[0] += len(tokens[0]) if kind == "prefill" else 100.0

    scripts = scripts_of((2, 6), (11, 2))
    run = Run(scripts, on_call=on_call, clock=lambda: now[0])
    for prompt in scripts:
        run.submit(prompt)
    first = run.step()
    expected = [(0, 2.0), (0, 102.0)]
    for output, chunk in ((first, 2.0), (run.step(), 4.0), (run.step(), 4.0), (run.step(), 3.0)):
        got = (output.prefill_seconds, output.decode_seconds)
        check(
            got == (chunk, 100.0),
            "The seconds in a step's output are wrong.\n"
            f"  expected   {chunk} for the chunk, 100.0 for the decode step\n"
            f"  got        {got[0]} and {got[1]}",
        )
    times = [(event.prompt_idx, event.time) for event in first.tokens]
    check(
        times == expected,
        "The times of the first step's tokens are wrong.\n"
        f"  expected   {expected}: as soon as each is there\n"
        f"  got        {times}",
    )


class NotedSizer:
    """A chunk sizer that follows a list, and notes what it is asked and told."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = list(sizes)
        self.asked: list[tuple[int, int, int, int, int]] = []
        self.told: list[tuple[int, int, int, float]] = []

    def next_chunk_size(self, request: Any, load: Any) -> int:
        self.asked.append(
            (
                request.prompt_idx,
                load.active_decodes,
                load.batch_size,
                load.waiting,
                load.cached_tokens,
            )
        )
        return self.sizes[(len(self.asked) - 1) % len(self.sizes)]

    def observe(self, offset: int, chunk_size: int, active_decodes: int, seconds: float) -> None:
        self.told.append((offset, chunk_size, active_decodes, seconds))


def test_task_3_a_chunk_sizer_is_asked_for_every_chunk() -> None:
    """It learns who is next and how busy the scheduler is, and how long every chunk took."""
    now = [0.0]

    def on_call(kind: str, tokens: list[list[int]], offsets: list[int]) -> None:
        now[0] += 0.5 * len(tokens[0]) if kind == "prefill" else 64.0

    scripts = scripts_of((3, 30), (12, 2), (2, 2))
    sizer = NotedSizer([3, 5, 1, 4, 8])
    run = Run(
        scripts,
        batch_size=3,
        prefill_step=99,
        on_call=on_call,
        clock=lambda: now[0],
        chunk_sizer=sizer,
    )
    run.submit(next(iter(scripts)))
    run.step()
    for prompt in list(scripts)[1:]:
        run.submit(prompt)
    for _ in range(5):
        run.step()
    told = [(0, 3, 0, 1.5), (0, 5, 1, 2.5), (5, 1, 1, 0.5), (6, 4, 1, 2.0), (10, 2, 1, 1.0)]
    asked = [
        (0, 0, 3, 1, 0),  # alone
        (1, 1, 3, 2, 4),  # beside request 0: 3 tokens of its prompt and one decoded
        (1, 1, 3, 2, 5),
        (1, 1, 3, 2, 6),
        (1, 1, 3, 2, 7),
        (2, 2, 3, 1, 8 + 13),
    ]
    told.append((0, 2, 2, 1.0))
    for name, got, expected in (("asked", sizer.asked, asked), ("told", sizer.told, told)):
        check(
            got == expected,
            f"The chunk sizer is {name} the wrong things.\n"
            + (
                "  as         prompt_idx, active_decodes, batch_size, waiting, cached_tokens\n"
                if name == "asked"
                else "  as         offset, chunk_size, active_decodes, seconds\n"
            )
            + f"  expected   {expected}\n"
            f"  got        {got}",
        )
    run.finish()


@pytest.mark.parametrize("where", ["queue", "prefill", "waiting for a slot", "decode"])
def test_task_3_abort_takes_effect_at_once(where: str) -> None:
    """No chunk and no decode step runs for it any more; the others do not notice."""
    scripts = scripts_of((3, 9), (10, 9), (7, 3))
    run = Run(scripts, batch_size=1 if where == "waiting for a slot" else 2)
    for prompt in scripts:
        run.submit(prompt)
    steps = {"queue": 1, "prefill": 2, "waiting for a slot": 5, "decode": 6}[where]
    for _ in range(steps):
        run.step()
    request = run.requests[1]
    stage = [request.prefilled, len(request.tokens)]
    expected = {"queue": [0, 0], "prefill": [4, 0], "waiting for a slot": [10, 1]}
    check(
        stage == expected.get(where, [10, 4]),
        f"Request 1 is not as far as it should be after {steps} steps.\n"
        f"  expected   prefilled and generated tokens {expected.get(where, [10, 4])}\n"
        f"  got        {stage}",
    )
    run.abort(1)
    for again in (1, 99, -1):
        try:
            result = run.scheduler.abort(again)
        except LookupError as error:
            result = error
        check(
            result is False,
            f"abort({again}) must return False: there is no such request, or it has ended.\n"
            f"  got        {result!r}",
        )
    run.finish()
    check(
        run.scheduler.abort(0) is False,
        "abort() of a request that has ended long ago does not return False.",
    )


def test_task_3_abort_of_all() -> None:
    """Somebody in every place, and all aborted one after the other: nothing is left."""
    scripts = scripts_of((3, 9), (3, 9), (10, 9), (7, 3), (5, 5))
    run = Run(scripts)
    for prompt in scripts:
        run.submit(prompt)
    for _ in range(3):
        run.step()
    for index in (4, 2, 0, 3, 1):
        run.abort(index)
    output = run.step()
    check(
        not output.chunks and not output.decoded,
        "Something runs, though all requests have been aborted.",
    )
    run.model.check_released(when="after all requests have been aborted")
    run.submit(next(iter(scripts)), 3)
    run.finish()


def test_task_3_the_place_of_an_aborted_request_is_free() -> None:
    """In the step behind the abort, a waiting request decodes in its slot."""
    scripts = scripts_of((3, 20), (6, 3))
    run = Run(scripts, batch_size=1)
    for prompt in scripts:
        run.submit(prompt)
    for _ in range(4):
        run.step()
    run.abort(0)
    output = run.step()
    check(
        output.decoded == [1],
        "The only slot was left by an abort, and request 1 has waited for it, but in the next step "
        f"the requests {output.decoded} are decoded.",
    )
    run.finish()


class Poison:
    """What makes a model fail: a certain token in a call, at all times or the first `times`."""

    def __init__(self, text: str = "!", kinds: Sequence[str] = (), times: int = 1000) -> None:
        (self.token,) = ids_of(tokenizer(), text)
        self.kinds, self.times = kinds, times
        self.happened = 0

    def __call__(self, kind: str, tokens: list[list[int]], offsets: list[int]) -> None:
        hit = any(self.token in row for row in tokens)
        if hit and (not self.kinds or kind in self.kinds) and self.happened < self.times:
            self.happened += 1
            raise RuntimeError("the model has found an exclamation mark")


def assert_failed(run: Run, index: int, message: str) -> None:
    """A request has to have ended by an error whose message says what happened."""
    request = run.requests[index]
    check(
        request.ended == "error" and message in request.message,
        f"The model fails on request {index}, but that does not become its end.\n"
        f"  expected   the reason 'error', and a message with {message!r}\n"
        f"  got        the reason {request.ended!r}, message {request.message!r}",
    )


@pytest.mark.parametrize("place", [1, 6, 11], ids=["first-chunk", "middle-chunk", "last-chunk"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_task_3_an_exception_in_a_chunk_ends_one_request(place: int, number: int) -> None:
    """Whichever chunk of whichever request: the others get the same tokens."""
    texts = list(scripts_of((12, 6), (12, 6), (12, 6)).items())
    prompt, script = texts[number]
    texts[number] = (f"{prompt[:place]}!{prompt[place + 1 :]}", script)
    run = Run(dict(texts), on_call=Poison())
    for index, (prompt, _) in enumerate(texts):
        run.submit(prompt, doomed=index == number)
    run.finish()
    assert_failed(run, number, "exclamation mark")
    check(
        run.requests[number].prefilled == place // 4 * 4,
        f"Chunk {place // 4} fails, but the steps report {run.requests[number].prefilled} tokens "
        "of this request.",
    )


@pytest.mark.parametrize("number", [0, 1, 2])
def test_task_3_an_exception_in_a_decode_step_ends_one_request(number: int) -> None:
    """The forward pass of all fails because of one: it alone ends, the others get their token."""
    texts = list(scripts_of((3, 8), (2, 9), (9, 8), (6, 2)).items())
    prompt, script = texts[number]
    texts[number] = (prompt, f"{script[:4]}!{script[5:]}")
    run = Run(dict(texts), batch_size=3, on_call=Poison())
    for index, (prompt, _) in enumerate(texts):
        run.submit(prompt, doomed=index == number)
    run.finish()
    assert_failed(run, number, "exclamation mark")
    check(
        len(run.requests[number].tokens) == 5,
        "The request fails behind its token 4, but it has "
        f"{len(run.requests[number].tokens)} tokens, not 5.",
    )


def test_task_3_two_failing_requests_in_one_decode_step() -> None:
    """Each of them ends, and the one between them does not."""
    texts = scripts_of((3, 9), (2, 9), (6, 9))
    scripts = {
        prompt: script if index == 1 else f"{script[:5]}!{script[6:]}"
        for index, (prompt, script) in enumerate(texts.items())
    }
    for batch_size in (2, 3):
        run = Run(scripts, batch_size=batch_size, on_call=Poison())
        for index, prompt in enumerate(scripts):
            run.submit(prompt, doomed=index != 1)
        run.finish()
        for index in (0, 2):
            assert_failed(run, index, "exclamation mark")


def test_task_3_an_exception_that_does_not_come_again() -> None:
    """A forward pass that fails once costs nobody anything: alone, every request is decoded."""
    scripts = {f"{letters(9, 50)}": f"ab!cd{END_OF_TURN}", **scripts_of((2, 9), (6, 7))}
    poison = Poison(kinds=["decode"], times=1)
    run = Run(scripts, batch_size=3, on_call=poison)
    run.calls_may_fail = True
    for prompt in scripts:
        run.submit(prompt)
    run.finish()
    check(poison.happened == 1, "The forward pass that fails did not happen.")


class HalfwayModel(BatchModel):
    """Fails in the middle of a forward pass of a batch: some layers have the new token already."""

    done_layers = 0

    def __call__(self, inputs: mx.array, offset: Any = 0, cache: Any = None) -> mx.array:
        decodes = isinstance(cache[0], kv_cache.BatchingKvCache)
        if decodes and ids_of(tokenizer(), "!")[0] in np.array(inputs)[:, 0].tolist():
            key = mx.full((inputs.shape[0], 1, 1, 1), 5.0)
            for layer_cache in cache[: self.done_layers]:
                layer_cache.update_and_fetch(key, -key, 1, "causal")
            raise RuntimeError("the model has found an exclamation mark")
        return super().__call__(inputs, offset, cache)


@pytest.mark.parametrize("done_layers", [0, 1, 2, 3])
@pytest.mark.parametrize("doomed", [False, True], ids=["once", "always"])
def test_task_3_an_exception_in_the_middle_of_a_forward_pass(
    done_layers: int, doomed: bool
) -> None:
    """The caches of the first layers have a token more than the others; nobody is to see it."""
    scripts = {letters(9, 51): f"ab!cd{END_OF_TURN}", **scripts_of((2, 9), (6, 12))}
    poison = Poison(kinds=["alone"])
    model = HalfwayModel(tokenizer(), scripts, on_call=poison if doomed else None)
    model.done_layers = done_layers
    run = Run(scripts, batch_size=3, model=model)
    run.calls_may_fail = True
    for index, prompt in enumerate(scripts):
        run.submit(prompt, doomed=doomed and index == 0)
    run.finish()
    if doomed:
        assert_failed(run, 0, "exclamation mark")


@pytest.mark.parametrize("once", [True, False], ids=["once", "always"])
def test_task_3_an_exception_in_the_sampler(once: bool) -> None:
    """The model has run then, and the caches have the new tokens already."""
    scripts = {letters(9, 52): f"abcZdfg{END_OF_TURN}", **scripts_of((2, 9), (6, 12))}
    (end,) = ids_of(tokenizer(), "Z")
    failures = [0]

    def sampler(logprobs: mx.array) -> mx.array:
        chosen = mx.argmax(logprobs, axis=-1)
        if end in chosen.tolist() and not (once and failures[0]):
            failures[0] += 1
            raise RuntimeError("the sampler does not like a token")
        return chosen

    run = Run(scripts, batch_size=3, sampler=sampler)
    run.calls_may_fail = True
    for index, prompt in enumerate(scripts):
        run.submit(prompt, doomed=index == 0 and not once)
    run.finish()
    check(failures[0] > 0, "The sampler that fails was not called.")
    if not once:
        assert_failed(run, 0, "does not like")


def test_task_3_an_exception_where_the_caches_are_made() -> None:
    """`create_kv_cache()` may fail as well, for want of memory say."""

    class Full(BatchModel):
        made = 0

        def create_kv_cache(self) -> Any:
            self.made += 1
            if self.made == 2:
                raise MemoryError("no room for the caches")
            return super().create_kv_cache()

    scripts = scripts_of((9, 4), (9, 4), (9, 4))
    run = Run(scripts, model=Full(tokenizer(), scripts))
    for index, prompt in enumerate(scripts):
        run.submit(prompt, doomed=index == 1)
    run.finish()
    assert_failed(run, 1, "no room for the caches")


def test_task_3_an_exception_that_says_nothing() -> None:
    """The reason is still clear: the exception's name at least."""

    def on_call(kind: str, tokens: list[list[int]], offsets: list[int]) -> None:
        if offsets == [4]:
            raise ZeroDivisionError

    scripts = scripts_of((9, 4))
    run = Run(scripts, on_call=on_call)
    run.submit(*scripts, doomed=True)
    run.finish()
    assert_failed(run, 0, "ZeroDivisionError")


@pytest.mark.parametrize("prompt", ["", "a" * 32, "a" * 500], ids=["empty", "full", "beyond"])
def test_task_3_a_prompt_that_cannot_be_served(prompt: str) -> None:
    """It ends by an error before it starts; those before and behind it get their tokens."""
    scripts = scripts_of((11, 4), (9, 4))
    model = BatchModel(tokenizer(), scripts)
    scheduler = batch.BatchScheduler(model, tokenizer(), 32, 2, 4)
    for text in (*list(scripts)[:1], prompt, *list(scripts)[1:]):
        scheduler.submit(text)
    ends, results = [], []
    for _ in range(40):
        output = scheduler.step()
        model.raise_failure()
        check(
            sum(size for _, size in output.chunks) <= 4,
            f"In one step, {output.chunks} run, in chunks of at most 4 tokens.",
        )
        ends += output.finished
        results += scheduler.collect_results()
    reasons = {event.prompt_idx: event.reason for event in ends}
    check(
        reasons == {0: "stop", 1: "error", 2: "stop"} and ends[0].message,
        f"Only request 1 cannot be served, but the requests end for these reasons: {reasons}.",
    )
    expected = [script.removesuffix(END_OF_TURN) for script in scripts.values()]
    check(
        sorted(results) == [(0, expected[0]), (1, ""), (2, expected[1])],
        f"The results are wrong beside a prompt that cannot be served.\n"
        f"  expected   {[(0, expected[0]), (1, ''), (2, expected[1])]}\n"
        f"  got        {sorted(results)}",
    )
    model.check_released(when="at the end")


def test_task_3_the_longest_prompt_and_answer() -> None:
    """A prompt with room for one token within `max_seq_len`, and answers that run into it."""
    scripts = {letters(length, 60 + length): letters(40, 61) for length in (15, 14, 9, 1)}
    run = serve(scripts, max_seq_len=16, batch_size=2)
    lengths = {len(request.ids) + len(request.tokens) for request in run.requests.values()}
    check(lengths == {16}, f"Prompt and answer have {lengths} tokens, not max_seq_len 16.")


def test_task_3_a_released_scheduler_holds_nothing() -> None:
    """`release()` ends everybody, wherever they are."""
    scripts = scripts_of((3, 20), (6, 20), (13, 3), (5, 3))
    run = Run(scripts)
    for prompt in scripts:
        run.submit(prompt)
    for _ in range(4):
        run.step()
    run.scheduler.release()
    run.model.check_released(when="after release()")
    check(not run.scheduler.has_work_remaining(), "There is work remaining after release().")


def test_task_3_batch_generate_in_chunks() -> None:
    """The texts in the order of the prompts, whatever the chunk size; the list stays as it is."""
    scripts = scripts_of((9, 4), (1, 6), (13, 0), (4, 3), (8, 1))
    prompts = list(scripts)
    expected = [
        (index, script.removesuffix(END_OF_TURN)) for index, script in enumerate(scripts.values())
    ]
    for step in (1, 3, 4, 20):
        model = BatchModel(tokenizer(), scripts)
        results = batch.batch_generate(model, tokenizer(), prompts, 64, 2, step)
        model.raise_failure()
        check(prompts == list(scripts), "batch_generate changes the caller's list of prompts.")
        check(
            results == expected,
            f"batch_generate(..., prefill_step={step}) is wrong.\n"
            f"  expected   {expected}\n"
            f"  got        {results}",
        )
        longest = max(len(call.tokens[0]) for call in model.calls)
        check(longest <= step, f"The model is called with {longest} tokens in chunks of {step}.")
        model.check_released(when="at the end of batch_generate")


def answers_one_by_one(
    mlx_model: Any, prompts: Sequence[str], tokens: Any, most: int
) -> list[list[int]]:
    """What mlx-lm's model answers to each prompt, greedily, up to `most` tokens.

    No two tokens may be as good as equal: either answer would be right.
    """
    answers = []
    for prompt in prompts:
        answer, leads = continue_greedily(mlx_model, ids_of(tokens, prompt), most)
        ends = [i for i, token in enumerate(answer) if token in tokens.eos_token_ids]
        assert min(leads[: ends[0] + 1 if ends else None]) > 0.003, "a bad choice of prompts"
        answers.append(answer[: ends[0]] if ends else answer)
    return answers


def assert_same_answers(
    mlx_model: Any, prompts: Sequence[str], tokens: Any, most: int, sizes: Any
) -> None:
    """Serve the prompts with each of the pairs of batch size and chunk size in `sizes`."""
    expected = answers_one_by_one(mlx_model, prompts, tokens, most)
    student = Watched(qwen3.Qwen3Model(mlx_model))
    for batch_size, step in sizes:
        student.largest = 0
        scheduler = batch.BatchScheduler(student, tokens, 512, batch_size, step)
        answers: list[list[int]] = [[] for _ in prompts]
        for prompt in prompts:
            scheduler.submit(prompt, most)
        for _ in range(500):
            output = scheduler.step()
            student.check_chunks(step)
            for event in output.tokens:
                answers[event.prompt_idx].append(event.token)
            errors = [event.message for event in output.finished if event.reason == "error"]
            check(not errors, f"A request ends with an error: {errors}")
            if not scheduler.has_work_remaining():
                break
        for index, (answer, wanted) in enumerate(zip(answers, expected, strict=True)):
            assert_tokens_equal(
                answer,
                wanted,
                what=f"the answer to prompt {index} with {batch_size} slots and chunks of {step}, "
                "compared with mlx-lm, which answers alone and without chunks",
            )


def test_task_3_random_models_as_mlx_lm_one_by_one() -> None:
    """Real attention: positions, masks and slots all show in the tokens."""
    for seed, sizes in (
        (800, [(2, step) for step in (1, 2, 5, 7, 8, 16)]),
        (801, [(1, 5), (3, 4), (5, 3)]),
    ):
        mlx_model = random_model(
            seed=seed, layers=2, vocab_size=len(tokenizer().get_vocab()), hidden_size=20
        )
        prompts = [letters(length, seed + length) for length in (17, 3, 11, 1, 8)]
        assert_same_answers(mlx_model, prompts, tokenizer(), 6, sizes)


def test_task_3_the_embedded_model_as_mlx_lm_one_by_one() -> None:
    """A ledger in chunks beside short questions."""
    mlx_model, tokens = tiny()
    messages = [ledger_question(7), "Hello!", "Count from 3 to 9."]
    prompts = [chat(tokens, message) for message in messages]
    assert_same_answers(mlx_model, prompts, tokens, 6, [(2, 32), (3, 11)])


def test_task_3_memory_is_given_back() -> None:
    """A real model's keys and values are gone, at the end and after an abort in every place."""
    mlx_model = random_model(seed=810, layers=2, vocab_size=300)
    student = Watched(qwen3.Qwen3Model(mlx_model))
    prompts = [letters(length, 811 + length) for length in (350, 150, 90)]
    batch.batch_generate(student, tokenizer(), ["ab"], 64, 2, 1)
    before = memory_in_use()
    scheduler = batch.BatchScheduler(student, tokenizer(), 400, 2, 50)
    for turn in ("abort", "end"):
        student.largest = 0
        for prompt in prompts:
            scheduler.submit(prompt, 3)
        for step in range(40):
            if turn == "abort" and step == 8:
                for index in range(3):
                    scheduler.abort(index)
            scheduler.step()
        student.check_chunks(50)
        check(not scheduler.has_work_remaining(), "Requests are left after 40 steps.")
        still = memory_in_use() - before
        check(
            still < 2**16,
            f"{still / 2**10:.0f} KiB of keys and values are still in memory after all requests "
            f"have ended ({turn}).",
        )


class TokenByToken:
    """The smallest tokenizer: a token for each character. Fast enough for 100,000 requests."""

    eos_token_ids = frozenset([0])

    class Detokenizer:
        text = last_segment = ""

        def reset(self) -> None:
            """Nothing to do."""

        def add_token(self, token: int) -> None:
            """Nothing to do."""

        def finalize(self) -> None:
            """Nothing to do."""

    detokenizer = Detokenizer()

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())


class ConstantModel:
    """Predicts token 7 after everything."""

    def create_kv_cache(self) -> list[Any]:
        return [kv_cache.TinyKvFullCache()]

    def __call__(self, inputs: mx.array, offset: Any, cache: Any) -> mx.array:
        B, L = inputs.shape
        keys = mx.zeros((B, 1, L, 1))
        cache[0].update_and_fetch(keys, keys, L, "causal")
        return mx.broadcast_to(mx.arange(9) == 7, (B, L, 9)).astype(mx.float32)


@contextmanager
def operations() -> Iterator[list[int]]:
    """Count the operations of the Python interpreter: its first element, at the end."""
    count = [0]

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count[0] += event == "opcode"
        return trace

    earlier = sys.gettrace()
    sys.settrace(trace)
    try:
        yield count
    finally:
        sys.settrace(earlier)


def assert_cost_of_a_step(make: Callable[..., Any], most: int, **options: Any) -> None:
    """The operations of a step must not grow with the queue. No times: a count is exact."""
    counts = {}
    for queued in (100, most):
        scheduler = make(ConstantModel(), TokenByToken(), 64, 2, 4, **options)
        for index in range(queued):
            more = {"priority": PRIORITIES[index % 2]} if options else {}
            scheduler.submit("a long one", 3, **more)
        sizes = []
        for _ in range(3):
            sizes.append([size for _, size in scheduler.step().chunks])
        check(
            sizes == [[4], [4], [2]],
            f"A prompt of 10 tokens is prefilled in chunks of {sizes}, at most 4 each.",
        )
        scheduler.abort(queued - 1)
        with operations() as count:
            for _ in range(12):
                scheduler.step()
        counts[queued] = count[0] / 12
    check(
        counts[most] < 1.5 * counts[100],
        f"A step takes {counts[most]:,.0f} operations of the interpreter with {most:,} queued "
        f"requests, and {counts[100]:,.0f} with 100.\n"
        "  expected   as many: a step looks at the head of the queue, not at all of it",
    )


def test_task_3_a_step_does_not_look_at_the_whole_queue() -> None:
    """100,000 queued requests cost a step no more than 100."""
    assert_cost_of_a_step(batch.BatchScheduler, 100_000)


@st.composite
def traffic(draw: st.DrawFn) -> dict[str, Any]:
    """Requests with their arrivals, aborts and failures, and a scheduler's sizes."""
    requests = [
        {
            "prompt": draw(st.integers(1, 18)),
            "script": draw(st.integers(0, 7)),
            "ends": draw(st.booleans()),
            "arrives": draw(st.integers(0, 12)),
            "max_tokens": draw(st.none() | st.integers(1, 5)),
            "aborted": draw(st.none() | st.none() | st.integers(0, 25)),
            "poison": draw(st.sampled_from(["", "", "", "prompt", "script"])),
        }
        for _ in range(draw(st.integers(2, 7)))
    ]
    # One prompt of several chunks at least.
    requests[0] |= {"prompt": 17, "aborted": None, "poison": ""}
    return {
        "requests": requests,
        "batch_size": draw(st.integers(1, 4)),
        "sizes": draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)),
    }


def play(traffic: dict[str, Any], **options: Any) -> Run:
    """Run random traffic, with all checks of `Run`."""
    arrivals = []
    scripts = {}
    for number, request in enumerate(traffic["requests"]):
        prompt = letters(request["prompt"], 900 + number)
        script = letters(request["script"], 950 + number)
        if request["poison"] == "prompt":
            middle = len(prompt) // 2
            prompt = f"{prompt[:middle]}!{prompt[middle + 1 :]}"
        if request["poison"] == "script":
            script = f"{script[:2]}!{script[2:]}"
        if len(prompt) == 1:  # one of few: make it another than the others
            prompt = "0123456789!"[number if request["poison"] != "prompt" else 10]
        scripts[prompt] = script + (END_OF_TURN if request["ends"] else "")
        arrivals.append((request["arrives"], number, prompt))
    run = Run(
        scripts,
        batch_size=traffic["batch_size"],
        max_seq_len=24,
        on_call=Poison(),
        chunk_sizer=NotedSizer(traffic["sizes"]),
        **options,
    )
    run.largest_chunk = max(traffic["sizes"])
    (poison,) = ids_of(tokenizer(), "!")
    aborts: list[tuple[int, int]] = []
    arrivals.sort()
    step = 0
    while arrivals or aborts:
        while arrivals and arrivals[0][0] <= step:
            _, number, prompt = arrivals.pop(0)
            request = traffic["requests"][number]
            more = {"priority": request["priority"]} if "priority" in request else {}
            index = run.submit(prompt, request["max_tokens"], **more)
            tracked = run.requests[index]
            # What the model would see: all but the last token of the answer.
            seen = [*tracked.ids, *tracked.answer[: None if tracked.reason == "stop" else -1]]
            if poison in seen:
                run.doomed.add(index)
                run.calls_may_fail = True
            if request["aborted"] is not None:
                aborts.append((step + request["aborted"], index))
        for due, index in list(aborts):
            if due <= step or run.requests[index].ended:
                aborts.remove((due, index))
                if not run.requests[index].ended:
                    run.abort(index)
        run.step()
        step += 1
    run.finish()
    return run


@examples(max_examples=15)
@given(traffic())
def test_task_3_random_traffic(traffic: dict[str, Any]) -> None:
    """Random arrivals, lengths, aborts, chunk sizes, batch sizes and failing requests."""
    play(traffic)


# --- Task 4: how large a chunk ----------------------------------------------------------------

PLENTY = 2**40


def selected(
    sequence_length: int,
    available_memory: int = PLENTY,
    active: int = 0,
    batch_size: int = 4,
    **options: Any,
) -> int:
    """`select_optimal_chunk_size`, whose result has to be an int of at least 1."""
    size = chunked_prefill.select_optimal_chunk_size(
        sequence_length, available_memory, active, batch_size, **options
    )
    check(
        isinstance(size, int) and size >= 1,
        f"select_optimal_chunk_size({sequence_length}, {available_memory}, {active}, {batch_size}) "
        f"gives {size!r}, not an int of at least 1.",
    )
    return int(size)


def assert_selected(size: int, expected: int, *, what: str) -> None:
    check(
        size == expected,
        f"select_optimal_chunk_size: {what}.\n  expected   {expected}\n  got        {size}",
    )


def test_task_4_an_eighth_of_the_prompt() -> None:
    """Without decodes; within the bounds, and never more than the prompt has."""
    for length, expected in ((4096, 512), (2048, 256), (100_000, 2048), (16_384, 2048), (256, 32)):
        assert_selected(selected(length), expected, what=f"{length} tokens and no decode")
    for length, expected in ((100, 32), (32, 32), (31, 31), (10, 10), (1, 1)):
        assert_selected(selected(length), expected, what=f"a short prompt of {length} tokens")


def test_task_4_smaller_while_others_decode() -> None:
    """Down to a quarter when all slots are taken, and in between in between."""
    for batch_size in (1, 3, 8):
        sizes = [selected(8192, active=n, batch_size=batch_size) for n in range(batch_size + 1)]
        assert_selected(sizes[0], 1024, what=f"8192 tokens, 0 of {batch_size} slots taken")
        assert_selected(sizes[-1], 256, what=f"8192 tokens, {batch_size} of {batch_size} taken")
        check(
            sizes == sorted(set(sizes), reverse=True),
            "select_optimal_chunk_size does not get smaller with every slot that is taken.\n"
            f"  got        {sizes} for 0 to {batch_size} of {batch_size} slots",
        )


def test_task_4_within_other_bounds() -> None:
    """`min_chunk`, `max_chunk` and `tile` are the caller's."""
    for options, length, active, expected in (
        ({"min_chunk": 64}, 300, 0, 64),
        ({"min_chunk": 64}, 300, 4, 64),
        ({"max_chunk": 96}, 8192, 0, 96),
        ({"min_chunk": 128, "max_chunk": 128}, 8192, 2, 128),
        ({"tile": 1, "min_chunk": 1}, 72, 0, 9),
        ({"tile": 1, "min_chunk": 1, "max_chunk": 5}, 72, 0, 5),
    ):
        size = selected(length, active=active, **options)
        assert_selected(size, expected, what=f"{length} tokens, {active} of 4 slots, {options}")


def test_task_4_what_memory_allows() -> None:
    """The chunk's activations and the cache's growth have to fit; a larger chunk would not."""
    memory = chunked_prefill.PrefillMemory(cache_bytes=100, activation_bytes=1000, score_bytes=3)
    for length in (700, 4096, 9000):
        wanted = selected(length, memory=memory)
        for size in (1, 5, 31, 32, 40, 100, 300, 600):
            available = memory.of_chunk(size, length)
            for extra in (0, 1, 900):
                got = selected(length, available + extra, memory=memory)
                fits = memory.of_chunk(got, length)
                what = f"{length} tokens and {available + extra:,} bytes"
                check(
                    fits <= available + extra,
                    f"select_optimal_chunk_size: a chunk of {got} does not fit into {what}: it "
                    f"needs {fits:,}.",
                )
                most = size if size < 32 else size // 32 * 32
                assert_selected(got, min(wanted, most), what=f"{what}, for which {size} fit")
    for available in (0, 1, memory.of_chunk(0, 4096)):
        assert_selected(
            selected(4096, available, memory=memory), 1, what="no memory for a single token"
        )


@pytest.mark.parametrize(
    "arguments, options",
    [
        ((0, 1, 0, 1), {}),
        ((-5, 1, 0, 1), {}),
        ((10, -1, 0, 1), {}),
        ((10, 1, -1, 1), {}),
        ((10, 1, 0, 0), {}),
        ((10, 1, 3, 2), {}),
        ((10, 1, 0, 1), {"min_chunk": 0}),
        ((10, 1, 0, 1), {"min_chunk": 64, "max_chunk": 32}),
        ((10, 1, 0, 1), {"tile": 0}),
    ],
    ids=str,
)
def test_task_4_numbers_that_make_no_sense(arguments: Any, options: dict[str, int]) -> None:
    """Each is an error of its own, with a message."""
    assert_raises_clearly(
        ValueError,
        lambda: chunked_prefill.select_optimal_chunk_size(*arguments, **options),
        what=f"select_optimal_chunk_size{arguments} with {options}",
    )


@examples(max_examples=60)
@given(
    length=st.integers(1, 40_000),
    available=st.integers(0, 2**31) | st.just(PLENTY),
    batch_size=st.integers(1, 16),
    data=st.data(),
)
def test_task_4_monotonic_and_within_bounds(
    length: int, available: int, batch_size: int, data: st.DataObject
) -> None:
    """More decodes: not larger. More memory, a longer prompt: not smaller."""
    tile = data.draw(st.sampled_from([1, 16, 32]))
    smallest = tile * data.draw(st.integers(1, 4))
    largest = smallest + tile * data.draw(st.integers(0, 40))
    bounds = {"min_chunk": smallest, "max_chunk": largest, "tile": tile}
    active = data.draw(st.integers(0, batch_size))
    what = f"{length} tokens, {available} bytes, {active} of {batch_size} slots, {bounds}"
    size = selected(length, available, active, batch_size, **bounds)
    check(
        size <= min(length, largest),
        f"select_optimal_chunk_size gives {size} for {what}: too large.",
    )
    free = selected(length, PLENTY, active, batch_size, **bounds)
    check(
        free == length or (free % tile == 0 and free >= smallest),
        f"select_optimal_chunk_size gives {free} for {what} with plenty of memory: neither the "
        "whole prompt nor a multiple of the tile from min_chunk on.",
    )
    check(
        size <= free,
        f"select_optimal_chunk_size gives {size} for {what}, and {free} with more memory.",
    )
    if active:
        fewer = selected(length, available, active - 1, batch_size, **bounds)
        check(
            fewer >= size,
            f"select_optimal_chunk_size gives {size} for {what}, and {fewer} with one slot less.",
        )
    longer = selected(length + 256, PLENTY, active, batch_size, **bounds)
    check(
        longer >= free,
        f"select_optimal_chunk_size gives {free} for {what} with plenty of memory, and {longer} "
        "for a prompt of 256 tokens more.",
    )


# --- Task 5: a chunk size that adapts ---------------------------------------------------------


def adapt(
    chunker: Any, chunks: int, seconds: Callable[[int, int], float], start: int = 0
) -> list[int]:
    """Run chunks of the proposed sizes, which take `seconds(offset, size)`; the sizes."""
    sizes = []
    offset = start
    for _ in range(chunks):
        size = chunker.next_chunk_size(None, None)
        check(
            isinstance(size, int)
            and chunker_bounds(chunker)[0] <= size <= chunker_bounds(chunker)[1],
            f"next_chunk_size() gives {size!r}: not an int between min_chunk and max_chunk.",
        )
        check(
            not sizes or size <= 2 * sizes[-1],
            f"The size goes from {sizes and sizes[-1]} to {size}: it may at most double at once.",
        )
        sizes.append(size)
        chunker.observe(offset, size, 1, seconds(offset, size))
        offset += size
    return sizes


BOUNDS: dict[int, tuple[int, int]] = {}


def chunker_bounds(chunker: Any) -> tuple[int, int]:
    return BOUNDS.get(id(chunker), (32, 2048))


def still_at(chunker: Any, size: int, *, what: str) -> None:
    got = chunker.next_chunk_size(None, None)
    check(
        got == size,
        f"AdaptiveChunker: the size changes {what}.\n  expected   {size}\n  got        {got}",
    )


@cases("target initial", (0.02, 32), (0.05, 128), (0.05, 2048), (0.2, 64))
def test_task_5_finds_the_size_that_takes_the_target(target: float, initial: int) -> None:
    """A chunk takes `c + b x` seconds: the size settles where that is about the target."""
    for fixed in (0.0, 0.002, 0.01):
        for per_token in (2e-5, 1e-4, 4e-4, 2e-3):

            def seconds(_: int, size: int, c: float = fixed, b: float = per_token) -> float:
                return c + b * size

            chunker = chunked_prefill.AdaptiveChunker(target, initial)
            sizes = adapt(chunker, 80, seconds)
            what = f"chunks that take {fixed} + {per_token} x seconds, target {target}"
            final = sizes[-1]
            check(
                set(sizes[40:]) == {final},
                f"AdaptiveChunker does not settle on {what}, though nothing changes.\n"
                f"  got        {sizes[40:52]} ... after 40 chunks",
            )
            check(final % 32 == 0, f"AdaptiveChunker: {final} is no multiple of the tile 32.")
            # A size of a few tiles can only be about right.
            most = 1.5 if final < 128 else 1.25
            check(
                final == 32 or seconds(0, final) <= most * target,
                f"AdaptiveChunker settles on a size that takes too long, on {what}.\n"
                f"  got        {final} tokens, which take {seconds(0, final):.3f} seconds",
            )
            enough = 2 * seconds(0, final) if final < 128 else seconds(0, int(1.25 * final) + 32)
            check(
                final == 2048 or enough >= target,
                f"AdaptiveChunker settles on a size that is needlessly small, on {what}.\n"
                f"  got        {final} tokens, which take {seconds(0, final):.3f} seconds",
            )


def test_task_5_before_the_first_measurement() -> None:
    """The initial size, with and without a request and a load; asking changes nothing."""
    for initial in (32, 128, 512):
        chunker = chunked_prefill.AdaptiveChunker(0.05, initial)
        for _ in range(3):
            still_at(chunker, initial, what="before the first measurement")
            check(
                chunker.next_chunk_size() == initial,
                "next_chunk_size() without a request and a load is another than with them.",
            )


def test_task_5_the_first_measurement_counts_in_full() -> None:
    """A first chunk that takes the target changes nothing; one that takes twice as long halves."""
    for initial in (64, 256):
        chunker = chunked_prefill.AdaptiveChunker(0.05, initial)
        chunker.observe(0, initial, 0, 0.05)
        still_at(chunker, initial, what="though the first chunk takes exactly the target")
        chunker = chunked_prefill.AdaptiveChunker(0.05, initial)
        chunker.observe(0, initial, 0, 0.1)
        still_at(
            chunker, initial // 2, what="rightly, but wrongly when a chunk takes twice as long"
        )


def test_task_5_seconds_per_token_of_the_chunk_that_ran() -> None:
    """The last chunk of a prompt has fewer tokens, and takes less for that reason alone."""
    chunker = chunked_prefill.AdaptiveChunker(0.05, 128)
    for size in (70, 127, 66, 90, 70, 70, 70, 70):
        chunker.observe(0, size, 1, 0.05 * size / 128)
        still_at(chunker, 128, what=f"by a chunk of {size} tokens that is as fast as needed")


def test_task_5_a_chunk_much_smaller_than_the_size_says_little() -> None:
    """The last chunk of a prompt, below half the size, is passed over."""
    chunker = chunked_prefill.AdaptiveChunker(0.05, 128)
    chunker.observe(0, 128, 1, 0.05)
    for size, seconds in ((63, 5.0), (1, 0.05), (63, 1e-6), (20, 3.0)):
        chunker.observe(128, size, 1, seconds)
        still_at(chunker, 128, what=f"by a chunk of {size} tokens")
    chunker.observe(0, 128, 1, 0.05)
    still_at(chunker, 128, what="by a chunk that takes the target, after small ones that did not")
    chunker.observe(0, 64, 1, 5.0)
    check(
        chunker.next_chunk_size(None, None) < 128,
        "AdaptiveChunker passes over a chunk of half the size, which counts.",
    )


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_task_5_times_that_cannot_be(seconds: float) -> None:
    """A clock may stand still or jump back: such a time is passed over, first or later."""
    chunker = chunked_prefill.AdaptiveChunker(0.05, 128)
    for measured in (seconds, 0.05, seconds, 0.05):
        try:
            chunker.observe(0, 128, 1, measured)
        except (ArithmeticError, ValueError) as error:
            raise CheckFailure(
                f"AdaptiveChunker: a chunk that takes {seconds} seconds is not passed over, but "
                f"raises {type(error).__name__}: {error}"
            ) from error
        still_at(chunker, 128, what=f"by a chunk that takes {seconds} seconds")


@pytest.mark.parametrize("seed", range(4))
def test_task_5_noise_does_not_make_it_swing(seed: int) -> None:
    """Times that are off by up to 5 percent: once settled, the size hardly ever changes."""
    random = np.random.default_rng(seed)
    for fixed, per_token, target in ((0.0, 3e-4, 0.05), (0.01, 1e-4, 0.1), (0.002, 7e-4, 0.2)):

        def seconds(_: int, size: int, c: float = fixed, b: float = per_token) -> float:
            return (c + b * size) * random.uniform(0.95, 1.05)

        sizes = adapt(chunked_prefill.AdaptiveChunker(target), 200, seconds)[40:]
        changes = sum(a != b for a, b in pairwise(sizes))
        check(
            changes <= 8,
            f"AdaptiveChunker changes the size {changes} times in 160 chunks whose times are off "
            f"by 5 percent at most: {sizes[:12]} ...",
        )
        longest = max(fixed + per_token * size for size in sizes)
        check(
            longest <= 1.3 * target,
            f"AdaptiveChunker lets a chunk take {longest:.3f} seconds, where {target} is the "
            "target and noise is 5 percent.",
        )


def test_task_5_follows_a_growing_context_and_a_changing_machine() -> None:
    """The longer the context, the slower a token: the size shrinks, and grows again."""

    def seconds(offset: int, size: int) -> float:
        return 0.002 + 1e-4 * size + 2e-8 * offset * size

    chunker = chunked_prefill.AdaptiveChunker(0.05)
    sizes = adapt(chunker, 60, seconds)
    offsets = np.cumsum([0, *sizes]).tolist()
    for offset, size in list(zip(offsets, sizes, strict=False))[10:]:
        check(
            0.5 * 0.05 < seconds(offset, size) < 1.4 * 0.05,
            f"AdaptiveChunker does not keep up with a growing context: behind {offset} tokens a "
            f"chunk of {size} takes {seconds(offset, size):.3f} seconds, where 0.05 is the target.",
        )
    check(sizes[-1] < sizes[10], f"The size does not shrink with the context: {sizes}.")
    for slowdown, expected in ((1.0, (320, 640)), (4.0, (64, 160)), (0.5, (640, 1280))):
        final = adapt(chunker, 25, lambda _, size, by=slowdown: by * 1e-4 * size)[-1]
        check(
            expected[0] <= final <= expected[1],
            f"AdaptiveChunker: 25 chunks after a token takes {slowdown * 0.1:.2f} ms, the size is "
            f"{final}, for a target of 50 ms.",
        )


def test_task_5_stays_within_its_bounds() -> None:
    """However fast or slow chunks are; multiples of another tile."""
    chunker = chunked_prefill.AdaptiveChunker(0.05, 48, min_chunk=24, max_chunk=240, tile=24)
    BOUNDS[id(chunker)] = (24, 240)
    try:
        for per_token, expected in ((1e-9, 240), (10.0, 24), (1e-9, 240), (0.05 / 130, 120)):
            sizes = adapt(chunker, 40, lambda _, size, b=per_token: b * size)
            check(
                all(size % 24 == 0 for size in sizes),
                f"AdaptiveChunker: not all sizes are multiples of the tile 24: {sizes}.",
            )
            check(
                sizes[-1] == expected,
                f"AdaptiveChunker: a token takes {per_token:.3g} seconds and the target is 0.05, "
                f"within 24 to 240 tokens.\n  expected   {expected}\n  got        {sizes[-1]}",
            )
    finally:
        del BOUNDS[id(chunker)]


@pytest.mark.parametrize(
    "target, options",
    [
        (0.0, {}),
        (-1.0, {}),
        (math.nan, {}),
        (0.05, {"initial": 16}),
        (0.05, {"initial": 4096}),
        (0.05, {"min_chunk": 0}),
        (0.05, {"min_chunk": 256}),
        (0.05, {"max_chunk": 64}),
        (0.05, {"initial": 100}),
        (0.05, {"max_chunk": 2000}),
        (0.05, {"min_chunk": 33}),
        (0.05, {"tile": 0}),
    ],
    ids=str,
)
def test_task_5_bounds_that_make_no_sense(target: float, options: dict[str, int]) -> None:
    """Sizes out of order or between two tiles, and a target that is no time."""
    assert_raises_clearly(
        ValueError,
        lambda: chunked_prefill.AdaptiveChunker(target, **options),
        what=f"AdaptiveChunker({target}, {options})",
    )


def test_task_5_in_a_scheduler() -> None:
    """It learns from the chunks of a run, and a decode then waits for about the target."""
    now = [0.0]

    def on_call(kind: str, tokens: list[list[int]], offsets: list[int]) -> None:
        now[0] += 0.001 * len(tokens[0]) if kind == "prefill" else 0.0

    chunker = chunked_prefill.AdaptiveChunker(0.012, 4, min_chunk=2, max_chunk=32, tile=2)
    scripts = scripts_of((3, 30), (60, 1), (70, 1))
    run = Run(
        scripts,
        chunk_sizer=chunker,
        max_seq_len=99,
        on_call=on_call,
        clock=lambda: now[0],
        prefill_step=32,
    )
    for prompt in scripts:
        run.submit(prompt)
    chunks = [size for output in run.finish() for _, size in output.chunks]
    check(
        chunks[0] == 3 and chunks[2:4] != [4, 4] and chunks[-2] == 12,
        "With 1 ms per token and a target of 12 ms, the chunks do not become 12 tokens long: "
        f"{chunks}.",
    )


# --- Task 6: the mask of a chunk --------------------------------------------------------------

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


@cases(
    "start size total",
    (0, 1, 1),
    (0, 5, 5),
    (3, 4, 7),
    (6, 1, 7),
    (0, 3, 7),
    (2, 3, 7),
    (0, 1, 7),
    (4, 8, 13),
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_task_6_rows_of_the_causal_mask(start: int, size: int, total: int, dtype: str) -> None:
    """Row `i` sees keys `0 .. chunk_start + i`, and nothing behind them."""
    expected = np.full((size, total), -np.inf)
    for row in range(size):
        expected[row, : start + row + 1] = 0
    assert_close(
        attention.chunked_attention_mask(start, size, total, DTYPES[dtype]),
        expected,
        what=f"chunked_attention_mask({start}, {size}, {total}, {dtype})",
        dtype=DTYPES[dtype],
        axes="chunk_size total_length",
    )


@pytest.mark.parametrize("size", [1, 2, 3, 5, 11, 12])
def test_task_6_all_chunks_together_are_the_causal_mask(size: int) -> None:
    """Of 11 tokens, however they are cut. The default dtype is float32."""
    rows = []
    for start in range(0, 11, size):
        rows.append(attention.chunked_attention_mask(start, min(size, 11 - start), 11))
    assert_close(
        mx.concatenate(rows),
        np.where(np.tri(11) == 1, 0, -np.inf),
        what=f"chunked_attention_mask of all chunks of {size} of 11 tokens",
        axes="row key",
    )


def test_task_6_attention_in_chunks() -> None:
    """With the mask, a chunk gets what it would get as a part of the whole prompt."""
    random = np.random.default_rng(10)
    query, key, value = (
        mx.array(random.normal(size=(1, heads, 9, 4)).astype(np.float32)) for heads in (4, 2, 2)
    )
    whole = mx.fast.scaled_dot_product_attention(query, key, value, scale=0.5, mask="causal")
    for start, end in ((0, 4), (4, 8), (8, 9)):
        mask = attention.chunked_attention_mask(start, end - start, 9)
        assert_close(
            attention.scaled_dot_product_attention_grouped(
                query[:, :, start:end], key, value, 0.5, mask
            ),
            float64(whole)[:, :, start:end],
            what=f"attention of tokens {start} to {end - 1} of 9 with chunked_attention_mask",
            reduction=9,
            magnitude=5.0,
            axes="B H L D",
        )


def test_task_6_no_loop_over_elements() -> None:
    """A mask of 256 x 2048 is made by a few operations on arrays."""
    attention.chunked_attention_mask(0, 1, 2)
    with operations() as count:
        mask = attention.chunked_attention_mask(1000, 256, 2048)
        mx.eval(mask)
    check(
        count[0] < 50_000,
        f"chunked_attention_mask(1000, 256, 2048) takes {count[0]:,} operations of the Python "
        "interpreter.\n"
        "  expected   comparisons of whole arrays of positions, no loop over elements",
    )


@cases("start size total", (-1, 2, 5), (0, 0, 5), (0, -1, 5), (0, 6, 5), (3, 3, 5), (5, 1, 5))
def test_task_6_a_chunk_that_is_not_within_the_sequence(start: int, size: int, total: int) -> None:
    """An error, for want of rows."""
    assert_raises_clearly(
        ValueError,
        lambda: mx.eval(attention.chunked_attention_mask(start, size, total)),
        what=f"chunked_attention_mask({start}, {size}, {total})",
    )


# --- Task 7: metrics --------------------------------------------------------------------------

COUNTS = ("chunks", "prefill_tokens", "decode_steps", "decode_tokens")


def assert_summary(metrics: Any, expected: Mapping[str, Any]) -> None:
    """Compare some of the values of `summary()`, which is to be plain and whole."""
    try:
        summary = metrics.summary()
    except ArithmeticError as error:
        raise CheckFailure(
            f"summary() raises {type(error).__name__}: {error}\n"
            "  expected   values where there are some, and 0 or None where there is nothing"
        ) from error
    keys = {
        *COUNTS,
        "average_chunk_seconds",
        "interleaving_ratio",
        "blocking_seconds",
        "ttft",
        "itl",
    }
    check(
        set(summary) == keys,
        "summary() has the wrong keys.\n"
        f"  expected   {sorted(keys)}\n"
        f"  got        {sorted(summary)}",
    )
    for name in ("ttft", "itl"):
        check(
            set(summary[name]) == {"count", "p50", "p95", "p99", "max"},
            f"summary()[{name!r}] has the wrong keys: {sorted(summary[name])}.",
        )
    for path, value in expected.items():
        got = functools.reduce(lambda part, key: part[key], path.split("."), summary)
        same = got is None if value is None else got is not None and np.isclose(got, value, 1e-9, 0)
        check(same, f"summary(): {path} is wrong.\n  expected   {value}\n  got        {got}")


def test_task_7_nothing_recorded() -> None:
    """No division by zero: zeros, and None where there is no value. The text can be read."""
    metrics = chunked_prefill.ChunkedPrefillMetrics()
    expected: dict[str, Any] = dict.fromkeys(COUNTS, 0)
    expected |= {"average_chunk_seconds": 0, "interleaving_ratio": 0, "blocking_seconds": 0}
    for name in ("ttft", "itl"):
        expected |= {f"{name}.count": 0, f"{name}.max": None, f"{name}.p50": None}
    assert_summary(metrics, expected)
    check(isinstance(metrics.to_text(), str), "to_text() of a run without requests gives no text.")
    check(
        json.loads(metrics.to_json()) == metrics.summary(),
        "to_json() of a run without requests is not summary().",
    )


def test_task_7_counts_and_blocking_time() -> None:
    """Chunks, tokens, steps; a chunk blocks if somebody is decoding, once, not once for each."""
    metrics = chunked_prefill.ChunkedPrefillMetrics()
    for tokens, seconds, active in ((100, 0.5, 0), (60, 0.25, 1), (7, 0.125, 8)):
        metrics.record_chunk(tokens, seconds, active)
    metrics.record_chunk(3, 4.0)
    for requests in (1, 3, 3, 4, 1):
        metrics.record_decode_step(requests)
    assert_summary(
        metrics,
        {
            "chunks": 4,
            "prefill_tokens": 170,
            "decode_steps": 5,
            "decode_tokens": 12,
            "blocking_seconds": 0.375,
            "interleaving_ratio": 0.8,
        },
    )
    check(
        math.isclose(metrics.interleaving_ratio, 0.8),
        f"interleaving_ratio is {metrics.interleaving_ratio}, not 4 chunks / 5 steps.",
    )


def test_task_7_the_interleaving_ratio_at_its_ends() -> None:
    """Chunks only: infinite, but None in the summary, as JSON has no infinity. Steps only: 0."""
    metrics = chunked_prefill.ChunkedPrefillMetrics()
    metrics.record_chunk(10, 0.5, 0)
    assert_summary(metrics, {"interleaving_ratio": None})
    check(
        metrics.interleaving_ratio == math.inf,
        f"interleaving_ratio is {metrics.interleaving_ratio} after chunks only, not infinite.",
    )
    metrics.to_text()
    other = chunked_prefill.ChunkedPrefillMetrics()
    other.record_decode_step(2)
    assert_summary(other, {"interleaving_ratio": 0})


def test_task_7_the_average_is_corrected_for_its_start() -> None:
    """A weighted mean: the newest chunk counts most, and the weights add up to 1 from the first."""
    random = np.random.default_rng(5)
    metrics = chunked_prefill.ChunkedPrefillMetrics()
    smoothing = chunked_prefill.ChunkedPrefillMetrics.SMOOTHING
    times: list[float] = []
    for _ in range(30):
        times.append(float(random.uniform(0.01, 0.2)))
        metrics.record_chunk(16, times[-1], 1)
        weights = (1 - smoothing) ** np.arange(len(times))[::-1]
        expected = float(np.average(times, weights=weights))
        check(
            math.isclose(metrics.average_chunk_seconds, expected, rel_tol=1e-9),
            f"average_chunk_seconds is wrong after {len(times)} chunks.\n"
            f"  expected   {expected:.6f}\n"
            f"  got        {metrics.average_chunk_seconds:.6f}",
        )
        assert_summary(metrics, {"average_chunk_seconds": expected})


def recorded(seed: int, requests: int = 7) -> tuple[Any, list[float], list[float]]:
    """Metrics of random requests whose tokens come in turns, and their TTFTs and ITLs."""
    random = np.random.default_rng(seed)
    metrics = chunked_prefill.ChunkedPrefillMetrics()
    times = {}
    for index in range(requests):
        arrival = float(random.uniform(0, 5))
        metrics.record_arrival(index, arrival)
        times[index] = [arrival, *(arrival + np.cumsum(random.exponential(1, 2 * index))).tolist()]
    events = [(now, index) for index, tokens in times.items() for now in tokens[1:]]
    for now, index in sorted(events):
        metrics.record_token(index, now)
    ttft = [tokens[1] - tokens[0] for tokens in times.values() if len(tokens) > 1]
    itl = [gap for tokens in times.values() for gap in np.diff(tokens[1:]).tolist()]
    return metrics, ttft, itl


@pytest.mark.parametrize("seed, requests", [(1, 2), (2, 7), (3, 20)])
def test_task_7_percentiles_of_ttft_and_itl(seed: int, requests: int) -> None:
    """As NumPy's, over the gaps between tokens of one request each; all gaps pooled."""
    metrics, ttft, itl = recorded(seed, requests)
    expected: dict[str, float] = {}
    for name, values in (("ttft", ttft), ("itl", itl)):
        expected |= {f"{name}.count": len(values), f"{name}.max": max(values)}
        for percentile in (50, 95, 99):
            expected[f"{name}.p{percentile}"] = float(np.percentile(values, percentile))
    assert_summary(metrics, expected)


def test_task_7_one_token_of_one_request() -> None:
    """A TTFT, and no gap: there is nothing to take a percentile of."""
    metrics = chunked_prefill.ChunkedPrefillMetrics()
    metrics.record_arrival(3, 10.0)
    metrics.record_token(3, 10.5)
    expected: dict[str, Any] = dict.fromkeys(("ttft.p50", "ttft.p95", "ttft.p99", "ttft.max"), 0.5)
    expected |= dict.fromkeys(("itl.p50", "itl.p95", "itl.p99", "itl.max"), None)
    assert_summary(metrics, expected | {"ttft.count": 1, "itl.count": 0})
    metrics.to_text()


def test_task_7_a_token_without_an_arrival() -> None:
    """There is no TTFT then: an error."""
    metrics = chunked_prefill.ChunkedPrefillMetrics()
    metrics.record_arrival(0, 1.0)
    metrics.record_token(0, 2.0)
    assert_raises_clearly(
        ValueError,
        lambda: metrics.record_token(1, 2.0),
        what="record_token(1, 2.0) of a request without record_arrival",
    )
    assert_summary(metrics, {"ttft.count": 1, "itl.count": 0})


def test_task_7_json() -> None:
    """One line, which holds all of `summary()`, in plain numbers."""
    metrics, _, _ = recorded(4)
    metrics.record_chunk(5, 0.5, 1)
    text = metrics.to_json()
    check("\n" not in text, "to_json() gives more than one line.")
    check(json.loads(text) == metrics.summary(), "to_json() is not summary().")
    other, _, _ = recorded(4)
    other.record_chunk(10, 0.5, 0)
    check(
        "Infinity" not in other.to_json() and "NaN" not in other.to_json(),
        f"to_json() has a value that JSON does not know: {other.to_json()}",
    )


def test_task_7_text() -> None:
    """Four lines for people: prefill, decode, TTFT and ITL, in milliseconds."""
    metrics, ttft, itl = recorded(5)
    for seconds in (0.25, 0.25):
        metrics.record_chunk(48, seconds, 1)
    for _ in range(4):
        metrics.record_decode_step(3)
    lines = metrics.to_text().splitlines()
    expected = {
        "prefill": [2, 96, 250],
        "decode": [4, 12, 0.5, 500],
        "ttft": [1000 * max(ttft), 1000 * float(np.median(ttft)), len(ttft)],
        "itl": [1000 * max(itl), 1000 * float(np.percentile(itl, 99)), len(itl)],
    }
    check(len(lines) == 4, f"to_text() has {len(lines)} lines, not 4:\n{metrics.to_text()}")
    for line, (name, values) in zip(lines, expected.items(), strict=True):
        check(name in line.lower(), f"to_text(): the line of {name} is {line!r}.")
        numbers = [float(n) for n in re.findall(r"\d+(?:\.\d+)?", line.replace(",", ""))]
        for value in values:
            check(
                any(math.isclose(number, value, rel_tol=1e-3, abs_tol=0.06) for number in numbers),
                f"to_text(): {value:.1f} is missing in the line {line!r}.",
            )


# --- Task 8: measure it -----------------------------------------------------------------------


def event_of(index: int, time: float) -> Any:
    return batch.TokenEvent(index, 7, "", time)


def test_task_8_record_a_step() -> None:
    """A chunk with its time, the decode step with its requests, the tokens with their times."""
    metrics = chunked_prefill.ChunkedPrefillMetrics()
    for index in range(3):
        metrics.record_arrival(index, 10.0 + index)
    first = batch.StepOutput(
        chunks=[(0, 5)], tokens=[event_of(0, 14.0)], prefill_seconds=2.0, decode_seconds=9.0
    )
    second = batch.StepOutput(
        chunks=[(1, 8)],
        decoded=[0],
        tokens=[event_of(0, 17.0)],
        prefill_seconds=0.5,
        decode_seconds=0.25,
    )
    third = batch.StepOutput(
        chunks=[(1, 2)],
        decoded=[0, 1],
        tokens=[event_of(1, 20.0), event_of(0, 21.0), event_of(1, 21.0)],
        prefill_seconds=0.25,
    )
    for output, active in ((first, 0), (second, 1), (third, 1), (batch.StepOutput(), 2)):
        chunked_prefill.record_step(metrics, output, active)
    assert_summary(
        metrics,
        {
            "chunks": 3,
            "prefill_tokens": 15,
            "decode_steps": 2,
            "decode_tokens": 3,
            "blocking_seconds": 0.75,
            "ttft.count": 2,
            "ttft.max": 9.0,
            "ttft.p50": 6.5,
            "itl.count": 3,
            "itl.max": 4.0,
            "itl.p50": 3.0,
        },
    )


def test_task_8_a_run_on_a_clock_of_its_own() -> None:
    """A token of a chunk takes 1 second, a decode step 10: everything can be worked out."""
    now = [100.0]

    def on_call(kind: str, tokens: list[list[int]], offsets: list[int]) -> None:
        now[0] += len(tokens[0]) if kind == "prefill" else 10.0

    scripts = scripts_of((3, 3), (10, 1))
    model = BatchModel(tokenizer(), scripts, on_call=on_call)
    scheduler = batch.BatchScheduler(model, tokenizer(), 64, 2, 4, clock=lambda: now[0])
    prompts = list(scripts)
    metrics = chunked_prefill.run_and_measure(scheduler, iter(prompts))
    model.raise_failure()
    # Steps: 3 + 10 (nobody waits for the first chunk), 4 + 10, 4 + 10, 2 + 10.
    # Request 0: tokens at 3, 13, 27, its end at 41. Request 1: a token at 43, its end at 53.
    assert_summary(
        metrics,
        {
            "chunks": 4,
            "prefill_tokens": 13,
            "decode_steps": 4,
            "decode_tokens": 4,
            "blocking_seconds": 8.0,
            "interleaving_ratio": 1.0,
            "ttft.count": 2,
            "ttft.max": 43.0,
            "ttft.p50": 23.0,
            "itl.count": 2,
            "itl.max": 14.0,
            "itl.p50": 12.0,
        },
    )
    check(not scheduler.has_work_remaining(), "run_and_measure returns before all is done.")
    model.check_released(when="after run_and_measure")


def test_task_8_chunks_block_less_than_whole_prompts() -> None:
    """What chunked prefill is for: the largest gap shrinks with the chunk, TTFT hardly grows."""
    gaps = {}
    for step in (4, 8, 40):
        now = [0.0]

        def on_call(
            kind: str, tokens: list[list[int]], offsets: list[int], now: list[float] = now
        ) -> None:
            now[0] += len(tokens[0]) if kind == "prefill" else 1.0

        scripts = scripts_of((3, 20), (40, 2))
        model = BatchModel(tokenizer(), scripts, on_call=on_call)
        scheduler = batch.BatchScheduler(
            model, tokenizer(), 64, 2, step, clock=lambda now=now: now[0]
        )
        summary = chunked_prefill.run_and_measure(scheduler, list(scripts)).summary()
        model.raise_failure()
        check(not scheduler.has_work_remaining(), "run_and_measure returns before all is done.")
        gaps[step] = summary["itl"]["max"]
    check(
        gaps == {4: 5.0, 8: 9.0, 40: 41.0},
        "A prompt of 40 tokens is prefilled beside a decode, at 1 second per token: the largest "
        "gap between two tokens is one chunk and one step.\n"
        "  expected   {4: 5.0, 8: 9.0, 40: 41.0} by chunk size\n"
        f"  got        {gaps}",
    )


def test_task_8_requests_without_tokens() -> None:
    """A prompt that cannot be served, and one whose first token is its end; or no prompt at all."""
    prompt = letters(9, 70)
    model = BatchModel(tokenizer(), {prompt: END_OF_TEXT})
    scheduler = batch.BatchScheduler(model, tokenizer(), 32, 2, 4)
    metrics = chunked_prefill.run_and_measure(scheduler, ["", prompt])
    model.raise_failure()
    assert_summary(metrics, {"chunks": 3, "prefill_tokens": 9, "decode_steps": 0, "ttft.count": 0})
    empty = chunked_prefill.run_and_measure(scheduler, [])
    assert_summary(empty, {"chunks": 0, "ttft.count": 0, "itl.count": 0})


# --- Task 9: priorities and admission ---------------------------------------------------------


def priority_run(scripts: Mapping[str, str], **options: Any) -> Run:
    """A `Run` of a `PriorityScheduler`."""
    return Run(scripts, make=chunked_prefill.PriorityScheduler, in_order=False, **options)


def assert_order(run: Run, expected: Sequence[int], *, what: str) -> None:
    check(
        run.chunk_order == list(expected),
        f"The chunks run in the wrong order: {what}.\n"
        f"  expected   chunks of requests {list(expected)}\n"
        f"  got        {run.chunk_order}",
    )


def test_task_9_interactive_before_batch() -> None:
    """The most urgent class first; within a class, first come, first served."""
    scripts = scripts_of((5, 2), (6, 2), (7, 2), (8, 2), (5, 2))
    run = priority_run(scripts, batch_size=5)
    classes = ["batch", "interactive", "batch", "interactive", "interactive"]
    for prompt, priority in zip(scripts, classes, strict=True):
        run.submit(prompt, priority=priority)
    run.finish()
    assert_order(
        run,
        [1, 1, 3, 3, 4, 4, 0, 0, 2, 2],
        what=f"five requests of two chunks, of the classes {', '.join(classes)}",
    )


def test_task_9_the_default_is_interactive() -> None:
    """Without a class, a request is as urgent as any; another class is an error."""
    scripts = scripts_of((5, 2), (5, 2), (5, 2))
    run = priority_run(scripts, batch_size=3)
    prompts = list(scripts)
    run.submit(prompts[0], priority="batch")
    run.submit(prompts[1])
    run.submit(prompts[2], priority="interactive")
    run.finish()
    assert_order(run, [1, 1, 2, 2, 0, 0], what="batch, no class given, interactive")


def test_task_9_a_long_prefill_steps_aside_and_goes_on() -> None:
    """An urgent request comes in between two chunks; the long one loses nothing of its progress."""
    scripts = scripts_of((19, 3), (6, 3), (3, 3))
    run = priority_run(scripts, batch_size=3)
    prompts = list(scripts)
    run.submit(prompts[0], priority="batch")
    run.step()
    run.step()
    run.submit(prompts[1])
    for _ in range(3):
        run.step()
    run.submit(prompts[2])
    run.finish()
    assert_order(
        run,
        [0, 0, 1, 1, 0, 2, 0, 0],
        what="urgent requests arrive after the second and the fifth chunk",
    )


@pytest.mark.parametrize("ageing_steps", [1, 3, 7])
def test_task_9_nobody_starves(ageing_steps: int) -> None:
    """Passed over so often, a batch request goes before an endless stream of urgent ones."""
    long = letters(9, 80)
    scripts = {long: "m" + END_OF_TURN, "w": "k", letters(2, 81): "k"}
    run = priority_run(scripts, ageing_steps=ageing_steps, max_seq_len=12)
    run.submit(long, priority="batch")
    most = 3 * (ageing_steps + 1) + 1
    for _ in range(most):
        run.submit("w", 1)
        run.submit("w", 1)
        run.step()
    first = run.chunk_order.index(0) if 0 in run.chunk_order else None
    check(
        first == ageing_steps,
        f"A batch request and an endless stream of interactive ones, ageing_steps={ageing_steps}.\n"
        f"  expected   {ageing_steps} interactive chunks, and then one of the batch request\n"
        f"  got        its first chunk as number {first} (from 0): {run.chunk_order}",
    )
    check(
        run.chunk_order.count(0) == 3,
        f"After {most} steps, a batch request of 3 chunks has had {run.chunk_order.count(0)} of "
        f"them, with ageing_steps={ageing_steps}: {run.chunk_order}.",
    )
    run.finish()


def test_task_9_the_second_batch_request_ages_as_well() -> None:
    """The stream goes on: batch requests go one after the other."""
    scripts = {letters(3, 82): "m", letters(2, 83): "k", "w": "k"}
    run = priority_run(scripts, ageing_steps=3, prefill_step=2)
    prompts = list(scripts)
    for prompt in prompts[:2]:
        run.submit(prompt, 1, priority="batch")
    for _ in range(14):
        run.submit("w", 1)
        run.step()
    check(
        {0, 1} <= {index for index, request in run.requests.items() if request.ended},
        f"After 14 steps with ageing_steps=3, two batch requests of 3 chunks together have not had "
        f"all of them: {run.chunk_order}.",
    )
    run.finish()


@pytest.mark.parametrize("how", ["ended", "aborted"])
def test_task_9_the_next_batch_request_starts_with_age_0(how: str) -> None:
    """Who comes when the old one is gone waits as long as that one did."""
    scripts = {letters(3, 86): "m", letters(2, 87): "k", "w": "k"}
    run = priority_run(scripts, ageing_steps=4)
    old, new, urgent = scripts
    run.submit(old, 1, priority="batch")
    for _ in range(5 if how == "ended" else 4):
        run.submit(urgent, 1)
        run.step()
    if how == "aborted":
        run.abort(0)
    run.submit(urgent, 1)
    run.step()
    before = len(run.chunk_order)
    index = run.submit(new, 1, priority="batch")
    for _ in range(8):
        run.submit(urgent, 1)
        run.step()
    chunks = run.chunk_order[before:]
    check(
        index in chunks and chunks.index(index) == 4,
        f"A batch request has {how}, and after it another one arrives, with ageing_steps=4.\n"
        "  expected   4 interactive chunks, and then the new batch request's\n"
        f"  got        chunks of requests {chunks}, where {index} is the new one",
    )
    run.finish()


def test_task_9_nobody_starves_for_want_of_a_slot() -> None:
    """Interactive requests that never leave more than the reserved slots free are passed too."""
    scripts = {letters(5, 88): "m" + END_OF_TURN, letters(2, 89): "kl", "w": "kl"}
    run = priority_run(scripts, ageing_steps=3, reserved_slots=1)
    old, _, urgent = scripts
    run.submit(urgent, 3)
    run.submit(urgent, 3)
    run.submit(old, priority="batch")
    for _ in range(30):
        run.submit(urgent, 3)
        run.step()
    check(
        run.requests[2].ended == "stop",
        "30 steps with ageing_steps=3, one of two slots reserved, and an endless stream of "
        f"interactive requests: a batch request of 2 chunks has not ended. {run.chunk_order}",
    )
    run.finish()


def test_task_9_reserved_slots() -> None:
    """Batch requests leave slots for interactive ones, which then need not wait."""
    scripts = scripts_of((5, 30), (5, 4), (5, 4), (6, 3))
    run = priority_run(scripts, batch_size=2, reserved_slots=1)
    prompts = list(scripts)
    for prompt in prompts[:3]:
        run.submit(prompt, priority="batch")
    for _ in range(6):
        run.step()
    check(
        set(run.chunk_order) == {0},
        "One of two slots is reserved, and request 0 of class batch has the other, but another "
        f"batch request is prefilled: {run.chunk_order}.",
    )
    run.submit(prompts[3])
    first, second = run.step(), run.step()
    check(
        [first.chunks, second.chunks] == [[(3, 4)], [(3, 2)]] and 3 in second.decoded,
        "An interactive request does not get the slot that is reserved for it at once.\n"
        f"  got        chunks {[first.chunks, second.chunks]}, decoded {second.decoded}",
    )
    run.finish()


def test_task_9_a_prefill_of_class_batch_waits_between_two_chunks_for_a_slot() -> None:
    """It does not continue while only reserved slots are free, and goes on where it was later."""
    scripts = scripts_of((13, 2), (2, 8), (2, 5))
    run = priority_run(scripts, batch_size=3, reserved_slots=1)
    prompts = list(scripts)
    run.submit(prompts[0], priority="batch")
    run.step()
    for prompt in prompts[1:]:
        run.submit(prompt)
    for _ in range(4):
        run.step()
    check(
        run.chunk_order == [0, 1, 2],
        "Two interactive requests are decoded in 3 slots of which 1 is reserved: no slot is left "
        f"for a batch request, but chunks run of requests {run.chunk_order}.",
    )
    run.finish()
    assert_order(run, [0, 1, 2, 0, 0, 0], what="a batch prefill waits until a slot is free")


def bytes_run(scripts: Mapping[str, str], budget: int, **options: Any) -> Run:
    """A `Run` with 10 bytes per token and so many in all."""
    return priority_run(scripts, cache_bytes_per_token=10, cache_budget=budget, **options)


def test_task_9_the_bytes_of_a_request() -> None:
    """Prompt and answer at their largest."""
    prompt = letters(11, 84)
    scheduler = bytes_run({prompt: "k"}, 640).scheduler
    for most, expected in ((5, 160), (None, 640), (1000, 640)):
        request = batch.Request(
            scheduler.model, tokenizer(), prompt, 4, max_seq_len=64, max_tokens=most
        )
        got = scheduler.bytes_needed(request)
        check(
            got == expected,
            f"bytes_needed() of 11 tokens of prompt, max_tokens {most}, max_seq_len 64, and 10 "
            f"bytes per token.\n  expected   {expected}\n  got        {got}",
        )


def test_task_9_waits_for_bytes_before_its_first_chunk() -> None:
    """Who does not fit has no caches and runs no chunk; it starts when bytes come back."""
    scripts = scripts_of((9, 6), (9, 6), (9, 6))
    run = bytes_run(scripts, 30 * 10, batch_size=3)
    for prompt in scripts:
        run.submit(prompt, 6)
    while not run.requests[0].ended:
        run.step()
        check(
            2 not in run.chunk_order and len(run.model.caches) <= 2,
            "Two of three requests of 150 bytes fit into a budget of 300, but the third starts "
            f"before one of them has ended: {run.chunk_order}, {len(run.model.caches)} requests "
            "have caches.",
        )
    run.finish()
    assert_order(run, [0, 0, 0, 1, 1, 1, 2, 2, 2], what="the third waits for bytes")


def test_task_9_nobody_new_overtakes_who_waits_for_bytes() -> None:
    """A small request behind a large one would fit, but the large one would never start."""
    scripts = scripts_of((9, 6), (20, 6), (2, 2))
    run = bytes_run(scripts, 300, batch_size=3)
    for prompt, most in zip(scripts, (6, 6, 2), strict=True):
        run.submit(prompt, most)
    run.finish()
    assert_order(
        run,
        [0, 0, 0, 1, 1, 1, 1, 1, 2],
        what="request 1 waits for bytes, and request 2, which would fit, has come after it",
    )


def test_task_9_the_other_class_does_not_overtake_who_waits_for_bytes() -> None:
    """Nor does a batch request that would fit."""
    scripts = scripts_of((9, 6), (20, 6), (2, 2))
    run = bytes_run(scripts, 300, batch_size=3)
    classes = ("interactive", "interactive", "batch")
    for prompt, most, priority in zip(scripts, (6, 6, 2), classes, strict=True):
        run.submit(prompt, most, priority=priority)
    run.finish()
    assert_order(
        run,
        [0, 0, 0, 1, 1, 1, 1, 1, 2],
        what="request 1 waits for bytes, and request 2, of class batch, would fit",
    )


def test_task_9_who_has_started_goes_on() -> None:
    """An urgent request that waits for bytes does not stop a batch request that holds them."""
    scripts = scripts_of((15, 3), (9, 6))
    run = bytes_run(scripts, 200)
    prompts = list(scripts)
    run.submit(prompts[0], 3, priority="batch")
    run.step()
    run.submit(prompts[1], 6)
    run.finish()
    assert_order(run, [0, 0, 0, 0, 1, 1, 1], what="request 1 needs the bytes of request 0")
    check(
        run.steps <= 16,
        f"Request 0 has started and holds the bytes that request 1 waits for, but it takes "
        f"{run.steps} steps until both are done.\n"
        "  expected   request 0 goes on, a chunk in every step",
    )


def test_task_9_too_large_for_the_whole_budget() -> None:
    """It is refused at once, and its class does not wait for it; what just fits is served."""
    scripts = scripts_of((9, 6), (11, 6), (10, 6))
    run = bytes_run(scripts, 160)
    prompts = list(scripts)
    run.submit(prompts[0], 6)
    run.submit(prompts[1], 6, doomed=True)
    run.submit(prompts[2], 6)
    run.step()
    request = run.requests[1]
    check(
        request.ended == "error" and "170" in request.message and "160" in request.message,
        "A request of 170 bytes is not refused when all requests together have 160.\n"
        f"  got        the reason {request.ended!r}, message {request.message!r}",
    )
    run.finish()
    assert_order(run, [0, 0, 0, 2, 2, 2], what="request 1 is refused")


@pytest.mark.parametrize(
    "end", ["stop", "length", "first token", "abort", "abort in prefill", "error", "decode error"]
)
@pytest.mark.parametrize("priority", PRIORITIES)
def test_task_9_bytes_come_back_whatever_ends_a_request(end: str, priority: str) -> None:
    """Each request takes the whole budget: the next can start only if all bytes come back."""
    prompt, script = letters(9, 85), {"first token": "", "length": "abcdfg"}.get(end, "abc")
    if end == "error":
        prompt = prompt[:6] + "!" + prompt[7:]
    if end == "decode error":
        script = "a!c"
    scripts = {prompt: script + ("" if end == "length" else END_OF_TURN)}
    scripts |= scripts_of((10, 2))
    run = bytes_run(scripts, 150, on_call=Poison())
    for turn in range(2):
        first = run.submit(prompt, 6, doomed="error" in end, priority=priority)
        for _ in range({"abort in prefill": 2, "abort": 4}.get(end, 0)):
            run.step()
        if "abort" in end:
            run.abort(first)
        second = run.submit(list(scripts)[1], 5)
        for _ in range(14):
            run.step()
        check(
            run.requests[second].ended == "stop",
            f"A request of the whole budget has ended ({end}, for the {turn + 1}. time), but the "
            "next one, which needs its bytes, does not start or end within 14 steps.",
        )
    run.finish()


def test_task_9_abort_while_waiting_for_bytes() -> None:
    """Who gives up makes way for those behind it, and takes no bytes with it."""
    scripts = scripts_of((9, 12), (20, 6), (2, 2))
    run = bytes_run(scripts, 300, batch_size=3)
    for prompt, most in zip(scripts, (12, 6, 2), strict=True):
        run.submit(prompt, most)
    for _ in range(4):
        run.step()
    run.abort(1)
    run.finish()
    assert_order(run, [0, 0, 0, 2], what="request 1 waits for bytes and is aborted")


def test_task_9_without_a_budget_there_is_no_limit() -> None:
    """`cache_budget=0`: everybody starts."""
    scripts = scripts_of((9, 6), (9, 6), (9, 6))
    for bytes_per_token in (0, 1000):
        run = priority_run(scripts, batch_size=3, cache_bytes_per_token=bytes_per_token)
        for prompt in scripts:
            run.submit(prompt, 6)
        run.finish()
        assert_order(run, [0, 0, 0, 1, 1, 1, 2, 2, 2], what="no budget")


def test_task_9_aborts_in_both_queues() -> None:
    """In front, in the middle, at the end; the others come in their order."""
    scripts = scripts_of(*((5, 1) for _ in range(8)))
    run = priority_run(scripts, batch_size=2)
    for index, prompt in enumerate(scripts):
        run.submit(prompt, priority=PRIORITIES[index % 2])
    run.step()
    for index in (0, 3, 4, 7):
        run.abort(index)
    run.finish()
    assert_order(run, [0, 2, 2, 6, 6, 1, 1, 5, 5], what="requests 0, 3, 4 and 7 are aborted")


def test_task_9_a_step_does_not_look_at_the_whole_queue() -> None:
    """20,000 queued requests of both classes cost a step no more than 100."""
    assert_cost_of_a_step(
        chunked_prefill.PriorityScheduler, 20_000, cache_bytes_per_token=1, cache_budget=1000
    )


@st.composite
def priority_traffic(draw: st.DrawFn) -> dict[str, Any]:
    """Random traffic of both classes, with a budget and reserved slots."""
    drawn = draw(traffic())
    for request in drawn["requests"]:
        request["priority"] = draw(st.sampled_from(PRIORITIES))
    drawn["batch_size"] = max(2, drawn["batch_size"])
    drawn["options"] = {
        "reserved_slots": draw(st.integers(0, drawn["batch_size"] - 1)),
        "ageing_steps": draw(st.integers(1, 5)),
        "cache_bytes_per_token": 1,
        "cache_budget": draw(st.sampled_from([0, 24, 30, 60])),
    }
    return drawn


@examples(max_examples=10)
@given(priority_traffic())
def test_task_9_random_traffic(traffic: dict[str, Any]) -> None:
    """Nobody waits for ever, the budget is never exceeded, and tokens are as if alone."""
    budget = traffic["options"]["cache_budget"]

    def check_budget(run: Run) -> None:
        held = sum(
            len(request.ids) + run.limits[index]
            for index, request in run.requests.items()
            if request.prefilled and not request.ended
        )
        check(
            not budget or held <= budget,
            f"Requests that have started can take {held} bytes, but the budget is {budget}.",
        )

    play(
        traffic,
        make=chunked_prefill.PriorityScheduler,
        in_order=False,
        after_step=check_budget,
        **traffic["options"],
    )
