"""`pdm run analyze-chunked-prefill`: when chunked prefill pays, on this machine.

Measures forward passes of the reference: chunks behind contexts of many lengths, and decode steps.
Fits day 8's cost model to some of them and compares it with the others. Then whole prompts against
prompts in chunks, alone and beside requests that are being decoded. Prints tables for people, then
one JSON line for machines. `--save` stores what the chapter shows.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import mlx.core as mx
import typer
from rich.console import Console
from rich.table import Table

from tiny_llm_lab.bench.costs import spread_of
from tiny_llm_lab.bench.engines import IdTokenizer, SolutionEngine, SolutionSession
from tiny_llm_lab.bench.machine import describe_machine, machine
from tiny_llm_lab.bench.metrics import decode_stall
from tiny_llm_lab.bench.replay import replay
from tiny_llm_lab.bench.report import BENCHES, markdown_table
from tiny_llm_lab.bench.traces import victim_and_attacker
from tiny_llm_lab.book.drawing import ACCENT, ACCENT_2, FIGURES, INK, MUTED, Figure, Point
from tiny_llm_lab.cli import fail, run
from tiny_llm_lab.models import ModelError, load_model
from tiny_llm_ref.batch import BatchScheduler
from tiny_llm_ref.chunked_prefill import (
    ChunkCostModel,
    ChunkedModel,
    ChunksByDeadline,
    PrefillMemory,
    StepSample,
    chunk_prompt,
)
from tiny_llm_ref.kv_cache import BatchingKvCache
from tiny_llm_ref.qwen3 import Qwen3Model

NAME = "week_2_when_chunking_pays"
FIGURE = "when-chunking-pays"
DEFAULT_CHUNK = 128

# Passes as (tokens cached, chunk, decodes). The model is fitted to the first and judged by the
# second, which lie between and beyond them.
FITTED = [
    *((offset, chunk, 0) for offset in (0, 512, 1536) for chunk in (16, 64, 256)),
    *((tokens * decodes, 0, decodes) for tokens in (64, 512) for decodes in (1, 4, 8)),
]
HELD_OUT = [
    *((offset, chunk, 0) for offset in (256, 1024, 2048) for chunk in (32, 128, 384)),
    *((tokens * decodes, 0, decodes) for tokens in (256, 768) for decodes in (2, 6)),
]
LENGTHS = [64, 128, 192, 256, 384, 512, 1024, 2048]
STREAMS, PROMPT = 4, 1024  # of the blocking scenario
OVERLAPPED = [32, 128]  # chunk sizes, for the gain of preparing the next chunk early

Cells = list[list[str]]


def timed(work: Callable[[], object]) -> float:
    """The seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(calls: dict[Any, Callable[[], float]], repetitions: int) -> dict[Any, list[float]]:
    """What each call measures, again and again, the calls taking turns; once more to warm up."""
    for call in calls.values():
        call()
    found: dict[Any, list[float]] = {key: [] for key in calls}
    for _ in range(repetitions):
        for key, call in calls.items():
            found[key].append(call())
    return found


