"""The benchmark of chunked prefill: a miniature run, its tables and figures, its command."""

import importlib
import json
from types import ModuleType
from typing import Any

import mlx.core as mx
import pytest
import typer
from typer.testing import CliRunner

import tiny_llm_ref.qwen3
from tiny_llm_lab import PROJECT_ROOT, models
from tiny_llm_lab.bench import chunked_prefill, report
from tiny_llm_lab.bench.chunked_prefill import DEFAULT_CHUNK, PARTS, ChunkedPrefillBenchmark, Size
from tiny_llm_lab.bench.costs import peak_memory
from tiny_llm_lab.bench.engines import EngineError, MlxLmEngine, SolutionEngine, solution_model
from tiny_llm_lab.bench.replay import Disagreement

SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "intermediate_size": 64,
    "vocab_size": 96,
}
SIZE = Size(
    name="test",
    sweep=(2, 160),
    chunks=(64, DEFAULT_CHUNK, 512),
    attacks=((1, 40),),
    mixed=50,
    behind=60,
    arrivals=(4, 32),
    loads=(1, 3),
    lone=150,
    memory=(96, 192),
    active=(3, 20),
)


@pytest.fixture(scope="module")
def model() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.RANDOM_MODELS, "random:test", SHAPE)
        return models.load_model("random:test")[0]


def benchmark(model: Any, repetitions: int = 1) -> ChunkedPrefillBenchmark:
    return ChunkedPrefillBenchmark(
        "random:test", model, "tiny_llm_ref", "reference", SIZE, repetitions
    )


@pytest.fixture(scope="module")
def result(model: Any) -> dict[str, Any]:
    return json.loads(json.dumps(benchmark(model).measure()))


def test_all_parts_are_measured(result: dict[str, Any]) -> None:
    names = [trace["trace"] for trace in result["traces"]]
    assert names == [
        "victim-and-attacker-2-160",
        "victim-and-attacker-1-40",
        "mixed-lengths-50",
        "short-behind-long-60",
        "poisson-4",
        "shared-load-1",
        "shared-load-3",
        "lone-prompt-150",
    ]
    for trace in result["traces"]:
        assert trace["rows"][-1]["engine"] == "mlx-lm"
        for row in trace["rows"]:
            for name, value in row.items():
                if name not in ("engine", "chunk"):
                    assert 0 <= value["min"] <= value["median"] <= value["max"], name
            assert row["largest_gap"]["max"] <= row["itl_max"]["max"]
        assert trace["ratios"]["tokens_per_second"] > 0
    sweep, *_ = result["traces"]
    assert [row["chunk"] for row in sweep["rows"]] == [64, 128, None, None]
    assert sweep["ratios"]["seconds_over_whole_prompt"] > 0
    assert result["machine"]["blas"] and result["repetitions"] == 1
    assert result["scheduler"]["active"] == 3 and result["scheduler"]["waiting"] == 20
    assert len(result["memory"]) == 3 * 2
    assert all(row["peak_bytes"] > 0 for row in result["memory"])
    assert len(result["timelines"]) == 3


def test_tables_show_every_engine_and_trace(result: dict[str, Any]) -> None:
    sweep, *others = result["traces"]
    assert [row[0] for row in report.sweep_cells(sweep)[1:]] == [
        "64",
        "128",
        "whole prompt",
        "mlx-lm",
    ]
    assert len(report.ratio_cells(result)) == 1 + len(others) + 1
    poisson = next(trace for trace in others if trace["trace"] == "poisson-4")
    assert report.trace_cells(poisson)[0][-1] == "within objective"
    for trace in result["traces"]:
        assert len({len(row) for row in report.trace_cells(trace)}) == 1
    text = report.markdown(result)
    for part in ("sweep", "ratios", "overhead", "poisson-4", "scheduler", "memory", "source"):
        assert f"<!-- ANCHOR: {part} -->\n" in text and f"<!-- ANCHOR_END: {part} -->\n" in text


def test_a_table_for_the_book_aligns_numbers_right() -> None:
    table = report.markdown_table([["engine", "ms"], ["a", "1"], ["b", "20"]])
    assert table == "| engine | ms |\n| --- | --: |\n| a | 1 |\n| b | 20 |\n"


