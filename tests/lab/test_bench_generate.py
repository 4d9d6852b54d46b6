"""The measurement of week 1, day 6: what the book shows is what was stored."""

import importlib
import json
from types import ModuleType

import pytest

from tiny_llm_lab import PROJECT_ROOT


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.syspath_prepend(PROJECT_ROOT / "scripts")
    return importlib.import_module("bench_generate")


def test_the_books_table_and_figure_show_the_stored_result(bench: ModuleType) -> None:
    """Neither is typed: both follow from the JSON (redo them with `--redraw`)."""
    result = json.loads(bench.RESULT.read_text())
    assert bench.RESULT.with_suffix(".md").read_text() == bench.markdown(result)
    figure = PROJECT_ROOT / "book" / "src" / "figures" / "time-per-token.svg"
    assert figure.read_text() == bench.draw(result).svg()


def test_the_engines_agree_and_are_both_timed(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short run: one timing per engine and length at least, with a sensible spread."""
    monkeypatch.setattr(bench, "CONTEXTS", [8, 24])
    result = bench.measure(repetitions=2)
    rows = result["milliseconds"]
    assert [(row["context"], row["engine"]) for row in rows] == [
        (context, engine) for context in (8, 24) for engine in bench.ENGINES
    ]
    assert all(0 < row["min"] <= row["median"] <= row["max"] for row in rows)
    assert len(bench.table_rows(result)) == 3