class Passes:
    """Forward passes of a model on random tokens, each leaving the caches as they were."""

    def __init__(self, model: Qwen3Model, vocab_size: int) -> None:
        """Make the tokens."""
        mx.random.seed(0)
        self.model = model
        self.tokens = mx.random.randint(3, vocab_size, (1, 4096))
        mx.eval(self.tokens)

    def filled(self, length: int) -> list[Any]:
        """Caches that hold so many tokens."""
        cache = self.model.create_kv_cache()
        for start in range(0, length, 256):
            self.model(self.tokens[:, start : min(start + 256, length)], start, cache)
            for layer in cache:
                layer.materialize()
        return cache

    def chunk(self, offset: int, size: int) -> Callable[[], float]:
        """A chunk that is not the last of its prompt: nobody looks at its logits."""
        cache = self.filled(offset)
        tokens = self.tokens[:, offset : offset + size]

        def work() -> None:
            self.model(tokens, offset, cache)
            for layer in cache:
                layer.materialize()

        def measure() -> float:
            seconds = timed(work)
            for layer in cache:
                layer.rewind(size)
            return seconds

        return measure

    def decode(self, length: int, decodes: int) -> Callable[[], float]:
        """A decode step of requests that hold so many tokens each."""
        filled = self.filled(length)
        caches = [BatchingKvCache(decodes, 2 * length + 16) for _ in filled]
        for layer, cache in zip(caches, filled, strict=True):
            for slot in range(decodes):
                layer.add_request(cache, slot)
        tokens = mx.ones((decodes, 1), mx.int32)

        def work() -> None:
            logits = self.model(tokens, [length] * decodes, caches)
            mx.eval(mx.argmax(logits[:, -1], axis=-1))

        def measure() -> float:
            seconds = timed(work)
            for layer in caches:
                layer.rewind(1)
            return seconds

        return measure

    def step(self, cached: int, chunk: int, decodes: int) -> Callable[[], float]:
        """A pass as in `FITTED`: a chunk, or a decode step."""
        return self.chunk(cached, chunk) if chunk else self.decode(cached // decodes, decodes)

    def prefill(self, length: int, chunk_size: int) -> tuple[float, float]:
        """A whole prompt, chunk by chunk, up to its first token: all seconds, the longest chunk."""
        cache = self.model.create_kv_cache()
        seconds = []
        for chunk in chunk_prompt(range(length), chunk_size):
            start = time.perf_counter()
            logits = self.model(self.tokens[:, chunk[0] : chunk[-1] + 1], chunk[0], cache)
            if chunk[-1] + 1 < length:
                for layer in cache:
                    layer.materialize()
            else:
                mx.eval(mx.argmax(logits[:, -1], axis=-1))
            seconds.append(time.perf_counter() - start)
        return sum(seconds), max(seconds)

    def all_logits(self, length: int, chunk_size: int, overlapped: bool) -> float:
        """The logits of a prompt, the next chunk prepared while one is computed, or after it."""
        cache = self.model.create_kv_cache()
        chunked = ChunkedModel(self.model, chunk_size)

        def one_after_the_other() -> None:
            for chunk in chunk_prompt(range(length), chunk_size):
                tokens = self.tokens[:, chunk[0] : chunk[-1] + 1]
                mx.eval(self.model(tokens, chunk[0], cache))

        if overlapped:
            return timed(lambda: mx.eval(chunked(self.tokens[:, :length], 0, cache)))
        return timed(one_after_the_other)


def measure_steps(passes: Passes, repetitions: int) -> tuple[ChunkCostModel, dict[str, Any]]:
    """Fit the cost model, and see how far it is off on passes that it was not fitted to."""
    calls = {step: passes.step(*step) for step in [*FITTED, *HELD_OUT]}
    seconds = {step: spread_of(found) for step, found in in_turns(calls, repetitions).items()}

    def samples(steps: list[tuple[int, int, int]]) -> list[StepSample]:
        return [StepSample(*step, seconds[step]["median"]) for step in steps]

    model = ChunkCostModel.fit(samples(FITTED))
    errors = {}
    for name, steps in (("fitted", FITTED), ("held_out", HELD_OUT)):
        median, largest = model.error(samples(steps))
        errors[name] = {"passes": len(steps), "median": median, "max": largest}
    rows = [
        {
            "cached": step[0],
            "chunk": step[1],
            "decodes": step[2],
            "held_out": step in HELD_OUT,
            "seconds": seconds[step],
            "predicted": model.predict(*step),
        }
        for step in calls
    ]
    return model, {"cost_model": asdict(model), "errors": errors, "passes": rows}


def measure_lengths(passes: Passes, repetitions: int) -> list[dict[str, Any]]:
    """Prompts of many lengths: whole and in chunks, and a decode step behind them."""
    longest: dict[int, list[float]] = {length: [] for length in LENGTHS}

    def whole(length: int) -> float:
        return passes.prefill(length, length)[0]

    def in_chunks(length: int) -> float:
        total, chunk = passes.prefill(length, DEFAULT_CHUNK)
        longest[length].append(chunk)
        return total

    calls: dict[tuple[str, int], Callable[[], float]] = {}
    for length in LENGTHS:
        calls["whole", length] = partial(whole, length)
        calls["chunked", length] = partial(in_chunks, length)
        calls["decode", length] = passes.decode(length, 1)
    found = in_turns(calls, repetitions)
    return [
        {
            "tokens": length,
            **{kind: spread_of(found[kind, length]) for kind in ("whole", "chunked", "decode")},
            "longest_chunk": spread_of(longest[length][1:]),  # without the warm-up
        }
        for length in LENGTHS
    ]


class DeadlineEngine(SolutionEngine):
    """The reference's scheduler with chunks by deadline."""

    def __init__(self, model: Qwen3Model, policy: ChunksByDeadline) -> None:
        """Set the policy."""
        super().__init__(
            f"by deadline, {1000 * policy.largest_gap:.0f} ms", "tiny_llm_ref", model, None
        )
        self._policy = policy

    def start(self, slots: int, max_seq_len: int) -> SolutionSession:
        """Start a run."""
        scheduler = BatchScheduler(
            self._model, IdTokenizer(), max_seq_len, slots, chunk_sizer=self._policy
        )
        return SolutionSession(self.name, scheduler)


def measure_blocking(
    model: Qwen3Model, vocab_size: int, costs: ChunkCostModel, gap: float, repetitions: int
) -> list[dict[str, Any]]:
    """A long prompt arrives while others decode: who waits how long."""
    trace = victim_and_attacker(0, vocab_size, STREAMS, PROMPT)
    engines = [
        SolutionEngine("whole prompt", "tiny_llm_ref", model, None),
        SolutionEngine(f"chunks of {DEFAULT_CHUNK}", "tiny_llm_ref", model, DEFAULT_CHUNK),
        DeadlineEngine(model, ChunksByDeadline(costs, gap)),
    ]
    rows: list[dict[str, list[float]]] = [
        {"largest_gap": [], "first_token": [], "seconds": []} for _ in engines
    ]
    expected = replay(engines[0], trace).tokens
    for _ in range(repetitions):
        for engine, row in zip(engines, rows, strict=True):
            result = replay(engine, trace)
            if result.tokens != expected:
                fail(f"{engine.name} generates other tokens than the whole prompt.", exit_code=1)
            row["largest_gap"].append(decode_stall(result.times, trace.focus) or 0.0)
            row["first_token"].append(result.times[-1].ttft)
            row["seconds"].append(max(times.tokens[-1] for times in result.times))
    return [
        {"engine": engine.name, **{name: spread_of(values) for name, values in row.items()}}
        for engine, row in zip(engines, rows, strict=True)
    ]


def measure_overlap(passes: Passes, repetitions: int) -> list[dict[str, Any]]:
    """What it gains to prepare the next chunk while one is computed."""
    calls: dict[Any, Callable[[], float]] = {
        (chunk, overlapped): partial(passes.all_logits, PROMPT, chunk, overlapped)
        for chunk in OVERLAPPED
        for overlapped in (False, True)
    }
    found = in_turns(calls, repetitions)
    return [
        {
            "chunk": chunk,
            "after": spread_of(found[chunk, False]),
            "overlapped": spread_of(found[chunk, True]),
        }
        for chunk in OVERLAPPED
    ]


def measure(model_name: str, gap: float, repetitions: int, say: Callable[[str], None]) -> Any:
    """Everything, into one dictionary."""
    mlx_model, _ = load_model(model_name)
    model = Qwen3Model(mlx_model)
    passes = Passes(model, mlx_model.args.vocab_size)
    say("single passes")
    costs, steps = measure_steps(passes, repetitions)
    say("prompts, whole and in chunks")
    lengths = measure_lengths(passes, repetitions)
    say("a prompt beside decoding requests")
    blocking = measure_blocking(model, mlx_model.args.vocab_size, costs, gap, repetitions)
    say("preparing the next chunk")
    memory = PrefillMemory.of_model(mlx_model.args)
    return {
        "benchmark": "when chunked prefill pays",
        "model": model_name,
        "repetitions": repetitions,
        "machine": machine(),
        "chunk": DEFAULT_CHUNK,
        "gap": gap,
        **steps,
        "lengths": lengths,
        "pays_from": pays_from(lengths),
        "threshold": costs.largest_chunk(0, 0, gap - costs.predict(0, 0, STREAMS), max(LENGTHS)),
        "memory_saved": [
            {"tokens": length, "bytes": costs.memory_saved(length, DEFAULT_CHUNK, memory)}
            for length in LENGTHS
        ],
        "streams": STREAMS,
        "prompt": PROMPT,
        "blocking": blocking,
        "packing": packing(costs),
        "overlap": measure_overlap(passes, repetitions),
    }


def pays_from(lengths: list[dict[str, Any]]) -> int | None:
    """The shortest length from which on a stream's wait shrinks by more than the prompt's grows.

    A stream that is being decoded waits for the longest chunk in place of the whole prompt. The
    prompt's own first token comes as much later as all its chunks take longer than one pass.
    """
    paying = None
    for row in reversed(lengths):
        whole, chunked = row["whole"]["median"], row["chunked"]["median"]
        saved = whole - row["longest_chunk"]["median"]
        if row["tokens"] <= DEFAULT_CHUNK or saved <= max(0.0, chunked - whole):
            break
        paying = row["tokens"]
    return paying


def packing(costs: ChunkCostModel) -> list[dict[str, Any]]:
    """What the model predicts for a chunk and the decodes in one forward pass instead of two.

    One pass has everything of the two but one fixed cost.
    """
    rows = []
    for chunk in (32, 128, 512):
        for decodes in (1, 8):
            two = costs.predict(PROMPT, chunk, 0) + costs.predict(256 * decodes, 0, decodes)
            rows.append(
                {
                    "chunk": chunk,
                    "decodes": decodes,
                    "two_passes": two,
                    "one_pass": two - costs.fixed,
                }
            )
    return rows


# --- What people see --------------------------------------------------------------------------


def ms(seconds: float) -> str:
    """Milliseconds, with three digits that mean something."""
    value = 1000 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.3f}"


