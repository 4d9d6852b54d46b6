"""Picks where a Metal kernel runs: on Apple's GPU, or in the checking simulator.

The simulator is used where MLX has no Metal, and everywhere if TINY_LLM_METAL is "simulate": on a
Mac it is a debugger.
"""

import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx

import metal_simulator

VARIABLE = "TINY_LLM_METAL"


def uses_simulator() -> bool:
    """Whether Metal kernels run in the simulator.

    Raises:
        ValueError: TINY_LLM_METAL is neither empty nor "simulate".
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", "simulate"):
        raise ValueError(
            f'{VARIABLE} is {wanted!r}: set it to "simulate" to run Metal kernels in the '
            "simulator, or unset it."
        )
    return wanted == "simulate" or not mx.metal.is_available()


def uses_metal() -> bool:
    """Whether an operation on the default device is one for a Metal kernel.

    It is if that device is Apple's GPU. On a machine without one the kernels do run, in the
    simulator, but only where they are called for what they are: a model would take hours there.
    With TINY_LLM_METAL="simulate" any other GPU will do, so that a whole model can be tried.
    """
    if mx.default_device().type != mx.gpu:
        return False
    return mx.metal.is_available() or os.environ.get(VARIABLE) == "simulate"


def prepare_simulator() -> None:
    """Build what the simulator builds once on each machine, if kernels run there.

    Raises:
        RuntimeError: there is no compiler that can do it.
    """
    if uses_simulator():
        nothing = metal_kernel("nothing", [], ["y"], "y[0] = 0;")
        one = (1, 1, 1)
        nothing(inputs=[], grid=one, threadgroup=one, output_shapes=[one], output_dtypes=[mx.int32])


def load_metal_kernel(
    package: str, name: str, input_names: Sequence[str], output_names: Sequence[str]
) -> Callable[..., list[mx.array]]:
    """The kernel in `metal/<name>.metal` of a solution package, read once.

    Args:
        package: the name of the solution package.
        name: of the file and of the kernel.
        input_names: names of the inputs in the body.
        output_names: names of the outputs in the body.

    Returns:
        What `metal_kernel` returns.

    Raises:
        FileNotFoundError: the file, or a header that it includes, is missing.
    """
    folder = Path(sys.modules[package].__file__ or "").parent / "metal"
    # A kernel that is made anew is compiled anew by MLX, so it is kept.
    return _load(
        folder / f"{name}.metal", tuple(input_names), tuple(output_names), uses_simulator()
    )


@cache
def _load(
    path: Path, input_names: tuple[str, ...], output_names: tuple[str, ...], simulated: bool
) -> Callable[..., list[mx.array]]:
    return metal_kernel(path.stem, input_names, output_names, path)


def metal_kernel(
    name: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    source: str | Path,
    header: str = "",
    ensure_row_contiguous: bool = True,
    atomic_outputs: bool = False,
) -> Callable[..., list[mx.array]]:
    """A Metal kernel, called like that of `mx.fast.metal_kernel`.

    Args:
        name: of the kernel, a C identifier.
        input_names: names of the inputs in the body.
        output_names: names of the outputs in the body.
        source: the body of the kernel function, or the `.metal` file that holds it. Such a file may
            begin with `#include "file"` lines for headers beside it.
        header: functions for the body, in addition to those of included headers.
        ensure_row_contiguous: copy inputs whose rows are not contiguous.
        atomic_outputs: the outputs are `device atomic<T>*`.

    Returns:
        A function of `inputs`, `template`, `grid`, `threadgroup`, `output_shapes`, `output_dtypes`
        and `init_value`, which gives the list of outputs.

    Raises:
        FileNotFoundError: the file, or a header that it includes, is missing.

    Source: https://ml-explore.github.io/mlx/build/html/dev/custom_metal_kernels.html
    """
    if isinstance(source, Path):
        included, source = metal_simulator.read_source(source)
        header = f"{included}\n{header}"
    native: Callable[..., Any] = mx.fast.metal_kernel
    make = metal_simulator.metal_kernel if uses_simulator() else native
    return make(
        name=name,
        input_names=input_names,
        output_names=output_names,
        source=source,
        header=header,
        ensure_row_contiguous=ensure_row_contiguous,
        atomic_outputs=atomic_outputs,
    )