def test_figures_show_every_engine(result: dict[str, Any]) -> None:
    trade_off = report.draw_trade_off(result).svg()
    for text in (">64<", ">128<", ">whole<", "mlx-lm", "160 tokens"):
        assert text in trade_off
    stream = report.draw_frozen_stream(result).svg()
    places = [
        stream.index(f">{name}<")
        for name in ("reference, whole prompt", "reference, chunk 128", "mlx-lm")
    ]
    assert places == sorted(places)


def test_the_books_tables_and_figures_show_the_stored_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is typed: all of it follows from the JSON (redo it with `--redraw`)."""
    path = report.BENCHES / "week_2_chunked_prefill.json"
    if not path.exists():
        pytest.skip("there is no stored result yet")
    result = json.loads(path.read_text())
    assert result["model"] == "tiny" and not result["quick"] and result["repetitions"] >= 5
    assert path.with_suffix(".md").read_text() == report.markdown(result)
    figures = PROJECT_ROOT / "book" / "src" / "figures"
    for name, figure in (
        ("chunk-size-trade-off", report.draw_trade_off(result)),
        ("frozen-stream", report.draw_frozen_stream(result)),
    ):
        assert (figures / f"{name}.svg").read_text() == figure.svg()


def test_a_whole_prompt_takes_more_memory_than_chunks(model: Any) -> None:
    """And more the longer it is; a chunk's share is the cache, which grows with the prompt."""
    ours = solution_model("tiny_llm_ref", model)
    chunks, whole = (SolutionEngine("", "tiny_llm_ref", ours, chunk) for chunk in (32, None))
    assert peak_memory(whole, 1024, 96) > 3 * peak_memory(chunks, 1024, 96)
    assert peak_memory(MlxLmEngine(model), 1024, 96) > 0


def test_a_prompt_too_large_for_the_machine_is_left_out(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked_prefill.os, "sysconf", lambda _: 100)
    rows = benchmark(model).measure(["memory"])["memory"]
    assert [row["peak_bytes"] is None for row in rows] == 3 * [False, True]
    assert "too large" in report.memory_cells({"memory": rows})[1]


def test_a_wrong_solution_is_not_timed(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An offset that stands still, as a model notices it."""
    real = tiny_llm_ref.qwen3.Qwen3Model.__call__

    def wrong(self: Any, inputs: mx.array, offset: Any = 0, cache: Any = None) -> mx.array:
        return real(self, inputs, 0 if isinstance(offset, int) else offset, cache)

    monkeypatch.setattr(tiny_llm_ref.qwen3.Qwen3Model, "__call__", wrong)
    with pytest.raises(Disagreement, match=r"reference, chunk 64 and mlx-lm disagree .* of victim"):
        benchmark(model).measure(["victim-and-attacker"])


def test_a_failing_solution_is_named(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("no reason")

    monkeypatch.setattr(tiny_llm_ref.qwen3.Qwen3Model, "__call__", fails)
    with pytest.raises(EngineError, match=r"reference, chunk 128: request 0 failed: .*no reason"):
        benchmark(model).measure(["lone-prompt"])


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.syspath_prepend(PROJECT_ROOT / "scripts")
    return importlib.import_module("bench_chunked_prefill")


def test_the_command_prints_tables_then_one_json_line(
    script: ModuleType,
    model: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(models, "load_model", lambda name: (model, None))
    monkeypatch.setattr(chunked_prefill, "QUICK", SIZE)
    script.main(model="random:test", trace=["lone-prompt", "memory"], chunk=None, quick=True)
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(lines[-1])
    assert [trace["trace"] for trace in result["traces"]] == ["lone-prompt-150"]
    assert "memory" in result and "scheduler" not in result
    assert any("A quick run" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--repetitions", "3"), "--repetitions must be at least 5, but is 3."),
        (("--chunk", "0"), "--chunk must be at least 1, but is 0."),
        (("--trace", "nothing"), f"--trace must be one of {', '.join(PARTS)}, but is nothing."),
        (("--quick", "--save"), "--quick measures too little for --full or --save"),
        (("--save", "--trace", "memory"), "--save stores all parts: leave out --trace."),
        (("--model", "huge"), "There is no model named 'huge'"),
    ],
)
def test_bad_options_are_one_sentence(
    script: ModuleType, arguments: tuple[str, ...], message: str
) -> None:
    app = typer.Typer()
    app.command()(script.main)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code != 0 and done.stdout == ""
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