def length_cells(result: dict[str, Any]) -> Cells:
    """One row per prompt length: prefill and decode, whole and in chunks."""
    cells = [
        [
            "prompt",
            "prefill, ms",
            "decode step, ms",
            "ratio",
            f"in chunks of {result['chunk']}, ms",
            "overhead",
            "longest chunk, ms",
            "wait saved, ms",
        ]
    ]
    for row in result["lengths"]:
        whole, chunked, decode, longest = (
            row[name]["median"] for name in ("whole", "chunked", "decode", "longest_chunk")
        )
        cells.append([f"{row['tokens']:,}", ms(whole), ms(decode), f"{whole / decode:.0f}x"])
        if row["tokens"] > result["chunk"]:
            saved = ms(max(0.0, whole - longest))
            cells[-1] += [ms(chunked), f"{chunked / whole - 1:+.1%}", ms(longest), saved]
        else:
            cells[-1] += ["-"] * 4  # it is not cut
    return cells


def blocking_cells(result: dict[str, Any]) -> Cells:
    """Who waits how long."""
    cells = [["prefill", "a stream's largest gap, ms", "prompt's TTFT, ms", "all done after, s"]]
    for row in result["blocking"]:
        gap, first, seconds = (
            row[name]["median"] for name in ("largest_gap", "first_token", "seconds")
        )
        cells.append([row["engine"], ms(gap), ms(first), f"{seconds:.2f}"])
    return cells


