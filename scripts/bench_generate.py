"""Time per generated token against context length: week 1's loop and mlx-lm with its KV cache.

Prints a table for people, then one JSON line for machines. The chapter of week 1, day 6 shows the
result stored with `--save`, as a Markdown table and a figure.
"""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import mlx.core as mx
import typer
from mlx_lm.models.cache import make_prompt_cache, trim_prompt_cache
from rich.console import Console
from rich.table import Table

from tiny_llm_lab import PROJECT_ROOT
from tiny_llm_lab.book.drawing import ACCENT, ACCENT_2, FIGURES, MUTED, Figure, Point
from tiny_llm_lab.cli import fail, run
from tiny_llm_lab.models import load_model
from tiny_llm_ref.qwen3 import Qwen3Model

RESULT = PROJECT_ROOT / "benches" / "week_1_generate.json"
CONTEXTS = [64, 128, 256, 512, 1024]
ENGINES = ["no cache", "KV cache (mlx-lm)"]


def machine() -> dict[str, Any]:
    """What the numbers depend on: processor, cores this process may use, device, versions."""
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        cpu = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    else:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
        cpu = next(names, platform.machine())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": cpu,
        "cores": cores,
        "os": f"{platform.system()} {platform.machine()}",
        "device": mx.default_device().type.name,
        "versions": {name: version(name) for name in ("mlx", "mlx-lm")},
    }


def make_steps(mlx_model: Any, tokens: list[int]) -> list[Callable[[], object]]:
    """One function per engine that computes the greedy token after `tokens`.

    The KV cache holds all of `tokens` but the last before the first call and after every call.
    """
    model = Qwen3Model(mlx_model)
    cache = make_prompt_cache(mlx_model)
    mx.eval(mlx_model(mx.array([tokens[:-1]]), cache=cache))

    def without_cache() -> object:
        return mx.argmax(model(mx.array([tokens]))[0, -1]).item()

    def with_cache() -> object:
        token = mx.argmax(mlx_model(mx.array([tokens[-1:]]), cache=cache)[0, -1]).item()
        trim_prompt_cache(cache, 1)
        return token

    return [without_cache, with_cache]


def measure(repetitions: int) -> dict[str, Any]:
    """Time one generation step per engine and context length, engines interleaved."""
    mlx_model, tokenizer = load_model("tiny")
    text = "Ledger:\n" + "".join(f"oak {i}: {i * 37 % 1000}\n" for i in range(max(CONTEXTS) // 4))
    tokens = tokenizer.encode(text, add_special_tokens=False)
    steps = {context: make_steps(mlx_model, tokens[:context]) for context in CONTEXTS}
    for context, (first, second) in steps.items():  # This is also the warm-up.
        if first() != second():
            fail(f"The engines disagree on the token after {context} tokens.", exit_code=1)
    times: dict[int, list[list[float]]] = {context: [[] for _ in ENGINES] for context in CONTEXTS}
    for _ in range(repetitions):
        for context in CONTEXTS:
            for step, measured in zip(steps[context], times[context], strict=True):
                start = time.perf_counter()
                step()
                measured.append(1000 * (time.perf_counter() - start))
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
            for context in CONTEXTS
            for engine, measured in zip(ENGINES, times[context], strict=True)
        ],
    }


