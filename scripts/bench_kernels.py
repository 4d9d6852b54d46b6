"""`pdm run bench-kernels`: our C++ kernels beside MLX's own, NumPy's GEMM and the memory.

Prints tables for people, then one JSON line for machines. All contestants run on the same cores, in
turns. Quantized products have float32 activations and 4-bit weights in groups of 64; attention has
16 query heads and 8 key/value heads of 128 in float32.
"""

import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import mlx.core as mx
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from tiny_llm_lab.bench.machine import describe_machine, machine
from tiny_llm_lab.bench.report import BENCHES, markdown_table
from tiny_llm_lab.cli import fail, run
from tiny_llm_ref.attention import flash_attention
from tiny_llm_ref.quantize import quantized_matmul

# M, K, N: decoding one token and a few, and prefill, with shapes of Qwen3's linear layers.
SHAPES = [(1, 4096, 4096), (4, 4096, 4096), (8, 1024, 3072), (128, 1024, 3072)]
GROUP_SIZE, BITS = 64, 4
# L, S, mask: decoding one token, and prefill.
ATTENTIONS = [(1, 4096, None), (1024, 1024, "causal")]
QUERY_HEADS, KEY_HEADS, HEAD_DIM = 16, 8, 128
GEMM_SIZE = 768
COPIED_BYTES = 256 * 2**20  # far more than any cache holds


def contestants(M: int, K: int, N: int) -> tuple[dict[str, Callable[[], object]], int]:
    """What is timed for a shape, and the bytes of the weights that each product reads."""
    weight = mx.random.normal((N, K), key=mx.random.key(1)) * K**-0.5
    packed, scales, biases = mx.quantize(weight, GROUP_SIZE, BITS)
    a = mx.random.normal((M, K), key=mx.random.key(2))
    dense = mx.dequantize(packed, scales, biases, GROUP_SIZE, BITS)
    mx.eval(packed, scales, biases, a, dense)
    rows, matrix = np.array(a), np.array(dense).T

    def ours() -> None:
        mx.eval(quantized_matmul(scales, biases, GROUP_SIZE, BITS, a, packed))

    def theirs() -> None:
        mx.eval(mx.quantized_matmul(a, packed, scales, biases, True, GROUP_SIZE, BITS))

    def gemm() -> object:
        return rows @ matrix

    expected = rows @ matrix
    result = np.array(quantized_matmul(scales, biases, GROUP_SIZE, BITS, a, packed))
    if not np.allclose(result, expected, atol=1e-4 * float(np.abs(expected).max())):
        fail(f"The kernel's product of shape {M} x {K} x {N} is wrong.", exit_code=1)
    names = ["kernel", "mx.quantized_matmul", "NumPy float32"]
    return dict(zip(names, (ours, theirs, gemm), strict=True)), sum(
        array.nbytes for array in (packed, scales, biases)
    )


def attention_contestants(L: int, S: int, mask: str | None) -> dict[str, Callable[[], object]]:
    """What is timed for an attention."""
    query = mx.random.normal((1, QUERY_HEADS, L, HEAD_DIM), key=mx.random.key(3))
    key, value = (
        mx.random.normal((1, KEY_HEADS, S, HEAD_DIM), key=mx.random.key(seed)) for seed in (4, 5)
    )
    mx.eval(query, key, value)

    def ours() -> mx.array:
        return flash_attention(query, key, value, mask=mask)

    def theirs() -> mx.array:
        return mx.fast.scaled_dot_product_attention(
            query, key, value, scale=HEAD_DIM**-0.5, mask=mask
        )

    if not mx.allclose(ours(), theirs(), rtol=1e-4, atol=1e-5).item():
        fail(f"The kernel's attention of {L} queries and {S} keys is wrong.", exit_code=1)
    return {
        "kernel": lambda: mx.eval(ours()),
        "mx.fast": lambda: mx.eval(theirs()),
    }


def seconds(call: Callable[[], object], atleast: float = 0.2) -> float:
    """Time of one call: the mean of as many as take `atleast` seconds, after as many untimed ones.

    Those give the operating system the time to put a kernel's threads on different cores.
    """
    for _ in range(2):
        calls, start = 0, time.perf_counter()
        while (passed := time.perf_counter() - start) < atleast:
            call()
            calls += 1
    return passed / calls


