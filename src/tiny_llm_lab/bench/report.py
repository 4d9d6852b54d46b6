"""Tables and figures of the benchmark of chunked prefill.

Tables are lists of rows of text, the header first, so that a terminal and the book show the same.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from tiny_llm_lab import PROJECT_ROOT
from tiny_llm_lab.book.drawing import ACCENT, ACCENT_2, INK, MUTED, Figure, Point

from .machine import describe_machine
from .metrics import PERCENTILES

BENCHES = PROJECT_ROOT / "benches"

Cells = list[list[str]]


def markdown_table(cells: Sequence[Sequence[str]], names: int = 1) -> str:
    """A table for the book; all columns but the first `names` are numbers, aligned right."""
    header, *body = cells
    rule = ["---"] * names + ["--:"] * (len(header) - names)
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, rule, *body]) + "\n"


def trace_cells(trace: dict[str, Any]) -> Cells:
    """One row per engine; latencies as p50 / p95 / p99 / max. TTFT is that of the focus."""
    header = [
        "engine",
        f"TTFT of {trace['focus']}, ms",
        "ITL, ms",
        "largest gap, ms",
        "tokens/s",
        "seconds",
    ]
    has_objective = "objective" in trace
    cells = [[*header, "within objective"] if has_objective else header]
    for row in trace["rows"]:
        cells.append(
            [
                row["engine"],
                _spread(row, "focus_ttft"),
                _spread(row, "itl"),
                _milliseconds(row["largest_gap"]["median"]),
                f"{row['tokens_per_second']['median']:,.1f}",
                f"{row['seconds']['median']:.2f}",
            ]
        )
        if has_objective:
            cells[-1].append(f"{row['within_objective']['median']:.0%}")
    return cells


def sweep_cells(trace: dict[str, Any]) -> Cells:
    """One row per chunk size, and mlx-lm: what the victims notice and what the attacker does."""
    cells = [["chunk", "largest gap, ms", "attacker's TTFT, ms", "tokens/s", "seconds"]]
    for row in trace["rows"]:
        cells.append(
            [
                _short_name(row),
                _milliseconds(row["largest_gap"]["median"]),
                _milliseconds(row["focus_ttft_max"]["median"]),
                f"{row['tokens_per_second']['median']:,.1f}",
                f"{row['seconds']['median']:.2f}",
            ]
        )
    return cells


def ratio_cells(result: dict[str, Any]) -> Cells:
    """One row per trace: the solution at its default chunk size over mlx-lm."""
    header = ["trace", "TTFT of", "p50", "max", "largest gap", "tokens/s"]
    metrics = ("focus_ttft_p50", "focus_ttft_max", "largest_gap", "tokens_per_second")
    return [
        header,
        *(
            [
                trace["trace"],
                trace["focus"],
                *(_ratio(trace["ratios"].get(metric)) for metric in metrics),
            ]
            for trace in result["traces"]
        ),
    ]


def memory_cells(result: dict[str, Any]) -> Cells:
    """One row per engine, one column per prompt length: peak memory in MB."""
    lengths = sorted({row["tokens"] for row in result["memory"]})
    peaks = {(row["engine"], row["tokens"]): row["peak_bytes"] for row in result["memory"]}
    cells = [["peak memory, MB", *(f"{tokens:,} tokens" for tokens in lengths)]]
    for engine in dict.fromkeys(row["engine"] for row in result["memory"]):
        found = [peaks.get((engine, tokens)) for tokens in lengths]
        cells.append([engine, *("too large" if p is None else f"{p / 1e6:,.1f}" for p in found)])
    return cells


def scheduler_sentence(result: dict[str, Any]) -> str:
    """What the scheduler itself costs, in two sentences."""
    found = result["scheduler"]
    return (
        f"With {found['active']} requests in slots, a step takes "
        f"{found['step']['median']:.1f} ms; without a model it takes "
        f"{found['host']['median']:.2f} ms ({found['share']:.1%}). With {found['waiting']:,} more "
        f"requests in the queue, it takes {found['host_with_queue']['median']:.2f} ms."
    )


def overhead_sentences(result: dict[str, Any]) -> list[str]:
    """What the default chunk size costs in total time against whole prompts, per trace."""
    return [
        f"{trace['trace']}: chunks of {result['default_chunk']} take "
        f"{_ratio(trace['ratios']['seconds_over_whole_prompt'])} the time of whole prompts."
        for trace in result["traces"]
        if "seconds_over_whole_prompt" in trace["ratios"]
    ]


def source(result: dict[str, Any]) -> str:
    """One line on where the numbers come from and how far they spread."""
    spreads = [
        row[name]
        for trace in result["traces"]
        for row in trace["rows"]
        for name in ("seconds", "focus_ttft_max", "largest_gap")
    ]
    line = f"{describe_machine(result['machine'])}, model {result['model']}."
    if spreads:
        below = max((1 - s["min"] / s["median"] for s in spreads if s["median"]), default=0)
        above = max((s["max"] / s["median"] - 1 for s in spreads if s["median"]), default=0)
        line = (
            f"Medians of {result['repetitions']} interleaved repetitions; single runs are at most "
            f"{below:.0%} below and {above:.0%} above. {line}"
        )
    return f"A quick run, on small traces: not for comparisons. {line}" if result["quick"] else line


def markdown(result: dict[str, Any]) -> str:
    """What the book shows, in parts that a chapter includes by anchor."""
    parts = {}
    sweep = swept_trace(result)
    if sweep is not None:
        parts["sweep"] = markdown_table(sweep_cells(sweep))
    if result["traces"]:
        parts["ratios"] = markdown_table(ratio_cells(result), names=2)
        parts["overhead"] = "\n".join(f"- {line}" for line in overhead_sentences(result)) + "\n"
    for trace in result["traces"]:
        parts[trace["trace"]] = markdown_table(trace_cells(trace))
    if "scheduler" in result:
        parts["scheduler"] = scheduler_sentence(result) + "\n"
    if "memory" in result:
        parts["memory"] = markdown_table(memory_cells(result))
    parts["source"] = source(result) + "\n"
    return "\n".join(
        f"<!-- ANCHOR: {name} -->\n{text}<!-- ANCHOR_END: {name} -->\n"
        for name, text in parts.items()
    )


def swept_trace(result: dict[str, Any]) -> dict[str, Any] | None:
    """The trace that was run with many chunk sizes, if there is one."""
    found = (trace for trace in result["traces"] if trace["trace"] == result.get("sweep"))
    return next(found, None)


def draw_trade_off(result: dict[str, Any]) -> Figure:
    """Largest decode gap and attacker's TTFT against the chunk size, both axes logarithmic."""
    trace = swept_trace(result)
    assert trace is not None
    *rows, mlx_lm = trace["rows"]
    length = trace["prompt_tokens"][-1]
    sizes = [row["chunk"] or length for row in rows]
    victims = len(trace["prompt_tokens"]) - 1
    curves = [("largest_gap", "largest gap", ACCENT), ("focus_ttft_max", "attacker's TTFT", INK)]
    values = {metric: [row[metric]["median"] for row in [*rows, mlx_lm]] for metric, _, _ in curves}
    figure = Figure(
        292,
        "The trade-off of the chunk size",
        f"{victims} requests are being decoded when a prompt of {length:,} tokens arrives. From "
        f"the smallest chunks to the whole prompt, the largest decode gap grows from "
        f"{_seconds(values['largest_gap'][0])} to {_seconds(values['largest_gap'][-2])}, and the "
        f"attacker's time to first token goes from {_seconds(values['focus_ttft_max'][0])} to "
        f"{_seconds(values['focus_ttft_max'][-2])}. With mlx-lm they are "
        f"{_seconds(values['largest_gap'][-1])} and {_seconds(values['focus_ttft_max'][-1])}.",
    )
    everything = [value for metric in values.values() for value in metric]
    ticks = _decades(min(everything), max(everything))
    left, right = math.log2(sizes[0]), math.log2(sizes[-1])
    bottom, top = math.log10(ticks[0]), math.log10(ticks[-1])

    def spot(size: float, value: float) -> Point:
        x = (math.log2(size) - left) / (right - left)
        y = (math.log10(value) - bottom) / (top - bottom)
        return 52 + 286 * x, 214 - 172 * y

    figure.text(6, 10, "time", anchor="start")
    for tick in ticks:
        y = spot(sizes[0], tick)[1]
        figure.line((52, y), (338, y), color=MUTED, width=0.7)
        figure.text(46, y, _seconds(tick), size=11, anchor="end")
    for size, row in zip(sizes, rows, strict=True):
        label = "whole" if row["chunk"] is None else str(row["chunk"])
        figure.text(spot(size, ticks[0])[0], 228, label, size=10)
    figure.text(338, 245, "chunk size in tokens", anchor="end")
    for index, (metric, name, color) in enumerate(curves):
        spots = [spot(size, value) for size, value in zip(sizes, values[metric], strict=False)]
        figure.line(*spots, color=color, width=2.5)
        for row, size, (x, y) in zip(rows, sizes, spots, strict=True):
            ends = [spot(size, row[metric][end]) for end in ("min", "max")]
            figure.line(*ends, color=color)
            figure.circle(x, y, 3, fill=color)
        level = values[metric][-1]
        figure.line(spot(sizes[0], level), spot(sizes[-1], level), color=color, dashed=True)
        x = 52 + 150 * index
        figure.line((x, 268), (x + 22, 268), color=color, width=2.5)
        figure.text(x + 28, 268, name, size=12, anchor="start", color=color)
    figure.line((52, 284), (74, 284), color=MUTED, dashed=True)
    figure.text(80, 284, "mlx-lm, in the same color", size=12, anchor="start", color=MUTED)
    return figure


