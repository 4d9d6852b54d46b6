"""`pdm run bench --week 2`: the engine step by step through the week, and mlx-lm beside it.

One request, greedy. Prints a table for people, then one JSON line for machines. `--save` stores
what the chapters show.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import mlx.core as mx
import typer
from mlx_lm.models.cache import make_prompt_cache
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tiny_llm_lab.bench.machine import describe_machine, machine
from tiny_llm_lab.bench.report import BENCHES, markdown_table
from tiny_llm_lab.cli import fail, run
from tiny_llm_lab.models import load_model
from tiny_llm_ref.attention import flash_attention
from tiny_llm_ref.qwen3 import Qwen3Model

WEEKS = {2: "week_2_steps"}  # the stored result of each week
# Prompt and generated tokens. The real shapes take mlx-lm's CPU path seconds per 10 tokens.
WORK = {"tiny": (256, 16), "random:qwen3-0.6b": (16, 2)}
PEER = "mlx-lm"


@dataclass(frozen=True)
class Times:
    """Seconds of one request, and the peak of MLX's memory in bytes."""

    prefill: float
    decode: float
    peak: int
    tokens: list[Any]


# Computes logits `1 x L x vocab` of the tokens after those it has seen.
Step = Callable[[mx.array], mx.array]


def engines(mlx_model: Any) -> dict[str, Callable[[], Step]]:
    """For each engine, a function that begins a request."""

    def ours(model: Qwen3Model, cached: bool) -> Callable[[], Step]:
        def begin() -> Step:
            cache = model.create_kv_cache() if cached else None
            seen: list[mx.array] = []

            def step(tokens: mx.array) -> mx.array:
                offset = sum(part.shape[1] for part in seen)
                seen.append(tokens)
                if cache is None:
                    return model(mx.concatenate(seen, axis=1))
                return model(tokens, offset, cache)

            return step

        return begin

    def peer() -> Step:
        cache = make_prompt_cache(mlx_model)
        return lambda tokens: mlx_model(tokens, cache=cache)

    dense = Qwen3Model(mlx_model)
    quantized = Qwen3Model(mlx_model, quantized=True)
    flash = Qwen3Model(mlx_model, quantized=True, attention=flash_attention)
    return {
        "week 1: no cache": ours(dense, False),
        "day 1: KV cache": ours(dense, True),
        "day 2: quantized matmul": ours(quantized, True),
        "day 4: flash attention": ours(flash, True),
        PEER: peer,
    }


def serve(begin: Callable[[], Step], prompt: mx.array, count: int) -> Times:
    """Run one request: prefill gives the first token, decoding `count` more."""
    mx.clear_cache()
    mx.reset_peak_memory()
    step = begin()
    start = time.perf_counter()
    tokens = [mx.argmax(step(prompt)[0, -1]).item()]
    middle = time.perf_counter()
    for _ in range(count):
        tokens.append(mx.argmax(step(mx.array([tokens[-1:]]))[0, -1]).item())
    end = time.perf_counter()
    return Times(middle - start, end - middle, mx.get_peak_memory(), tokens)


def measure(model: str, repetitions: int) -> dict[str, Any]:
    """Run every engine on the same request, interleaved."""
    mlx_model, tokenizer = load_model(model)
    length, count = WORK[model]
    text = "Ledger:\n" + "".join(f"oak {i}: {i * 37 % 1000}\n" for i in range(length))
    prompt = mx.array([tokenizer.encode(text, add_special_tokens=False)[:length]])
    contestants = engines(mlx_model)
    runs: dict[str, list[Times]] = {name: [] for name in contestants}
    for repetition in track(range(repetitions + 1), f"{model}: {length} + {count} tokens"):
        for name, begin in contestants.items():
            served = serve(begin, prompt, count)
            if repetition:  # the first is the warm-up
                runs[name].append(served)
    answers = {name: times[0].tokens for name, times in runs.items()}
    if model == "tiny" and len({tuple(tokens) for tokens in answers.values()}) > 1:
        fail(f"The engines disagree: {answers}", exit_code=1)
    rows = []
    for name, times in runs.items():
        row: dict[str, Any] = {"engine": name, "peak_bytes": max(t.peak for t in times)}
        for phase, tokens in (("prefill", length), ("decode", count)):
            rates = [tokens / getattr(t, phase) for t in times]
            row[phase] = {"median": statistics.median(rates), "all": rates}
        rows.append(row)
    return {"model": model, "prompt": length, "generated": count, "rows": rows}


def table_rows(result: dict[str, Any]) -> list[list[str]]:
    """A header, and one row per engine; ratios are to mlx-lm."""
    header = ["engine", "prefill, tokens/s", "to mlx-lm", "decode, tokens/s", "to mlx-lm", "peak"]
    peer = next(row for row in result["rows"] if row["engine"] == PEER)
    table = [header]
    for row in result["rows"]:
        cells = [row["engine"]]
        for phase in ("prefill", "decode"):
            rate = row[phase]["median"]
            cells += [f"{rate:,.1f}", f"{rate / peer[phase]['median']:.2f}x"]
        table.append([*cells, f"{row['peak_bytes'] / 1e6:,.0f} MB"])
    return table


def caption(result: dict[str, Any], repetitions: int) -> str:
    """What was run, where."""
    return (
        f"{result['model']}: {result['prompt']} prompt tokens, {result['generated']} generated, "
        f"greedy, one request, float32 activations; medians of {repetitions} interleaved "
        f"repetitions. {describe_machine(machine())}."
    )


def main(
    week: Annotated[int, typer.Option(help="The week to measure.")],
    model: Annotated[
        list[str] | None, typer.Option(help="tiny or random:qwen3-0.6b; both if left out.")
    ] = None,
    repetitions: Annotated[int, typer.Option(min=5, help="Of each engine.")] = 5,
    save: Annotated[
        bool, typer.Option("--save", help="For authors: store the result for the book.")
    ] = False,
) -> None:
    """Measure prefill, decode and memory from the week's first step to its last."""
    if week not in WEEKS:
        fail(f"There is no benchmark of week {week}: there is one of week 2.")
    unknown = [name for name in model or [] if name not in WORK]
    if unknown:
        fail(f"There is no work for the model {unknown[0]!r}: use {' or '.join(WORK)}.")
    console = Console()
    results = []
    pages = []
    for name in model or WORK:
        result = measure(name, repetitions)
        results.append(result)
        header, *body = table_rows(result)
        table = Table(*header)
        for cells in body:
            table.add_row(*cells)
        console.print(table)
        console.print(caption(result, repetitions))
        pages.append(f"{markdown_table([header, *body])}\n{caption(result, repetitions)}\n")
    stored = {"week": week, "repetitions": repetitions, "machine": machine(), "models": results}
    print(json.dumps(stored))
    if save:
        path = BENCHES / f"{WEEKS[week]}.json"
        path.write_text(json.dumps(stored, indent=2) + "\n")
        path.with_suffix(".md").write_text("\n".join(pages))


if __name__ == "__main__":
    run(main)
