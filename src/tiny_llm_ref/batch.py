"""Continuous batching with chunked prefill: many requests, one model, one step at a time.

A request waits, is prefilled chunk by chunk, waits for a slot if none is free, decodes together
with all others that hold a slot, and is done. It never goes back.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from .kv_cache import BatchingKvCache, TinyKvFullCache


class Request:
    """One prompt on its way through the engine.

    Attributes:
        prompt_idx: the request's id, and the place of its prompt in a list of prompts.
        prefill_tokens: the prompt's token ids, `P`.
        prefill_max_step: the most tokens that a call of `try_prefill` processes.
        offset: the number of tokens in the KV cache; the next token goes to this position.
        is_prefill_done: whether the whole prompt is in the cache.
        next_token: the newest generated token, which is not in the cache yet; None before the
            end of the prefill.
        generated: the number of tokens generated, without the one that ended the text.
        kv_cache: one cache per layer, from the first chunk until a slot takes them over.
        finish_reason: None while there is work; then `stop` (an end-of-sequence token), `length`
            (`max_tokens` or `max_seq_len`), `aborted`, or `error`.
        error: what went wrong, in one sentence, if the reason is `error`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        prompt: str | Sequence[int],
        prefill_max_step: int = 128,
        prompt_idx: int = 0,
        max_tokens: int | None = None,
        sampler: Callable[[mx.array], mx.array] | None = None,
    ) -> None:
        """Tokenize the prompt. Nothing is computed yet.

        Args:
            model: called as `model(tokens, offset, cache)`; makes caches by `create_kv_cache()`.
            tokenizer: as in `simple_generate`.
            prompt: the text to continue, chat template applied; or its token ids.
            prefill_max_step: the most prompt tokens to process in one call of `try_prefill`.
            prompt_idx: the request's id.
            max_tokens: the most tokens to generate; None for no limit but the scheduler's.
            sampler: picks tokens `B` from log-probabilities `B x vocab_size`; greedy if None.

        Raises:
            ValueError: the prompt is empty, or `prefill_max_step` or `max_tokens` is below 1.
        """
        if prefill_max_step < 1:
            raise ValueError(f"prefill_max_step must be at least 1, but is {prefill_max_step}")
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, but is {max_tokens}")
        if isinstance(prompt, str):
            prompt = tokenizer.encode(prompt, add_special_tokens=False)
        if not len(prompt):
            raise ValueError("the prompt is empty: there is nothing to continue")
        self.model = model
        self.prompt_idx = prompt_idx
        self.prefill_tokens = mx.array(prompt)
        self.prefill_max_step = prefill_max_step
        self.max_tokens = max_tokens
        self.sampler = sampler
        self.offset = 0
        self.is_prefill_done = False
        self.next_token: int | None = None
        self.generated = 0
        self.kv_cache: list[TinyKvFullCache] = []
        self.finish_reason: str | None = None
        self.error: str | None = None
        self._eos_token_ids = tokenizer.eos_token_ids
        self._detokenizer = tokenizer.detokenizer
        self._detokenizer.reset()

    @property
    def is_done(self) -> bool:
        """Whether the request has ended, for whatever reason."""
        return self.finish_reason is not None

    @property
    def text(self) -> str:
        """The text generated so far."""
        return self._detokenizer.text

    def try_prefill(self) -> int:
        """Process the next chunk of the prompt; after the last one, pick the first token.

        The caches are materialized after each chunk: otherwise the graph of the whole prompt
        would pile up before anything is computed.

        Returns:
            The number of prompt tokens processed.

        Raises:
            ValueError: the prefill is done already, or the request has ended.
        """
        if self.is_prefill_done or self.is_done:
            raise ValueError("there is nothing left to prefill: the request is past it")
        if not self.kv_cache:
            self.kv_cache = self.model.create_kv_cache()
        chunk = self.prefill_tokens[self.offset : self.offset + self.prefill_max_step]
        logits = self.model(chunk[None], self.offset, self.kv_cache)
        for cache in self.kv_cache:
            cache.materialize()
        self.offset += chunk.size
        if self.offset == self.prefill_tokens.size:
            self.is_prefill_done = True
            self.accept(int(_pick(logits, self.sampler)[0]))
        return chunk.size

    def accept(self, token: int) -> None:
        """Take a generated token: it ends the request, or becomes text and the next input."""
        if token in self._eos_token_ids:
            self.finish("stop")
            return
        self.next_token = token
        self.generated += 1
        self._detokenizer.add_token(token)
        if self.generated == self.max_tokens:
            self.finish("length")

    def finish(self, reason: str, error: str | None = None) -> None:
        """End the request and release its caches."""
        self.finish_reason, self.error = reason, error
        self._detokenizer.finalize()
        self.release_cache()

    def release_cache(self) -> None:
        """Free the request's own caches."""
        for cache in self.kv_cache:
            cache.release()
        self.kv_cache = []

    def take_text(self) -> str:
        """The text that became readable since the last call."""
        return self._detokenizer.last_segment