def draw_frozen_stream(result: dict[str, Any]) -> Figure:
    """One victim's tokens on a time line per engine: whole prompt, chunks, mlx-lm."""
    lines = sorted(result["timelines"], key=_order_in_figure)
    trace = swept_trace(result)
    assert trace is not None
    last = max(line["attacker_first_token"] for line in lines)
    begin, end = -0.08 * last, 1.08 * last
    length = trace["prompt_tokens"][-1]
    gaps = ", ".join(
        f"{_seconds(_longest_silence(line, begin, end))} ({line['engine']})" for line in lines
    )
    figure = Figure(
        66 + 58 * len(lines),
        "A frozen stream, and the same stream with chunks",
        f"The tokens of one request while a prompt of {length:,} tokens is prefilled beside it. "
        f"The longest silence is {gaps}.",
    )

    def x(seconds: float) -> float:
        return 12 + 336 * (seconds - begin) / (end - begin)

    bottom = 24 + 58 * len(lines)
    figure.text(x(0), 8, f"a prompt of {length:,} tokens arrives", size=11, anchor="start")
    figure.line((x(0), 16), (x(0), bottom), color=MUTED, dashed=True)
    for index, line in enumerate(lines):
        y = 44 + 58 * index
        color = ACCENT_2 if line["engine"] == "mlx-lm" else INK
        figure.text(x(0) + 6, y - 14, line["engine"], size=12, anchor="start", color=color)
        figure.line((12, y + 12), (348, y + 12), color=MUTED, width=0.7)
        for token in line["victim_tokens"]:
            if begin <= token <= end:
                figure.line((x(token), y + 2), (x(token), y + 22), color=color, width=1)
        figure.circle(x(line["attacker_first_token"]), y + 12, 4, fill=ACCENT)
    step = next(s for p in range(-3, 4) for s in (10**p, 2 * 10**p, 5 * 10**p) if last / s <= 6)
    for tick in range(math.floor(end / step) + 1):
        figure.line((x(tick * step), bottom), (x(tick * step), bottom + 4), color=MUTED)
        figure.text(x(tick * step), bottom + 13, f"{tick * step:g}", size=11)
    figure.circle(18, bottom + 32, 4, fill=ACCENT)
    figure.text(28, bottom + 32, "the prompt's first token", size=11, anchor="start")
    figure.text(348, bottom + 32, "seconds", size=11, anchor="end")
    return figure


def _order_in_figure(line: dict[str, Any]) -> int:
    return 2 if line["engine"] == "mlx-lm" else 0 if "whole" in line["engine"] else 1


def _longest_silence(line: dict[str, Any], begin: float, end: float) -> float:
    times = line["victim_tokens"]
    gaps = [b - a for a, b in pairwise(times) if b > begin and a < end]
    return max(gaps, default=0.0)


def _short_name(row: dict[str, Any]) -> str:
    if row["chunk"] is not None:
        return f"{row['chunk']:,}"
    return "mlx-lm" if row["engine"] == "mlx-lm" else "whole prompt"


def _spread(row: dict[str, Any], name: str) -> str:
    columns = [f"{name}_p{p}" for p in PERCENTILES] + [f"{name}_max"]
    return " / ".join(_milliseconds(row[column]["median"]) for column in columns)


def _milliseconds(seconds: float) -> str:
    milliseconds = 1000 * seconds
    return f"{milliseconds:,.1f}" if milliseconds < 10 else f"{milliseconds:,.0f}"


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:,.3g} ms" if seconds < 1 else f"{seconds:,.3g} s"


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"


def _decades(lowest: float, highest: float) -> list[float]:
    powers = range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest)) + 1)
    return [10.0**power for power in powers]
