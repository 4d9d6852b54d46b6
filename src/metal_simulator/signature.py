"""The kernel function that MLX makes around a body, and the parameters of kernel functions.

`mx.fast.metal_kernel` takes a body and writes the signature itself. This is the same signature:
https://ml-explore.github.io/mlx/build/html/dev/custom_metal_kernels.html
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from .tokens import Token, is_code, matching, tokenize

# MLX's names of the types, in its generated signatures and in its utils.h.
TYPE_NAMES: dict[mx.Dtype, str] = {
    mx.bool_: "bool",
    mx.int8: "int8_t",
    mx.int16: "int16_t",
    mx.int32: "int32_t",
    mx.int64: "int64_t",
    mx.uint8: "uint8_t",
    mx.uint16: "uint16_t",
    mx.uint32: "uint32_t",
    mx.uint64: "uint64_t",
    mx.float16: "float16_t",
    mx.bfloat16: "bfloat16_t",
    mx.float32: "float",
    mx.complex64: "complex64_t",
}
# Inputs with fewer elements than this go to the constant address space.
SMALLEST_DEVICE_INPUT = 8

# The attributes that MLX passes when a body names them, with their types.
ATTRIBUTES = {
    "dispatch_quadgroups_per_threadgroup": "uint",
    "dispatch_simdgroups_per_threadgroup": "uint",
    "dispatch_threads_per_threadgroup": "uint3",
    "grid_origin": "uint3",
    "grid_size": "uint3",
    "quadgroup_index_in_threadgroup": "uint",
    "quadgroups_per_threadgroup": "uint",
    "simdgroup_index_in_threadgroup": "uint",
    "simdgroups_per_threadgroup": "uint",
    "thread_execution_width": "uint",
    "thread_index_in_quadgroup": "uint",
    "thread_index_in_simdgroup": "uint",
    "thread_index_in_threadgroup": "uint",
    "thread_position_in_grid": "uint3",
    "thread_position_in_threadgroup": "uint3",
    "threadgroup_position_in_grid": "uint3",
    "threadgroups_per_grid": "uint3",
    "threads_per_grid": "uint3",
    "threads_per_simdgroup": "uint",
    "threads_per_threadgroup": "uint3",
}
# Expressions for the attributes on `sim_thread* t` of runtime/abi.h. A kernel may declare a
# position as uint, uint2 or uint3, of any width: `position` converts to them.
_EXPRESSIONS = {
    "thread_execution_width": "32u",
    "grid_size": "position{t->threads_per_grid}",
    "grid_origin": "position{sim_uint3{0, 0, 0}}",
    "thread_index_in_quadgroup": "t->thread_index_in_simdgroup % 4",
    "quadgroup_index_in_threadgroup": "t->thread_index_in_threadgroup / 4",
    "quadgroups_per_threadgroup": "8 * t->simdgroups_per_threadgroup",
    "dispatch_quadgroups_per_threadgroup": "8 * t->dispatch_simdgroups_per_threadgroup",
}

TemplateValue = bool | int | mx.Dtype
# A template's arguments as (name, value).
Template = Sequence[tuple[str, TemplateValue]]
# Which of `_shape`, `_strides`, `_ndim` the body names.
SUFFIXES = ("_shape", "_strides", "_ndim")
_SUFFIX_TYPES = {
    "_shape": "const constant int* {}_shape",
    "_strides": "const constant int64_t* {}_strides",
    "_ndim": "const constant int& {}_ndim",
}


def template_text(value: TemplateValue) -> str:
    """A template's argument as Metal writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else TYPE_NAMES[value]


def _template_parameter(argument: tuple[str, TemplateValue]) -> str:
    name, value = argument
    kinds = {bool: "bool", int: "int"}
    return f"{kinds.get(type(value), 'typename')} {name}"


def suffixes_used(name: str, source: str) -> list[str]:
    """Which of an input's `_shape`, `_strides` and `_ndim` the body uses: only those are passed."""
    return [suffix for suffix in SUFFIXES if name + suffix in source]


