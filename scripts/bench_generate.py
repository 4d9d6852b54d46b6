"""Time per generated token against context length: without a cache, with one, and mlx-lm.

Prints a table for people, then one JSON line for machines. `--save` stores what each chapter shows
of the run (see `VIEWS`), as JSON, as a Markdown table and as a figure.
"""

import itertools
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import mlx.core as mx
import typer
from mlx_lm.models.cache import make_prompt_cache, trim_prompt_cache
from rich.console import Console
from rich.table import Table

from tiny_llm_lab.bench.machine import describe_machine, machine
from tiny_llm_lab.bench.report import BENCHES, markdown_table
from tiny_llm_lab.book.drawing import ACCENT, ACCENT_2, FIGURES, INK, MUTED, Figure, Point
from tiny_llm_lab.cli import fail, run
from tiny_llm_lab.models import load_model
from tiny_llm_ref.qwen3 import Qwen3Model

CONTEXTS = [64, 128, 256, 512, 1024]
ENGINES = ["no cache", "KV cache", "mlx-lm"]


@dataclass(frozen=True)
class View:
    """What one chapter shows of a run."""

    name: str  # of the stored files, without their suffix
    figure: str
    engines: list[str]
    logarithmic: bool  # the figure's axes

    @property
    def path(self) -> Path:
        """Where the result is stored; the table lies beside it."""
        return BENCHES / f"{self.name}.json"

    def of(self, result: dict[str, Any]) -> dict[str, Any]:
        """A result with this view's engines only."""
        rows = [row for row in result["milliseconds"] if row["engine"] in self.engines]
        return result | {"milliseconds": rows}


VIEWS = [
    View("week_1_generate", "time-per-token", ["no cache", "mlx-lm"], logarithmic=False),
    View("week_2_kv_cache", "time-per-token-cached", ENGINES, logarithmic=True),
]


def make_steps(
    model: Qwen3Model, mlx_model: Any, tokens: list[int]
) -> dict[str, Callable[[], object]]:
    """One function per engine that computes the greedy token after `tokens`.

    The KV caches hold all of `tokens` but the last before the first call and after every call.
    """
    cache = model.create_kv_cache()
    mlx_cache = make_prompt_cache(mlx_model)
    before = mx.array([tokens[:-1]])
    mx.eval(model(before, 0, cache), mlx_model(before, cache=mlx_cache))

    def without_cache() -> object:
        return mx.argmax(model(mx.array([tokens]))[0, -1]).item()

    def with_cache() -> object:
        logits = model(mx.array([tokens[-1:]]), len(tokens) - 1, cache)
        token = mx.argmax(logits[0, -1]).item()
        for layer_cache in cache:
            layer_cache.rewind(1)
        return token

    def mlx_lm() -> object:
        token = mx.argmax(mlx_model(mx.array([tokens[-1:]]), cache=mlx_cache)[0, -1]).item()
        trim_prompt_cache(mlx_cache, 1)
        return token

    return dict(zip(ENGINES, (without_cache, with_cache, mlx_lm), strict=True))


