"""`pdm run bench-metal-simulator`: what the Metal simulator costs: building, compiling, running.

Simulated kernels say nothing about a GPU's speed: these times are what a student waits for. Prints
a table for people, then one JSON line for machines.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import mlx.core as mx
import typer
from rich.console import Console
from rich.table import Table

from metal_simulator import build, metal_kernel
from tiny_llm_lab.bench.machine import describe_machine, machine
from tiny_llm_lab.cli import fail, run

TILE = 16
M, K, N = 64, 256, 64
MATMUL = """
    threadgroup float a_tile[TILE][TILE];
    threadgroup float b_tile[TILE][TILE];
    int2 here = int2(thread_position_in_threadgroup.xy);
    int2 at = int2(thread_position_in_grid.xy);
    int width = a_shape[1], columns = b_shape[1];
    float sum = 0;
    for (int k = 0; k < width; k += TILE) {
        a_tile[here.y][here.x] = a[at.y * width + k + here.x];
        b_tile[here.y][here.x] = b[(k + here.y) * columns + at.x];
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (int i = 0; i < TILE; i++)
            sum += a_tile[here.y][i] * b_tile[i][here.x];
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    c[at.y * columns + at.x] = sum;
"""


def multiply(a: mx.array, b: mx.array, check: bool, variant: int = 0) -> mx.array:
    """The product by a tiled kernel; each variant is compiled on its own."""
    source = f"{MATMUL}// variant {variant}\n"
    kernel = metal_kernel("matmul", ["a", "b"], ["c"], source, check=check)
    return kernel(
        inputs=[a, b],
        template=[("TILE", TILE)],
        grid=(N, M, 1),
        threadgroup=(TILE, TILE, 1),
        output_shapes=[(M, N)],
        output_dtypes=[mx.float32],
    )[0]


def seconds(function: Callable[[], object]) -> float:
    """The time that one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def in_a_new_process(cache: Path) -> float:
    """The time from the imports to the first result of a kernel in the cache."""
    program = (
        "import time, mlx.core as mx, bench_metal_simulator as b\n"
        "a, c = mx.ones((b.M, b.K)), mx.ones((b.K, b.N))\n"
        "print(b.seconds(lambda: b.multiply(a, c, True)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
        env=os.environ | {"METAL_SIMULATOR_CACHE": str(cache)},
    )
    return float(done.stdout)


def main(
    repetitions: Annotated[int, typer.Option(help="Of each measurement, at least 5.")] = 7,
) -> None:
    """Measure the simulator on this machine."""
    if repetitions < 5:
        fail(f"--repetitions is {repetitions}: the spread needs at least 5.")
    cache = Path(tempfile.mkdtemp())
    os.environ["METAL_SIMULATOR_CACHE"] = str(cache)
    build.cache_folder.cache_clear()
    a, b = mx.random.normal((M, K)), mx.random.normal((K, N))
    try:
        first = seconds(lambda: multiply(a, b, True))
        multiply(a, b, False)
        assert mx.allclose(multiply(a, b, True), a @ b, atol=1e-3)
        samples: dict[str, list[float]] = {
            "compile a kernel": [],
            "first result from the cache, in a new process": [],
            f"matmul {M} x {K} x {N}, checked": [],
            f"matmul {M} x {K} x {N}, unchecked": [],
        }
        compiled, cached, checked, unchecked = samples.values()
        for i in range(1, repetitions + 1):
            compiled.append(seconds(partial(multiply, a, b, True, variant=i)))
            cached.append(in_a_new_process(cache))
            checked.append(seconds(lambda: multiply(a, b, True)))
            unchecked.append(seconds(lambda: multiply(a, b, False)))
    finally:
        shutil.rmtree(cache)
    samples = {"once per machine: runtime, headers, first kernel": [first], **samples}
    result = {"seconds": samples, "machine": machine()}
    table = Table("", "median, ms", "lowest", "highest", title="Metal simulator")
    for what, times in samples.items():
        shown = (statistics.median(times), min(times), max(times))
        table.add_row(what, *(f"{1e3 * value:.1f}" for value in shown))
    console = Console()
    console.print(table)
    console.print(f"{describe_machine(machine())}; compiler {build.compiler_version()}")
    print(json.dumps(result))


if __name__ == "__main__":
    run(main)
