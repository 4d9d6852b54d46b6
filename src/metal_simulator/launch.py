"""Runs a compiled kernel over its grid; raises or warns with what was found."""

import ctypes
import os
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .abi import BufferStruct, FindingStruct, LaunchStruct, Uint3
from .build import CompiledKernel, runtime
from .findings import FIRST_KINDS, WARNING_KINDS, Finding, KernelError, KernelWarning, Position
from .reports import Reporter, quote
from .watch import Counts, Launch, Settings, record

MOST_THREADS = 1024  # of a threadgroup
MOST_FINDINGS = 16


@dataclass(frozen=True)
class Buffer:
    """An argument of a kernel: a contiguous array, which the kernel may write or not.

    `initialized` says whether the kernel may read what it did not write.
    """

    name: str
    data: np.ndarray
    writable: bool = False
    initialized: bool = True


def check_sizes(grid: Sequence[int], threadgroup: Sequence[int]) -> tuple[Position, Position]:
    """The sizes as three numbers each; a threadgroup is never larger than the grid.

    Raises:
        ValueError: a size is not three positive numbers, or a threadgroup has too many threads.
    """
    for name, size in (("grid", grid), ("threadgroup", threadgroup)):
        given = size if isinstance(size, Sequence) else (size,)
        if len(given) != 3 or not all(isinstance(n, int) and n > 0 for n in given):
            raise ValueError(
                f"[metal_kernel] {name} is {tuple(given)}: it must be three positive numbers, the "
                "threads along x, y and z."
            )
    x, y, z = threadgroup
    if x * y * z > MOST_THREADS:
        raise ValueError(
            f"[metal_kernel] A threadgroup of {x} x {y} x {z} has {x * y * z} threads: Metal takes "
            f"at most {MOST_THREADS}."
        )
    threads = grid[0], grid[1], grid[2]
    return threads, (min(x, threads[0]), min(y, threads[1]), min(z, threads[2]))


def _run_until_interrupted(run: LaunchStruct) -> int:
    """Run in a thread of its own, so that Ctrl-C reaches this one and ends the launch."""
    results: list[int] = []
    worker = threading.Thread(
        target=lambda: results.append(runtime().sim_run(ctypes.byref(run))), daemon=True
    )
    worker.start()
    try:
        while worker.is_alive():
            worker.join(0.1)  # a join without a limit may not notice Ctrl-C
    except BaseException:
        run.stop = 1
        worker.join()
        raise
    return results[0]


def launch(
    kernel: CompiledKernel,
    name: str,
    buffers: Sequence[Buffer],
    grid: Sequence[int],
    threadgroup: Sequence[int],
    settings: Settings,
) -> None:
    """Run a kernel; the arrays of writable buffers are changed in place.

    Raises:
        KernelError: something was found that Metal does not define.
    """
    threads, group = check_sizes(grid, threadgroup)
    arguments = (BufferStruct * len(buffers))(
        *(
            BufferStruct(
                b.data.ctypes.data,
                b.data.nbytes,
                b.data.itemsize,
                b.writable,
                b.initialized,
                b.name.encode(),
            )
            for b in buffers
        )
    )
    found = (FindingStruct * MOST_FINDINGS)()
    run = LaunchStruct(
        entry=kernel.entry,
        buffers=arguments,
        buffer_count=len(buffers),
        grid=Uint3(*threads),
        threadgroup=Uint3(*group),
        threadgroups=Uint3(*(-(-t // g) for t, g in zip(threads, group, strict=True))),
        # A random interleaving is the same one every time only if one thread runs it.
        workers=1 if settings.order > 1 else os.cpu_count() or 1,
        check=settings.check,
        order=settings.order,
        timeout=settings.timeout,
        findings=found,
        finding_capacity=MOST_FINDINGS,
    )
    failed = _run_until_interrupted(run)
    if failed:
        raise OSError(failed, os.strerror(failed), "the Metal simulator's runtime")
    findings = Reporter(kernel, name).report(found[: run.finding_count])
    if settings.check:
        findings += [
            Finding(
                "uninitialized-local",
                f"The compiler says: {text}.",
                name,
                file,
                line,
                quote(kernel, file, line),
            )
            for file, line, text in kernel.warnings
        ]
    findings.sort(key=lambda f: FIRST_KINDS.index(f.kind) if f.kind in FIRST_KINDS else 99)
    counts = Counts(
        run.barriers,
        run.simd_operations,
        run.accesses,
        run.switches,
        run.threadgroup_bytes,
    )
    record(Launch(name, findings, counts, run.seconds))
    shown = [f for f in findings if f.kind not in settings.allow]
    for finding in shown:
        if finding.kind in WARNING_KINDS:
            warnings.warn(KernelWarning(finding), stacklevel=3)
    errors = [f for f in shown if f.kind not in WARNING_KINDS]
    if errors:
        raise KernelError(name, errors)