def model_cells(result: dict[str, Any]) -> Cells:
    """The coefficients."""
    names = {
        "fixed": "c, a pass",
        "per_token": "b, a token of the chunk",
        "per_pair": "a, half a pair of query and key",
        "per_cached": "g, a cached token",
        "per_decode": "d, a decode",
    }
    return [
        ["coefficient", "microseconds"],
        *([name, f"{1e6 * result['cost_model'][key]:.4g}"] for key, name in names.items()),
    ]


def packing_cells(result: dict[str, Any]) -> Cells:
    """Two passes and one."""
    cells = [["chunk", "decodes", "two passes, ms", "one pass, ms", "gain"]]
    for row in result["packing"]:
        two, one = row["two_passes"], row["one_pass"]
        cells.append(
            [str(row["chunk"]), str(row["decodes"]), ms(two), ms(one), f"{1 - one / two:.1%}"]
        )
    return cells


def overlap_cells(result: dict[str, Any]) -> Cells:
    """The next chunk prepared after a chunk, or while it is computed."""
    cells = [["chunk", "one after the other, ms", "overlapped, ms", "gain"]]
    for row in result["overlap"]:
        after, overlapped = row["after"]["median"], row["overlapped"]["median"]
        cells.append(
            [str(row["chunk"]), ms(after), ms(overlapped), f"{1 - overlapped / after:+.1%}"]
        )
    return cells


