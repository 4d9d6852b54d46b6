"""The library behind `pdm run generate`: which of a student's generation loops it runs."""

from collections.abc import Callable
from typing import Any

import pytest

from tiny_llm_lab.generation import (
    GenerationSettings,
    chat_prompt,
    generate_with_solution,
    make_model,
)
from tiny_llm_lab.models import load_model
from tiny_llm_ref import generate, qwen3
from tiny_llm_ref.kv_cache import TinyKvFullCache

Loop = Callable[..., str]


def stub(*_: Any, **__: Any) -> Any:
    raise NotImplementedError("Week 2 Day 1")


def answer(message: str, **kernels: bool) -> tuple[str, int]:
    """What the reference says in a stream, and for how many tokens there is a time."""
    model, tokenizer = load_model("tiny")
    pieces: list[str] = []
    times = generate_with_solution(
        "tiny_llm_ref",
        make_model("tiny_llm_ref", model, **kernels),
        tokenizer,
        chat_prompt(tokenizer, message),
        GenerationSettings(max_tokens=40),
        pieces.append,
    )
    return "".join(pieces), len(times.token_times)


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the generation loops that are run, in order."""
    run: list[str] = []

    def noting(name: str, loop: Loop) -> Loop:
        def noted(*args: Any, **kwargs: Any) -> str:
            run.append(name)
            return loop(*args, **kwargs)

        return noted

    for name in ("simple_generate", "simple_generate_with_kv_cache"):
        monkeypatch.setattr(generate, name, noting(name, getattr(generate, name)))
    return run


@pytest.mark.parametrize("kernels", [{"quantized": True}, {"quantized": True, "flash": True}])
def test_the_kernels_change_no_answer(kernels: dict[str, bool]) -> None:
    message = "Count to 4."
    assert answer(message, **kernels) == answer(message)


def test_the_loop_with_the_cache_is_what_runs(loops: list[str]) -> None:
    text, timed = answer("Count to 4.")
    assert text.strip() == "1 2 3 4"
    assert timed > 0
    assert loops[0] == "simple_generate_with_kv_cache"


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (generate, "simple_generate_with_kv_cache"),
        (qwen3.Qwen3Model, "create_kv_cache"),
        (TinyKvFullCache, "update_and_fetch"),
    ],
    ids=["no-loop", "no-caches", "no-append"],
)
def test_a_student_of_week_1_still_generates(
    owner: Any, name: str, loops: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of the cache is still a stub: the same text, once, from the loop without it."""
    expected = answer("Count to 4.")
    loops.clear()
    monkeypatch.setattr(owner, name, stub)
    assert answer("Count to 4.") == expected
    assert loops[-1] == "simple_generate"


def test_a_student_before_the_loop_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """With neither loop written, the stub's own sentence comes out."""
    for name in ("simple_generate", "simple_generate_with_kv_cache"):
        monkeypatch.setattr(generate, name, stub)
    with pytest.raises(NotImplementedError, match="Week 2 Day 1"):
        answer("Count to 4.")


def test_another_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a stub leads to the loop without a cache; a mistake in the cache is shown."""

    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("a shape is wrong")

    monkeypatch.setattr(TinyKvFullCache, "update_and_fetch", broken)
    with pytest.raises(ValueError, match="a shape is wrong"):
        answer("Count to 4.")
