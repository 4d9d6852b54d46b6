"""Quantized products: our C++ kernel beside `mx.quantized_matmul`, NumPy's GEMM and the memory.

Prints a table for people, then one JSON line for machines. All contestants run on the same cores,
in turns, with float32 activations and 4-bit weights in groups of 64.
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
from tiny_llm_lab.cli import fail, run
from tiny_llm_ref.quantize import quantized_matmul

# M, K, N: decoding one token and a few, and prefill, with shapes of Qwen3's linear layers.
SHAPES = [(1, 4096, 4096), (4, 4096, 4096), (8, 1024, 3072), (128, 1024, 3072)]
GROUP_SIZE, BITS = 64, 4
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


def seconds(call: Callable[[], object], atleast: float = 0.01) -> float:
    """Time of one call: the mean of as many as take `atleast` seconds."""
    calls, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < atleast:
        call()
        calls += 1
    return passed / calls


def spread(times: list[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": statistics.median(times), "min": min(times), "max": max(times)}


def measure(repetitions: int) -> dict[str, Any]:
    """Time all contestants of all shapes in turns, and the memory between them."""
    numbers = np.ones(COPIED_BYTES // 8)
    shapes = {shape: contestants(*shape) for shape in SHAPES}
    times: dict[tuple[tuple[int, int, int], str], list[float]] = {
        (shape, name): [] for shape, (calls, _) in shapes.items() for name in calls
    }
    reads = []
    for _ in range(repetitions):
        reads.append(numbers.nbytes / seconds(numbers.sum) / 1e9)
        for shape, name in times:
            times[shape, name].append(seconds(shapes[shape][0][name]))
    return {
        "benchmark": "quantized products, float32 activations, 4 bits, groups of 64",
        "repetitions": repetitions,
        "machine": machine() | {"numpy": np.__version__},
        "threads_of_numpy": os.environ.get("OPENBLAS_NUM_THREADS", "all"),
        "read_gb_per_second": spread(reads),
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
    }


def table(result: dict[str, Any]) -> Table:
    """One row per shape and contestant; `faster` is against `mx.quantized_matmul`."""
    shown = Table("M x K x N", "", "ms (min to max)", "GFLOP/s", "weights, GB/s", "faster")
    theirs = {
        str(row["shape"]): row["seconds"]["median"]
        for row in result["products"]
        if row["contestant"] == "mx.quantized_matmul"
    }
    for row in result["products"]:
        median, low, high = (1000 * row["seconds"][key] for key in ("median", "min", "max"))
        quantized = row["contestant"] != "NumPy float32"
        shown.add_row(
            " x ".join(str(size) for size in row["shape"].values()),
            row["contestant"],
            f"{median:.2f} ({low:.2f} to {high:.2f})",
            f"{row['gflops']:.1f}",
            f"{row['weights_gb_per_second']:.1f}" if quantized else "",
            f"{1000 * theirs[str(row['shape'])] / median:.1f}x",
        )
    return shown


def main(
    repetitions: Annotated[int, typer.Option(min=5, help="Timings per shape and contestant.")] = 7,
) -> None:
    """Measure the kernels of week 2, day 2."""
    result = measure(repetitions)
    console = Console()
    console.print(table(result))
    read = result["read_gb_per_second"]
    console.print(
        f"NumPy reads {read['median']:.1f} GB/s ({read['min']:.1f} to {read['max']:.1f}) of one "
        f"core. {describe_machine(result['machine'])}."
    )
    print(json.dumps(result))


if __name__ == "__main__":
    run(main)
