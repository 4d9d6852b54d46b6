"""Week 2, day 7: chunked prefill, the scheduler that interleaves it, chunk sizes, priorities."""

import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from batch_models import BatchModel
from inputs import float64
from oracle_models import chat, continue_greedily, ledger_question, random_model, tiny
from scripted import END_OF_TEXT, END_OF_TURN, byte_tokenizer, ids_of
from solution import batch, chunked_prefill, kv_cache, qwen3
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
        return mx.broadcast_to(mx.arange(size, dtype=mx.float32) + offset, (1, L, size)) + 1


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
        self.requests: dict[int, Tracked] = {}
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
        return output

    def finish(self, most_steps: int = 400) -> list[Any]:
        """Step until nothing is left; then everything has to be released."""
        outputs = []
        while any(not request.reported for request in self.requests.values()):
            check(
                len(outputs) < most_steps,
                f"After {most_steps} steps, requests "
                f"{[i for i, r in self.requests.items() if not r.reported]} have not ended.",
            )
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


@pytest.mark.parametrize("step", [1, 2, 4, 5])
def test_task_3_a_lone_prompt_of_any_length(step: int) -> None:
    """One token, exactly k chunks, k chunks and one, one less: in as many steps as chunks."""
    for length in sorted({1, step, step + 1, 3 * step - 1, 3 * step, 3 * step + 1} - {0}):
        for script in (0, 1, 3):
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
        check(
            run.scheduler.abort(again) is False,
            f"abort({again}) does not return False: there is no such request, or it has ended.",
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
        if inputs.shape[0] > 1 and ids_of(tokenizer(), "!")[0] in np.array(inputs)[:, 0].tolist():
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
        return [ord(character) for character in text]


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


def assert_cost_of_a_step(make: Callable[..., Any], **options: Any) -> None:
    """The operations of a step must not grow with the queue. No times: a count is exact."""
    counts = {}
    for queued in (100, 100_000):
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
        counts[100_000] < 1.5 * counts[100],
        f"A step takes {counts[100_000]:,.0f} operations of the interpreter with 100,000 queued "
        f"requests, and {counts[100]:,.0f} with 100.\n"
        "  expected   as many: a step looks at the head of the queue, not at all of it",
    )


def test_task_3_a_step_does_not_look_at_the_whole_queue() -> None:
    """100,000 queued requests cost a step no more than 100."""
    assert_cost_of_a_step(batch.BatchScheduler)


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


@examples(max_examples=40)
@given(traffic())
def test_task_3_random_traffic(traffic: dict[str, Any]) -> None:
    """Random arrivals, lengths, aborts, chunk sizes, batch sizes and failing requests."""
    play(traffic)