def spread(times: list[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": statistics.median(times), "min": min(times), "max": max(times)}


def attention_row(
    case: tuple[int, int, str | None], contestant: str, times: list[float]
) -> dict[str, Any]:
    """The result of one contestant; work that a causal mask saves is not counted."""
    L, S, mask = case
    pairs = L * S - (L * (L - 1) // 2 if mask else 0)
    median = statistics.median(times)
    return {
        "shape": {"L": L, "S": S, "mask": mask},
        "contestant": contestant,
        "seconds": spread(times),
        "gflops": 4 * QUERY_HEADS * HEAD_DIM * pairs / median / 1e9,
        "cache_gb_per_second": 2 * KEY_HEADS * S * HEAD_DIM * 4 / median / 1e9,
    }


def measure(repetitions: int) -> dict[str, Any]:
    """Time all contestants of all shapes in turns, and GEMM and memory between them."""
    numbers = np.ones(COPIED_BYTES // 8)
    square = np.ones((GEMM_SIZE, GEMM_SIZE), np.float32)
    shapes = {shape: contestants(*shape) for shape in SHAPES}
    times: dict[tuple[tuple[int, int, int], str], list[float]] = {
        (shape, name): [] for shape, (calls, _) in shapes.items() for name in calls
    }
    attentions = {case: attention_contestants(*case) for case in ATTENTIONS}
    attention_times: dict[tuple[tuple[int, int, str | None], str], list[float]] = {
        (case, name): [] for case, calls in attentions.items() for name in calls
    }
    reads, gemms = [], []
    for _ in range(repetitions):
        reads.append(numbers.nbytes / seconds(numbers.sum) / 1e9)
        gemms.append(2 * GEMM_SIZE**3 / seconds(lambda: square @ square) / 1e9)
        for shape, name in times:
            times[shape, name].append(seconds(shapes[shape][0][name]))
        for case, name in attention_times:
            attention_times[case, name].append(seconds(attentions[case][name]))
    return {
        "benchmark": "quantized products, float32 activations, 4 bits, groups of 64; attention, "
        f"float32, {QUERY_HEADS} query and {KEY_HEADS} key/value heads of {HEAD_DIM}",
        "repetitions": repetitions,
        "machine": machine() | {"numpy": np.__version__},
        "threads_of_numpy": os.environ.get("OPENBLAS_NUM_THREADS", "all"),
        "read_gb_per_second": spread(reads),
        "gemm_gflops": spread(gemms),
        "products": [
            {
                "shape": dict(zip("MKN", shape, strict=True)),
                "contestant": name,
                "seconds": spread(measured),
                "gflops": 2 * shape[0] * shape[1] * shape[2] / statistics.median(measured) / 1e9,
                "weights_gb_per_second": shapes[shape][1] / statistics.median(measured) / 1e9,
            }
            for (shape, name), measured in times.items()
        ],
        "attentions": [
            attention_row(case, name, measured)
            for (case, name), measured in attention_times.items()
        ],
    }


def product_cells(result: dict[str, Any]) -> list[list[str]]:
    """A header, and one row per shape and contestant; `faster` is than `mx.quantized_matmul`."""
    shown = [["M x K x N", "", "ms (min to max)", "GFLOP/s", "weights, GB/s", "faster"]]
    theirs = {
        str(row["shape"]): row["seconds"]["median"]
        for row in result["products"]
        if row["contestant"] == "mx.quantized_matmul"
    }
    for row in result["products"]:
        median, low, high = (1000 * row["seconds"][key] for key in ("median", "min", "max"))
        quantized = row["contestant"] != "NumPy float32"
        shown.append(
            [
                " x ".join(str(size) for size in row["shape"].values()),
                row["contestant"],
                f"{median:.2f} ({low:.2f} to {high:.2f})",
                f"{row['gflops']:.1f}",
                f"{row['weights_gb_per_second']:.1f}" if quantized else "",
                f"{1000 * theirs[str(row['shape'])] / median:.1f}x",
            ]
        )
    return shown


def attention_cells(result: dict[str, Any]) -> list[list[str]]:
    """The same for attention; the shares are of NumPy's GEMM and of its reading."""
    header = ["L x S", "", "ms (min to max)", "GFLOP/s", "of GEMM", "of reading", "faster"]
    shown = [header]
    theirs = {
        str(row["shape"]): row["seconds"]["median"]
        for row in result["attentions"]
        if row["contestant"] != "kernel"
    }
    for row in result["attentions"]:
        median, low, high = (1000 * row["seconds"][key] for key in ("median", "min", "max"))
        L, S, mask = row["shape"].values()
        shown.append(
            [
                f"{L} x {S}{f', {mask}' if mask else ''}",
                row["contestant"],
                f"{median:.2f} ({low:.2f} to {high:.2f})",
                f"{row['gflops']:.1f}",
                f"{row['gflops'] / result['gemm_gflops']['median']:.0%}",
                f"{row['cache_gb_per_second'] / result['read_gb_per_second']['median']:.0%}",
                f"{1000 * theirs[str(row['shape'])] / median:.1f}x",
            ]
        )
    return shown


def machine_sentence(result: dict[str, Any]) -> str:
    """What the machine can do, and what it is."""
    read, gemm = result["read_gb_per_second"], result["gemm_gflops"]
    return (
        f"Medians of {result['repetitions']} interleaved repetitions. NumPy reads "
        f"{read['median']:.1f} GB/s ({read['min']:.1f} to {read['max']:.1f}) of one core, and "
        f"multiplies {GEMM_SIZE} x {GEMM_SIZE} matrices at {gemm['median']:.1f} "
        f"({gemm['min']:.1f} to {gemm['max']:.1f}) GFLOP/s. {describe_machine(result['machine'])}."
    )


def save_for_the_book(result: dict[str, Any]) -> None:
    """Store the numbers, and the tables that the chapters of days 2 and 4 include."""
    path = BENCHES / "week_2_kernels.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    for name, cells in (
        ("products", product_cells(result)),
        ("attention", attention_cells(result)),
    ):
        page = f"{markdown_table(cells, names=2)}\n{machine_sentence(result)}\n"
        (BENCHES / f"week_2_kernels_{name}.md").write_text(page)


def main(
    repetitions: Annotated[int, typer.Option(min=5, help="Timings per shape and contestant.")] = 7,
    save: Annotated[
        bool, typer.Option("--save", help="For authors: store the result for the book.")
    ] = False,
) -> None:
    """Measure the C++ kernels of week 2."""
    result = measure(repetitions)
    console = Console()
    for header, *body in (product_cells(result), attention_cells(result)):
        table = Table(*header)
        for cells in body:
            table.add_row(*cells)
        console.print(table)
    console.print(machine_sentence(result))
    print(json.dumps(result))
    if save:
        save_for_the_book(result)


if __name__ == "__main__":
    run(main)