def error_sentence(result: dict[str, Any]) -> str:
    """How far the model is off."""
    fitted, held_out = result["errors"]["fitted"], result["errors"]["held_out"]
    return (
        f"Fitted to {fitted['passes']} passes. On {held_out['passes']} others its predictions are "
        f"off by {held_out['median']:.1%} (median) and at most {held_out['max']:.1%}; on those it "
        f"was fitted to, by {fitted['median']:.1%} and {fitted['max']:.1%}."
    )


def pays_sentence(result: dict[str, Any]) -> str:
    """From which length on chunks are worth it."""
    first, lengths = result["pays_from"], [row["tokens"] for row in result["lengths"]]
    if first is None:
        pays = (
            f"At none of the lengths up to {lengths[-1]:,} tokens do chunks of {result['chunk']} "
            "save a stream more than they cost the prompt."
        )
    else:
        shorter = [length for length in lengths if result["chunk"] < length < first]
        pays = (
            f"From {first:,} tokens on, chunks of {result['chunk']} save a stream more time than "
            "they cost the prompt; "
        )
        pays += (
            f"at {shorter[-1]:,} they do not."
            if shorter
            else "no shorter prompt was measured that is cut at all."
        )
    return (
        f"{pays} By the cost model, a prompt of up to {result['threshold']:,} tokens may run whole "
        f"if {result['streams']} streams may wait for {1000 * result['gap']:.0f} ms."
    )


def memory_sentence(result: dict[str, Any]) -> str:
    """What chunks save of the memory, predicted."""
    row = result["memory_saved"][-1]
    return (
        f"By `PrefillMemory`, a prompt of {row['tokens']:,} tokens needs {row['bytes'] / 1e6:,.0f} "
        f"MB less at its most in chunks of {result['chunk']} than whole."
    )


def source(result: dict[str, Any]) -> str:
    """One line on where the numbers come from and how far they spread."""
    spreads = [
        *(row["seconds"] for row in result["passes"]),
        *(row[name] for row in result["lengths"] for name in ("whole", "chunked", "decode")),
        *(row[name] for row in result["blocking"] for name in ("largest_gap", "first_token")),
        *(row[name] for row in result["overlap"] for name in ("after", "overlapped")),
    ]
    below = statistics.median(1 - spread["min"] / spread["median"] for spread in spreads)
    above = statistics.median(spread["max"] / spread["median"] - 1 for spread in spreads)
    most = max(spread["max"] / spread["median"] - 1 for spread in spreads)
    return (
        f"Medians of {result['repetitions']} interleaved repetitions. Single timings reach from "
        f"{below:.0%} below to {above:.0%} above in half of the rows, and {most:.0%} above in the "
        f"worst. {describe_machine(result['machine'])}, model {result['model']}."
    )


TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], Cells]]] = {
    "lengths": ("Prefill and decode by length", length_cells),
    "blocking": ("A prompt arrives beside requests that are decoded", blocking_cells),
    "model": ("The cost model", model_cells),
    "packing": ("Chunk and decodes in one pass, predicted", packing_cells),
    "overlap": ("The next chunk prepared while one is computed", overlap_cells),
}
SENTENCES: dict[str, Callable[[dict[str, Any]], str]] = {
    "pays": pays_sentence,
    "memory": memory_sentence,
    "error": error_sentence,
    "source": source,
}


def markdown(result: dict[str, Any]) -> str:
    """What the book shows, in parts that the chapter includes by anchor."""
    parts = {name: markdown_table(cells(result)) for name, (_, cells) in TABLES.items()}
    parts |= {name: f"{sentence(result)}\n" for name, sentence in SENTENCES.items()}
    return "\n".join(
        f"<!-- ANCHOR: {name} -->\n{text}<!-- ANCHOR_END: {name} -->\n"
        for name, text in parts.items()
    )


