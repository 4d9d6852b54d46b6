"""Traces are replayed as they are written, and engines that differ are found before any timing."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import pytest

from tiny_llm_lab.bench import replay as replaying
from tiny_llm_lab.bench.engines import EngineError, IdTokenizer
from tiny_llm_lab.bench.replay import Disagreement, Tie, check_equal, repeat, replay, without_ties
from tiny_llm_lab.bench.traces import Trace, TraceRequest


class CountingEngine:
    """A token for every request in each step: 100 * request number + the number of the token.

    It is its own session. `log` holds what happened, in order.
    """

    chunk = None

    def __init__(self, name: str = "counting", wrong: dict[tuple[int, int], int] | None = None):
        self.name, self.wrong = name, wrong or {}
        self.log: list[object] = []

    def start(self, slots: int, max_seq_len: int) -> "CountingEngine":
        self.log.append(("start", slots, max_seq_len))
        self.left: list[int] = []
        self.made: list[int] = []
        return self

    def submit(self, prompt: Sequence[int], max_tokens: int) -> None:
        self.log.append(("submit", len(prompt)))
        self.left.append(max_tokens)
        self.made.append(0)

    def step(self) -> list[tuple[int, int]]:
        new = []
        for index in range(len(self.left)):
            if self.left[index]:
                at = (index, self.made[index])
                new.append((index, self.wrong.get(at, 100 * index + self.made[index])))
                self.made[index] += 1
                self.left[index] -= 1
        self.log.append(new)
        return new

    def close(self) -> None:
        self.log.append("close")


class FaultyEngine(CountingEngine):
    """An engine whose every step gives the same tokens."""

    def __init__(self, tokens: list[tuple[int, int]]):
        super().__init__("faulty")
        self.tokens = tokens

    def step(self) -> list[tuple[int, int]]:
        return self.tokens


def trace(*requests: TraceRequest, seed: int = 0) -> Trace:
    return Trace("test", seed, requests, slots=3, focus=(0,), focus_name="all")


def logits_model(gap: float) -> Any:
    """A model in which token 7 is ahead of every other by `gap`."""
    return lambda tokens: mx.where(mx.arange(500) == 7, gap, 0.0)[None, None]


def test_a_request_arrives_once_those_before_it_have_their_tokens() -> None:
    engine = CountingEngine()
    run = replay(engine, trace(TraceRequest((5,), 4), TraceRequest((5, 6), 2, after_tokens=3)))
    assert engine.log == [
        ("start", 3, 5),
        ("submit", 1),
        [(0, 0)],
        [(0, 1)],
        [(0, 2)],
        ("submit", 2),
        [(0, 3), (1, 100)],
        [(1, 101)],
        "close",
    ]
    assert run.tokens == [[0, 1, 2, 3], [100, 101]]
    assert run.times[0].arrival == 0 and run.times[1].arrival >= run.times[0].tokens[2]
    for times in run.times:
        assert times.tokens == sorted(times.tokens) and times.ttft >= 0


def test_a_request_that_waits_for_more_tokens_than_there_are_arrives_at_the_end() -> None:
    run = replay(
        CountingEngine(), trace(TraceRequest((5,), 2), TraceRequest((5,), 1, after_tokens=9))
    )
    assert run.tokens == [[0, 1], [100]]


def test_a_request_arrives_at_its_time_and_not_before() -> None:
    engine = CountingEngine()
    run = replay(engine, trace(TraceRequest((5,), 1), TraceRequest((5,), 1, at=0.02)))
    assert run.times[1].arrival == 0.02 and run.times[1].ttft >= 0
    assert engine.log[1:] == [("submit", 1), [(0, 0)], ("submit", 1), [(1, 100)], "close"]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([(1, 5)], "faulty generates a token of request 1, which does not exist."),
        ([(0, 5), (0, 5), (0, 5)], "faulty generates more than 2 tokens for request 0 of test."),
        ([], "faulty does not finish test: tokens of request 0 are still missing"),
    ],
)
def test_a_faulty_engine_is_named(tokens: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(EngineError) as raised:
        replay(FaultyEngine(tokens), trace(TraceRequest((5,), 2)))
    assert str(raised.value).startswith(message)


def test_a_wrong_token_is_found_and_named() -> None:
    engines = [
        CountingEngine("right"),
        CountingEngine("wrong", {(1, 2): 7}),
        CountingEngine("oracle"),
    ]
    requests = trace(TraceRequest((5,), 4), TraceRequest((6,), 4))
    with pytest.raises(Disagreement) as raised:
        check_equal(engines, requests, logits_model(3.0))
    assert not isinstance(raised.value, Tie)
    assert str(raised.value) == (
        "wrong and oracle disagree on token 2 of request 1 of test (seed 0): 7, not 102; their "
        "logits differ by 3, which is more than rounding."
    )
    check_equal([engines[0], engines[2]], requests, logits_model(3.0))


def test_the_logits_that_decide_are_those_after_the_common_tokens() -> None:
    seen: list[list[int]] = []

    def model(tokens: mx.array) -> mx.array:
        seen.append(tokens.tolist()[0])
        return mx.zeros((1, 1, 500))

    engines = [CountingEngine("wrong", {(0, 2): 7}), CountingEngine("oracle")]
    with pytest.raises(Tie):
        check_equal(engines, trace(TraceRequest((5, 6), 4)), model)
    assert seen == [[5, 6, 0, 1]]


def test_a_trace_that_ties_is_replaced() -> None:
    def make(seed: int) -> Trace:
        return trace(TraceRequest((5,), 2 + (seed == 0)), seed=seed)

    engines = [CountingEngine("ours", {(0, 2): 7}), CountingEngine("oracle")]
    assert without_ties(make, engines, logits_model(1e-4)).seed == 1
    with pytest.raises(Disagreement, match="more than rounding"):
        without_ties(make, engines, logits_model(1.0))
    with pytest.raises(Tie, match="which is a tie"):
        without_ties(make, engines, logits_model(1e-4), seeds=1)


def test_engines_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    real = replaying.replay
    monkeypatch.setattr(
        replaying, "replay", lambda engine, trace: ran.append(engine.name) or real(engine, trace)
    )
    engines = [CountingEngine("one"), CountingEngine("two")]
    runs = repeat(engines, trace(TraceRequest((5,), 2)), repetitions=3)
    assert ran == 3 * ["one", "two"]
    assert [len(its_runs) for its_runs in runs] == [3, 3]


def test_tokens_that_change_while_they_are_timed_are_found() -> None:
    engines = [CountingEngine("ours", {(0, 1): 7}), CountingEngine("oracle")]
    with pytest.raises(Disagreement, match="ours generated other tokens of test"):
        repeat(engines, trace(TraceRequest((5,), 2)), repetitions=1)


def test_ids_pass_through_the_tokenizer() -> None:
    tokenizer = IdTokenizer()
    assert tokenizer.encode((5, 6, 7), add_special_tokens=False) == [5, 6, 7]
    assert not tokenizer.eos_token_ids
