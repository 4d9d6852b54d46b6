"""Request traces: which prompts arrive when, and how many tokens each generates.

Prompts are random token ids from a seed; a trace is the same every time it is made. Nothing ends a
generation but its number of tokens, so that all engines do the same work.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

# The first ids of a vocabulary are often special tokens.
FIRST_ID = 3


@dataclass(frozen=True)
class TraceRequest:
    """One request of a trace.

    Attributes:
        prompt: token ids.
        max_tokens: how many tokens it generates, exactly.
        at: its arrival, in seconds after the start.
        after_tokens: it does not arrive before every request in front of it in the trace has
            generated so many tokens. Unlike a time or a number of steps, it finds every engine in
            the same state.
    """

    prompt: Sequence[int]
    max_tokens: int
    at: float = 0.0
    after_tokens: int = 0


@dataclass(frozen=True)
class Objective:
    """What a user should never notice, in seconds: the longest TTFT, the longest gap."""

    ttft: float
    itl: float


@dataclass(frozen=True)
class Trace:
    """Requests in the order of their arrival.

    Attributes:
        name: the kind of trace, then its sizes, joined by hyphens.
        seed: what its prompts, lengths and times were drawn from.
        requests: in the order in which they arrive.
        slots: how many requests are decoded together.
        focus: indices of the requests whose TTFT the trace is about. Where other requests are
            decoding when these arrive, their largest gap from then on is the decode stall.
        focus_name: what tables call them.
        objective: the latency objective, if the trace has one.
    """

    name: str
    seed: int
    requests: tuple[TraceRequest, ...]
    slots: int
    focus: tuple[int, ...]
    focus_name: str
    objective: Objective | None = None

    @property
    def longest(self) -> int:
        """The most tokens of one request, prompt and answer together."""
        return max(len(request.prompt) + request.max_tokens for request in self.requests)

    @property
    def new_tokens(self) -> int:
        """The tokens that all requests generate together."""
        return sum(request.max_tokens for request in self.requests)


class _Prompts:
    """Draws prompts."""

    def __init__(self, seed: int, vocab_size: int) -> None:
        self.rng = random.Random(seed)
        self.vocab_size = vocab_size

    def draw(self, length: int) -> tuple[int, ...]:
        return tuple(self.rng.randrange(FIRST_ID, self.vocab_size) for _ in range(length))


def victim_and_attacker(
    seed: int, vocab_size: int, victims: int, attacker_tokens: int, smallest_chunk: int = 32
) -> Trace:
    """`victims` requests decode; once all do, one long prompt arrives.

    The victims generate so many tokens that they outlast the attacker's prefill, even if a decode
    step follows on each of its smallest chunks.
    """
    prompts = _Prompts(seed, vocab_size)
    before, after = 8, 16
    outlasting = before + -(-attacker_tokens // smallest_chunk) + after
    requests = [TraceRequest(prompts.draw(16), outlasting) for _ in range(victims)]
    attacker = TraceRequest(prompts.draw(attacker_tokens), 16, after_tokens=before)
    return Trace(
        f"victim-and-attacker-{victims}-{attacker_tokens}",
        seed,
        (*requests, attacker),
        slots=victims + 1,
        focus=(victims,),
        focus_name="attacker",
    )


def mixed_lengths(seed: int, vocab_size: int, long: int = 2000, short: int = 20) -> Trace:
    """One long prompt and seven short ones, all at the start, the long one first."""
    prompts = _Prompts(seed, vocab_size)
    lengths = [long] + 7 * [short]
    requests = tuple(TraceRequest(prompts.draw(length), 32) for length in lengths)
    return Trace(f"mixed-lengths-{long}", seed, requests, 8, tuple(range(1, 8)), "short prompts")


def short_behind_long(seed: int, vocab_size: int, long: int = 4096, short: int = 20) -> Trace:
    """A short prompt that arrives just after a long one, with nobody decoding."""
    prompts = _Prompts(seed, vocab_size)
    requests = (
        TraceRequest(prompts.draw(long), 16),
        TraceRequest(prompts.draw(short), 16, at=0.05),
    )
    return Trace(f"short-behind-long-{long}", seed, requests, 2, (1,), "short prompt")


def poisson(
    seed: int,
    vocab_size: int,
    interval: float,
    objective: Objective,
    requests: int = 24,
    longest: int = 1024,
) -> Trace:
    """Independent arrivals, one every `interval` seconds on average; most prompts are short.

    Prompt lengths are log-normal with a median of an eighth of `longest`.
    """
    prompts = _Prompts(seed, vocab_size)
    rng, drawn, at = prompts.rng, [], 0.0
    for _ in range(requests):
        length = round(rng.lognormvariate(0, 1) * longest / 8)
        prompt = prompts.draw(min(longest, max(16, length)))
        drawn.append(TraceRequest(prompt, rng.randrange(8, 33), at=at))
        at += rng.expovariate(1) * interval
    focus = tuple(range(requests))
    return Trace(f"poisson-{requests}", seed, tuple(drawn), 8, focus, "all", objective)


def shared_load(seed: int, vocab_size: int, requests: int, prompt_tokens: int = 64) -> Trace:
    """So many equal requests at once."""
    prompts = _Prompts(seed, vocab_size)
    drawn = tuple(TraceRequest(prompts.draw(prompt_tokens), 32) for _ in range(requests))
    return Trace(f"shared-load-{requests}", seed, drawn, requests, tuple(range(requests)), "all")


def lone_prompt(seed: int, vocab_size: int, tokens: int) -> Trace:
    """One prompt by itself: what chunking costs where it gains nothing."""
    request = TraceRequest(_Prompts(seed, vocab_size).draw(tokens), 16)
    return Trace(f"lone-prompt-{tokens}", seed, (request,), 1, (0,), "all")
