"""Request traces: the same ones every time, and what their names promise."""

from collections.abc import Callable

import pytest

from tiny_llm_lab.bench import traces
from tiny_llm_lab.bench.traces import Objective, Trace

VOCAB_SIZE = 50
OBJECTIVE = Objective(1.0, 0.2)
MAKERS: dict[str, Callable[[int], Trace]] = {
    "victim-and-attacker": lambda seed: traces.victim_and_attacker(seed, VOCAB_SIZE, 4, 200),
    "mixed-lengths": lambda seed: traces.mixed_lengths(seed, VOCAB_SIZE),
    "short-behind-long": lambda seed: traces.short_behind_long(seed, VOCAB_SIZE),
    "poisson": lambda seed: traces.poisson(seed, VOCAB_SIZE, 0.5, OBJECTIVE),
    "shared-load": lambda seed: traces.shared_load(seed, VOCAB_SIZE, 6),
    "lone-prompt": lambda seed: traces.lone_prompt(seed, VOCAB_SIZE, 40),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_a_seed_gives_one_trace(make: Callable[[int], Trace]) -> None:
    assert make(1) == make(1) != make(2)
    for request in make(1).requests:
        assert request.max_tokens > 0
        assert all(traces.FIRST_ID <= token < VOCAB_SIZE for token in request.prompt)
    arrivals = [request.at for request in make(1).requests]
    assert arrivals == sorted(arrivals)
    assert all(index < len(arrivals) for index in make(1).focus)


@pytest.mark.parametrize("victims", [1, 4, 8])
def test_victims_outlast_the_attackers_prefill(victims: int) -> None:
    trace = traces.victim_and_attacker(0, VOCAB_SIZE, victims, 1000)
    *others, attacker = trace.requests
    assert len(others) == victims and trace.slots == victims + 1
    assert len(attacker.prompt) == 1000 and trace.focus == (victims,)
    for victim in others:
        assert victim.max_tokens > attacker.after_tokens + 1000 / 32
    assert trace.longest == 1016


def test_mixed_lengths_are_one_long_and_seven_short() -> None:
    trace = traces.mixed_lengths(0, VOCAB_SIZE)
    assert [len(request.prompt) for request in trace.requests] == [2000] + 7 * [20]
    assert trace.focus == (1, 2, 3, 4, 5, 6, 7)


def test_poisson_arrivals_have_the_given_mean_and_the_same_prompts_at_every_rate() -> None:
    slow, fast = (traces.poisson(3, 50, interval, OBJECTIVE, 2000, 64) for interval in (2.0, 0.5))
    assert slow.requests[-1].at / 2000 == pytest.approx(2.0, rel=0.1)
    assert fast.requests[-1].at == pytest.approx(slow.requests[-1].at / 4)
    assert [r.prompt for r in slow.requests] == [r.prompt for r in fast.requests]
    lengths = [len(request.prompt) for request in slow.requests]
    assert min(lengths) == 16 and max(lengths) == 64
