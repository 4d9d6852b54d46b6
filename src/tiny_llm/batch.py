"""Continuous batching and chunked prefill: requests, and the scheduler that runs them.

A request goes one way: queue, prefill (chunk by chunk, with caches of its own), a decode slot (its
caches move into the slot, one forward pass decodes all slots), result. One thread drives a
scheduler.
"""

import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import mlx.core as mx

from .kv_cache import BatchingKvCache

Sampler = Callable[[mx.array], mx.array]


@dataclass(frozen=True)
class TokenEvent:
    """One token of a request, as soon as it is there.

    Attributes:
        prompt_idx: whose token it is.
        token: its id. An end-of-sequence token is not an event.
        text: what became readable with it; may be empty.
        time: when it came, on the scheduler's clock, in seconds.
    """

    prompt_idx: int
    token: int
    text: str
    time: float


@dataclass(frozen=True)
class FinishEvent:
    """The end of a request.

    Attributes:
        prompt_idx: whose end it is.
        reason: `"stop"` (an end-of-sequence token), `"length"` (`max_tokens` or `max_seq_len`
            reached), `"abort"`, or `"error"`.
        message: in case of an error, what went wrong, in a sentence.
        text: the rest of the text, held back until now; may be empty.
    """

    prompt_idx: int
    reason: str
    message: str = ""
    text: str = ""


@dataclass
class StepOutput:
    """What happened in one step of a scheduler, in order.

    Attributes:
        chunks: the prefill chunks that ran, as pairs of prompt index and number of tokens.
        decoded: the prompt indices of the decode forward pass, one for each slot that was taken.
        tokens: the new tokens, in the order in which they came.
        finished: the requests that ended, also those that ended between this step and the last.
        prefill_seconds: time spent in the model for the chunks.
        decode_seconds: time spent in the model for the decode forward pass.
    """

    chunks: list[tuple[int, int]] = field(default_factory=list)
    decoded: list[int] = field(default_factory=list)
    tokens: list[TokenEvent] = field(default_factory=list)
    finished: list[FinishEvent] = field(default_factory=list)
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0


@dataclass(frozen=True)
class Load:
    """How busy a scheduler is, for whoever chooses the size of the next chunk.

    Attributes:
        active_decodes: requests that are being decoded.
        batch_size: the number of decode slots.
        waiting: requests that are not prefilled completely.
        cached_tokens: tokens in the decode slots.
    """

    active_decodes: int
    batch_size: int
    waiting: int
    cached_tokens: int


class ChunkSizer(Protocol):
    """Whoever chooses the size of the next prefill chunk, and may learn from how long it took."""

    def next_chunk_size(self, request: "Request", load: Load) -> int:
        """The largest number of tokens that the next chunk of `request` may have, at least 1."""

    def observe(self, offset: int, chunk_size: int, active_decodes: int, seconds: float) -> None:
        """Note that a chunk behind `offset` tokens took `seconds`, beside so many decodes."""


