"""The measurement of the time per token: what the book shows is what was stored."""

import importlib
import json
from types import ModuleType

import pytest
import typer

from tiny_llm_lab import PROJECT_ROOT


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.syspath_prepend(PROJECT_ROOT / "scripts")
    return importlib.import_module("bench_generate")


@pytest.mark.parametrize("index", [0, 1], ids=["week 1", "week 2"])
def test_the_books_tables_and_figures_show_the_stored_results(
    bench: ModuleType, index: int
) -> None:
    """Neither is typed: both follow from the JSON (redo them with `--redraw`)."""
    view = bench.VIEWS[index]
    result = json.loads(view.path.read_text())
    assert list(bench.by_engine(result)) == view.engines
    assert view.path.with_suffix(".md").read_text() == bench.markdown(result)
    figure = PROJECT_ROOT / "book" / "src" / "figures" / f"{view.figure}.svg"
    assert figure.read_text() == bench.draw(result, view.logarithmic).svg()


def test_the_engines_agree_and_all_are_timed(
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


def test_a_view_keeps_its_engines_only(bench: ModuleType) -> None:
    """One run serves the chapters of both weeks."""
    week_1, week_2 = bench.VIEWS
    result = json.loads(week_2.path.read_text())
    assert list(bench.by_engine(week_1.of(result))) == ["no cache", "mlx-lm"]


def test_engines_that_disagree_are_not_timed(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The greedy token is compared before any timing."""
    steps = {name: (lambda token=index: token) for index, name in enumerate(bench.ENGINES)}
    monkeypatch.setattr(bench, "make_steps", lambda *_: steps)
    with pytest.raises(typer.Exit):
        bench.measure(repetitions=1)
    assert "disagree on the token after 64 tokens" in capsys.readouterr().err
