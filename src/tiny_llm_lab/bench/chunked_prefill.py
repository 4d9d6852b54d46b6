"""The benchmark of chunked prefill: a solution with chunks of many sizes, and mlx-lm beside it."""

import math
import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from . import costs, metrics, traces
from .engines import Engine, MlxLmEngine, SolutionEngine, solution_model
from .machine import machine
from .replay import Run, repeat, replay, without_ties
from .traces import Objective, Trace

DEFAULT_CHUNK = 128
OBJECTIVE = Objective(ttft=1.0, itl=0.2)
# Poisson arrivals bring this share of what mlx-lm serves when all requests are there at once.
UTILIZATION = 0.7
# In the order in which they run.
PARTS = (
    "victim-and-attacker",
    "mixed-lengths",
    "short-behind-long",
    "poisson",
    "shared-load",
    "lone-prompt",
    "scheduler",
    "memory",
)


@dataclass(frozen=True)
class Size:
    """How large the parts of a run are; prompt lengths in tokens.

    Attributes:
        name: what the result says.
        sweep: victims and attacker's length for the sweep over chunk sizes.
        chunks: these chunk sizes; whole prompts come on top.
        attacks: victims and attacker's length, at the default chunk size.
        mixed: the long prompt among short ones.
        behind: the long prompt in front of a short one.
        arrivals: the number of Poisson arrivals, and their longest prompt.
        loads: numbers of requests at once.
        lone: the prompt that is alone.
        memory: prompts of which the peak memory is measured.
        active: requests in slots, and queued behind them, for the scheduler's own time.
    """

    name: str
    sweep: tuple[int, int]
    chunks: tuple[int, ...]
    attacks: tuple[tuple[int, int], ...]
    mixed: int
    behind: int
    arrivals: tuple[int, int]
    loads: tuple[int, ...]
    lone: int
    memory: tuple[int, ...]
    active: tuple[int, int]


CHUNKS = (32, 64, 128, 256, 512, 1024, 2048)
QUICK = Size(
    name="quick",
    sweep=(2, 192),
    chunks=(32, 128),
    attacks=(),
    mixed=100,
    behind=160,
    arrivals=(4, 64),
    loads=(1, 4),
    lone=160,
    memory=(128, 256),
    active=(16, 1000),
)
DEFAULT = Size(
    name="default",
    sweep=(4, 1024),
    chunks=CHUNKS,
    attacks=((1, 1024), (8, 1024), (4, 4096)),
    mixed=2000,
    behind=1024,
    arrivals=(16, 512),
    loads=(1, 8, 64),
    lone=1024,
    memory=(1024, 4096),
    active=(64, 100_000),
)
FULL = Size(
    name="full",
    sweep=(4, 4096),
    chunks=CHUNKS,
    attacks=tuple((victims, tokens) for tokens in (1024, 4096, 8192) for victims in (1, 4, 8)),
    mixed=2000,
    behind=4096,
    arrivals=(24, 1024),
    loads=(1, 2, 4, 8, 16, 32, 64),
    lone=4096,
    memory=(1024, 4096, 16384),
    active=(64, 100_000),
)


