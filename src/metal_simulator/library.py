"""Whole Metal sources with kernel functions of their own, such as MLX's."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from .arrays import from_numpy, make_output, memory_of, to_numpy
from .build import MLX_INCLUDE, CompiledKernel, compile_kernel
from .launch import Buffer, launch
from .rewriter import FUNCTION_CONSTANT
from .signature import Parameter, entry_point, find_kernel
from .watch import Settings, current_settings

_MLX_INCLUDE = re.compile(r'^[ \t]*#include\s+"(mlx/[^"]+)"', re.M)


@dataclass(frozen=True)
class Output:
    """A buffer that a kernel writes; with `init_value` its elements are that at first."""

    shape: Sequence[int]
    dtype: mx.Dtype
    init_value: float | None = None


class Library:
    """A Metal source with `[[kernel]]` functions. It may include MLX's headers."""

    def __init__(
        self,
        source: str,
        name: str = "library",
        function_constants: Mapping[int, bool | int] | None = None,
        *,
        check: bool = True,
        order: int = 0,
        timeout: float = 20.0,
        allow: Sequence[str] = (),
    ) -> None:
        """Keep the source; a kernel is compiled when it is first run.

        Args:
            source: Metal.
            name: what reports call the source, unless it has `#line` directives.
            function_constants: values by index.
            check: see `Settings`, as for the three that follow.
            order: of the threads.
            timeout: in seconds.
            allow: kinds of findings that are let pass.
        """
        self.name = name
        self.text = f'#line 1 "{name}"\n{source}'
        self.constants = tuple(
            (f"{FUNCTION_CONSTANT}{index}", str(value).lower())
            for index, value in sorted((function_constants or {}).items())
        )
        self.settings = Settings(check, order, timeout, frozenset(allow))

    def run(
        self,
        kernel: str,
        arguments: Mapping[int, "mx.array | np.ndarray | Output"],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        template: str = "",
    ) -> list[mx.array]:
        """Run one of the kernels.

        Args:
            kernel: the function's name.
            arguments: by buffer index: an array or the bytes of a structure to read, or an output.
            grid: threads along x, y, z.
            threadgroup: threads of a threadgroup along x, y, z.
            template: the function's template arguments, such as "float, 64".

        Returns:
            The outputs, by buffer index.

        Raises:
            KeyError: there is no such kernel, or a buffer has no argument.
            CompileError: the source is not valid.
            KernelError: the kernel did something that Metal does not define.
        """
        parameters = find_kernel(self._with_headers(), kernel)
        if parameters is None:
            raise KeyError(f"The source {self.name!r} has no kernel function {kernel!r}.")
        settings = current_settings(self.settings)
        entry_text, bindings = entry_point(
            f"{kernel}<{template}>" if template else kernel, parameters
        )
        compiled = compile_kernel(
            re.sub(r"\W", "_", f"{self.name}-{kernel}"),
            self.text,
            entry_text,
            check=settings.check,
            function_constants=self.constants,
        )
        return _launch(compiled, kernel, bindings, arguments, grid, threadgroup, settings)

    def _with_headers(self) -> str:
        """The source and the headers of MLX that it includes, directly or not."""
        texts, seen = [self.text], set()
        missing = _MLX_INCLUDE.findall(self.text)
        while missing:
            name = missing.pop()
            if name not in seen and (MLX_INCLUDE / name).is_file():
                texts.append((MLX_INCLUDE / name).read_text())
                missing += _MLX_INCLUDE.findall(texts[-1])
            seen.add(name)
        return "\n".join(texts)


def _launch(
    compiled: CompiledKernel,
    kernel: str,
    bindings: list[tuple[int, Parameter]],
    arguments: Mapping[int, "mx.array | np.ndarray | Output"],
    grid: tuple[int, int, int],
    threadgroup: tuple[int, int, int],
    settings: Settings,
) -> list[mx.array]:
    """Bind the arguments by index and run; the outputs in the order of their indices."""
    buffers: list[Buffer] = []
    outputs: list[tuple[np.ndarray, mx.Dtype]] = []
    names = {index: parameter.name for index, parameter in bindings}
    missing = [f"{names[index]!r} (buffer {index})" for index in names if index not in arguments]
    if missing:
        raise KeyError(f"The kernel {kernel!r} has no argument for {', '.join(missing)}.")
    unused = np.zeros(1, np.uint8)
    for index in range(max(names, default=-1) + 1):
        if index not in names:
            buffers.append(Buffer(f"buffer {index}", unused))
            continue
        argument = arguments[index]
        if isinstance(argument, Output):
            values = make_output(argument.shape, argument.dtype, argument.init_value)
            outputs.append((values, argument.dtype))
            buffers.append(Buffer(names[index], values, True, argument.init_value is not None))
            continue
        values = to_numpy(argument) if isinstance(argument, mx.array) else argument
        buffers.append(Buffer(names[index], memory_of(values)[0]))
    launch(compiled, kernel, buffers, grid, threadgroup, settings)
    return [from_numpy(values, dtype) for values, dtype in outputs]