def generate_signature(
    name: str,
    inputs: Sequence[tuple[str, mx.array]],
    outputs: Sequence[tuple[str, mx.Dtype]],
    source: str,
    template: Template,
    atomic_outputs: bool,
) -> str:
    """The text before the body: template, kernel name, and the parameters that the body uses."""
    lines = []
    for array_name, array in inputs:
        space = "constant" if array.size < SMALLEST_DEVICE_INPUT else "device"
        kind = "*" if array.ndim else "&"
        lines.append(f"const {space} {TYPE_NAMES[array.dtype]}{kind} {array_name}")
        if array.ndim:
            lines += [
                _SUFFIX_TYPES[s].format(array_name) for s in suffixes_used(array_name, source)
            ]
    for array_name, dtype in outputs:
        kind = TYPE_NAMES[dtype]
        lines.append(f"device {f'atomic<{kind}>' if atomic_outputs else kind}* {array_name}")
    lines = [f"  {line} [[buffer({i})]]" for i, line in enumerate(lines)]
    lines += [f"  {kind} {a} [[{a}]]" for a, kind in ATTRIBUTES.items() if a in source]
    head = ""
    if template:
        head = f"template <{', '.join(map(_template_parameter, template))}>\n"
    return f"{head}[[kernel]] void custom_kernel_{name}(\n" + ",\n".join(lines) + ") {"


@dataclass(frozen=True)
class Parameter:
    """A kernel function's parameter: its declaration without attributes, and its attributes."""

    declaration: str
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The declared name."""
        return self.declaration.split()[-1]


def find_kernel(source: str, name: str) -> list[Parameter] | None:
    """The parameters of the kernel function of that name, None if the source has none.

    The source is Metal, not rewritten. A kernel function is marked `kernel` or `[[kernel]]`.
    """
    tokens = [token for token in tokenize(source) if is_code(token)]
    for i, token in enumerate(tokens):
        if not token.is_name("kernel"):
            continue
        in_brackets = i > 0 and tokens[i - 1].is_symbol("[[")
        after = matching(tokens, i - 1) + 1 if in_brackets else i + 1
        if [t.text for t in tokens[after : after + 3]] == ["void", name, "("]:
            opening = after + 2
            return _parameters(tokens[opening + 1 : matching(tokens, opening)])
    return None


def _parameters(tokens: list[Token]) -> list[Parameter]:
    """Split a parameter list at its commas."""
    parameters: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        if token.is_symbol("(", "<", "[", "[["):
            depth += 1
        elif token.is_symbol(")", ">", "]", "]]"):
            depth -= 1
        if token.is_symbol(",") and depth == 0:
            parameters.append([])
        else:
            parameters[-1].append(token)
    return [_parameter(p) for p in parameters if p]


def _parameter(tokens: list[Token]) -> Parameter:
    """Separate a parameter's declaration from its `[[name(argument), name]]`."""
    words, attributes = [], {}
    place = 0
    while place < len(tokens):
        if tokens[place].is_symbol("[["):
            closing = matching(tokens, place)
            inner = tokens[place + 1 : closing]
            for i, token in enumerate(inner):
                if token.kind == "name":
                    has_argument = i + 2 < len(inner) and inner[i + 1].is_symbol("(")
                    attributes[token.text] = inner[i + 2].text if has_argument else ""
            place = closing
        else:
            words.append(tokens[place].text)
        place += 1
    return Parameter(" ".join(words), attributes)


def entry_point(
    function: str, parameters: list[Parameter]
) -> tuple[str, list[tuple[int, Parameter]]]:
    """C++ that calls a kernel function for one thread, and its buffer parameters by index.

    Args:
        function: the function's name, with its template's arguments.
        parameters: of that function.
    """
    arguments: list[str] = []
    buffers: list[tuple[int, Parameter]] = []
    for i, parameter in enumerate(parameters):
        attribute = next((a for a in parameter.attributes if a in ATTRIBUTES), None)
        if attribute is not None:
            plural = ATTRIBUTES[attribute] == "uint3"
            plain = f"position{{t->{attribute}}}" if plural else f"t->{attribute}"
            arguments.append(_EXPRESSIONS.get(attribute, plain))
            continue
        index = int(parameter.attributes.get("buffer", buffers[-1][0] + 1 if buffers else 0))
        buffers.append((index, parameter))
        kind = f"argument_type<{i}, function_type>"
        arguments.append(
            f"({kind})buffers[{index}]"
            if "*" in parameter.declaration
            else f"*(metal::remove_reference_t<{kind}>*)buffers[{index}]"
        )
    text = (
        "namespace msl {\n"
        f"using function_type = decltype({function});\n"
        "}\n"
        "SIM_ENTRY(sim_kernel) {\n"
        "  using namespace msl;\n"
        f"  {function}({', '.join(arguments)});\n"
        "}\n"
    )
    return text, buffers
