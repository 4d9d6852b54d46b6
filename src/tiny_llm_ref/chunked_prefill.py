"""Chunked prefill beyond the scheduler: chunk sizes, priorities, admission, metrics."""

import json
import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .batch import BatchScheduler, Load, Request, StepOutput

PRIORITIES = ("interactive", "batch")
"""The classes of requests, the most urgent first."""


def chunk_prompt(tokens: Sequence[int], chunk_size: int) -> list[Sequence[int]]:
    """Cut a prompt into consecutive chunks: nothing is lost, nothing comes twice.

    Args:
        tokens: the prompt's token ids; may be empty.
        chunk_size: the number of tokens in each chunk but the last, which may be shorter.

    Returns:
        The chunks in order, slices of `tokens`.

    Raises:
        ValueError: `chunk_size` is below 1.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, but is {chunk_size}")
    return [tokens[start : start + chunk_size] for start in range(0, len(tokens), chunk_size)]


@dataclass(frozen=True)
class PrefillMemory:
    """The bytes that prefilling one request takes, beside the weights.

    Attributes:
        cache_bytes: keys and values of one token, in all layers.
        activation_bytes: what the widest layer needs for one token of the chunk.
        score_bytes: attention scores of one query and one key, in all heads of a layer.
    """

    cache_bytes: int
    activation_bytes: int
    score_bytes: int

    @staticmethod
    def of_model(args: Any, bytes_per_number: int = 4) -> "PrefillMemory":
        """The figures of a Qwen3 model.

        Args:
            args: its dimensions, an `mlx_lm.models.qwen3.ModelArgs`.
            bytes_per_number: 4 for float32, 2 for half precision.
        """
        keys_and_values = 2 * args.num_hidden_layers * args.num_key_value_heads * args.head_dim
        # The residual stream and the gate, the up projection and their product live at once; the
        # scores and their softmax as well.
        widest = 2 * args.hidden_size + 3 * args.intermediate_size
        return PrefillMemory(
            cache_bytes=keys_and_values * bytes_per_number,
            activation_bytes=widest * bytes_per_number,
            score_bytes=2 * args.num_attention_heads * bytes_per_number,
        )

    def of_chunk(self, chunk_size: int, sequence_length: int) -> int:
        """The bytes while the last chunk of a prompt runs, `sequence_length` tokens in all.

        Caches that double when they are full have room for up to twice the tokens.
        """
        per_chunk_token = self.activation_bytes + self.score_bytes * sequence_length
        return 2 * self.cache_bytes * sequence_length + per_chunk_token * chunk_size


EMBEDDED_MODEL = PrefillMemory(cache_bytes=2048, activation_bytes=7680, score_bytes=48)
"""The figures of the embedded model in float32."""


def select_optimal_chunk_size(
    sequence_length: int,
    available_memory: int,
    active_decode_requests: int,
    batch_size: int,
    *,
    memory: PrefillMemory = EMBEDDED_MODEL,
    min_chunk: int = 32,
    max_chunk: int = 2048,
    tile: int = 32,
) -> int:
    """Choose one chunk size for a prompt, from what is known before it runs.

    Without decodes an eighth of the prompt; the more slots are decoding, the smaller, down to a
    quarter of that when all are; between `min_chunk` and `max_chunk`, and a multiple of `tile`.
    Then at most what the memory allows, by `PrefillMemory.of_chunk`, which may be below
    `min_chunk`; and never more than the prompt has.

    Args:
        sequence_length: the number of tokens in the prompt.
        available_memory: bytes that this prefill may take, cache included.
        active_decode_requests: requests being decoded.
        batch_size: the number of decode slots.
        memory: what a token costs.
        min_chunk: the smallest chunk, as far as there is a choice; a multiple of `tile`.
        max_chunk: the largest chunk; a multiple of `tile`.
        tile: the number of tokens that kernels work on at once.

    Returns:
        A chunk size of at least 1. It is 1 if there is not even memory for one token: whether the
        request may start at all is decided at admission.

    Raises:
        ValueError: a length, size or number is below 1, memory or decodes are negative,
            `active_decode_requests` exceeds `batch_size`, or `min_chunk` exceeds `max_chunk`.
    """
    if min(sequence_length, batch_size, tile) < 1 or not 1 <= min_chunk <= max_chunk:
        raise ValueError(
            "sequence_length, batch_size, tile and min_chunk must be at least 1, and max_chunk at "
            f"least min_chunk, but they are {sequence_length}, {batch_size}, {tile}, {min_chunk} "
            f"and {max_chunk}"
        )
    if available_memory < 0 or not 0 <= active_decode_requests <= batch_size:
        raise ValueError(
            "available_memory must not be negative, and active_decode_requests must be between 0 "
            f"and batch_size, but they are {available_memory} and {active_decode_requests} of "
            f"{batch_size}"
        )
    pressure = active_decode_requests / batch_size
    wanted = sequence_length / 8 * (1 - 0.75 * pressure)
    size = min(max(round_to_tile(wanted, tile), min_chunk), max_chunk)
    fixed = memory.of_chunk(0, sequence_length)
    per_token = memory.of_chunk(1, sequence_length) - fixed
    fits = (available_memory - fixed) // per_token
    if fits < size:
        size = round_to_tile(fits, tile) if fits >= tile else fits
    return max(1, min(size, sequence_length))


def round_to_tile(tokens: float, tile: int) -> int:
    """The largest multiple of `tile` that is at most `tokens`; 0 for less than a tile."""
    return max(0, math.floor(tokens / tile)) * tile


class AdaptiveChunker:
    """Adapts the chunk size to what chunks are measured to take, so that decodes wait no longer.

    A `ChunkSizer`. It keeps a moving average of the seconds per prompt token, and proposes the
    size whose chunk would take the target. It moves only when the proposal is more than
    `DEAD_BAND` away from the present size, and at most doubles it, so that noise in the
    measurements does not make it swing.
    """

    DEAD_BAND = 0.15
    SMOOTHING = 0.5

    def __init__(
        self,
        target_seconds: float,
        initial: int = 128,
        min_chunk: int = 32,
        max_chunk: int = 2048,
        tile: int = 32,
    ) -> None:
        """Start with a size that needs no measurement.

        Args:
            target_seconds: how long a chunk may take: how much longer a decode may wait.
            initial: the size before the first measurement.
            min_chunk: the smallest size.
            max_chunk: the largest size.
            tile: sizes are multiples of it.

        Raises:
            ValueError: `target_seconds` is not positive, or not
                `1 <= min_chunk <= initial <= max_chunk`, or one of the three is not a multiple of
                `tile`.
        """
        if not target_seconds > 0:
            raise ValueError(f"target_seconds must be positive, but is {target_seconds}")
        if not 1 <= min_chunk <= initial <= max_chunk:
            raise ValueError(
                "the sizes must be 1 <= min_chunk <= initial <= max_chunk, but are "
                f"{min_chunk}, {initial} and {max_chunk}"
            )
        if tile < 1 or any(size % tile for size in (min_chunk, initial, max_chunk)):
            raise ValueError(
                f"{min_chunk}, {initial} and {max_chunk} must be multiples of the tile {tile}"
            )
        self.target_seconds = target_seconds
        self.min_chunk, self.max_chunk, self.tile = min_chunk, max_chunk, tile
        self.chunk_size = initial
        self.seconds_per_token: float | None = None

    def next_chunk_size(self, request: Request | None = None, load: Load | None = None) -> int:
        """The present size, whichever request it is for."""
        return self.chunk_size

    def observe(self, offset: int, chunk_size: int, active_decodes: int, seconds: float) -> None:
        """Learn from a chunk of `chunk_size` tokens that took `seconds`.

        A chunk of less than half the present size says little about larger ones and is passed
        over: the last one of a prompt often is. So are times that are not positive and finite.
        """
        if 2 * chunk_size < self.chunk_size or not 0 < seconds < math.inf:
            return
        measured = seconds / chunk_size
        if self.seconds_per_token is None:
            self.seconds_per_token = measured
        self.seconds_per_token += self.SMOOTHING * (measured - self.seconds_per_token)
        proposal = self.target_seconds / self.seconds_per_token
        if abs(proposal - self.chunk_size) <= self.DEAD_BAND * self.chunk_size:
            return
        size = round_to_tile(min(proposal, 2 * self.chunk_size), self.tile)
        self.chunk_size = min(max(size, self.min_chunk), self.max_chunk)


class ChunkedPrefillMetrics:
    """What a run with chunked prefill did, and how long its users waited.

    All times are in seconds. TTFT: a request's first token minus its arrival. ITL: every gap
    between consecutive tokens of one request, those of all requests pooled.
    """

    SMOOTHING = 0.1
    PERCENTILES = (50, 95, 99)

    def __init__(self) -> None:
        """Start with nothing recorded."""
        self.chunks = 0
        self.prefill_tokens = 0
        self.decode_steps = 0
        self.decode_tokens = 0
        self.blocking_seconds = 0.0
        self._average = 0.0
        self._arrivals: dict[int, float] = {}
        self._last_token: dict[int, float] = {}
        self._ttft: list[float] = []
        self._itl: list[float] = []

    def record_arrival(self, prompt_idx: int, now: float) -> None:
        """A request has arrived."""
        self._arrivals[prompt_idx] = now

    def record_chunk(self, tokens: int, seconds: float, active_decodes: int = 0) -> None:
        """A prefill chunk has run, while `active_decodes` requests were waiting for a token."""
        self.chunks += 1
        self.prefill_tokens += tokens
        self._average += self.SMOOTHING * (seconds - self._average)
        if active_decodes > 0:
            self.blocking_seconds += seconds

    def record_decode_step(self, requests: int) -> None:
        """A decode forward pass has run for so many requests."""
        self.decode_steps += 1
        self.decode_tokens += requests

    def record_token(self, prompt_idx: int, now: float) -> None:
        """A request has got a token, the first one or a later one.

        Raises:
            ValueError: the request's arrival was not recorded.
        """
        if prompt_idx not in self._arrivals:
            raise ValueError(f"request {prompt_idx} has a token, but no arrival was recorded")
        if prompt_idx in self._last_token:
            self._itl.append(now - self._last_token[prompt_idx])
        else:
            self._ttft.append(now - self._arrivals[prompt_idx])
        self._last_token[prompt_idx] = now

    @property
    def average_chunk_seconds(self) -> float:
        """The moving average of the chunk time; 0 before the first chunk.

        Each new chunk counts `SMOOTHING`. A plain moving average that starts at 0 is too small at
        first, by the factor `1 - (1 - SMOOTHING) ** chunks`, which is divided out.

        Source: Kingma and Ba, "Adam", https://arxiv.org/abs/1412.6980, section 3.
        """
        if self.chunks == 0:
            return 0.0
        return self._average / (1 - (1 - self.SMOOTHING) ** self.chunks)

    @property
    def interleaving_ratio(self) -> float:
        """Prefill chunks per decode step; infinite if there were chunks only, 0 if nothing ran."""
        if self.decode_steps == 0:
            return math.inf if self.chunks else 0.0
        return self.chunks / self.decode_steps

    def summary(self) -> dict[str, Any]:
        """Everything in one dictionary of plain numbers, ready for JSON.

        Keys: `chunks`, `prefill_tokens`, `average_chunk_seconds`, `decode_steps`, `decode_tokens`,
        `interleaving_ratio` (None if infinite), `blocking_seconds`, and `ttft` and `itl`, each with
        `count`, `p50`, `p95`, `p99` and `max` (None without a value). Percentiles are interpolated
        linearly.
        """
        ratio = self.interleaving_ratio
        return {
            "chunks": self.chunks,
            "prefill_tokens": self.prefill_tokens,
            "average_chunk_seconds": self.average_chunk_seconds,
            "decode_steps": self.decode_steps,
            "decode_tokens": self.decode_tokens,
            "interleaving_ratio": None if math.isinf(ratio) else ratio,
            "blocking_seconds": self.blocking_seconds,
            "ttft": self._spread(self._ttft),
            "itl": self._spread(self._itl),
        }

    def to_json(self) -> str:
        """`summary()` in one line of JSON."""
        return json.dumps(self.summary())

    def to_text(self) -> str:
        """`summary()` for people: one line each for prefill, decode, TTFT and ITL, in ms."""
        summary = self.summary()
        lines = [
            f"prefill  {self.chunks} chunks, {self.prefill_tokens} tokens, "
            f"{1000 * self.average_chunk_seconds:.1f} ms per chunk (moving average)",
            f"decode   {self.decode_steps} steps, {self.decode_tokens} tokens, "
            f"{self.interleaving_ratio:.2f} chunks per step, "
            f"blocked for {1000 * self.blocking_seconds:.1f} ms",
        ]
        for name in ("ttft", "itl"):
            spread = summary[name]
            values = (
                ", ".join(f"{key} {1000 * spread[key]:.1f}" for key in spread if key != "count")
                if spread["count"]
                else "no value"
            )
            lines.append(f"{name.upper():<8} {values} ms ({spread['count']} values)")
        return "\n".join(lines)

    def _spread(self, values: list[float]) -> dict[str, float | None]:
        names = [f"p{percentile}" for percentile in self.PERCENTILES]
        if not values:
            return {"count": 0, **dict.fromkeys(names), "max": None}
        points = np.percentile(values, self.PERCENTILES).tolist()
        return {"count": len(values), **dict(zip(names, points, strict=True)), "max": max(values)}


def run_and_measure(scheduler: BatchScheduler, prompts: Iterable[str]) -> ChunkedPrefillMetrics:
    """Submit prompts to a scheduler, run it until nothing is left, and record all that happens.

    Arrivals are on the scheduler's `clock`, tokens have the times of their events. A chunk blocks
    those that were decoding when its step began.

    Args:
        scheduler: without other work.
        prompts: as in `batch_generate`.
    """
    metrics = ChunkedPrefillMetrics()
    for prompt in prompts:
        arrival = scheduler.clock()
        metrics.record_arrival(scheduler.submit(prompt), arrival)
    while scheduler.has_work_remaining():
        decoding = scheduler.load().active_decodes
        record_step(metrics, scheduler.step(), decoding)
    return metrics


def record_step(metrics: ChunkedPrefillMetrics, output: StepOutput, active_decodes: int) -> None:
    """Record one step of a scheduler, at whose beginning so many requests were decoding."""
    for _, tokens in output.chunks:
        metrics.record_chunk(tokens, output.prefill_seconds / len(output.chunks), active_decodes)
    if output.decoded:
        metrics.record_decode_step(len(output.decoded))
    for event in output.tokens:
        metrics.record_token(event.prompt_idx, event.time)


class PriorityScheduler(BatchScheduler):
    """A scheduler with two classes of requests, admission by bytes, and reserved slots.

    - The most urgent class goes first; within a class, first come, first served. A request may
      wait between two of its chunks while a more urgent one is prefilled, and goes on where it
      was: its caches and its offset stay.
    - A request of class `"batch"` becomes `"interactive"` after it has been passed over
      `ageing_steps` times, so that nobody starves.
    - `reserved_slots` slots are for interactive requests: others neither start nor continue a
      prefill unless one of the other slots is free.
    - A request's bytes (prompt and answer, at its largest) are set aside before its first chunk
      and given back at its end. If they are not there, nobody new starts before it. A request that
      could never fit is refused when it is submitted.
    """

    def __init__(
        self,
        *args: Any,
        cache_bytes_per_token: int = 0,
        cache_budget: int = 0,
        reserved_slots: int = 0,
        ageing_steps: int = 100,
        **options: Any,
    ) -> None:
        """Start without requests.

        Args:
            args, options: as in `BatchScheduler`.
            cache_bytes_per_token: the bytes of one token's keys and values, in all layers.
            cache_budget: the bytes for all caches together; 0 for no limit.
            reserved_slots: slots that only interactive requests get.
            ageing_steps: how often a request may be passed over before it counts as interactive.

        Raises:
            ValueError: as in `BatchScheduler`; a number is negative; all slots are reserved.
        """
        super().__init__(*args, **options)
        if min(cache_bytes_per_token, cache_budget, reserved_slots, ageing_steps) < 0:
            raise ValueError("bytes, slots and steps must not be negative")
        if cache_budget and not cache_bytes_per_token:
            raise ValueError("a cache_budget needs cache_bytes_per_token to count with")
        if reserved_slots >= len(self.slots):
            raise ValueError(
                f"{reserved_slots} of {len(self.slots)} slots cannot be reserved: requests of the "
                "class 'batch' would never be decoded"
            )
        self.cache_bytes_per_token, self.cache_budget = cache_bytes_per_token, cache_budget
        self.reserved_slots, self.ageing_steps = reserved_slots, ageing_steps
        self.reserved_bytes: dict[int, int] = {}  # by prompt index, of all that have started
        self._queues: dict[str, deque[Request]] = {name: deque() for name in PRIORITIES}
        self._passed_over = 0  # how often the oldest batch request has been
        self._priority = PRIORITIES[0]  # of the request that is being submitted

    def submit(
        self, prompt: str, max_tokens: int | None = None, priority: str = "interactive"
    ) -> int:
        """As in `BatchScheduler`, into the queue of a class.

        A request whose bytes exceed the whole budget ends at once with the reason `"error"`.

        Raises:
            ValueError: there is no such class.
        """
        if priority not in PRIORITIES:
            raise ValueError(f"priority must be one of {', '.join(PRIORITIES)}, not {priority!r}")
        self._priority = priority
        return super().submit(prompt, max_tokens)

    def enqueue(self, request: Request) -> None:
        """Put a new request into its class's queue.

        Raises:
            ValueError: its bytes exceed the whole budget.
        """
        needed = self.bytes_needed(request)
        if needed > self.cache_budget > 0:
            raise ValueError(
                f"prompt and answer can take {needed} bytes of cache, but all requests together "
                f"have {self.cache_budget}: shorten the prompt or lower max_tokens"
            )
        self._queues[self._priority].append(request)

    def next_to_prefill(self) -> Request | None:
        """Whose chunk comes next, by class, age, slots and bytes; None if nobody may run."""
        interactive, batch = (self._queues[name] for name in PRIORITIES)
        for queue in (interactive, batch):
            while queue and queue[0].is_done:  # aborted
                queue.popleft()
        free = self.slots.count(None)
        candidates = [queue[0] for queue in (interactive, batch) if queue]
        if batch and free <= self.reserved_slots:
            candidates.remove(batch[0])
        elif len(candidates) == 2 and self._passed_over >= self.ageing_steps:
            candidates.reverse()
        chosen, waits_for_bytes = None, False
        for request in candidates:
            if request.prompt_idx in self.reserved_bytes:
                chosen = request
            elif not waits_for_bytes:
                # Nobody new overtakes a request that waits for bytes; who has started goes on.
                chosen = request if self._admit(request) else None
                waits_for_bytes = chosen is None
            if chosen is not None:
                break
        if batch:
            self._passed_over = 0 if chosen is batch[0] else self._passed_over + 1
        return chosen

    def dequeue(self, request: Request) -> None:
        """Take the request that `next_to_prefill` gave out of its queue."""
        for queue in self._queues.values():
            if queue and queue[0] is request:
                queue.popleft()

    def bytes_needed(self, request: Request) -> int:
        """The bytes of a request's caches at their largest, prompt and answer."""
        assert request.max_tokens is not None
        return (len(request.prefill_tokens) + request.max_tokens) * self.cache_bytes_per_token

    def _admit(self, request: Request) -> bool:
        """Set a request's bytes aside, if they are there."""
        needed = self.bytes_needed(request)
        if 0 < self.cache_budget < sum(self.reserved_bytes.values()) + needed:
            return False
        self.reserved_bytes[request.prompt_idx] = needed
        return True

    def _leave(self, request: Request, text: str) -> None:
        self.reserved_bytes.pop(request.prompt_idx, None)
        super()._leave(request, text)