class ChunkedPrefillBenchmark:
    """Measures parts of the benchmark, one after the other, into `result`."""

    def __init__(
        self,
        model_name: str,
        mlx_model: Any,
        package: str,
        name: str,
        size: Size,
        repetitions: int,
        on_part: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Build the solution's model; measure nothing.

        Args:
            model_name: what the result says.
            mlx_model: a Qwen3 model that mlx-lm loaded.
            package: `tiny_llm` or `tiny_llm_ref`.
            name: what tables call this solution.
            size: how much to measure.
            repetitions: of every trace.
            on_part: told what comes next.
        """
        self.mlx_model, self.package, self.name, self.size = mlx_model, package, name, size
        self.repetitions, self.on_part = repetitions, on_part
        self.vocab_size: int = mlx_model.args.vocab_size
        self.most_tokens: int = mlx_model.args.max_position_embeddings - 16
        self.model = solution_model(package, mlx_model)
        self.mlx_lm = MlxLmEngine(mlx_model)
        self.result: dict[str, Any] = {
            "benchmark": "chunked prefill beside mlx-lm, greedy, equal tokens",
            "model": model_name,
            "solution": name,
            "size": size.name,
            "quick": size is QUICK,
            "repetitions": repetitions,
            "default_chunk": DEFAULT_CHUNK,
            "machine": machine(),
            "traces": [],
        }

    def measure(self, parts: Iterable[str] = PARTS) -> dict[str, Any]:
        """Measure some parts.

        Returns:
            `result`.

        Raises:
            Disagreement: the engines do not generate the same tokens; nothing is timed then.
            EngineError: an engine fails.
        """
        size, default = self.size, self._engine(DEFAULT_CHUNK)
        pair: list[Engine] = [default, self.mlx_lm]
        vocab_size = self.vocab_size
        mixed = partial(traces.mixed_lengths, vocab_size=vocab_size, long=size.mixed)
        behind = partial(traces.short_behind_long, vocab_size=vocab_size, long=size.behind)
        lone = partial(traces.lone_prompt, vocab_size=vocab_size, tokens=size.lone)
        run: dict[str, Callable[[], object]] = {
            "victim-and-attacker": self._attacks,
            "mixed-lengths": lambda: self._compare(mixed, pair),
            "short-behind-long": lambda: self._compare(behind, pair),
            "poisson": lambda: self._poisson(pair),
            "shared-load": lambda: self._loads(pair),
            "lone-prompt": lambda: self._compare(lone, [default, self._engine(None), self.mlx_lm]),
            "scheduler": self._scheduler,
            "memory": self._memory,
        }
        for part in parts:
            run[part]()
        return self.result

    def _engine(self, chunk: int | None) -> SolutionEngine:
        name = f"{self.name}, {'whole prompt' if chunk is None else f'chunk {chunk:,}'}"
        return SolutionEngine(name, self.package, self.model, chunk)

    def _compare(
        self, make: Callable[[int], Trace], engines: Sequence[Engine]
    ) -> tuple[Trace, list[list[Run]]]:
        """Measure one trace, and append what it gave to the result."""
        self.on_part(make(0).name)
        trace = without_ties(make, engines, self.mlx_model)
        runs = repeat(engines, trace, self.repetitions)
        found: dict[str, Any] = {
            "trace": trace.name,
            "seed": trace.seed,
            "slots": trace.slots,
            "focus": trace.focus_name,
            "prompt_tokens": [len(request.prompt) for request in trace.requests],
            "new_tokens": trace.new_tokens,
        }
        if trace.objective is not None:
            found |= {"objective": vars(trace.objective)}
        rows: list[dict[str, Any]] = [
            {"engine": engine.name, "chunk": engine.chunk} | _metrics(trace, its_runs)
            for engine, its_runs in zip(engines, runs, strict=True)
        ]
        found |= {"rows": rows, "ratios": ratios(rows)}
        self.result["traces"].append(found)
        return trace, runs

    def _attacks(self) -> None:
        victims, tokens = self.size.sweep
        chunks = [*(chunk for chunk in self.size.chunks if chunk < tokens), None]
        engines: list[Engine] = [*map(self._engine, chunks), self.mlx_lm]
        trace, runs = self._compare(self._attack(victims, tokens), engines)
        self.result["sweep"] = trace.name
        self.result["timelines"] = [
            timeline(engine.name, trace, its_runs)
            for engine, its_runs in zip(engines, runs, strict=True)
            if not isinstance(engine, SolutionEngine) or engine.chunk in (DEFAULT_CHUNK, None)
        ]
        for attack in self.size.attacks:
            if attack != self.size.sweep:
                self._compare(self._attack(*attack), [self._engine(DEFAULT_CHUNK), self.mlx_lm])

    def _attack(self, victims: int, tokens: int) -> Callable[[int], Trace]:
        tokens = min(tokens, self.most_tokens)
        return lambda seed: traces.victim_and_attacker(seed, self.vocab_size, victims, tokens)

    def _poisson(self, engines: Sequence[Engine]) -> None:
        requests, longest = self.size.arrivals

        def make(seed: int, interval: float) -> Trace:
            return traces.poisson(seed, self.vocab_size, interval, OBJECTIVE, requests, longest)

        at_once = replay(self.mlx_lm, make(0, 0.0))
        interval = metrics.summary(at_once.times)["seconds"] / requests / UTILIZATION
        interval = float(f"{interval:.2g}")
        self._compare(lambda seed: make(seed, interval), engines)
        self.result["traces"][-1]["interval"] = interval

    def _loads(self, engines: Sequence[Engine]) -> None:
        for load in self.size.loads:
            make = partial(traces.shared_load, vocab_size=self.vocab_size, requests=load)
            self._compare(make, engines)

    def _scheduler(self) -> None:
        active, waiting = self.size.active
        self.on_part(f"scheduler at {active} requests, {waiting:,} queued")
        self.result["scheduler"] = costs.scheduler_share(
            self.package, self.model, active, waiting, self.repetitions
        )

    def _memory(self) -> None:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        engines: list[Engine] = [self._engine(DEFAULT_CHUNK), self._engine(None), self.mlx_lm]
        found: dict[str, dict[int, int | None]] = {engine.name: {} for engine in engines}
        for tokens in self.size.memory:
            if tokens > self.most_tokens:
                continue
            self.on_part(f"memory of {tokens:,} tokens")
            for engine in engines:
                before = found[engine.name]
                peak, shorter = next(
                    ((peak, shorter) for shorter, peak in reversed(before.items()) if peak), (0, 1)
                )
                # The scores of a whole prompt grow with the square of its length.
                if peak * (tokens / shorter) ** 2 > memory / 2:
                    before[tokens] = None
                else:
                    before[tokens] = costs.peak_memory(engine, tokens, self.vocab_size)
        self.result["memory"] = [
            {"engine": engine.name, "chunk": engine.chunk, "tokens": tokens, "peak_bytes": peak}
            for engine in engines
            for tokens, peak in found[engine.name].items()
        ]


def _metrics(trace: Trace, runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Median, min and max over the repetitions of everything that is measured, in seconds.

    `largest_gap` is the decode stall, or the largest ITL where the trace has no attacker.
    """
    found: dict[str, list[float]] = {}
    for run in runs:
        numbers = metrics.summary(run.times)
        numbers |= metrics.spread("focus_ttft", (run.times[index].ttft for index in trace.focus))
        stall = metrics.decode_stall(run.times, trace.focus)
        numbers["largest_gap"] = numbers["itl_max"] if stall is None else stall
        if trace.objective is not None:
            numbers["within_objective"] = metrics.share_within(run.times, trace.objective)
        for name, value in numbers.items():
            found.setdefault(name, []).append(value)
    return {name: costs.spread_of(values) for name, values in found.items()}


def ratios(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The solution at its default chunk size over mlx-lm, in medians; over whole prompts, too."""
    by_chunk = {row["chunk"]: row for row in rows[:-1]}
    ours = by_chunk.get(DEFAULT_CHUNK)
    if ours is None:
        return {}
    found = {}
    for metric in ("focus_ttft_p50", "focus_ttft_max", "largest_gap", "tokens_per_second"):
        found[metric] = ours[metric]["median"] / rows[-1][metric]["median"]
    if None in by_chunk:
        found["seconds_over_whole_prompt"] = (
            ours["seconds"]["median"] / by_chunk[None]["seconds"]["median"]
        )
    return {name: round(ratio, 3) for name, ratio in found.items() if math.isfinite(ratio)}


def timeline(name: str, trace: Trace, runs: Sequence[Run]) -> dict[str, Any]:
    """When the first victim's tokens came, in seconds after the attacker's arrival.

    Of the repetition whose decode stall is the median one (the lower of two).
    """
    attacker = trace.focus[0]
    stalls = [metrics.decode_stall(run.times, trace.focus) or 0.0 for run in runs]
    run = runs[stalls.index(statistics.median_low(stalls))]
    arrival = run.times[attacker].arrival
    return {
        "engine": name,
        "attacker_first_token": round(run.times[attacker].ttft, 4),
        "victim_tokens": [round(time - arrival, 4) for time in run.times[0].tokens],
    }
