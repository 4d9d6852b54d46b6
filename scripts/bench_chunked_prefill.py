"""`pdm run bench-chunked-prefill`: what chunked prefill gains and costs, beside mlx-lm.

Prints tables for people, then one JSON line for machines. `--save` stores what the chapter shows:
the numbers as JSON, the tables as Markdown, and the figures.
"""

import dataclasses
import json
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tiny_llm_lab.cli import fail, fail_of_student, run, use_solution
from tiny_llm_lab.course.solution import REFERENCE, STUDENT

NAME = "week_2_chunked_prefill"
FEWEST_REPETITIONS = 5


class Solution(StrEnum):
    """Whose scheduler is measured."""

    student = "student"
    ref = "ref"


PACKAGES = {Solution.student: STUDENT, Solution.ref: REFERENCE}
NAMES = {Solution.student: "your solution", Solution.ref: "reference"}


def show(result: dict[str, Any], console: Console) -> None:
    """Print the tables for people."""
    from tiny_llm_lab.bench import report

    def table(title: str, cells: list[list[str]]) -> None:
        header, *body = cells
        shown = Table(*header, title=title, title_justify="left")
        for line in body:
            shown.add_row(*line)
        console.print(shown)

    sweep = report.swept_trace(result)
    if sweep is not None:
        table(f"{sweep['trace']}, by chunk size", report.sweep_cells(sweep))
    for trace in result["traces"]:
        table(f"{trace['trace']} (latencies: p50 / p95 / p99 / max)", report.trace_cells(trace))
    if result["traces"]:
        title = f"{result['solution']}, chunk {result['default_chunk']}, over mlx-lm"
        table(title, report.ratio_cells(result))
        for sentence in report.overhead_sentences(result):
            console.print(sentence)
    if "scheduler" in result:
        console.print(report.scheduler_sentence(result))
    if "memory" in result:
        table("", report.memory_cells(result))
    console.print(report.source(result))


def store(result: dict[str, Any]) -> None:
    """Write what the chapter shows: the numbers, the tables, the figures."""
    from tiny_llm_lab.bench import report
    from tiny_llm_lab.book.drawing import FIGURES

    path = report.BENCHES / f"{NAME}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(report.markdown(result))
    (FIGURES / "chunk-size-trade-off.svg").write_text(report.draw_trade_off(result).svg())
    (FIGURES / "frozen-stream.svg").write_text(report.draw_frozen_stream(result).svg())


def main(
    model: Annotated[
        str,
        typer.Option(help="tiny (embedded), random:small, random:qwen3-0.6b, or as in generate."),
    ] = "tiny",
    trace: Annotated[
        list[str] | None, typer.Option(help="Measure only this part; may be repeated.")
    ] = None,
    chunk: Annotated[
        list[int] | None, typer.Option(help="Chunk sizes of the sweep; may be repeated.")
    ] = None,
    solution: Annotated[
        Solution, typer.Option(help="Your scheduler, or the reference's.")
    ] = Solution.ref,
    repetitions: Annotated[int, typer.Option(help="Runs of every engine and trace.")] = 5,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small traces, two repetitions: does it run?")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="All sizes, up to 8,192 tokens: more than an hour.")
    ] = False,
    save: Annotated[
        bool, typer.Option("--save", help="For authors: store the result for the book.")
    ] = False,
    redraw: Annotated[
        bool, typer.Option("--redraw", help="For authors: draw what is stored; measure nothing.")
    ] = False,
) -> None:
    """Measure chunked prefill: latencies and throughput on request traces, time and memory."""
    if quick and (full or save):
        fail("--quick measures too little for --full or --save: leave one of them out.")
    if repetitions < FEWEST_REPETITIONS:
        fail(f"--repetitions must be at least {FEWEST_REPETITIONS}, but is {repetitions}.")
    if any(size < 1 for size in chunk or []):
        fail(f"--chunk must be at least 1, but is {min(chunk or [])}.")
    if solution is Solution.student:
        use_solution(PACKAGES[solution])

    # Not above: these take a second or two, which --help and a wrong option need not cost.
    from tiny_llm_lab.bench import chunked_prefill, report
    from tiny_llm_lab.bench.engines import EngineError
    from tiny_llm_lab.bench.replay import Disagreement
    from tiny_llm_lab.models import ModelError, load_model

    if redraw:
        store(json.loads((report.BENCHES / f"{NAME}.json").read_text()))
        return
    unknown = [part for part in trace or [] if part not in chunked_prefill.PARTS]
    if unknown:
        fail(f"--trace must be one of {', '.join(chunked_prefill.PARTS)}, but is {unknown[0]}.")
    if save and trace:
        fail("--save stores all parts: leave out --trace.")
    size = chunked_prefill.DEFAULT
    if quick:
        size, repetitions = chunked_prefill.QUICK, 2
    elif full:
        size = chunked_prefill.FULL
    if chunk:
        size = dataclasses.replace(size, chunks=tuple(sorted(set(chunk))))
    try:
        mlx_model, _ = load_model(model)
    except ModelError as error:
        fail(str(error), exit_code=1)

    progress = Console(stderr=True)
    try:
        bench = chunked_prefill.ChunkedPrefillBenchmark(
            model,
            mlx_model,
            PACKAGES[solution],
            NAMES[solution],
            size,
            repetitions,
            on_part=lambda part: progress.print(f"measuring {part} ...", style="dim"),
        )
        result = bench.measure(trace or chunked_prefill.PARTS)
    except (Disagreement, EngineError) as error:
        fail(str(error), exit_code=1)
    except Exception as error:
        if solution is not Solution.student:
            raise
        fail_of_student(error)
    show(result, Console())
    print(json.dumps(result))
    if save:
        store(result)


if __name__ == "__main__":
    run(main)
