"""Chunked prefill beyond the scheduler: chunk sizes, priorities, admission, metrics.

From `ChunkPolicy` on it is day 8's: policies, a cost model, and a manager for many threads.
"""

import heapq
import json
import math
import threading
import time
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import mlx.core as mx
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
    Then at most what the memory allows, by `PrefillMemory.of_chunk`, in whole tiles as long as
    one fits, which may be below `min_chunk`; and never more than the prompt has.

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
                `1 <= min_chunk <= initial <= max_chunk`, `tile` is below 1, or one of the three is
                not a multiple of it.
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
    - A request of class `"batch"` that has been passed over `ageing_steps` times counts as
      interactive, and goes first, for one chunk; so nobody starves.
    - `reserved_slots` slots are for interactive requests: others neither start nor continue a
      prefill unless one of the other slots is free.
    - A request's bytes (prompt and answer, at its largest) are set aside before its first chunk
      and given back at its end. If they are not there, nobody new, of either class, starts before
      it. A request that could never fit is refused when it is submitted.
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
        prompt_idx = super().submit(prompt, max_tokens)
        if prompt_idx in self._unfinished:
            self._unfinished[prompt_idx].priority = priority
        return prompt_idx

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
                if queue is batch:
                    self._passed_over = 0
        free = self.slots.count(None)
        candidates = [queue[0] for queue in (interactive, batch) if queue]
        if self._passed_over >= self.ageing_steps:  # counts as interactive, for slots as well
            candidates.reverse()
        elif batch and free <= self.reserved_slots:
            candidates.remove(batch[0])
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