@dataclass(frozen=True)
class GeneratedToken:
    """One token of one request, with the text that became readable by it."""

    prompt_idx: int
    token: int
    text: str


@dataclass
class StepResult:
    """What happened in one step of the scheduler."""

    prefilled: int = 0  # prompt tokens processed
    tokens: list[GeneratedToken] = field(default_factory=list)
    finished: list[Request] = field(default_factory=list)


class BatchScheduler:
    """Runs requests with continuous batching: in each step one prefill chunk, one decode step.

    Attributes:
        waiting: requests that have not started, first come first served.
        prefilling: the request whose prompt is being processed, if any.
        ready: a prefilled request that waits for a slot; the next prefill starts after it has one.
        active: the requests that decode. Request `i` holds slot `i`: the slots in use are kept
            together, so that a decode step computes nothing for empty ones.
        finished: the requests that have ended, in that order.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        max_seq_len: int = 512,
        batch_size: int = 5,
        prefill_step: int = 128,
    ) -> None:
        """Start without any request.

        Args:
            model: as in `Request`; called with one offset per row to decode.
            tokenizer: as in `simple_generate`.
            max_seq_len: the most tokens, prompt and generated text together, of a request.
            batch_size: the most requests that decode together.
            prefill_step: the most prompt tokens that are processed in one step.

        Raises:
            ValueError: one of the three is below 1.
        """
        for name, value in (
            ("max_seq_len", max_seq_len),
            ("batch_size", batch_size),
            ("prefill_step", prefill_step),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, but is {value}")
        self.model = model
        self.tokenizer = tokenizer
        self.max_seq_len = max_seq_len
        self.batch_size = batch_size
        self.prefill_step = prefill_step
        self.waiting: deque[Request] = deque()
        self.prefilling: Request | None = None
        self.ready: Request | None = None
        self.active: list[Request] = []
        self.finished: list[Request] = []
        self._requests: dict[int, Request] = {}  # those that have not ended
        self._kv_cache = [
            BatchingKvCache(batch_size, max_seq_len) for _ in model.create_kv_cache()
        ]
        self._result = StepResult()

    def submit(
        self,
        prompt: str | Sequence[int],
        prompt_idx: int,
        max_tokens: int | None = None,
        sampler: Callable[[mx.array], mx.array] | None = None,
    ) -> Request:
        """Add a request to the end of the queue.

        Raises:
            ValueError: the prompt is empty or leaves no room within `max_seq_len`, `max_tokens`
                is below 1, or a request of that id is under way.
        """
        if prompt_idx in self._requests:
            raise ValueError(f"request {prompt_idx} is under way already: give it another id")
        request = Request(
            self.model, self.tokenizer, prompt, self.prefill_step, prompt_idx, max_tokens, sampler
        )
        length = request.prefill_tokens.size
        if length >= self.max_seq_len:
            raise ValueError(
                f"the prompt has {length} tokens, which leaves no room to generate within "
                f"max_seq_len {self.max_seq_len}"
            )
        request.max_tokens = min(max_tokens or self.max_seq_len, self.max_seq_len - length)
        self.waiting.append(request)
        self._requests[prompt_idx] = request
        return request

    def step(self) -> StepResult:
        """Process one prefill chunk and one decode step, and return what came of them."""
        self.handle_prefill_phase()
        self.move_prefill_to_decode()
        self.handle_decode_phase()
        self.move_prefill_to_decode()  # a slot that has just become free is used at once
        result, self._result = self._result, StepResult()
        return result

    def handle_prefill_phase(self) -> int:
        """Process the next chunk of the request that is being prefilled, or of the next one.

        Returns:
            The number of prompt tokens processed; 0 if nothing waits, or if a prefilled request
            still waits for a slot.
        """
        if self.prefilling is None and self.ready is None:
            self.prefilling = self._next_waiting()
        request = self.prefilling
        if request is None:
            return 0
        try:
            processed = request.try_prefill()
        except Exception as error:
            request.finish("error", _reason(error))
            processed = 0
        self._result.prefilled += processed
        if request.is_prefill_done or request.is_done:
            self.prefilling = None
            self._note_token(request)
            if not request.is_done:
                self.ready = request
        return processed

    def move_prefill_to_decode(self) -> bool:
        """Give the prefilled request a slot, if there is one free. Returns whether it got it."""
        request = self.ready
        if request is None or len(self.active) == self.batch_size:
            return False
        self._take_slot(request)
        self.ready = None
        return True

    def handle_decode_phase(self) -> int:
        """Generate one token for every active request, in one forward pass.

        Returns:
            The number of requests that took part.
        """
        requests = list(self.active)
        if not requests:
            return 0
        tokens = mx.array([[request.next_token] for request in requests])
        offsets = [request.offset for request in requests]
        try:
            logits = self.model(tokens, offsets, self._kv_cache)
            picked = _pick_each(logits, requests)
        except Exception:
            self._decode_one_by_one(requests)
            return len(requests)
        for request, token in zip(requests, picked, strict=True):
            request.offset += 1
            request.accept(token)
            self._note_token(request)
        self._remove_finished()
        return len(requests)

    def abort(self, prompt_idx: int) -> None:
        """End a request, wherever it is, before the next chunk or step.

        Raises:
            ValueError: no request of that id is under way.
        """
        request = self._requests.get(prompt_idx)
        if request is None:
            raise ValueError(f"there is no request {prompt_idx} under way to abort")
        request.finish("aborted")
        if request is self.prefilling:
            self.prefilling = None
        elif request is self.ready:
            self.ready = None
        elif request in self.active:
            self._remove_finished()
        # One that still waits stays in the queue, to be passed over: leaving it takes no search.
        self._note_end(request)

    def has_work_remaining(self) -> bool:
        """Whether any request has not ended."""
        return bool(self._requests)

    def collect_results(self) -> list[tuple[int, str]]:
        """The ended requests since the last call, `(prompt_idx, text)`, in the order they ended."""
        results = [(request.prompt_idx, request.text) for request in self.finished]
        self.finished = []
        return results

    def _next_waiting(self) -> Request | None:
        while self.waiting:
            request = self.waiting.popleft()
            if not request.is_done:  # an aborted one is passed over
                return request
        return None

    def _take_slot(self, request: Request) -> None:
        """Move a request's caches into the next free slot."""
        for batching, prefilled in zip(self._kv_cache, request.kv_cache, strict=True):
            batching.add_request(prefilled, len(self.active))
        request.release_cache()
        self.active.append(request)

    def _decode_one_by_one(self, requests: list[Request]) -> None:
        """Decode after a failed step: each request by itself, so that only the guilty one ends."""
        for slot, request in enumerate(requests):
            request.kv_cache = [cache.extract(slot, request.offset) for cache in self._kv_cache]
        for cache in self._kv_cache:
            cache.release()
        self.active = []
        for request in requests:
            try:
                tokens = mx.array([[request.next_token]])
                logits = self.model(tokens, request.offset, request.kv_cache)
                token = int(_pick(logits, request.sampler)[0])
            except Exception as error:
                request.finish("error", _reason(error))
            else:
                request.offset += 1
                request.accept(token)
            self._note_token(request)
            if not request.is_done:
                self._take_slot(request)

    def _remove_finished(self) -> None:
        """Free the slots of ended requests, and move the last ones into the gaps."""
        for slot in reversed(range(len(self.active))):
            if not self.active[slot].is_done:
                continue
            last = self.active.pop()
            for cache in self._kv_cache:
                cache.remove_request(slot)
            if slot < len(self.active):
                self.active[slot] = last
                for cache in self._kv_cache:
                    cache.move_request(len(self.active), slot)

    def _note_token(self, request: Request) -> None:
        """Report the token that a request has just accepted, and its end if that was it."""
        if request.finish_reason in (None, "length"):
            assert request.next_token is not None
            self._result.tokens.append(
                GeneratedToken(request.prompt_idx, request.next_token, request.take_text())
            )
        if request.is_done:
            self._note_end(request)

    def _note_end(self, request: Request) -> None:
        del self._requests[request.prompt_idx]
        self.finished.append(request)
        self._result.finished.append(request)