class Request:
    """One prompt on its way through the engine, with what has been generated for it."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        prompt: str,
        prefill_max_step: int = 128,
        prompt_idx: int = 0,
        *,
        max_seq_len: int | None = None,
        max_tokens: int | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        """Encode the prompt. The model does not run yet, and no cache is made.

        What can be read of a request: `prefill_tokens` (the prompt's ids, a list), `offset` (an
        int: how many tokens its caches hold, in a slot too), `is_prefill_done`, `next_token` (the
        newest generated token, which the model has not seen; None before there is one), `tokens`
        (all generated ones, a list), `max_tokens` (the most that may be generated, from both
        limits; None for no limit), `kv_cache` (its own caches, one per layer; None before the
        first chunk, in a slot, and after the end), `finish_reason` (None, or as in `FinishEvent`),
        `error`, `priority` (its class, which a scheduler with classes sets).

        Args:
            model: as in `simple_generate_with_kv_cache`.
            tokenizer: as in `simple_generate`.
            prompt: the text to continue, chat template applied.
            prefill_max_step: the largest number of tokens that one call of `try_prefill` gives to
                the model. It may be changed at any time.
            prompt_idx: the request's name in results.
            max_seq_len: end the request when prompt and generated tokens are so many together.
            max_tokens: end the request when so many tokens are generated.
            sampler: as in `simple_generate`, for the first token; greedy if None.

        Raises:
            ValueError: the prompt is empty, or leaves no room for a token below `max_seq_len`;
                `prefill_max_step` or `max_tokens` is below 1.
        """
        if prefill_max_step < 1:
            raise ValueError(f"prefill_max_step must be at least 1, but is {prefill_max_step}")
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, but is {max_tokens}")
        self.prefill_tokens: list[int] = list(tokenizer.encode(prompt, add_special_tokens=False))
        if not self.prefill_tokens:
            raise ValueError("the prompt is empty: there is nothing to continue")
        if max_seq_len is not None and len(self.prefill_tokens) >= max_seq_len:
            raise ValueError(
                f"the prompt has {len(self.prefill_tokens)} tokens, which leaves no room for an "
                f"answer within max_seq_len {max_seq_len}: shorten it or raise max_seq_len"
            )
        self.model, self.prompt_idx, self.sampler = model, prompt_idx, sampler
        self.prefill_max_step = prefill_max_step
        self.priority = "interactive"
        room = None if max_seq_len is None else max_seq_len - len(self.prefill_tokens)
        limits = [limit for limit in (room, max_tokens) if limit is not None]
        self.max_tokens: int | None = min(limits, default=None)
        self.kv_cache: list[Any] | None = None
        self.offset = 0
        self.is_prefill_done = False
        self.next_token: int | None = None
        self.tokens: list[int] = []
        self.finish_reason: str | None = None
        self.error = ""
        self._eos_token_ids = set(tokenizer.eos_token_ids)
        self._detokenizer = tokenizer.detokenizer
        self._detokenizer.reset()

    @property
    def is_done(self) -> bool:
        """Whether the request has ended, for whatever reason."""
        return self.finish_reason is not None

    @property
    def text(self) -> str:
        """The text generated so far, without the prompt; complete once the request has ended."""
        return self._detokenizer.text

    def try_prefill(self) -> int:
        """Run the model on the whole prompt, in one call.

        The prompt goes through `model(tokens, 0, kv_cache)` as ids `1 x L`; the caches are made by
        `model.create_kv_cache()`. Then `is_prefill_done` is True, `offset` is the number of tokens
        in the caches, and the first token has been sampled and taken (`take_token`).

        Returns:
            The number of tokens processed.

        Raises:
            RuntimeError: the prefill is done already, or the request has ended.
        """
        raise NotImplementedError("Week 2 Day 6, Task 3: A request")

    def take_token(self, token: int) -> str:
        """Append a sampled token to the answer, or end the request.

        An end-of-sequence token ends it with the reason `"stop"` and is not part of the answer. The
        last of `max_tokens` tokens is, and ends it with `"length"`.

        Returns:
            The text that became readable with the token; may be empty.
        """
        raise NotImplementedError("Week 2 Day 6, Task 3: A request")

    def finish(self, reason: str, error: str = "") -> str:
        """End the request: release its caches, complete its text. A second call changes nothing.

        Args:
            reason: as in `FinishEvent`.
            error: in case of an error, what went wrong.

        Returns:
            The text that was held back until now; may be empty.
        """
        raise NotImplementedError("Week 2 Day 6, Task 3: A request")

    def release_cache(self) -> None:
        """Release the request's own caches, of every layer."""
        for layer_cache in self.kv_cache or []:
            layer_cache.release()
        self.kv_cache = None


def sample(logits: mx.array, sampler: Sampler | None) -> list[int]:
    """Pick one token per row.

    Args:
        logits: `B x vocab_size`.
        sampler: picks tokens `B` from log-probabilities `B x vocab_size` in float32; greedy if
            None.
    """
    logits = logits.astype(mx.float32)
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    choice = mx.argmax(logprobs, axis=-1) if sampler is None else sampler(logprobs)
    tokens: Any = choice.tolist()
    return tokens