def draw(result: dict[str, Any]) -> Figure:
    """What chunks save a stream and what they cost the prompt, by the length of the prompt."""
    rows = result["lengths"]
    whole = [row["whole"]["median"] for row in rows]
    longest = [row["longest_chunk"]["median"] for row in rows]
    chunked = [row["chunked"]["median"] for row in rows]
    figure = Figure(
        270,
        "How long a stream waits, by the length of the prompt",
        f"For a prompt of {rows[-1]['tokens']:,} tokens a stream waits {ms(whole[-1])} ms while it "
        f"is prefilled whole, and {ms(longest[-1])} ms at a time in chunks of {result['chunk']}. "
        f"All chunks together take {ms(chunked[-1])} ms.",
    )
    right, top = rows[-1]["tokens"], 1.05 * max(*whole, *chunked)

    def spot(tokens: float, seconds: float) -> Point:
        return 52 + 286 * tokens / right, 210 - 178 * seconds / top

    figure.text(6, 10, "milliseconds", anchor="start")
    power = 10.0**-6
    while top / power > 5:
        power *= 2 if str(f"{power:e}")[0] in "15" else 2.5
    for tick in range(int(top / power) + 1):
        y = spot(0, tick * power)[1]
        figure.line((52, y), (338, y), color=MUTED, width=0.7)
        figure.text(46, y, f"{1000 * tick * power:,g}", size=11, anchor="end")
    for tokens in range(0, right + 1, right // 4):
        figure.text(spot(tokens, 0)[0], 224, f"{tokens:,}", size=11)
    figure.text(338, 240, "tokens in the prompt", size=11, anchor="end")
    curves = [("whole prompt", whole, ACCENT), ("all chunks", chunked, INK)]
    for index, (name, values, color) in enumerate([*curves, ("longest chunk", longest, ACCENT_2)]):
        spots = [spot(row["tokens"], value) for row, value in zip(rows, values, strict=True)]
        figure.line(*spots, color=color, width=2.2, dashed=name == "all chunks")
        for point in spots:
            figure.circle(*point, 2.5, fill=color)
        figure.line((14 + 116 * index, 260), (32 + 116 * index, 260), color=color, width=2.2)
        figure.text(36 + 116 * index, 260, name, size=11, anchor="start", color=color)
    return figure


def store(result: dict[str, Any]) -> None:
    """Write what the chapter shows: the numbers, the tables, the figure."""
    path = BENCHES / f"{NAME}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(result))
    (FIGURES / f"{FIGURE}.svg").write_text(draw(result).svg())


def main(
    model: Annotated[
        str, typer.Option(help="tiny (embedded), random:small, or as in generate.")
    ] = "tiny",
    gap: Annotated[
        float, typer.Option(help="Chunks by deadline: the largest gap of a stream, in seconds.")
    ] = 0.1,
    repetitions: Annotated[int, typer.Option(min=5, help="Timings of everything.")] = 5,
    save: Annotated[
        bool, typer.Option("--save", help="For authors: store the result for the book.")
    ] = False,
    redraw: Annotated[
        bool, typer.Option("--redraw", help="For authors: draw what is stored; measure nothing.")
    ] = False,
) -> None:
    """Measure when chunked prefill pays: costs, waiting times, and a model that predicts them."""
    if not gap > 0:
        fail(f"--gap must be positive, but is {gap}.", exit_code=1)
    if redraw:
        store(json.loads((BENCHES / f"{NAME}.json").read_text()))
        return
    progress = Console(stderr=True)
    try:
        with progress.status("loading") as status:
            result = measure(
                model, gap, repetitions, lambda part: status.update(f"measuring {part}")
            )
    except ModelError as error:
        fail(str(error), exit_code=1)
    console = Console()
    for title, cells in TABLES.values():
        header, *body = cells(result)
        table = Table(*header, title=title, title_justify="left")
        for line in body:
            table.add_row(*line)
        console.print(table)
    for sentence in SENTENCES.values():
        console.print(sentence(result))
    print(json.dumps(result))
    if save:
        store(result)


if __name__ == "__main__":
    run(main)