def measure(repetitions: int) -> dict[str, Any]:
    """Time one generation step per engine and context length, engines interleaved."""
    mlx_model, tokenizer = load_model("tiny")
    text = "Ledger:\n" + "".join(f"oak {i}: {i * 37 % 1000}\n" for i in range(max(CONTEXTS) // 4))
    tokens = tokenizer.encode(text, add_special_tokens=False)
    model = Qwen3Model(mlx_model)
    steps = {context: make_steps(model, mlx_model, tokens[:context]) for context in CONTEXTS}
    for context, engines in steps.items():  # This is also the warm-up.
        if len({step() for step in engines.values()}) > 1:
            fail(f"The engines disagree on the token after {context} tokens.", exit_code=1)
    times: dict[tuple[int, str], list[float]] = {
        (context, engine): [] for context in CONTEXTS for engine in ENGINES
    }
    for _ in range(repetitions):
        for context, engine in times:
            start = time.perf_counter()
            steps[context][engine]()
            times[context, engine].append(1000 * (time.perf_counter() - start))
    return {
        "benchmark": "time per generated token, greedy, batch of 1",
        "model": "tiny-qwen3",
        "repetitions": repetitions,
        "machine": machine(),
        "milliseconds": [
            {
                "context": context,
                "engine": engine,
                "median": round(statistics.median(measured), 2),
                "min": round(min(measured), 2),
                "max": round(max(measured), 2),
            }
            for (context, engine), measured in times.items()
        ],
    }


def by_engine(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The result's rows per engine, in order of context length."""
    engines: dict[str, list[dict[str, Any]]] = {}
    for row in result["milliseconds"]:
        engines.setdefault(row["engine"], []).append(row)
    return engines


def table_rows(result: dict[str, Any]) -> list[list[str]]:
    """A header, and one row per context length: medians, their growth, the first two's ratio."""
    engines = by_engine(result)
    header = ["tokens"]
    for name in engines:
        header += [f"{name}, ms", "growth"]
    table = [[*header, "ratio"]]
    for rows in zip(*engines.values(), strict=True):
        cells = [f"{rows[0]['context']:,}"]
        for row, (first, *_) in zip(rows, engines.values(), strict=True):
            cells += [f"{row['median']:,.1f}", f"{row['median'] / first['median']:.1f}x"]
        table.append([*cells, f"{rows[0]['median'] / rows[1]['median']:.0f}x"])
    return table


def source(result: dict[str, Any]) -> str:
    """One line on where the numbers come from and how far they spread."""
    rows = result["milliseconds"]
    below = max(1 - row["min"] / row["median"] for row in rows)
    above = max(row["max"] / row["median"] - 1 for row in rows)
    return (
        f"Medians of {result['repetitions']} interleaved repetitions; single timings are at most "
        f"{below:.0%} below and {above:.0%} above. "
        f"{describe_machine(result['machine'])}, model {result['model']}."
    )


def markdown(result: dict[str, Any]) -> str:
    """The table as the book shows it."""
    return f"{markdown_table(table_rows(result), names=0)}\n{source(result)}\n"


def draw(result: dict[str, Any], logarithmic: bool) -> Figure:
    """Milliseconds per token against context length; both axes logarithmic, or both linear."""
    engines = by_engine(result)
    growth = [
        f"{rows[-1]['median'] / rows[0]['median']:.1f} times ({name})"
        for name, rows in engines.items()
    ]
    figure = Figure(
        256,
        "Time per token against context length",
        f"From {CONTEXTS[0]} to {CONTEXTS[-1]} tokens in the context, the time per token grows "
        f"{', '.join(growth)}.",
    )
    highest = 1.05 * max(row["max"] for row in result["milliseconds"])
    lowest = min(row["min"] for row in result["milliseconds"])
    if logarithmic:
        decades = range(math.floor(math.log10(lowest)), math.floor(math.log10(highest)) + 1)
        ticks = [10**power for power in decades]
        left, right, bottom, top = (
            math.log10(end) for end in (CONTEXTS[0], CONTEXTS[-1], ticks[0], highest)
        )
    else:
        steps = (digit * 10**power for power in itertools.count() for digit in (1, 2, 5))
        step = next(step for step in steps if highest / step <= 5)
        ticks = list(range(0, int(highest) + 1, step))
        left, right, bottom, top = 0, CONTEXTS[-1], 0, highest

    def spot(context: float, milliseconds: float) -> Point:
        if logarithmic:
            context, milliseconds = math.log10(context), math.log10(milliseconds)
        x, y = (context - left) / (right - left), (milliseconds - bottom) / (top - bottom)
        return 46 + 292 * x, 214 - 180 * y

    figure.text(6, 10, "milliseconds per token", anchor="start")
    figure.text(338, 248, "tokens in the context", anchor="end")
    for milliseconds in ticks:
        y = spot(CONTEXTS[0], milliseconds)[1]
        figure.line((46, y), (338, y), color=MUTED, width=0.7)
        figure.text(38, y, f"{milliseconds:g}", anchor="end")
    for context in CONTEXTS if logarithmic else CONTEXTS[1:]:
        figure.text(spot(context, ticks[-1])[0], 228, str(context))
    styles = {"no cache": (ACCENT, False), "KV cache": (INK, False), "mlx-lm": (ACCENT_2, True)}
    for name, rows in engines.items():
        color, dashed = styles[name]
        medians = [spot(row["context"], row["median"]) for row in rows]
        figure.line(*medians, color=color, width=2.5, dashed=dashed)
        for row, median in zip(rows, medians, strict=True):
            figure.line(*(spot(row["context"], row[end]) for end in ("min", "max")), color=color)
            figure.circle(*median, 3, fill=color)
        # Above its line, or below it where another one runs close above.
        x, y = medians[-2] if name == "no cache" else medians[-1]
        below = name == "mlx-lm" and len(engines) > 2
        figure.text(x - 6, y + (18 if below else -16), name, anchor="end", color=color)
    return figure


def store(result: dict[str, Any], view: View) -> None:
    """Write what a chapter shows: the numbers, the table, the figure."""
    view.path.write_text(json.dumps(result, indent=2) + "\n")
    view.path.with_suffix(".md").write_text(markdown(result))
    (FIGURES / f"{view.figure}.svg").write_text(draw(result, view.logarithmic).svg())


def main(
    repetitions: Annotated[int, typer.Option(min=5, help="Timings per engine and length.")] = 9,
    save: Annotated[
        bool, typer.Option("--save", help="For authors: store the result for the book.")
    ] = False,
    redraw: Annotated[
        bool, typer.Option("--redraw", help="For authors: draw what is stored; measure nothing.")
    ] = False,
) -> None:
    """Measure the time per generated token against the context length."""
    if redraw:
        for view in VIEWS:
            store(json.loads(view.path.read_text()), view)
        return
    result = measure(repetitions)
    header, *body = table_rows(result)
    table = Table(*header)
    for cells in body:
        table.add_row(*cells)
    console = Console()
    console.print(table)
    console.print(source(result))
    print(json.dumps(result))
    if save:
        for view in VIEWS:
            store(view.of(result), view)


if __name__ == "__main__":
    run(main)
