"""The analysis of when chunked prefill pays: a miniature run, tables, figure, command."""

import importlib.util
import json
import re
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from tiny_llm_lab import PROJECT_ROOT, models

SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "intermediate_size": 64,
    "vocab_size": 96,
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = PROJECT_ROOT / "scripts" / "analyze_chunked_prefill.py"
    spec = importlib.util.spec_from_file_location("analyze_chunked_prefill", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def result(script: ModuleType) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.RANDOM_MODELS, "random:test", SHAPE)
        for name, value in (
            ("FITTED", [(0, 8, 0), (64, 8, 0), (64, 32, 0), (32, 0, 1), (64, 0, 4)]),
            ("HELD_OUT", [(32, 16, 0), (64, 0, 2)]),
            ("LENGTHS", [16, 32, 64, 96]),
            ("DEFAULT_CHUNK", 32),
            ("STREAMS", 2),
            ("PROMPT", 96),
            ("OVERLAPPED", [16]),
        ):
            patch.setattr(script, name, value)
        return json.loads(json.dumps(script.measure("random:test", 0.1, 1, lambda part: None)))


def test_everything_is_measured(result: dict[str, Any]) -> None:
    assert len(result["passes"]) == 7
    assert sum(row["held_out"] for row in result["passes"]) == 2
    assert all(row["predicted"] >= 0 for row in result["passes"])
    assert result["errors"]["held_out"]["passes"] == 2
    assert [row["tokens"] for row in result["lengths"]] == [16, 32, 64, 96]
    for row in result["lengths"]:
        assert 0 < row["longest_chunk"]["median"] <= row["chunked"]["max"]
    assert [row["engine"] for row in result["blocking"]] == [
        "whole prompt",
        "chunks of 32",
        "by deadline, 100 ms",
    ]
    for row in result["blocking"]:
        assert 0 < row["largest_gap"]["median"] < row["seconds"]["median"]
    assert 1 <= result["threshold"] <= 96
    assert result["memory_saved"][0]["bytes"] == 0 < result["memory_saved"][-1]["bytes"]


def test_tables_are_rectangular(script: ModuleType, result: dict[str, Any]) -> None:
    for _, cells in script.TABLES.values():
        assert len({len(row) for row in cells(result)}) == 1


def test_the_chapter_includes_what_there_is(script: ModuleType, result: dict[str, Any]) -> None:
    text = script.markdown(result)
    chapter = (PROJECT_ROOT / "book" / "src" / "week-2-day-8.md").read_text()
    included = re.findall(rf"{script.NAME}\.md:(\w+)", chapter)
    assert set(included) == {*script.TABLES, *script.SENTENCES}
    for name in included:
        assert f"<!-- ANCHOR: {name} -->\n" in text and f"<!-- ANCHOR_END: {name} -->\n" in text


def row(tokens: int, whole: float, chunked: float, longest: float) -> dict[str, Any]:
    times = {"whole": whole, "chunked": chunked, "longest_chunk": longest}
    return {"tokens": tokens, **{name: {"median": value} for name, value in times.items()}}


@pytest.mark.parametrize(
    "rows, expected",
    [
        ([row(128, 1, 1, 0.1), row(256, 2, 2.5, 1), row(512, 4, 5, 1)], 256),
        ([row(128, 1, 1, 0.1), row(256, 2, 3.5, 1), row(512, 4, 5, 1)], 512),
        ([row(128, 1, 1, 0.1), row(256, 2, 1.9, 1.0), row(512, 4, 9, 1)], None),
        ([row(256, 2, 1.9, 1.0)], 256),
    ],
)
def test_from_which_length_on_it_pays(
    script: ModuleType, rows: list[dict[str, Any]], expected: int | None
) -> None:
    assert script.pays_from(rows) == expected


def test_the_sentence_about_it(script: ModuleType) -> None:
    rows = [{"tokens": tokens} for tokens in (64, 192, 256)]
    shared = {"chunk": 128, "lengths": rows, "threshold": 300, "streams": 4, "gap": 0.1}
    for first, text in ((256, "at 192 they do not"), (192, "no shorter"), (None, "At none of")):
        assert text in script.pays_sentence({**shared, "pays_from": first})


def test_the_figure(script: ModuleType, result: dict[str, Any]) -> None:
    svg = script.draw(result).svg()
    for text in (">whole prompt<", ">all chunks<", ">longest chunk<", ">96<"):
        assert text in svg


def test_the_books_tables_and_figure_show_the_stored_result(script: ModuleType) -> None:
    """Nothing is typed: all of it follows from the JSON (redo it with `--redraw`)."""
    path = script.BENCHES / f"{script.NAME}.json"
    stored = json.loads(path.read_text())
    assert stored["model"] == "tiny" and stored["repetitions"] >= 5
    assert path.with_suffix(".md").read_text() == script.markdown(stored)
    assert (script.FIGURES / f"{script.FIGURE}.svg").read_text() == script.draw(stored).svg()


@pytest.mark.parametrize(
    "options, message", [(["--gap", "0"], "--gap"), (["--model", "none"], "none")]
)
def test_wrong_options_are_one_sentence(
    script: ModuleType, options: list[str], message: str
) -> None:
    import typer

    app = typer.Typer()
    app.command()(script.main)
    answer = CliRunner().invoke(app, options)
    assert answer.exit_code != 0
    assert message in answer.output and "Traceback" not in answer.output