def batch_generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_seq_len: int = 512,
    batch_size: int = 5,
    prefill_step: int = 128,
) -> list[tuple[int, str]]:
    """Generate from several prompts at once, greedily.

    Args:
        model, tokenizer, max_seq_len, batch_size, prefill_step: as in `BatchScheduler`.
        prompts: the texts to continue, chat template applied. The list is left as it is.

    Returns:
        `(index of the prompt, generated text)`, in the order in which they ended. A prompt that
        cannot be processed (it is empty, or too long) has an empty text.
    """
    scheduler = BatchScheduler(model, tokenizer, max_seq_len, batch_size, prefill_step)
    results = []
    for index, prompt in enumerate(prompts):
        try:
            scheduler.submit(prompt, index)
        except ValueError:
            results.append((index, ""))
    while scheduler.has_work_remaining():
        scheduler.step()
    return results + scheduler.collect_results()


def _pick(logits: mx.array, sampler: Callable[[mx.array], mx.array] | None) -> mx.array:
    """The next token of each row, `B`, from logits `B x L x vocab_size`."""
    last = logits[:, -1, :].astype(mx.float32)
    if sampler is None:
        return mx.argmax(last, axis=-1)
    return sampler(last - mx.logsumexp(last, axis=-1, keepdims=True))


def _pick_each(logits: mx.array, requests: list[Request]) -> list[int]:
    """The next token of each request, every one by its own sampler."""
    if all(request.sampler is requests[0].sampler for request in requests):
        picked = [_pick(logits, requests[0].sampler)]
    else:
        picked = [_pick(logits[i : i + 1], r.sampler) for i, r in enumerate(requests)]
    return mx.concatenate(picked).tolist()


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