def largest_that_fits(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number from 1 to `most` that fits; 0 if not even 1 does.

    Whatever is smaller than a number that fits must fit too.
    """
    return bisect_left(range(1, most + 1), True, key=lambda number: not fits(number))


class ChunkPolicy(ABC):
    """Chooses the size of every prefill chunk. A `ChunkSizer`, to be given to a scheduler."""

    @abstractmethod
    def next_chunk_size(self, request: Request, load: Load) -> int:
        """The largest number of tokens that the next chunk of `request` may have, at least 1."""

    def observe(  # noqa: B027  most policies have nothing to learn
        self, offset: int, chunk_size: int, active_decodes: int, seconds: float
    ) -> None:
        """Note that a chunk behind `offset` tokens took `seconds`, beside so many decodes."""


class FixedChunks(ChunkPolicy):
    """The same size for every chunk.

    Source: Agrawal et al., "Sarathi", https://arxiv.org/abs/2308.16369, section 4.2.
    """

    def __init__(self, chunk_size: int) -> None:
        """Chunks of `chunk_size` tokens; ValueError if that is below 1."""
        check_sizes(chunk_size=chunk_size)
        self.chunk_size = chunk_size

    def next_chunk_size(self, request: Request, load: Load) -> int:
        """The size."""
        return self.chunk_size


class ChunksByPromptLength(ChunkPolicy):
    """Prompts of up to `threshold` tokens in one chunk, longer ones in chunks of one size.

    Source: vLLM's `long_prefill_token_threshold`, beyond which a prompt counts as long,
    https://docs.vllm.ai/en/stable/api/vllm/config/scheduler/.
    """

    def __init__(self, threshold: int, chunk_size: int) -> None:
        """Set the limit and the size.

        Args:
            threshold: the length, in tokens, of the longest prompt that is not cut.
            chunk_size: the size of the chunks of longer ones.

        Raises:
            ValueError: one of them is below 1.
        """
        check_sizes(threshold=threshold, chunk_size=chunk_size)
        self.threshold, self.chunk_size = threshold, chunk_size

    def next_chunk_size(self, request: Request, load: Load) -> int:
        """The whole prompt or `chunk_size`, whatever part of the prompt is done already."""
        length = len(request.prefill_tokens)
        return length if length <= self.threshold else self.chunk_size


class ChunksByPriority(ChunkPolicy):
    """A size for every class of requests.

    Large chunks for whoever must have a first token soon, small ones for whoever can wait.

    Source: Goel et al., "Niyama", https://arxiv.org/abs/2503.22562: classes of service that share a
    machine instead of having one each. That sizes are per class is our simplification.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        """Set the sizes.

        Args:
            sizes: the chunk size of each class in `PRIORITIES`.

        Raises:
            ValueError: a class has no size, there is no such class, or a size is below 1.
        """
        if set(sizes) != set(PRIORITIES):
            raise ValueError(
                f"there must be one size for each of {', '.join(PRIORITIES)}, but there are sizes "
                f"for {', '.join(sizes) or 'none'}"
            )
        check_sizes(**sizes)
        self.sizes = dict(sizes)

    def next_chunk_size(self, request: Request, load: Load) -> int:
        """The size of the class in `request.priority`."""
        return self.sizes[request.priority]


class ChunksByLoad(ChunkPolicy):
    """The more requests are decoding, and the slower chunks are, the smaller.

    With no decodes `max_chunk`, with all slots taken `min_chunk`, and in equal ratios between
    them: `max_chunk * (min_chunk / max_chunk) ** (active_decodes / batch_size)`. While somebody is
    decoding, also at most what takes `target_seconds` at the measured speed. Rounded down, and
    never below `min_chunk`.

    Source: Agrawal et al., "Sarathi-Serve", https://arxiv.org/abs/2403.02310, section 4.3, for the
    bound by the latency target. The ratios are ours.
    """

    SMOOTHING = 0.5

    def __init__(self, min_chunk: int, max_chunk: int, target_seconds: float) -> None:
        """Start without a measurement.

        Args:
            min_chunk: the smallest size.
            max_chunk: the largest size.
            target_seconds: how long a chunk may take while somebody is decoding.

        Raises:
            ValueError: not `1 <= min_chunk <= max_chunk`, or `target_seconds` is not positive.
        """
        check_sizes(min_chunk=min_chunk, max_chunk=max_chunk)
        if min_chunk > max_chunk or not target_seconds > 0:
            raise ValueError(
                "min_chunk must be at most max_chunk, and target_seconds positive, but they are "
                f"{min_chunk}, {max_chunk} and {target_seconds}"
            )
        self.min_chunk, self.max_chunk = min_chunk, max_chunk
        self.target_seconds = target_seconds
        self.seconds_per_token: float | None = None

    def next_chunk_size(self, request: Request, load: Load) -> int:
        """The size for this load, whichever request it is for."""
        if load.active_decodes == 0:
            return self.max_chunk
        utilization = load.active_decodes / load.batch_size
        size = self.max_chunk * (self.min_chunk / self.max_chunk) ** utilization
        if self.seconds_per_token is not None:
            size = min(size, self.target_seconds / self.seconds_per_token)
        return max(self.min_chunk, math.floor(size))

    def observe(self, offset: int, chunk_size: int, active_decodes: int, seconds: float) -> None:
        """Keep a moving average of the seconds per token; a new measurement counts `SMOOTHING`.

        The first one is the average at first. Chunks below `min_chunk` and times that are not
        positive and finite are passed over.
        """
        if chunk_size < self.min_chunk or not 0 < seconds < math.inf:
            return
        measured = seconds / chunk_size
        if self.seconds_per_token is None:
            self.seconds_per_token = measured
        self.seconds_per_token += self.SMOOTHING * (measured - self.seconds_per_token)


class ChunksByMemory(ChunkPolicy):
    """The largest chunk for which there is memory.

    Source: SGLang, which chooses its default chunk by the memory of the GPU and advises smaller
    ones when prefill runs out of it,
    https://docs.sglang.io/docs/advanced_features/hyperparameter_tuning.
    """

    def __init__(
        self,
        memory: PrefillMemory,
        available_memory: Callable[[], int],
        max_chunk: int = 2048,
    ) -> None:
        """Set what chunks cost and how much there is.

        Args:
            memory: what a token costs.
            available_memory: called before every chunk; the bytes that are free now.
            max_chunk: the largest size.

        Raises:
            ValueError: `max_chunk` is below 1.
        """
        check_sizes(max_chunk=max_chunk)
        self.memory, self.available_memory, self.max_chunk = memory, available_memory, max_chunk

    def next_chunk_size(self, request: Request, load: Load) -> int:
        """The largest chunk that adds at most the free bytes to what the request holds; at least 1.

        A request at `offset` holds `memory.of_chunk(0, offset)`; while its next chunk of `n`
        tokens runs, it holds `memory.of_chunk(n, offset + n)`.
        """
        held = self.memory.of_chunk(0, request.offset)
        limit = held + self.available_memory()
        size = largest_that_fits(
            self.max_chunk, lambda n: self.memory.of_chunk(n, request.offset + n) <= limit
        )
        return max(1, size)


class StepSample(NamedTuple):
    """A forward pass that was measured.

    Attributes:
        offset: `L`, the number of tokens cached already: of the request that is prefilled, or, if
            the pass only decodes, of all requests in it together.
        chunk_size: `x`, the number of prompt tokens; 0 for none.
        active_decodes: `D`, the number of requests that decode a token.
        seconds: how long the pass took.
    """

    offset: int
    chunk_size: int
    active_decodes: int
    seconds: float


@dataclass(frozen=True)
class ChunkCostModel:
    """What a forward pass costs, in seconds: `c + b x + a (2 L x + x^2) + g L + d D`.

    `L` tokens are cached already, the chunk has `x`, and `D` requests decode.

    Source: the linear and the quadratic part of prefill are those of Agrawal et al.,
    "Sarathi-Serve", https://arxiv.org/abs/2403.02310, section 3; that the time of a pass can be
    predicted well enough to choose a chunk by it is Goel et al., "Niyama",
    https://arxiv.org/abs/2503.22562.

    Attributes:
        fixed: `c`, of a forward pass, whatever is in it.
        per_token: `b`, of a token of the chunk: the linear layers.
        per_pair: `a`, of attention; `2 L x + x^2` is twice the pairs of query and key.
        per_cached: `g`, of a cached token: it is read.
        per_decode: `d`, of a request that decodes.
    """

    fixed: float
    per_token: float
    per_pair: float
    per_cached: float
    per_decode: float

    @staticmethod
    def fit(samples: Iterable[StepSample]) -> "ChunkCostModel":
        """The model with the smallest squared relative errors, of all without a negative number.

        Args:
            samples: measured passes: at least five, in which offset, chunk size and decodes vary.

        Raises:
            ValueError: there are fewer than five samples; they do not tell the five coefficients
                apart; or a time is not positive and finite.
        """
        samples = list(samples)
        if len(samples) < 5:
            raise ValueError(
                f"five coefficients need at least five samples, but there are {len(samples)}"
            )
        seconds = np.array([sample[3] for sample in samples], dtype=float)
        if not (np.isfinite(seconds).all() and (seconds > 0).all()):
            raise ValueError("every sample needs a time that is positive and finite")
        # Divided by the measured time, every error is relative; columns of one size are easy to
        # tell apart from columns that depend on each other.
        terms = np.array([cost_terms(*sample[:3]) for sample in samples], dtype=float)
        terms /= seconds[:, None]
        sizes = terms.max(axis=0)
        if not sizes.all() or np.linalg.matrix_rank(terms / sizes) < 5:
            raise ValueError(
                "the samples do not tell the five coefficients apart: vary the offset, the chunk "
                "size and the number of decodes, each beside the same others"
            )
        # The best model without negative numbers is the plain least-squares solution for those of
        # its coefficients that are not zero. There are only 31 choices of these.
        best, smallest = np.zeros(5), math.inf
        for count in range(1, 6):
            for chosen in map(list, combinations(range(5), count)):
                coefficients = np.zeros(5)
                solution = np.linalg.lstsq(terms[:, chosen] / sizes[chosen], np.ones(len(samples)))
                coefficients[chosen] = solution[0] / sizes[chosen]
                error = float(np.sum((terms @ coefficients - 1) ** 2))
                if (coefficients >= 0).all() and error < smallest:
                    best, smallest = coefficients, error
        return ChunkCostModel(*best.tolist())

    def predict(self, offset: int, chunk_size: int, active_decodes: int) -> float:
        """The seconds of a forward pass; arguments as in `StepSample`."""
        _, tokens, pairs, cached, decodes = cost_terms(offset, chunk_size, active_decodes)
        return (
            self.fixed
            + self.per_token * tokens
            + self.per_pair * pairs
            + self.per_cached * cached
            + self.per_decode * decodes
        )

    def error(self, samples: Iterable[StepSample]) -> tuple[float, float]:
        """How far predictions are off, as parts of the measured times: the median and the maximum.

        Only samples that the model was not fitted to say something about others.

        Raises:
            ValueError: there is no sample.
        """
        errors = [abs(self.predict(*sample[:3]) / sample[3] - 1) for sample in samples]
        if not errors:
            raise ValueError("without a sample there is no error")
        return float(np.median(errors)), max(errors)

    def largest_chunk(self, offset: int, active_decodes: int, seconds: float, most: int) -> int:
        """The largest chunk, up to `most`, with which a pass takes at most `seconds`.

        Args:
            offset: the number of tokens of the prompt that are done. The further, the smaller.
            active_decodes: decodes in the same pass; 0 if they have one of their own.
            seconds: what the pass may take.
            most: the largest answer.

        Returns:
            0 if not even a chunk of one token is fast enough.
        """
        return largest_that_fits(
            most, lambda size: self.predict(offset, size, active_decodes) <= seconds
        )

    def overhead(self, prompt_length: int, chunk_size: int) -> float:
        """What cutting a prompt costs: total time in chunks over time in one pass, minus 1.

        Args:
            prompt_length: the number of tokens in the prompt, at least 1.
            chunk_size: the number of tokens in each chunk but the last.

        Raises:
            ValueError: one of them is below 1.
        """
        check_sizes(prompt_length=prompt_length)
        chunks = chunk_prompt(range(prompt_length), chunk_size)
        total = sum(self.predict(chunk[0], len(chunk), 0) for chunk in chunks)
        return total / self.predict(0, prompt_length, 0) - 1

    def memory_saved(self, prompt_length: int, chunk_size: int, memory: PrefillMemory) -> int:
        """The bytes that a prompt needs less, at its most, in chunks than in one pass.

        Raises:
            ValueError: a length or size is below 1.
        """
        check_sizes(prompt_length=prompt_length, chunk_size=chunk_size)
        whole = memory.of_chunk(prompt_length, prompt_length)
        return whole - memory.of_chunk(min(chunk_size, prompt_length), prompt_length)


def cost_terms(offset: int, chunk_size: int, active_decodes: int) -> tuple[int, int, int, int, int]:
    """What the coefficients of a `ChunkCostModel` are multiplied with, in their order.

    Args:
        offset, chunk_size, active_decodes: as in `StepSample`.
    """
    pairs = 2 * offset * chunk_size + chunk_size**2
    return 1, chunk_size, pairs, offset, active_decodes


class ChunksByDeadline(ChunkPolicy):
    """The largest chunk with which nobody waits longer for a token than allowed.

    Who is decoding waits for the chunk and for the decode step after it. The further a prompt has
    come, the smaller its chunks: attention takes more of the time.

    Source: Goel et al., "Niyama", https://arxiv.org/abs/2503.22562, dynamic chunking.
    """

    def __init__(
        self, cost_model: ChunkCostModel, largest_gap: float, max_chunk: int = 2048
    ) -> None:
        """Set the target.

        Args:
            cost_model: fitted to chunks and decode steps on this machine.
            largest_gap: how many seconds may pass between two tokens of a request.
            max_chunk: the largest size, also while nobody is decoding.

        Raises:
            ValueError: `largest_gap` is not positive, or `max_chunk` is below 1.
        """
        check_sizes(max_chunk=max_chunk)
        if not largest_gap > 0:
            raise ValueError(f"largest_gap must be positive, but is {largest_gap}")
        self.cost_model, self.largest_gap, self.max_chunk = cost_model, largest_gap, max_chunk

    def next_chunk_size(self, request: Request, load: Load) -> int:
        """The largest size for which prediction of chunk and decode step are within the gap.

        The chunk is a pass at the request's offset without decodes. The decode step is a pass of
        `load.active_decodes` decodes that have `load.cached_tokens` cached. `max_chunk` if nobody
        is decoding; 1 if not even that is fast enough, for a prefill must go on.
        """
        if load.active_decodes == 0:
            return self.max_chunk
        decode_step = self.cost_model.predict(load.cached_tokens, 0, load.active_decodes)
        size = self.cost_model.largest_chunk(
            request.offset, 0, self.largest_gap - decode_step, self.max_chunk
        )
        return max(1, size)


@dataclass(frozen=True)
class ChunkedPrefillConfig:
    """Which prompts are cut, and into chunks of which size.

    The three workloads are starting points. What is best on a machine is measured there.

    Attributes:
        threshold: the length, in tokens, of the longest prompt that is not cut.
        chunk_size: the size of the chunks of longer ones.
    """

    threshold: int
    chunk_size: int

    def __post_init__(self) -> None:
        """ValueError if a number is below 1."""
        check_sizes(threshold=self.threshold, chunk_size=self.chunk_size)

    @staticmethod
    def interactive() -> "ChunkedPrefillConfig":
        """Chats: no stream may stand still for long.

        Source: the token budget for strict targets in Sarathi-Serve, section 5.
        """
        return ChunkedPrefillConfig(threshold=512, chunk_size=512)

    @staticmethod
    def long_context() -> "ChunkedPrefillConfig":
        """Questions about long documents: few streams, and a first token far away.

        Source: none; half way between the other two, by ratio.
        """
        return ChunkedPrefillConfig(threshold=1024, chunk_size=1024)

    @staticmethod
    def batch() -> "ChunkedPrefillConfig":
        """Nobody reads along: chunks only bound the memory.

        Source: the token budget for relaxed targets in Sarathi-Serve, section 5.
        """
        return ChunkedPrefillConfig(threshold=2048, chunk_size=2048)

    def policy(self) -> ChunkPolicy:
        """The policy for a scheduler that cuts prompts in this way."""
        return ChunksByPromptLength(self.threshold, self.chunk_size)


def check_sizes(**sizes: int) -> None:
    """Check that numbers are at least 1; ValueError with the name of the first that is not."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, but is {size}")


PREFILL_STATES = ("pending", "running", "done", "failed", "cancelled")
"""The states of a request in a `ChunkedPrefillManager`.

`pending`: no chunk has been started since the request was created or resumed. `running`: one has
been, and there is no end yet. `failed`: a chunk failed, and the request waits to be resumed.
"""


@dataclass(frozen=True)
class PrefillChunk:
    """A piece of a prompt.

    Attributes:
        request_id: whose prompt it is.
        start: the position of its first token: the offset for the model.
        tokens: its token ids.
        attempt: how often the request had been resumed when the chunk was cut.
    """

    request_id: str
    start: int
    tokens: tuple[int, ...]
    attempt: int = 0

    @property
    def end(self) -> int:
        """The position behind its last token."""
        return self.start + len(self.tokens)


@dataclass
class PrefillRecord:
    """What a `ChunkedPrefillManager` knows of a request.

    Attributes:
        request_id: its name.
        tokens: its prompt; empty when it has ended.
        total_tokens: how many there are.
        rank: 0 for the most urgent class, then counting up.
        number: how many requests were created before it.
        boundaries: where its remaining chunks start and end, the next one first.
        offset: the number of tokens that are done.
        state: one of `PREFILL_STATES`.
        error: what went wrong; empty unless it has failed.
        attempt: how often it was resumed.
        chunk: the chunk that has been scheduled and has neither been completed nor failed.
        started: when that chunk was started, in seconds; None before that.
        queued: whether it is in the manager's heap.
    """

    request_id: str
    tokens: tuple[int, ...]
    total_tokens: int
    rank: int
    number: int
    boundaries: deque[tuple[int, int]]
    offset: int = 0
    state: str = "pending"
    error: str = ""
    attempt: int = 0
    chunk: PrefillChunk | None = None
    started: float | None = None
    queued: bool = False


class ChunkedPrefillManager:
    """Keeps account of the chunks of many prompts, for workers on any number of threads.

    It says whose chunk comes next, and remembers how far each prompt has come. It runs no model.

    A chunk is scheduled (a worker has it), started, and then completed or failed. The chunks of a
    request go in order, one at a time, since each needs the cache of those before it; chunks of
    different requests may be under way together. Every method may be called from every thread, and
    changes all or nothing.
    """

    def __init__(
        self, config: ChunkedPrefillConfig, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Start without requests.

        Args:
            config: which prompts are cut, and how.
            clock: the time in seconds; only differences matter.
        """
        self.config, self.clock = config, clock
        self._lock = threading.Lock()
        self._records: dict[str, PrefillRecord] = {}
        # A heap of (rank, number, request), of those that have no chunk under way. Requests that
        # have ended meanwhile are passed over when they come to the top.
        self._queue: list[tuple[int, int, PrefillRecord]] = []
        self._created = self._chunks_completed = self._chunks_failed = self._tokens = 0
        self._seconds = 0.0

    def should_chunk(self, total_tokens: int) -> bool:
        """Whether a prompt of this length is cut: if it is longer than the threshold."""
        return total_tokens > self.config.threshold

    def compute_chunk_boundaries(
        self, total_tokens: int, chunk_size: int | None = None, memory_pressure: float = 0.0
    ) -> list[tuple[int, int]]:
        """Where the chunks of a prompt start and end.

        Args:
            total_tokens: the number of tokens to cut; may be 0.
            chunk_size: the size without memory pressure; the configuration's if None.
            memory_pressure: the part of the memory that is taken, 0 to 1. Chunks have
                `chunk_size * (1 - memory_pressure)` tokens, rounded down, but at least 1.

        Returns:
            Pairs `(start, end)`, `end` not included. Together they cover 0 to `total_tokens`, in
            order, each token once; only the last one may be shorter.

        Raises:
            ValueError: `total_tokens` is negative, `chunk_size` below 1, or `memory_pressure` not
                between 0 and 1.
        """
        if chunk_size is None:
            chunk_size = self.config.chunk_size
        check_sizes(chunk_size=chunk_size)
        if total_tokens < 0 or not 0 <= memory_pressure <= 1:
            raise ValueError(
                "total_tokens must not be negative, and memory_pressure between 0 and 1, but they "
                f"are {total_tokens} and {memory_pressure}"
            )
        size = max(1, math.floor(chunk_size * (1 - memory_pressure)))
        return [(start, min(start + size, total_tokens)) for start in range(0, total_tokens, size)]

    def create_chunks(
        self,
        request_id: str,
        prompt_tokens: Sequence[int],
        priority: str = "interactive",
        memory_pressure: float = 0.0,
    ) -> list[PrefillChunk]:
        """Take a new request on: it is `pending`, and its first chunk can be scheduled.

        Args:
            request_id: its name. That of a request that is done or cancelled, and has no chunk
                under way, may be used again.
            prompt_tokens: the prompt's ids. They are copied.
            priority: one of `PRIORITIES`.
            memory_pressure: as in `compute_chunk_boundaries`, for a prompt that is cut.

        Returns:
            All chunks of the prompt, in order; a single one if `should_chunk` says so.

        Raises:
            ValueError: the prompt is empty, there is no such class, the name is taken, or
                `memory_pressure` is not between 0 and 1. Nothing is taken on then.
        """
        tokens = tuple(prompt_tokens)
        if not tokens:
            raise ValueError(f"the prompt of request {request_id!r} is empty")
        if priority not in PRIORITIES:
            raise ValueError(f"priority must be one of {', '.join(PRIORITIES)}, not {priority!r}")
        boundaries = self.compute_chunk_boundaries(len(tokens), None, memory_pressure)
        if not self.should_chunk(len(tokens)):
            boundaries = [(0, len(tokens))]
        with self._lock:
            known = self._records.get(request_id)
            if known is not None and (known.state not in ("done", "cancelled") or known.chunk):
                raise ValueError(
                    f"there is a request {request_id!r} already: it is {known.state}"
                    + (", and has a chunk under way" if known.chunk else "")
                )
            rank = PRIORITIES.index(priority)
            record = PrefillRecord(
                request_id, tokens, len(tokens), rank, self._created, deque(boundaries)
            )
            self._created += 1
            self._records[request_id] = record
            self._enqueue(record)
        return [PrefillChunk(request_id, start, tokens[start:end]) for start, end in boundaries]

    def create_chunks_from_prompt(
        self,
        request_id: str,
        prompt: str,
        tokenizer: Any,
        priority: str = "interactive",
        memory_pressure: float = 0.0,
    ) -> list[PrefillChunk]:
        """As `create_chunks`, for a text.

        Args:
            request_id, priority, memory_pressure: as in `create_chunks`.
            prompt: the text to continue, chat template applied: no special tokens are added.
            tokenizer: as in `simple_generate`.
        """
        tokens = tokenizer.encode(prompt, add_special_tokens=False)
        return self.create_chunks(request_id, tokens, priority, memory_pressure)

    def merge_chunks(self, chunks: Iterable[PrefillChunk]) -> PrefillChunk:
        """Join consecutive chunks of a request, in whatever order they come, into a larger one.

        Nothing is changed in the manager. All chunks of a prompt give the whole prompt.

        Raises:
            ValueError: there is no chunk, they belong to different requests or attempts, or one
                does not begin where the one before it ends.
        """
        ordered = sorted(chunks, key=lambda chunk: chunk.start)
        if not ordered:
            raise ValueError("there are no chunks to merge")
        first = ordered[0]
        for before, after in pairwise(ordered):
            if (after.request_id, after.attempt) != (first.request_id, first.attempt):
                raise ValueError(
                    f"chunks of {first.request_id!r} and of {after.request_id!r}, or of different "
                    "attempts, cannot be merged"
                )
            if after.start != before.end:
                raise ValueError(
                    f"a chunk ends at {before.end}, and the next one starts at {after.start}"
                )
        tokens = tuple(token for chunk in ordered for token in chunk.tokens)
        return PrefillChunk(first.request_id, first.start, tokens, first.attempt)

    def schedule_chunk(self) -> PrefillChunk | None:
        """Hand out the chunk that comes next; no other call gets it, or another of its request.

        The most urgent class first; within a class the request that was created first, until it
        has no chunk left.

        Returns:
            None if no chunk can be started now.
        """
        with self._lock:
            while self._queue:
                record = heapq.heappop(self._queue)[-1]
                record.queued = False
                if record.state in ("pending", "running") and record.chunk is None:
                    return self._next_chunk(record)
            return None

    def start_chunk(self, chunk: PrefillChunk) -> bool:
        """Note that a scheduled chunk begins to run; its request is `running`.

        Returns:
            False if the request has been cancelled meanwhile: the chunk must not run.

        Raises:
            ValueError: there is no such request.
            RuntimeError: the chunk is not the one that was scheduled, or it runs already.
        """
        with self._lock:
            record = self._owner(chunk)
            if record.started is not None:
                raise RuntimeError(f"{self._name(chunk)} has been started already")
            if record.state == "cancelled":
                record.chunk = None
                return False
            record.state, record.started = "running", self.clock()
            return True

    def complete_chunk(self, chunk: PrefillChunk) -> bool:
        """Note that a started chunk has run: the request's offset moves on.

        If the request has been cancelled meanwhile, nothing changes.

        Returns:
            Whether the request is `done` with it.

        Raises:
            ValueError: there is no such request.
            RuntimeError: the chunk does not run.
        """
        with self._lock:
            record = self._owner(chunk)
            if record.started is None:
                raise RuntimeError(f"{self._name(chunk)} has not been started")
            seconds = self.clock() - record.started
            record.chunk = record.started = None
            if record.state == "cancelled":
                return False
            record.boundaries.popleft()
            record.offset = chunk.end
            self._chunks_completed += 1
            self._tokens += len(chunk.tokens)
            self._seconds += seconds
            if record.boundaries:
                self._enqueue(record)
            else:
                record.state, record.tokens = "done", ()
            return record.state == "done"

    def fail_chunk(self, chunk: PrefillChunk, error: str = "") -> None:
        """Note that a chunk, scheduled or started, did not run to its end.

        The request is `failed` and keeps its offset: the chunks before this one are good. If it has
        been cancelled meanwhile, nothing changes.

        Args:
            chunk: the chunk.
            error: what went wrong, in a sentence.

        Raises:
            ValueError: there is no such request.
            RuntimeError: the chunk is not under way.
        """
        with self._lock:
            record = self._owner(chunk)
            record.chunk = record.started = None
            if record.state != "cancelled":
                record.state, record.error = "failed", error
                self._chunks_failed += 1

    def resume(self, request_id: str, chunk_size: int | None = None) -> None:
        """Let a failed request go on, from its offset: what is done is not computed again.

        It is `pending`, at its old place in the order. Before its next chunk runs, its caches must
        hold `offset` tokens in every layer; a pass that failed may have left more in some.

        Args:
            request_id: the request.
            chunk_size: cut the rest into chunks of this size, say a smaller one after a chunk that
                ran out of memory; None to leave the chunks as they were.

        Raises:
            ValueError: there is no such request, or `chunk_size` is below 1.
            RuntimeError: the request has not failed.
        """
        with self._lock:
            record = self._record(request_id)
            if record.state != "failed":
                raise RuntimeError(f"request {request_id!r} is {record.state}, not failed")
            if chunk_size is not None:
                left = record.total_tokens - record.offset
                record.boundaries = deque(
                    (record.offset + start, record.offset + end)
                    for start, end in self.compute_chunk_boundaries(left, chunk_size)
                )
            record.state, record.error = "pending", ""
            record.attempt += 1
            self._enqueue(record)

    def cancel(self, request_id: str) -> bool:
        """End a request: no chunk of it is scheduled or started any more.

        A chunk that runs is still to be completed or failed, which then changes nothing.

        Returns:
            Whether the request had not ended yet. One that has failed has not.

        Raises:
            ValueError: there is no such request.
        """
        with self._lock:
            record = self._record(request_id)
            if record.state in ("done", "cancelled"):
                return False
            record.state, record.error, record.tokens = "cancelled", "", ()
            return True

    def iterate_chunks(self, request_id: str) -> Iterator[PrefillChunk]:
        """The remaining chunks of one request, for a loop that runs them.

        Each is started when it comes, and completed when the loop asks for the next one. If the
        loop ends early, by `break` or by an exception, the chunk it was at has failed. If the
        request is cancelled meanwhile, the loop ends. Nothing comes for one that has ended.

        Raises:
            ValueError: there is no such request.
            RuntimeError: the request has failed, or another worker has a chunk of it.
        """
        while (chunk := self._schedule_chunk_of(request_id)) and self.start_chunk(chunk):
            try:
                yield chunk
            except BaseException as error:  # thrown into the loop; GeneratorExit when it is left
                self.fail_chunk(chunk, f"the loop over the chunks ended early: {error!r}")
                raise
            self.complete_chunk(chunk)

    def state(self, request_id: str) -> str:
        """The state of a request, one of `PREFILL_STATES`; ValueError if it is unknown."""
        with self._lock:
            return self._record(request_id).state

    def offset(self, request_id: str) -> int:
        """How many tokens of a request are done; ValueError if it is unknown."""
        with self._lock:
            return self._record(request_id).offset

    def error(self, request_id: str) -> str:
        """What went wrong, if a request has failed, else empty; ValueError if it is unknown."""
        with self._lock:
            return self._record(request_id).error

    def statistics(self) -> dict[str, Any]:
        """Counts of everything so far, plain numbers, ready for JSON.

        Keys: each of `PREFILL_STATES` (how many known requests are in it), `chunks_completed`,
        `chunks_failed`, `tokens` and `seconds` (of completed chunks), `tokens_per_second` (None
        before the first one). Chunks of cancelled requests that came to their end count as neither.
        """
        with self._lock:
            states = Counter(record.state for record in self._records.values())
            return {
                **{state: states[state] for state in PREFILL_STATES},
                "chunks_completed": self._chunks_completed,
                "chunks_failed": self._chunks_failed,
                "tokens": self._tokens,
                "seconds": self._seconds,
                "tokens_per_second": self._tokens / self._seconds if self._seconds else None,
            }

    def _record(self, request_id: str) -> PrefillRecord:
        """The record of a request; ValueError if it is unknown. The lock is held."""
        if request_id not in self._records:
            raise ValueError(f"there is no request {request_id!r}")
        return self._records[request_id]

    def _owner(self, chunk: PrefillChunk) -> PrefillRecord:
        """The record whose chunk under way this is; RuntimeError if it is not. The lock is held."""
        record = self._record(chunk.request_id)
        if record.chunk != chunk:
            raise RuntimeError(f"{self._name(chunk)} is not under way: schedule it first")
        return record

    def _name(self, chunk: PrefillChunk) -> str:
        """What a chunk is called in errors."""
        return f"the chunk {chunk.start} to {chunk.end} of request {chunk.request_id!r}"

    def _enqueue(self, record: PrefillRecord) -> None:
        """Put a request into the queue, unless it is there already. The lock is held."""
        if not record.queued:
            record.queued = True
            heapq.heappush(self._queue, (record.rank, record.number, record))

    def _next_chunk(self, record: PrefillRecord) -> PrefillChunk:
        """Hand out the next chunk of a request. The lock is held."""
        start, end = record.boundaries[0]
        record.chunk = PrefillChunk(
            record.request_id, start, record.tokens[start:end], record.attempt
        )
        return record.chunk

    def _schedule_chunk_of(self, request_id: str) -> PrefillChunk | None:
        """Hand out the next chunk of one request; None if it has ended."""
        with self._lock:
            record = self._record(request_id)
            if record.state in ("done", "cancelled"):
                return None
            if record.state == "failed" or record.chunk is not None:
                raise RuntimeError(
                    f"request {request_id!r} has failed, and must be resumed first, or another "
                    "worker has a chunk of it"
                )
            return self._next_chunk(record)


def create_prefill_manager(workload: str = "interactive") -> ChunkedPrefillManager:
    """A manager for a workload.

    Args:
        workload: `"interactive"`, `"long_context"` or `"batch"`, as in `ChunkedPrefillConfig`.

    Raises:
        ValueError: there is no such workload.
    """
    workloads = {
        "interactive": ChunkedPrefillConfig.interactive,
        "long_context": ChunkedPrefillConfig.long_context,
        "batch": ChunkedPrefillConfig.batch,
    }
    if workload not in workloads:
        raise ValueError(f"workload must be one of {', '.join(workloads)}, not {workload!r}")
    return ChunkedPrefillManager(workloads[workload]())


class ChunkedModel:
    """A model that reads long inputs in chunks, and is otherwise the model that it was made from.

    To be used in the place of any model that is called as `model(tokens, offset, cache)`.
    """

    def __init__(self, model: Any, chunk_size: int) -> None:
        """Wrap a model.

        Args:
            model: returns logits `B x L x vocab_size` that depend on all keys and values which the
                call puts into the cache, as those of a transformer do.
            chunk_size: the largest number of tokens per row that one call gives to it.

        Raises:
            ValueError: `chunk_size` is below 1.
        """
        check_sizes(chunk_size=chunk_size)
        self.model, self.chunk_size = model, chunk_size

    def create_kv_cache(self) -> Any:
        """What the model's own `create_kv_cache()` gives."""
        return self.model.create_kv_cache()

    def __call__(
        self,
        inputs: mx.array,
        offset: int | list[int] | mx.array = 0,
        cache: Any | None = None,
    ) -> mx.array:
        """As the model itself, in several calls if there is more than one chunk.

        Without a cache nothing can be carried from one chunk to the next: the model is called once.

        While a chunk is being computed, the next call of the model is prepared (its graph is
        built); it is computed when the one before it is finished. So a chunk's memory is needed
        once, and no graph grows.

        Args:
            inputs: token ids, `B x L`.
            offset: the position of the first of the `L` tokens, one int or one per row.
            cache: the caches, as for the model, or None.

        Returns:
            Logits, `B x L x vocab_size`, of all positions.
        """
        length = inputs.shape[1]
        if cache is None or length <= self.chunk_size:
            return self.model(inputs, offset, cache)
        logits: list[mx.array] = []
        for start in range(0, length, self.chunk_size):
            if isinstance(offset, list):
                position: int | list[int] | mx.array = [first + start for first in offset]
            else:
                position = offset + start
            chunk = inputs[:, start : start + self.chunk_size]
            prepared = self.model(chunk, position, cache)
            mx.eval(logits[-1:])  # wait for the chunk before this one
            mx.async_eval(prepared)  # type: ignore[no-untyped-call]
            logits.append(prepared)
        return mx.concatenate(logits, axis=1)
