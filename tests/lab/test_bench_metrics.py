"""The numbers of the benchmark, against NumPy and by hand, on times that are made up."""

import numpy as np
import pytest

from tiny_llm_lab.bench import metrics
from tiny_llm_lab.bench.metrics import RequestTimes
from tiny_llm_lab.bench.traces import Objective

# Two requests decode; the third arrives at 2.0 and has its first token at 5.0.
TIMES = [
    RequestTimes(0.0, [0.5, 1.0, 1.75, 4.75, 5.0, 12.0]),
    RequestTimes(0.25, [1.5, 2.5, 4.5, 5.5]),
    RequestTimes(2.0, [5.0]),
]
GAPS = [0.5, 0.75, 3.0, 0.25, 7.0, 1.0, 2.0, 1.0]


def test_latencies_are_those_of_the_definitions() -> None:
    found = metrics.summary(TIMES)
    ttfts, tpots = [0.5, 1.25, 3.0], [11.5 / 5, 4.0 / 3]
    for name, values in (("ttft", ttfts), ("itl", GAPS), ("tpot", tpots)):
        assert found[f"{name}_max"] == max(values)
        for percentile in (50, 95, 99):
            expected = np.quantile(np.array(values), percentile / 100)
            assert found[f"{name}_p{percentile}"] == pytest.approx(expected)


def test_throughput_counts_from_the_first_arrival_to_the_last_token() -> None:
    found = metrics.summary([RequestTimes(1.0, [2.0, 3.0]), RequestTimes(2.0, [5.0])])
    assert found["seconds"] == 4.0
    assert found["tokens_per_second"] == 3 / 4


def test_requests_of_one_token_have_no_gaps() -> None:
    found = metrics.summary([RequestTimes(0.0, [1.0])])
    assert found["ttft_max"] == 1.0
    assert not any(name.startswith(("itl", "tpot")) for name in found)


def test_the_decode_stall_counts_gaps_that_overlap_the_prefill() -> None:
    """3.0 is the gap from 1.75 to 4.75; the 7.0 at the end begins when the attacker has a token."""
    assert metrics.decode_stall(TIMES, [2]) == 3.0


def test_a_gap_before_the_attackers_arrival_is_no_stall() -> None:
    times = [RequestTimes(0.0, [1.0, 9.0, 9.5, 10.0]), RequestTimes(9.25, [9.75])]
    assert metrics.decode_stall(times, [1]) == 0.5


def test_who_does_not_decode_yet_cannot_stall() -> None:
    times = [RequestTimes(0.0, [3.0, 9.0]), RequestTimes(2.0, [5.0])]
    assert metrics.decode_stall(times, [1]) is None


@pytest.mark.parametrize(
    ("ttft", "itl", "share"), [(3.0, 7.0, 1.0), (3.0, 2.0, 2 / 3), (1.25, 2.0, 1 / 3), (0.1, 9, 0)]
)
def test_the_objective_holds_for_whole_requests(ttft: float, itl: float, share: float) -> None:
    assert metrics.share_within(TIMES, Objective(ttft, itl)) == pytest.approx(share)
