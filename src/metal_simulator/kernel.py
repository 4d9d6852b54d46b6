"""`metal_kernel`: called like `mx.fast.metal_kernel`, run by the simulator."""

import re
from collections.abc import Sequence
from typing import Any, NoReturn

import mlx.core as mx
import numpy as np

from .arrays import from_numpy, make_output, memory_of, to_numpy
from .build import MATH_MODES, CompiledKernel, compile_kernel
from .findings import CompileError
from .launch import Buffer, launch
from .refusals import find_refusals
from .rewriter import unclosed_bracket
from .signature import (
    SUFFIXES,
    Template,
    entry_point,
    find_kernel,
    generate_signature,
    suffixes_used,
    template_text,
)
from .sources import lines_by_file, locate, split_sections
from .watch import Settings, current_settings


class metal_kernel:
    """A Metal kernel from the body of its function, for the simulator.

    A kernel moves between this and `mx.fast.metal_kernel` without a change. The outputs are
    computed at once. What is found wrong raises `KernelError`, or warns with `KernelWarning`.

    Source: https://ml-explore.github.io/mlx/build/html/dev/custom_metal_kernels.html
    """

    def __init__(
        self,
        name: str,
        input_names: Sequence[str],
        output_names: Sequence[str],
        source: str,
        header: str = "",
        ensure_row_contiguous: bool = True,
        atomic_outputs: bool = False,
        compile_options: dict[str, Any] | None = None,
        *,
        check: bool = True,
        order: int = 0,
        timeout: float = 20.0,
        allow: Sequence[str] = (),
    ) -> None:
        """Keep the source; it is compiled when the types of the inputs are known.

        Args:
            name: of the kernel, a C identifier.
            input_names: names of the inputs in the body.
            output_names: names of the outputs in the body.
            source: the body. `read_source` reads one from a `.metal` file.
            header: functions for the body.
            ensure_row_contiguous: copy inputs whose rows are not contiguous.
            atomic_outputs: the outputs are `device atomic<T>*`.
            compile_options: {"math_mode": "safe", "relaxed" or "fast"}.
            check: see `Settings`, as for the three that follow.
            order: of the threads.
            timeout: in seconds.
            allow: kinds of findings that are let pass.

        Raises:
            ValueError: no output, a name that is none, or an unknown option.
        """
        for what, names in (("input_names", input_names), ("output_names", output_names)):
            if isinstance(names, str) or not all(isinstance(n, str) for n in names):
                raise TypeError(f"[metal_kernel] {what} is {names!r}: it must be a list of names.")
        for what, text in (("source", source), ("header", header)):
            if not isinstance(text, str):
                raise TypeError(f"[metal_kernel] {what} is {text!r}: it must be a text.")
        if not output_names:
            raise ValueError("[metal_kernel] Must specify at least one output.")
        names = [*input_names, *output_names]
        if len(set(names)) < len(names):
            raise ValueError(f"[metal_kernel] A name stands twice in {names}.")
        if isinstance(allow, str):
            raise TypeError(f"[metal_kernel] allow is {allow!r}: it must be a list of kinds.")
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ValueError(f"[metal_kernel] The name {name!r} is not a C identifier.")
        options = dict(compile_options or {})
        self.math_mode = options.pop("math_mode", "safe")
        if options or self.math_mode not in MATH_MODES:
            raise ValueError(
                f"[metal_kernel] compile_options is {compile_options}: the only option is "
                f"math_mode, one of {', '.join(MATH_MODES)}."
            )
        self.name, self.source, self.header = name, source, header
        self.input_names, self.output_names = list(input_names), list(output_names)
        self.ensure_row_contiguous = ensure_row_contiguous
        self.atomic_outputs = atomic_outputs
        self.settings = Settings(check, order, timeout, frozenset(allow))

    def __call__(
        self,
        *,
        inputs: Sequence[mx.array | float],
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence[mx.Dtype],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        template: Template | None = None,
        init_value: float | None = None,
        verbose: bool = False,
        stream: object = None,
    ) -> list[mx.array]:
        """Run the kernel.

        Args:
            inputs: arrays, or numbers, one per input name.
            output_shapes: one per output name.
            output_dtypes: one per output name.
            grid: threads along x, y, z.
            threadgroup: threads of a threadgroup along x, y, z.
            template: (name, dtype, int or bool) pairs.
            init_value: what the outputs hold before the kernel runs; without it, nothing defined.
            verbose: print the kernel's text.
            stream: ignored.

        Returns:
            The outputs.

        Raises:
            ValueError: the numbers of inputs or outputs, or the sizes, are wrong.
            CompileError: the source is not valid.
            KernelError: the kernel did something that Metal does not define.
        """
        del stream
        for what, given, names in (
            ("inputs", inputs, self.input_names),
            ("output_shapes", output_shapes, self.output_names),
            ("output_dtypes", output_dtypes, self.output_names),
        ):
            if len(given) != len(names):
                raise ValueError(
                    f"[metal_kernel] Expected `{what}` to have size {len(names)} but got size "
                    f"{len(given)}."
                )
        for dtype in output_dtypes:
            if not isinstance(dtype, mx.Dtype):
                raise TypeError(
                    f"[metal_kernel] output_dtypes has {dtype!r}: it takes MLX's, such as "
                    "mx.float32."
                )
        for name, value in template or []:
            if not isinstance(value, bool | int | mx.Dtype):
                raise TypeError(
                    f"[metal_kernel] The template argument {name!r} is {value!r}: it must be an "
                    "MLX dtype, an int or a bool."
                )

        @mx.custom_function
        def run(*arrays: mx.array) -> list[mx.array]:
            if self.ensure_row_contiguous:
                arrays = tuple(mx.contiguous(x) for x in arrays)
            settings = current_settings(self.settings)
            compiled = self._compile(arrays, output_dtypes, list(template or []), settings, verbose)
            buffers = [
                buffer
                for name, array in zip(self.input_names, arrays, strict=True)
                for buffer in self._input_buffers(name, array)
            ]
            outputs = [
                make_output(shape, dtype, init_value)
                for shape, dtype in zip(output_shapes, output_dtypes, strict=True)
            ]
            buffers += [
                Buffer(name, values, True, init_value is not None)
                for name, values in zip(self.output_names, outputs, strict=True)
            ]
            launch(compiled, self.name, buffers, grid, threadgroup, settings)
            return [from_numpy(o, dtype) for o, dtype in zip(outputs, output_dtypes, strict=True)]

        @run.vjp
        def no_gradient(*_: object) -> None:
            raise RuntimeError(
                f"The kernel {self.name!r} has no gradient: give it one by mx.custom_function."
            )

        outputs: Any = run(*map(_as_array, inputs))
        return outputs

    def _compile(
        self,
        arrays: Sequence[mx.array],
        output_dtypes: Sequence[mx.Dtype],
        template: Template,
        settings: Settings,
        verbose: bool,
    ) -> CompiledKernel:
        signature = generate_signature(
            self.name,
            list(zip(self.input_names, arrays, strict=True)),
            list(zip(self.output_names, output_dtypes, strict=True)),
            self.source,
            template,
            self.atomic_outputs,
        )
        if verbose:
            print(f"Generated source code for `{self.name}`:\n```")
            print(f"{self.header}\n{signature}\n{self.source}\n}}\n```")
        parts = [("header", self.header), ("signature", signature), ("source", self.source + "\n}")]
        text = "\n".join(f'#line 1 "{self.name} [{part}]"\n{body}' for part, body in parts)
        function = f"custom_kernel_{self.name}"
        arguments = ", ".join(template_text(value) for _, value in template)
        parameters = find_kernel(signature, function)
        assert parameters is not None
        entry_text, _ = entry_point(
            f"{function}<{arguments}>" if template else function, parameters
        )

        def refuse() -> None:
            for part, body in (("header", self.header), ("source", self.source)):
                unclosed = unclosed_bracket(body)
                if unclosed is not None:
                    file, line = locate(f'#line 1 "{self.name} [{part}]"\n{body}', unclosed[0] + 1)
                    _refuse(text, file, line, f"This '{unclosed[1]}' has no partner.")
            for refusal in find_refusals(self.name, split_sections(text), template=arguments):
                _refuse(text, refusal.file, refusal.line, refusal.message)

        return compile_kernel(
            self.name,
            text,
            entry_text,
            check=settings.check,
            math_mode=self.math_mode,
            refuse=refuse,
        )

    def _input_buffers(self, name: str, array: mx.array) -> list[Buffer]:
        """An input, and those of its shape, strides and dimension that the body uses."""
        values = to_numpy(array)
        memory, strides = memory_of(values)
        buffers = [Buffer(name, memory)]
        if array.ndim == 0:
            return buffers
        facts: dict[str, np.ndarray] = {
            "_shape": np.array(array.shape, np.int32),
            "_strides": np.array(strides, np.int64),
            "_ndim": np.array(array.ndim, np.int32),
        }
        used = suffixes_used(name, self.source)
        return buffers + [Buffer(name + s, facts[s]) for s in SUFFIXES if s in used]


def _refuse(text: str, file: str, line: int, message: str) -> NoReturn:
    """Raise an error at a line of the kernel's text, with that line."""
    lines = lines_by_file(text).get(file, [])
    quoted = f"\n    {lines[line - 1].strip()}" if line <= len(lines) else ""
    raise CompileError(f"{file}:{line}: {message}{quoted}")


def _as_array(value: mx.array | float) -> mx.array:
    """A number as MLX takes it: bool, int32 or float32."""
    if isinstance(value, mx.array):
        return value
    if not isinstance(value, bool | int | float):
        raise TypeError(f"[metal_kernel] An input is {value!r}: it must be an array or a number.")
    kind = (
        mx.bool_ if isinstance(value, bool) else mx.int32 if isinstance(value, int) else mx.float32
    )
    return mx.array(value, kind)