def by_engine(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The result's rows per engine, in order of context length."""
    rows = result["milliseconds"]
    return {name: [row for row in rows if row["engine"] == name] for name in ENGINES}


def table_rows(result: dict[str, Any]) -> list[list[str]]:
    """A header, and one row per context length: medians, their growth, and the engines' ratio."""
    header = ["tokens"]
    for name in ENGINES:
        header += [f"{name}, ms", "growth"]
    table = [[*header, "ratio"]]
    for pair in zip(*by_engine(result).values(), strict=True):
        cells = [f"{pair[0]['context']:,}"]
        for row, first in zip(pair, result["milliseconds"], strict=False):
            cells += [f"{row['median']:,.1f}", f"{row['median'] / first['median']:.1f}x"]
        table.append([*cells, f"{pair[0]['median'] / pair[1]['median']:.0f}x"])
    return table


def source(result: dict[str, Any]) -> str:
    """One line on where the numbers come from and how far they spread."""
    where, rows = result["machine"], result["milliseconds"]
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    cores = "one core" if where["cores"] == 1 else f"{where['cores']} cores"
    below = max(1 - row["min"] / row["median"] for row in rows)
    above = max(row["max"] / row["median"] - 1 for row in rows)
    return (
        f"Medians of {result['repetitions']} interleaved repetitions; single timings are at most "
        f"{below:.0%} below and {above:.0%} above. {where['cpu']} ({cores}, {where['os']}, "
        f"{where['device'].upper()}), {versions}, model {result['model']}."
    )


def markdown(result: dict[str, Any]) -> str:
    """The table as the book shows it."""
    header, *body = table_rows(result)
    lines = [header, ["--:"] * len(header), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{source(result)}\n"


def draw(result: dict[str, Any]) -> Figure:
    """Milliseconds per token against context length."""
    engines = by_engine(result)
    growth = [rows[-1]["median"] / rows[0]["median"] for rows in engines.values()]
    figure = Figure(
        256,
        "Time per token against context length",
        f"From {CONTEXTS[0]} to {CONTEXTS[-1]} tokens in the context, the time per token grows "
        f"{growth[0]:.1f} times without a cache, and {growth[1]:.1f} times in mlx-lm with one.",
    )
    highest = 1.05 * max(row["max"] for row in result["milliseconds"])
    tick = next(size for size in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if highest / size <= 5)

    def spot(context: float, milliseconds: float) -> Point:
        return 46 + 292 * context / CONTEXTS[-1], 214 - 180 * milliseconds / highest

    figure.text(6, 10, "milliseconds per token", anchor="start")
    figure.text(338, 248, "tokens in the context", anchor="end")
    for milliseconds in range(0, int(highest) + 1, tick):
        x, y = spot(0, milliseconds)
        figure.line((x, y), spot(CONTEXTS[-1], milliseconds), color=MUTED, width=0.7)
        figure.text(x - 8, y, str(milliseconds), anchor="end")
    for context in CONTEXTS[1:]:
        figure.text(spot(context, 0)[0], 228, str(context))
    for (name, rows), (color, dashed, label_at) in zip(
        engines.items(), ((ACCENT, False, 3), (ACCENT_2, True, 4)), strict=True
    ):
        medians = [spot(row["context"], row["median"]) for row in rows]
        figure.line(*medians, color=color, width=2.5, dashed=dashed)
        for row, median in zip(rows, medians, strict=True):
            figure.line(*(spot(row["context"], row[end]) for end in ("min", "max")), color=color)
            figure.circle(*median, 3, fill=color)
        x, y = medians[label_at]
        figure.text(x - 6, y - 16, name, anchor="end", color=color)
    return figure


def main(
    repetitions: Annotated[int, typer.Option(min=5, help="Timings per engine and length.")] = 9,
    save: Annotated[
        bool, typer.Option("--save", help="For authors: store the result for the book.")
    ] = False,
    redraw: Annotated[
        bool, typer.Option("--redraw", help="For authors: draw the stored result; measure nothing.")
    ] = False,
) -> None:
    """Measure the time per generated token against the context length."""
    result = json.loads(RESULT.read_text()) if redraw else measure(repetitions)
    header, *body = table_rows(result)
    table = Table(*header)
    for cells in body:
        table.add_row(*cells)
    console = Console()
    console.print(table)
    console.print(source(result))
    print(json.dumps(result))
    if save or redraw:
        RESULT.write_text(json.dumps(result, indent=2) + "\n")
        RESULT.with_suffix(".md").write_text(markdown(result))
        (FIGURES / "time-per-token.svg").write_text(draw(result).svg())


if __name__ == "__main__":
    run(main)
