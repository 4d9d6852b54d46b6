"""Runs a compiled kernel over its grid; raises or warns with what was found."""

import ctypes
import os
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
        if len(size) != 3 or any(n < 1 for n in size):
            raise ValueError(
                f"[metal_kernel] {name} is {tuple(size)}: it must be three positive numbers, the "
                "threads along x, y and z."
            )
    x, y, z = (min(t, g) for t, g in zip(threadgroup, grid, strict=True))
    if x * y * z > MOST_THREADS:
        raise ValueError(
            f"[metal_kernel] A threadgroup of {x} x {y} x {z} has {x * y * z} threads: Metal takes "
            f"at most {MOST_THREADS}."
        )
    return (grid[0], grid[1], grid[2]), (x, y, z)


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
    failed = runtime().sim_run(ctypes.byref(run))
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
