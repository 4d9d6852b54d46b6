"""From the times of tokens to the numbers that people compare.

TTFT: first token minus arrival. ITL: every gap between consecutive tokens of a request, pooled over
requests. TPOT: (last token - first token) / (tokens - 1) per request. Decode stall: the largest ITL
of requests that were decoding already when another one arrived, until its first token. Throughput:
output tokens per second over the whole trace. Percentiles and the maximum go together.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from .traces import Objective

PERCENTILES = (50, 95, 99)


@dataclass
class RequestTimes:
    """When a request arrived and when its tokens came, in seconds on one clock."""

    arrival: float
    tokens: list[float] = field(default_factory=list)

    @property
    def ttft(self) -> float:
        """Time to first token."""
        return self.tokens[0] - self.arrival

    @property
    def gaps(self) -> list[float]:
        """The inter-token latencies; one fewer than there are tokens."""
        return [later - earlier for earlier, later in pairwise(self.tokens)]

    @property
    def tpot(self) -> float:
        """Time per output token after the first; of at least two tokens."""
        return (self.tokens[-1] - self.tokens[0]) / (len(self.tokens) - 1)


def spread(name: str, values: Iterable[float]) -> dict[str, float]:
    """Percentiles and the maximum: `name_p50` and so on; nothing if there are no values.

    A percentile between two values is interpolated linearly.
    """
    array = np.array(list(values))
    if not array.size:
        return {}
    found = {f"{name}_p{p}": float(np.percentile(array, p)) for p in PERCENTILES}
    return found | {f"{name}_max": float(array.max())}


def decode_stall(times: Sequence[RequestTimes], focus: Sequence[int]) -> float | None:
    """The largest gap that the requests in `focus` made for those that were decoding already.

    Every gap counts that overlaps the time from the first arrival in `focus` to its last first
    token. None if nobody was decoding then.
    """
    begin = min(times[index].arrival for index in focus)
    end = max(times[index].tokens[0] for index in focus)
    gaps = [
        later - earlier
        for index, request in enumerate(times)
        if index not in focus and request.tokens[0] <= begin
        for earlier, later in pairwise(request.tokens)
        if later > begin and earlier < end
    ]
    return max(gaps, default=None)


def summary(times: Sequence[RequestTimes]) -> dict[str, float]:
    """All latencies, the throughput, and the seconds from the first arrival to the last token.

    Every request has at least one token.
    """
    seconds = max(request.tokens[-1] for request in times) - min(r.arrival for r in times)
    return {
        "seconds": seconds,
        "tokens_per_second": sum(len(request.tokens) for request in times) / seconds,
        **spread("ttft", (request.ttft for request in times)),
        **spread("itl", (gap for request in times for gap in request.gaps)),
        **spread("tpot", (request.tpot for request in times if len(request.tokens) > 1)),
    }


def share_within(times: Sequence[RequestTimes], objective: Objective) -> float:
    """The share of the requests that met a latency objective throughout."""
    met = [
        request.ttft <= objective.ttft and max(request.gaps, default=0.0) <= objective.itl
        for request in times
    ]
    return sum(met) / len(met)
