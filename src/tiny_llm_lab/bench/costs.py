"""What no trace shows: the scheduler's own time per step, and the memory of a prefill."""

import gc
import statistics
import time
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from .engines import Engine, SolutionEngine
from .traces import lone_prompt


class _NoModel:
    """A model without layers that always predicts token 0: a step costs what the host does."""

    def create_kv_cache(self) -> list[Any]:
        return []

    def __call__(self, tokens: mx.array, offset: Any = 0, cache: Any = None) -> mx.array:
        return mx.zeros((*tokens.shape, 2))


def decode_step_times(
    package: str, model: Any, active: int, waiting: int, steps: int
) -> list[float]:
    """The seconds of `steps` decode steps with `active` requests in slots and `waiting` behind.

    Prompts have one token each. The first steps, until every slot is taken, are not counted.

    Args:
        package: `tiny_llm` or `tiny_llm_ref`.
        model: a `Qwen3Model` of it, or None for one that costs nothing.
    """
    gc.collect()
    engine = SolutionEngine(package, package, _NoModel() if model is None else model, chunk=1)
    warm_up = active + 5
    session = engine.start(slots=active, max_seq_len=warm_up + steps + 5)
    try:
        for _ in range(active + waiting):
            session.submit([1], warm_up + steps + 1)
        times = []
        for _ in range(warm_up + steps):
            start = time.perf_counter()
            session.step()
            times.append(time.perf_counter() - start)
    finally:
        session.close()
    return times[warm_up:]


def scheduler_share(
    package: str, model: Any, active: int, waiting: int, repetitions: int, steps: int = 20
) -> dict[str, Any]:
    """How much of a decode step is the scheduler's own time, with and without a long queue.

    The host's time is that of a step with a model that costs nothing. It includes choosing the
    most likely of two tokens per request.

    Returns:
        `active`, `waiting`, and in milliseconds, median, min and max each: `step`, `host`,
        `host_with_queue`. `share` is the ratio of the medians of `host` and `step`, and
        `queue_ratio` that of `host_with_queue` and `host`.
    """
    cases: dict[str, tuple[Any, int]] = {
        "step": (model, 0),
        "host": (None, 0),
        "host_with_queue": (None, waiting),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repetitions):
        for name, (its_model, queue) in cases.items():
            times[name] += decode_step_times(package, its_model, active, queue, steps)
    found: dict[str, Any] = {"active": active, "waiting": waiting}
    for name, seconds in times.items():
        found[name] = spread_of([1000 * second for second in seconds])
    return found | {
        "share": round(found["host"]["median"] / found["step"]["median"], 4),
        "queue_ratio": round(found["host_with_queue"]["median"] / found["host"]["median"], 2),
    }


def peak_memory(engine: Engine, tokens: int, vocab_size: int) -> int:
    """The most bytes that a lone prompt of so many tokens takes, beyond what was there before."""
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    request = lone_prompt(0, vocab_size, tokens).requests[0]
    session = engine.start(slots=1, max_seq_len=tokens + 2)
    try:
        session.submit(request.prompt, 1)
        while not session.step():
            pass
    finally:
        session.close()
    return mx.get_peak_memory() - before


def spread_of(values: Sequence[float]) -> dict[str, float]:
    """Median, min and max, rounded to five digits."""
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: float(f"{value:.5g}") for name, value in found.items()}