class BatchScheduler:
    """Runs many requests on one model: prefills them, and decodes all of them together."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        max_seq_len: int = 512,
        batch_size: int = 5,
        prefill_step: int = 128,
        *,
        sampler: Sampler | None = None,
        chunk_sizer: ChunkSizer | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Start without requests.

        Args:
            model: makes a request's caches by `create_kv_cache()`, and is called as
                `model(tokens, offset, cache)`; returns logits `B x L x vocab_size`. A chunk has
                tokens `1 x L` and an int offset; a decode step has tokens `B x 1`, a list of `B`
                offsets, and one `BatchingKvCache` per layer; row `i` is slot `i`.
            tokenizer: as in `simple_generate`.
            max_seq_len: the most tokens of one request, prompt and answer together.
            batch_size: the number of decode slots.
            prefill_step: the largest prefill chunk, in tokens.
            sampler: picks tokens `B` from log-probabilities `B x vocab_size`; greedy if None.
            chunk_sizer: chooses the size of every chunk instead of `prefill_step`.
            clock: the time in seconds; only differences matter.

        Raises:
            ValueError: a number is below 1.
        """
        for name, number in (
            ("max_seq_len", max_seq_len),
            ("batch_size", batch_size),
            ("prefill_step", prefill_step),
        ):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, but is {number}")
        self.model, self.tokenizer, self.sampler = model, tokenizer, sampler
        self.max_seq_len, self.prefill_step = max_seq_len, prefill_step
        self.chunk_sizer, self.clock = chunk_sizer, clock
        self.waiting: deque[Request] = deque()  # not prefilled yet, or in part; oldest first
        self.prefilled: Request | None = None  # waits for a slot
        self.slots: list[Request | None] = [None] * batch_size
        self.kv_cache: list[BatchingKvCache] = []  # one per layer, once there is a request
        self._unfinished: dict[int, Request] = {}
        self._results: list[tuple[int, str]] = []
        self._output = StepOutput()
        self._next_idx = 0

    def submit(self, prompt: str, max_tokens: int | None = None) -> int:
        """Append a request to the queue.

        A prompt that cannot be served (see `Request`) ends at once with the reason `"error"`; the
        next step's output says so, and `collect_results` has an empty text for it.

        Args:
            prompt: the text to continue, chat template applied.
            max_tokens: the most tokens to generate; None for as many as `max_seq_len` allows.

        Returns:
            The request's prompt index: 0 for the first prompt, then counting up.
        """
        prompt_idx = self._next_idx
        self._next_idx += 1
        try:
            request = Request(
                self.model,
                self.tokenizer,
                prompt,
                self.prefill_step,
                prompt_idx,
                max_seq_len=self.max_seq_len,
                max_tokens=max_tokens,
                sampler=self.sampler,
            )
            self.enqueue(request)
        except ValueError as error:
            self._output.finished.append(FinishEvent(prompt_idx, "error", str(error)))
            self._results.append((prompt_idx, ""))
            return prompt_idx
        self._unfinished[prompt_idx] = request
        return prompt_idx

    def enqueue(self, request: Request) -> None:
        """Put a new request into the queue: first come, first served."""
        self.waiting.append(request)

    def next_to_prefill(self) -> Request | None:
        """The request whose chunk comes next; it stays in the queue. None if nobody waits."""
        while self.waiting and self.waiting[0].is_done:  # aborted
            self.waiting.popleft()
        return self.waiting[0] if self.waiting else None

    def dequeue(self, request: Request) -> None:
        """Take the request that `next_to_prefill` gave out of the queue."""
        self.waiting.remove(request)

    def step(self) -> StepOutput:
        """Prefill waiting requests into all free slots, then decode one token for every slot.

        Whoever comes out of the queue (`next_to_prefill`, `dequeue`) is prefilled (`run_chunk`)
        and placed in a slot, unless its first token was its end. No forward pass decodes with an
        empty slot while somebody waits.

        Returns:
            What happened.
        """
        raise NotImplementedError("Week 2 Day 6, Task 4: The scheduler")

    def handle_prefill_phase(self) -> None:
        """Run one chunk of one request: of the one that `next_to_prefill` names.

        Nothing runs while a prefilled request waits for a slot. A request leaves the queue when its
        last chunk is done, or when it ends. An exception ends this request, with the reason
        `"error"`, and nothing else.
        """
        raise NotImplementedError("Week 2 Day 7, Task 3: A chunk, then a decode step")

    def move_prefill_to_decode(self) -> None:
        """Place the prefilled request, if there is one, in a free slot, if there is one.

        If there is no slot, it goes on waiting, with its caches and its first token.
        """
        raise NotImplementedError("Week 2 Day 7, Task 3: A chunk, then a decode step")

    def place(self, request: Request, slot: int) -> None:
        """Let a prefilled request have a free slot.

        Its caches are copied into the slot, in every layer, and released. Its first token stays
        `next_token`: the next decode step gives it to the model. The batching caches, one per
        layer, are made when the first request comes.
        """
        raise NotImplementedError("Week 2 Day 6, Task 4: The scheduler")

    def handle_decode_phase(self) -> None:
        """Decode one token for every slot that is taken, in one forward pass.

        The rows are the slots up to the last one that is taken. An empty one among them gets token
        0 at offset 0, and its row of the result is not looked at. Requests that end leave their
        slot.
        """
        raise NotImplementedError("Week 2 Day 6, Task 4: The scheduler")

    def abort(self, prompt_idx: int) -> bool:
        """End a request now, wherever it is: no chunk and no decode step runs for it any more.

        Returns:
            Whether there was such a request and it had not ended yet.
        """
        raise NotImplementedError("Week 2 Day 7, Task 3: A chunk, then a decode step")

    def has_work_remaining(self) -> bool:
        """Whether a request has not ended yet."""
        raise NotImplementedError("Week 2 Day 6, Task 4: The scheduler")

    def collect_results(self) -> list[tuple[int, str]]:
        """The requests that have ended since the last call, in the order in which they ended.

        Returns:
            Pairs of prompt index and generated text (what there is of it, if it ended early).
        """
        raise NotImplementedError("Week 2 Day 6, Task 4: The scheduler")

    def load(self) -> Load:
        """How busy the scheduler is."""
        decoding = [request for request in self.slots if request is not None]
        return Load(
            active_decodes=len(decoding),
            batch_size=len(self.slots),
            waiting=len(self._unfinished) - len(decoding) - (self.prefilled is not None),
            cached_tokens=sum(request.offset for request in decoding),
        )

    def release(self) -> None:
        """Abort all requests that have not ended, and free all caches."""
        for request in list(self._unfinished.values()):
            self._finish(request, "abort")

    def run_chunk(self, request: Request) -> None:
        """Call `try_prefill` of a request, and report the chunk, its time, and the first token.

        A `chunk_sizer` chooses the size of the chunk, and learns how long it took.
        """
        load = self.load()
        if self.chunk_sizer is not None:
            request.prefill_max_step = self.chunk_sizer.next_chunk_size(request, load)
        offset = request.offset
        start = self.clock()
        processed = request.try_prefill()
        seconds = self.clock() - start
        self._output.prefill_seconds += seconds
        self._output.chunks.append((request.prompt_idx, processed))
        if self.chunk_sizer is not None:
            self.chunk_sizer.observe(offset, processed, load.active_decodes, seconds)
        if request.is_prefill_done:
            self._note_token(request, request.text)

    def _take_decoded(self, request: Request, token: int) -> None:
        """Give a request the token that was decoded in its slot, and report it."""
        request.offset += 1
        self._output.decoded.append(request.prompt_idx)
        self._note_token(request, request.take_token(token))

    def _decode_one_by_one(self) -> None:
        """Decode every slot alone, on a copy of its tokens: a failing request fails alone."""
        raise NotImplementedError("Week 2 Day 7, Task 3: A chunk, then a decode step")

    def _note_token(self, request: Request, text: str) -> None:
        """Report the token that a request has just taken, and its end if that was the end."""
        ended = request.finish_reason
        if ended != "stop":
            token = request.tokens[-1]
            event = TokenEvent(request.prompt_idx, token, text, self.clock())
            self._output.tokens.append(event)
        if ended is not None:
            self._leave(request, text if ended == "stop" else "")

    def _fail(self, request: Request, error: Exception) -> None:
        self._finish(request, "error", f"{type(error).__name__}: {error}")

    def _finish(self, request: Request, reason: str, message: str = "") -> None:
        self._leave(request, request.finish(reason, message))

    def _leave(self, request: Request, text: str) -> None:
        """Report a request's end; take it out of its slot, if it has one."""
        assert request.finish_reason is not None
        self._output.finished.append(
            FinishEvent(request.prompt_idx, request.finish_reason, request.error, text)
        )
        self._results.append((request.prompt_idx, request.text))
        del self._unfinished[request.prompt_idx]
        if request is self.prefilled:
            self.prefilled = None
        if request in self.slots:
            slot = self.slots.index(request)
            self.slots[slot] = None
            for layer_cache in self.kv_cache:
                layer_cache.remove_request(slot)


def batch_generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_seq_len: int = 512,
    batch_size: int = 5,
    prefill_step: int = 128,
    sampler: Sampler | None = None,
) -> list[tuple[int, str]]:
    """Generate texts from many prompts by continuous batching.

    Args:
        model, tokenizer, max_seq_len, batch_size, prefill_step, sampler: as in `BatchScheduler`.
        prompts: the texts to continue, chat template applied.

    Returns:
        Pairs of a prompt's index and the text generated for it, in the order of the prompts. A
        request that fails has what text there is, and a warning says what went wrong; the others
        are not affected.

    Raises:
        ValueError: as in `BatchScheduler`.
    """
    raise NotImplementedError("Week 2 Day 6, Task 5: Batch generation")
