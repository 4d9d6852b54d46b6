"""Runs traces through engines: the same tokens first, then the times, engines taking turns."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from .engines import Engine, EngineError
from .metrics import RequestTimes
from .traces import Trace

# Below this difference of the two best logits, rounding may decide which token is chosen.
TIE = 1e-2


class Disagreement(Exception):
    """Two engines generate different tokens; the message says where, in a sentence."""


class Tie(Disagreement):
    """They do because the two best tokens have the same logit but for rounding."""


@dataclass(frozen=True)
class Run:
    """What one engine made of one trace: tokens and times, by request."""

    tokens: list[list[int]]
    times: list[RequestTimes]


def replay(engine: Engine, trace: Trace) -> Run:
    """Run a trace through an engine, in real time. Tokens come when the step that has them ends.

    A request is handed in between two steps; it has arrived when the trace says so.

    Raises:
        EngineError: the engine generates tokens of nobody, too many tokens, or no more tokens.
    """
    gc.collect()
    mx.clear_cache()
    requests = trace.requests
    run = Run([[] for _ in requests], [])
    session = engine.start(trace.slots, trace.longest)
    try:
        missing = trace.new_tokens
        steps_left = 100 + 2 * sum(len(r.prompt) + r.max_tokens for r in requests)
        start = time.perf_counter()
        while missing:
            now = time.perf_counter() - start
            while _is_due(trace, run, now):
                request = requests[len(run.times)]
                run.times.append(RequestTimes(now if request.after_tokens else request.at))
                session.submit(request.prompt, request.max_tokens)
            if not _unfinished(trace, run):
                time.sleep(max(0.0, requests[len(run.times)].at - now))
                continue
            new = session.step()
            now = time.perf_counter() - start
            for index, token in new:
                if not 0 <= index < len(run.times):
                    raise EngineError(
                        f"{engine.name} generates a token of request {index}, which does not exist."
                    )
                if len(run.tokens[index]) == requests[index].max_tokens:
                    raise EngineError(
                        f"{engine.name} generates more than {requests[index].max_tokens} tokens "
                        f"for request {index} of {trace.name}."
                    )
                run.tokens[index].append(token)
                run.times[index].tokens.append(now)
            missing -= len(new)
            steps_left -= 1
            if steps_left == 0:
                stuck = ", ".join(map(str, _unfinished(trace, run)))
                raise EngineError(
                    f"{engine.name} does not finish {trace.name}: tokens of request {stuck} are "
                    "still missing after twice as many steps as there are tokens."
                )
    finally:
        session.close()
    return run


def check_equal(engines: Sequence[Engine], trace: Trace, mlx_model: Any) -> None:
    """Check that all engines generate exactly the tokens of the last one.

    Args:
        engines: at least one.
        trace: what they run.
        mlx_model: tells a tie from a mistake: its logits are looked at where tokens differ.

    Raises:
        Tie: they do not, but only rounding decides where they part.
        Disagreement: they do not.
        EngineError: as in `replay`.
    """
    *others, oracle = engines
    expected = replay(oracle, trace).tokens
    for engine in others:
        got = replay(engine, trace).tokens
        for index, request in enumerate(trace.requests):
            if got[index] == expected[index]:
                continue
            pairs = enumerate(zip(got[index], expected[index], strict=True))
            at, (ours, theirs) = next((at, pair) for at, pair in pairs if pair[0] != pair[1])
            tokens = [*request.prompt, *expected[index][:at]]
            logits = mlx_model(mx.array([tokens]))[0, -1].astype(mx.float32)
            gap = abs(logits[ours] - logits[theirs]).item()
            what = (
                f"{engine.name} and {oracle.name} disagree on token {at} of request {index} of "
                f"{trace.name} (seed {trace.seed}): {ours}, not {theirs}; "
                f"their logits differ by {gap:.2g}"
            )
            if gap < TIE:
                raise Tie(f"{what}, which is a tie.")
            raise Disagreement(f"{what}, which is more than rounding.")


def without_ties(
    make: Callable[[int], Trace], engines: Sequence[Engine], mlx_model: Any, seeds: int = 5
) -> Trace:
    """The first trace, by seed from 0, on which the engines agree.

    Raises:
        Disagreement: they disagree by more than rounding, or tie for all of so many seeds.
        EngineError: as in `replay`.
    """
    for seed in range(seeds):
        trace = make(seed)
        try:
            check_equal(engines, trace, mlx_model)
        except Tie:
            if seed == seeds - 1:
                raise
        else:
            return trace
    raise ValueError("there must be a seed to try")


def repeat(engines: Sequence[Engine], trace: Trace, repetitions: int) -> list[list[Run]]:
    """The runs of each engine; in every repetition each engine runs once.

    Raises:
        Disagreement: an engine generates other tokens than in its first run, or than the last one.
        EngineError: as in `replay`.
    """
    runs: list[list[Run]] = [[] for _ in engines]
    for _ in range(repetitions):
        for engine, its_runs in zip(engines, runs, strict=True):
            its_runs.append(replay(engine, trace))
    expected = runs[-1][0].tokens
    for engine, its_runs in zip(engines, runs, strict=True):
        if any(run.tokens != expected for run in its_runs):
            raise Disagreement(
                f"{engine.name} generated other tokens of {trace.name} while it was timed than "
                "before."
            )
    return runs


def _is_due(trace: Trace, run: Run, now: float) -> bool:
    """Whether the next request of a trace arrives, given what has been generated."""
    arrived = len(run.times)
    if arrived == len(trace.requests):
        return False
    request = trace.requests[arrived]
    return now >= request.at and all(
        len(tokens) >= min(request.after_tokens, earlier.max_tokens)
        for tokens, earlier in zip(run.tokens, trace.requests[:arrived], strict=False)
    )


def _unfinished(trace: Trace, run: Run) -> list[int]:
    """The requests that have arrived and are not finished."""
    return [
        index
        for index in range(len(run.times))
        if len(run.tokens[index]) < trace.requests[index].max_tokens
    ]
