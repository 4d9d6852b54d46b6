"""Time per generated token against context length: week 1's loop and mlx-lm with its KV cache.

Prints a table for people, then one JSON line for machines. `--output` stores the result and
draws what the chapter of week 1, day 6 shows: a Markdown table and a figure.
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
from tiny_llm_lab.models import load_model
from tiny_llm_ref.qwen3 import Qwen3Model

FIGURE = Path("book/src/figures/time-per-token.svg")
CONTEXTS = [64, 128, 256, 512, 1024]
# Each engine's name, its color in the figure, and whether its curve is dashed.
ENGINES = {
    "no cache (week 1)": ("--fig-accent, #b4460a", ""),
    "mlx-lm, KV cache": ("--fig-accent-2, #1a6fb0", "6 4"),
}


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
            raise SystemExit(f"the engines disagree on the token after {context} tokens")
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
    """A header and one row per context length: the medians, the spreads, and their ratio."""
    header = ["tokens"]
    for name in ENGINES:
        header += [f"{name}: ms (min to max)", "growth"]
    table = [[*header, "ratio"]]
    for pair in zip(*by_engine(result).values(), strict=True):
        cells = [f"{pair[0]['context']:,}"]
        for row, first in zip(pair, result["milliseconds"], strict=False):
            cells.append(f"{row['median']:.1f} ({row['min']:.1f} to {row['max']:.1f})")
            cells.append(f"{row['median'] / first['median']:.1f} x")
        table.append([*cells, f"{pair[0]['median'] / pair[1]['median']:.0f} x"])
    return table


def markdown(result: dict[str, Any]) -> str:
    """The table as the book shows it, with a line on where the numbers come from."""
    header, *body = table_rows(result)
    lines = [header, ["--:"] * len(header), *body]
    where = result["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    cores = "one core" if where["cores"] == 1 else f"{where['cores']} cores"
    source = (
        f"Median of {result['repetitions']} interleaved repetitions on {where['cpu']} ({cores}, "
        f"{where['os']}, {where['device']}), {versions}; model `{result['model']}`."
    )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{source}\n"


def figure(result: dict[str, Any]) -> str:
    """Milliseconds per token against context length, as an SVG that follows the book's theme."""
    left, right, top, bottom = 46, 338, 34, 214
    engines = by_engine(result)
    longest = max(CONTEXTS)
    highest = max(row["max"] for row in result["milliseconds"])
    tick = next(t for t in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if highest / t <= 5)

    def x(context: float) -> float:
        return left + (right - left) * context / longest

    def y(milliseconds: float) -> float:
        return bottom - (bottom - top) * milliseconds / (highest * 1.05)

    ratio = [round(rows[-1]["median"] / rows[0]["median"], 1) for rows in engines.values()]
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 360 262" role="img" '
        'font-size="13" fill="currentColor" style="font-family: inherit">',
        "<title>Time per token against context length</title>",
        f"<desc>Without a cache a token at context {longest} takes {ratio[0]} times as long as at "
        f"context {CONTEXTS[0]}; with mlx-lm's cache {ratio[1]} times.</desc>",
        '<g stroke="var(--fig-muted, #777)" stroke-width="1" opacity="0.5">',
        *(
            f'<path d="M{left} {y(v):.1f}H{right}"/>'
            for v in range(0, int(highest * 1.05) + 1, tick)
        ),
        "</g>",
        *(
            f'<text x="{left - 8}" y="{y(v) + 4:.1f}" text-anchor="end">{v}</text>'
            for v in range(0, int(highest * 1.05) + 1, tick)
        ),
        *(
            f'<text x="{x(c):.1f}" y="{bottom + 18}" text-anchor="middle">{c}</text>'
            for c in CONTEXTS[1:]
        ),
        f'<text x="{left - 40}" y="16">milliseconds per token</text>',
        f'<text x="{right}" y="{bottom + 40}" text-anchor="end">tokens in the context</text>',
    ]
    for (name, rows), (color, dash) in zip(engines.items(), ENGINES.values(), strict=True):
        points = " ".join(f"{x(row['context']):.1f},{y(row['median']):.1f}" for row in rows)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="var({color})" stroke-width="2.5" '
            f'stroke-dasharray="{dash}"/>'
        )
        for row in rows:
            at = x(row["context"])
            parts.append(
                f'<path d="M{at:.1f} {y(row["min"]):.1f}V{y(row["max"]):.1f}" '
                f'stroke="var({color})"/>'
                f'<circle cx="{at:.1f}" cy="{y(row["median"]):.1f}" r="3.5" fill="var({color})"/>'
            )
        label = y(rows[-1]["median"]) - 12 if dash else y(rows[3]["median"]) - 12
        parts.append(
            f'<text x="{right if dash else x(CONTEXTS[3])}" y="{label:.1f}" fill="var({color})" '
            f'text-anchor="end">{name}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def main(
    repetitions: Annotated[int, typer.Option(min=5, help="Timings per engine and length.")] = 9,
    output: Annotated[
        Path | None, typer.Option(help="Store the result here, with table and figure.")
    ] = None,
    redraw: Annotated[
        bool, typer.Option(help="Draw table and figure anew from --output; measure nothing.")
    ] = False,
) -> None:
    """Measure the time per generated token against the context length."""
    if redraw and (output is None or not output.is_file()):
        raise typer.BadParameter("--redraw needs --output with a stored result")
    result = json.loads(output.read_text()) if redraw and output else measure(repetitions)
    header, *body = table_rows(result)
    table = Table(*header)
    for cells in body:
        table.add_row(*cells)
    Console().print(table)
    print(json.dumps(result))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=2) + "\n")
        output.with_suffix(".md").write_text(markdown(result))
        FIGURE.write_text(figure(result))


if __name__ == "__main__":
    typer.run(main)
