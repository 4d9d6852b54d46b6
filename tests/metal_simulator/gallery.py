"""Kernels from simple to hard, how to call them, what they must give, and bugs planted in them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from inputs import float64, normal

SOURCES = Path(__file__).parent / "kernels"
BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"
FLOAT32_ROUNDOFF = 2.0**-24


@dataclass
class Case:
    """One call of a kernel, and what it must give."""

    arguments: dict[str, Any]
    """What the kernel is called with: inputs, template, grid, threadgroup, outputs."""
    expected: np.ndarray
    tolerance: np.ndarray | float


@dataclass
class Bug:
    """A mistake planted in a kernel, and the finding that must come of it."""

    name: str
    old: str
    new: str
    kinds: str
    """The kind of the finding. Several, separated by spaces: which one depends on the order."""
    at: str | Sequence[str] = ""
    """A text in the line that the finding names. Several texts: it is one of these lines."""
    at_barrier: int | None = None
    """The finding names this barrier of the changed source, counted from 0."""
    variable: str | None = None
    element: int | None = None
    thread: tuple[int, int, int] | None = None
    threadgroup: tuple[int, int, int] | None = None
    message: str = ""
    """A text in the finding's message."""
    occurrence: int = 0
    """Which of the places where `old` stands is changed."""
    shape: tuple[int, ...] | None = None
    """The shape that brings the mistake out, if the kernel's first small shape does not."""
    timeout: float = 20.0

    def plant(self, source: str) -> str:
        """The source with the mistake in it. An empty `old`: it is the call that is mistaken."""
        if not self.old:
            return source
        pieces = source.split(self.old)
        assert len(pieces) > self.occurrence + 1, f"{self.name}: '{self.old}' is not there"
        cut = self.occurrence + 1
        return self.old.join(pieces[:cut]) + self.new + self.old.join(pieces[cut:])

    def lines(self, source: str) -> set[int]:
        """The lines of the changed source that the finding may name."""
        lines = source.splitlines()
        found = set()
        for text in [self.at] if isinstance(self.at, str) else self.at:
            places = [n for n, line in enumerate(lines, start=1) if text and text in line]
            assert len(places) == bool(text), f"{self.name}: '{text}' is in lines {places}"
            found.update(places)
        if self.at_barrier is not None:
            barriers = [n for n, line in enumerate(lines, start=1) if "threadgroup_barrier" in line]
            found.add(barriers[self.at_barrier])
        return found

    def matches(self, finding: Any, source: str) -> bool:
        """Whether a finding names the mistake, and its place."""
        return (
            finding.kind in self.kinds.split()
            and (finding.line in (self.lines(source) or {finding.line}))
            and self.variable in (None, finding.variable)
            and self.element in (None, finding.element)
            and self.thread in (None, finding.thread)
            and self.threadgroup in (None, finding.threadgroup)
            and self.message in finding.message
        )


@dataclass
class Kernel:
    """A kernel in `kernels/<name>.metal`."""

    name: str
    inputs: list[str]
    outputs: list[str]
    case: Callable[..., Case]
    """Makes a call: `case(*shape, dtype=..., seed=...)`."""
    small: list[tuple[int, ...]]
    """Shapes for checked runs, the first one for the bugs too."""
    large: list[tuple[int, ...]]
    """Shapes for unchecked runs."""
    dtypes: list[mx.Dtype] = field(default_factory=lambda: [mx.float32, mx.float16, mx.bfloat16])
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of `metal_kernel`."""
    bugs: list[Bug] = field(default_factory=list)

    @property
    def source(self) -> str:
        """The text of the kernel's body."""
        return (SOURCES / f"{self.name}.metal").read_text()


def rounding(dtype: mx.Dtype, expected: np.ndarray) -> np.ndarray:
    """How far the exact result may be from what `dtype` can hold, subnormal numbers included."""
    roundoff, smallest = {
        mx.float32: (FLOAT32_ROUNDOFF, 2.0**-126),
        mx.float16: (2.0**-11, 2.0**-24),
        mx.bfloat16: (2.0**-8, 2.0**-126),
    }[dtype]
    return roundoff * np.abs(expected) + smallest


def accumulation(terms: int, magnitude: np.ndarray) -> np.ndarray:
    """The error of a sum in float32, in whatever order.

    Args:
        terms: how many there are, products and exponentials counted as one or more each.
        magnitude: the sum of their absolute values.
    """
    return terms * FLOAT32_ROUNDOFF * magnitude


def up(size: int, multiple: int) -> int:
    """`size`, rounded up."""
    return -(-size // multiple) * multiple


def swiglu(rows: int, columns: int, *, dtype: mx.Dtype, seed: int) -> Case:
    per_thread = 4
    gate = normal(rows, columns, seed=seed, scale=2.0, dtype=dtype)
    other = normal(rows, columns, seed=seed + 1, dtype=dtype)
    g, u = float64(gate), float64(other)
    expected = g / (1 + np.exp(-g)) * u
    threads = -(-rows * columns // per_thread)
    return Case(
        {
            "inputs": [gate, other],
            "template": [("T", dtype), ("PER_THREAD", per_thread)],
            "grid": (threads, 1, 1),
            "threadgroup": (16, 1, 1),
            "output_shapes": [(rows, columns)],
            "output_dtypes": [dtype],
        },
        expected,
        rounding(dtype, expected) + accumulation(8, np.abs(expected)),
    )


def transpose(rows: int, columns: int, tile: int, *, dtype: mx.Dtype, seed: int) -> Case:
    x = normal(rows, columns, seed=seed, dtype=dtype)
    return Case(
        {
            "inputs": [x],
            "template": [("T", dtype), ("TILE", tile)],
            "grid": (up(columns, tile), up(rows, tile), 1),
            "threadgroup": (tile, tile, 1),
            "output_shapes": [(columns, rows)],
            "output_dtypes": [dtype],
        },
        float64(x).T,
        0.0,
    )


def row_sum(rows: int, columns: int, threads: int, *, dtype: mx.Dtype, seed: int) -> Case:
    x = normal(rows, columns, seed=seed, dtype=dtype)
    expected = float64(x).sum(axis=1)
    return Case(
        {
            "inputs": [x],
            "template": [("T", dtype), ("MAX_SIMDGROUPS", 32)],
            "grid": (threads * rows, 1, 1),
            "threadgroup": (threads, 1, 1),
            "output_shapes": [(rows,)],
            "output_dtypes": [dtype],
        },
        expected,
        rounding(dtype, expected) + accumulation(columns, np.abs(float64(x)).sum(axis=1)),
    )


def softmax(rows: int, columns: int, threads: int, *, dtype: mx.Dtype, seed: int) -> Case:
    x = normal(rows, columns, seed=seed, scale=3.0, dtype=dtype)
    scores = float64(x)
    shifted = scores - scores.max(axis=1, keepdims=True)
    expected = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    # An error of the exponent is a relative error of the exponential.
    terms = columns + 8 + np.abs(shifted).max()
    return Case(
        {
            "inputs": [x],
            "template": [("T", dtype)],
            "grid": (threads * rows, 1, 1),
            "threadgroup": (threads, 1, 1),
            "output_shapes": [(rows, columns)],
            "output_dtypes": [dtype],
        },
        expected,
        rounding(dtype, expected) + accumulation(terms, expected),
    )


def matmul(M: int, K: int, N: int, tile: int, *, dtype: mx.Dtype, seed: int) -> Case:
    a = normal(M, K, seed=seed, dtype=dtype)
    b = normal(K, N, seed=seed + 1, dtype=dtype)
    expected = float64(a) @ float64(b)
    return Case(
        {
            "inputs": [a, b],
            "template": [("T", dtype), ("TILE", tile)],
            "grid": (up(N, tile), up(M, tile), 1),
            "threadgroup": (tile, tile, 1),
            "output_shapes": [(M, N)],
            "output_dtypes": [dtype],
        },
        expected,
        rounding(dtype, expected) + accumulation(K + 1, np.abs(float64(a)) @ np.abs(float64(b))),
    )


def quantized_matvec(rows: int, columns: int, *, dtype: mx.Dtype, seed: int) -> Case:
    group, simdgroups, rows_each = 64, 2, 4
    x = normal(columns, seed=seed, dtype=dtype)
    weight = normal(rows, columns, seed=seed + 1, dtype=dtype)
    w, scales, biases = mx.quantize(weight, group_size=group, bits=4)
    numbers = float64(w.view(mx.uint8).reshape(rows, -1, 1) >> mx.array([0, 4], mx.uint8) & 15)
    numbers = numbers.reshape(rows, columns)
    scale, bias = (np.repeat(float64(array), group, axis=1) for array in (scales, biases))
    expected = (scale * numbers + bias) @ float64(x)
    # scale * number and bias nearly cancel: their sizes count, not the weight's.
    magnitude = (np.abs(scale) * numbers + np.abs(bias)) @ np.abs(float64(x))
    return Case(
        {
            "inputs": [x, w, scales, biases],
            "template": [("T", dtype), ("GROUP", group)],
            "grid": (up(rows, rows_each * simdgroups) // rows_each * 32, 1, 1),
            "threadgroup": (32 * simdgroups, 1, 1),
            "output_shapes": [(rows,)],
            "output_dtypes": [dtype],
        },
        expected,
        rounding(dtype, expected) + accumulation(columns + 4, magnitude),
    )


def simdgroup_matmul(M: int, K: int, N: int, *, dtype: mx.Dtype, seed: int) -> Case:
    a = normal(M, K, seed=seed, dtype=dtype)
    b = normal(K, N, seed=seed + 1, dtype=dtype)
    expected = float64(a) @ float64(b)
    return Case(
        {
            "inputs": [a, b],
            "template": [("T", dtype)],
            "grid": (up(N // 16, 2) * 32, M // 16, 1),
            "threadgroup": (64, 1, 1),
            "output_shapes": [(M, N)],
            "output_dtypes": [mx.float32],
        },
        expected,
        accumulation(K + 1, np.abs(float64(a)) @ np.abs(float64(b))),
    )


def scan(rows: int, columns: int, threads: int, *, dtype: mx.Dtype, seed: int) -> Case:
    x = normal(rows, columns, seed=seed, dtype=dtype)
    expected = float64(x).cumsum(axis=1)
    magnitude = np.abs(float64(x)).cumsum(axis=1)
    return Case(
        {
            "inputs": [x],
            "template": [("T", dtype)],
            "grid": (threads * rows, 1, 1),
            "threadgroup": (threads, 1, 1),
            "output_shapes": [(rows, columns)],
            "output_dtypes": [dtype],
        },
        expected,
        rounding(dtype, expected) + accumulation(columns, magnitude),
    )


def histogram(size: int, bins: int, threads: int, *, dtype: mx.Dtype, seed: int) -> Case:
    # The kernel puts what is outside the bins into the first or the last.
    x = np.random.default_rng(seed).integers(-2, bins + 3, size)
    per_group = 2 * threads + 5
    return Case(
        {
            "inputs": [mx.array(x.astype(np.int32))],
            "template": [("BINS", bins), ("PER_GROUP", per_group)],
            "grid": (-(-size // per_group) * threads, 1, 1),
            "threadgroup": (threads, 1, 1),
            "output_shapes": [(bins,)],
            "output_dtypes": [dtype],
            "init_value": 0,
        },
        np.bincount(np.clip(x, 0, bins - 1), minlength=bins).astype(np.float64),
        0.0,
    )


def attention(
    B: int,
    H: int,
    H_kv: int,
    L: int,
    S: int,
    D: int,
    causal: bool,
    *,
    dtype: mx.Dtype,
    seed: int,
) -> Case:
    queries, keys, parts = 16, 8, 4
    q = normal(B, H, L, D, seed=seed, dtype=dtype)
    k = normal(B, H_kv, S, D, seed=seed + 1, dtype=dtype)
    v = normal(B, H_kv, S, D, seed=seed + 2, dtype=dtype)
    scale = D**-0.5
    q64 = float64(q)
    k64, v64 = (np.repeat(float64(array), H // H_kv, axis=1) for array in (k, v))
    scores = scale * q64 @ k64.swapaxes(2, 3)
    sizes = scale * np.abs(q64) @ np.abs(k64).swapaxes(2, 3)
    if causal:
        scores = np.where(np.tri(L, S, S - L, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    expected = weights @ v64
    # A score's error is a relative error of its weight. Each key may rescale the sum so far.
    magnitude = (weights * ((D + 4) * sizes.max() + 8 * S)) @ np.abs(v64)
    return Case(
        {
            "inputs": [q, k, v, scale],
            "template": [
                ("T", dtype),
                ("D", D),
                ("QUERIES", queries),
                ("KEYS", keys),
                ("CAUSAL", causal),
            ],
            "grid": (-(-L // queries) * queries * parts, H, B),
            "threadgroup": (queries * parts, 1, 1),
            "output_shapes": [q.shape],
            "output_dtypes": [dtype],
        },
        expected,
        rounding(dtype, expected) + accumulation(1, magnitude),
    )


def missing_barriers(*barriers: tuple[str, ...]) -> list[Bug]:
    """Deletes each barrier of a kernel.

    Args:
        barriers: for each of them, texts in the lines that it keeps apart. Which of them comes
            second, and so is reported, depends on the order of the threads.
    """
    return [
        Bug(f"barrier {number} missing", BARRIER, "", "threadgroup-race", at, occurrence=number)
        for number, at in enumerate(barriers)
    ]


KERNELS = [
    Kernel(
        "swiglu",
        ["gate", "up"],
        ["out"],
        swiglu,
        small=[(5, 27)],  # 34 threads, of which the last has 3 elements; 16 a threadgroup
        large=[(127, 1001)],
        bugs=[
            Bug(
                "no guard at the edge",
                "min(first + PER_THREAD, size)",
                "first + PER_THREAD",
                "device-out-of-bounds",
                "float(gate[i])",
                variable="gate",
                element=135,
                thread=(1, 0, 0),
                threadgroup=(2, 0, 0),
            ),
            Bug(
                "one element too many",
                "i < end",
                "i <= end",
                "device-out-of-bounds",
                "float(up[i])",
                variable="up",
                element=135,
                thread=(1, 0, 0),
                threadgroup=(2, 0, 0),
            ),
            Bug(
                "reads before the start",
                "float(gate[i])",
                "float(gate[i - 1])",
                "device-out-of-bounds",
                "gate[i - 1]",
                variable="gate",
                element=-1,
                thread=(0, 0, 0),
                threadgroup=(0, 0, 0),
            ),
            Bug(
                "writes before the start",
                "out[i]",
                "out[i - 1]",
                "device-out-of-bounds",
                "out[i - 1]",
                variable="out",
                element=-1,
                thread=(0, 0, 0),
                threadgroup=(0, 0, 0),
            ),
            Bug(
                "an index that wraps around",
                "float(gate[i])",
                "float(gate[uint(i) - 1])",
                "device-out-of-bounds",
                "gate[uint(i) - 1]",
                variable="gate",
                element=2**32 - 1,
                thread=(0, 0, 0),
                threadgroup=(0, 0, 0),
            ),
            Bug(
                "one element too few",
                "i < end",
                "i < end - 1",
                "output-not-written",
                variable="out",
                element=3,
            ),
            Bug(
                "writes to an input",
                "out[i]",
                "((device T*)up)[i]",
                "write-to-input",
                "((device T*)up)[i]",
                variable="up",
            ),
            Bug(
                "neighbours write the same value",
                "grid.x * PER_THREAD",
                "grid.x * (PER_THREAD - 1)",
                "redundant-write",
                "out[i]",
                variable="out",
            ),
            Bug(
                "all threads write the same elements",
                "out[i]",
                "out[i - first]",
                "device-race",
                "out[i - first]",
                variable="out",
            ),
        ],
    ),
    Kernel(
        "transpose",
        ["x"],
        ["y"],
        transpose,
        small=[(13, 10, 8), (3, 17, 4)],
        large=[(70, 90, 16)],
        bugs=[
            *missing_barriers(("tile[here.y][here.x] =", "T value =")),
            Bug(
                "a barrier that orders no memory",
                "mem_flags::mem_threadgroup",
                "mem_flags::mem_none",
                "threadgroup-race",
                ("tile[here.y][here.x] =", "T value ="),
                variable="tile",
            ),
            Bug(
                "a barrier of the SIMD group only",
                "threadgroup_barrier",
                "simdgroup_barrier",
                "threadgroup-race",
                ("tile[here.y][here.x] =", "T value ="),
                variable="tile",
            ),
            Bug(
                "no guard of the rows read",
                "row < rows && column < columns",
                "column < columns",
                "device-out-of-bounds",
                "= x[",
                variable="x",
            ),
            Bug(
                "no guard of the columns written",
                "y_row < columns && y_column < rows",
                "y_row < columns",
                "device-out-of-bounds",
                "= value",
                variable="y",
            ),
            Bug(
                "one column too many",
                "column < columns",
                "column <= columns",
                "device-out-of-bounds",
                "= x[",
                variable="x",
                element=130,
                thread=(2, 4, 0),
                threadgroup=(1, 1, 0),
            ),
            Bug(
                "reads before the start",
                "+ column]",
                "+ column - 1]",
                "device-out-of-bounds",
                "= x[",
                variable="x",
                element=-1,
                thread=(0, 0, 0),
                threadgroup=(0, 0, 0),
            ),
            Bug(
                "writes before the start",
                "y[y_row * rows + y_column]",
                "y[y_row * rows + y_column - 1]",
                "device-out-of-bounds",
                "= value",
                variable="y",
                element=-1,
                thread=(0, 0, 0),
                threadgroup=(0, 0, 0),
            ),
            Bug(
                "before a row of the tile",
                "tile[here.y][here.x] =",
                "tile[here.y][here.x - 1] =",
                "array-out-of-bounds",
                "tile[here.y]",
            ),
            Bug(
                "a tile too narrow",
                "[TILE + 1];",
                "[TILE - 1];",
                "array-out-of-bounds",
                ("tile[here.y][here.x] =", "T value ="),
            ),
            Bug(
                "a barrier in an if",
                f"}}\n{BARRIER}",
                f"{BARRIER}\n}}",
                "divergent-barrier",
                at_barrier=0,
            ),
            Bug(
                "a return before the barrier",
                "if (row < rows && column < columns) {",
                "if (row >= rows || column >= columns) return;\n{",
                "divergent-barrier",
                at_barrier=0,
            ),
            Bug(
                "a tile never filled",
                "tile[here.y][here.x] = x[row * columns + column];",
                "",
                "threadgroup-uninitialized",
                "T value =",
                variable="tile",
            ),
            Bug(
                "two threads at one element of the tile",
                "tile[here.y][here.x] =",
                "tile[here.y][here.x / 2] =",
                "threadgroup-race",
                "here.x / 2",
                variable="tile",
            ),
            Bug(
                "threadgroups that overlap",
                "grid.xy) * TILE",
                "grid.xy) * (TILE - 1)",
                "redundant-write",
                "= value",
                variable="y",
            ),
            Bug(
                "two threadgroups at one element",
                "y[y_row * rows",
                "y[here.y * rows",
                "device-race",
                "= value",
                variable="y",
            ),
        ],
    ),
    Kernel(
        "row_sum",
        ["x"],
        ["y"],
        row_sum,
        small=[(3, 260, 96), (2, 12, 40)],
        large=[(33, 2052, 128)],
        bugs=[
            *missing_barriers(("partial[simdgroup] = sum", "partial[lane]")),
            Bug(
                "more partial sums than SIMD groups",
                "lane < simdgroups ? partial[lane] : 0.0f",
                "partial[lane]",
                "threadgroup-uninitialized",
                "partial[lane]",
                variable="partial",
            ),
            Bug(
                "one partial sum too many",
                "lane < simdgroups",
                "lane <= simdgroups",
                "threadgroup-uninitialized",
                "partial[lane]",
                variable="partial",
                element=3,
                thread=(3, 0, 0),
            ),
            Bug(
                "too few places for partial sums",
                "[MAX_SIMDGROUPS]",
                "[2]",
                "array-out-of-bounds",
                "partial[simdgroup] = sum",
                message="Index 2 ",
                thread=(64, 0, 0),
            ),
            Bug(
                "four elements too many",
                "i < columns / 4",
                "i <= columns / 4",
                "device-out-of-bounds",
                "= fours[i]",
                variable="x",
                element=780,
                thread=(65, 0, 0),
                threadgroup=(2, 0, 0),
            ),
            Bug(
                "four elements before the start",
                "= fours[i]",
                "= fours[i - 1]",
                "device-out-of-bounds",
                "= fours[i - 1]",
                variable="x",
                element=-4,
                thread=(0, 0, 0),
                threadgroup=(0, 0, 0),
            ),
            Bug(
                "a vector at an odd address",
                "(x + row * columns)",
                "(x + row * columns + 1)",
                "misaligned",
                "= fours[i]",
            ),
            Bug(
                "rows that are no multiple of four",
                "",
                "",
                "misaligned",
                "= fours[i]",
                shape=(3, 262, 96),
            ),
            Bug(
                "a division by zero",
                "columns / 4",
                "columns / (threads / 128)",
                "division-by-zero",
                "columns / (threads / 128)",
            ),
            Bug(
                "a SIMD operation in an if",
                "sum = simd_sum(sum);",
                "if (sum != 0.0f) sum = simd_sum(sum);",
                "divergent-simd-operation",
                "if (sum != 0.0f)",
            ),
            Bug(
                "all lanes write the partial sum",
                "if (lane == 0) {\n    partial",
                "{\n    partial",
                "threadgroup-race redundant-write",
                "partial[simdgroup] = sum",
                variable="partial",
            ),
            Bug(
                "the result one place too early",
                "y[row]",
                "y[row - 1]",
                "device-out-of-bounds",
                "y[row - 1]",
                variable="y",
                element=-1,
                thread=(0, 0, 0),
                threadgroup=(0, 0, 0),
            ),
        ],
    ),
    Kernel(
        "softmax",
        ["x"],
        ["y"],
        softmax,
        small=[(3, 150, 80), (2, 40, 64)],
        large=[(20, 1000, 128)],
        bugs=[
            *missing_barriers(
                ("partial[simdgroup] = largest", "float other ="),
                ("float other =", "partial[simdgroup] = sum"),
                ("partial[simdgroup] = sum", "float part ="),
            ),
            Bug(
                "a barrier in a loop of different lengths",
                " - largest);\n",
                f" - largest);\n{BARRIER}\n",
                "divergent-barrier",
                at_barrier=2,
            ),
            Bug(
                "a return of the threads without an element",
                "int simdgroups =",
                "if (thread_index >= columns) return;\nint simdgroups =",
                "divergent-barrier",
                at_barrier=0,
                shape=(2, 40, 64),
            ),
            Bug(
                "a sum without a start",
                "float sum = 0.0f;",
                "float sum;",
                "uninitialized-local",
                ("float sum;", "sum += "),
            ),
            Bug(
                "more partial sums than SIMD groups",
                "lane < simdgroups ? partial[lane] : 0.0f",
                "partial[lane]",
                "threadgroup-uninitialized",
                "float part =",
                variable="partial",
            ),
            Bug(
                "one element too many",
                "i < columns",
                "i <= columns",
                "device-out-of-bounds",
                "largest = max(",
                variable="x",
                element=450,
                thread=(70, 0, 0),
                threadgroup=(2, 0, 0),
            ),
            Bug(
                "all SIMD groups write one partial sum",
                "partial[simdgroup] = sum",
                "partial[lane] = sum",
                "threadgroup-race",
                "partial[lane] = sum",
                variable="partial",
                element=0,
            ),
            Bug(
                "a lane that is not there",
                "simd_sum(sum)",
                "simd_shuffle(sum, lane + 1)",
                "inactive-lane",
                "simd_shuffle(sum, lane + 1)",
            ),
            Bug(
                "the result written to the input",
                "y[row * columns + i] = T(",
                "((device T*)x)[row * columns + i] = T(",
                "write-to-input",
                "((device T*)x)",
                variable="x",
            ),
        ],
    ),
    Kernel(
        "matmul",
        ["a", "b"],
        ["c"],
        matmul,
        small=[(13, 18, 10, 8), (3, 5, 9, 4)],
        large=[(50, 70, 33, 16)],
        bugs=[
            *missing_barriers(
                ("] = a_element", "] = b_element", "float left =", "float right ="),
                ("] = a_element", "] = b_element", "float left =", "float right ="),
            ),
            Bug(
                "no guard of the rows of a",
                "row < M && a_column < K",
                "a_column < K",
                "device-out-of-bounds",
                "a_element = a[",
                variable="a",
            ),
            Bug(
                "one column of a too many",
                "a_column < K",
                "a_column <= K",
                "device-out-of-bounds",
                "a_element = a[",
                variable="a",
                element=234,
                thread=(2, 4, 0),
            ),
            Bug(
                "one row of b too many",
                "b_row < K",
                "b_row <= K",
                "device-out-of-bounds",
                "b_element = b[",
                variable="b",
            ),
            Bug(
                "the tile not filled at the edge",
                "a_tile[here.y][here.x] = a",
                "if (a_column < K) a_tile[here.y][here.x] = a",
                "threadgroup-uninitialized",
                "float left =",
                variable="a_tile",
                shape=(13, 5, 10, 8),
            ),
            Bug(
                "no guard of the columns written",
                "if (row < M && column < N) {",
                "if (row < M) {",
                "device-race",
                "c[row * N + column] =",
                variable="c",
            ),
            Bug(
                "a return before the barriers",
                "float sum = 0.0f;",
                "if (row >= M || column >= N) return;\nfloat sum = 0.0f;",
                "divergent-barrier",
                at_barrier=0,
            ),
            Bug(
                "a barrier in an if",
                BARRIER,
                f"if (row < M) {BARRIER}",
                "divergent-barrier",
                "if (row < M) threadgroup_barrier",
                at_barrier=1,
            ),
            Bug(
                "loops of different lengths",
                "int start = 0;",
                "int start = here.x;",
                "divergent-barrier",
                at_barrier=0,
            ),
            Bug(
                "one column of the tile too many",
                "k < TILE",
                "k <= TILE",
                "array-out-of-bounds",
                "float left =",
                message="Index 8 ",
            ),
            Bug(
                "one row of the tile too early",
                "b_tile[k][here.x]",
                "b_tile[k - 1][here.x]",
                "array-out-of-bounds",
                "float right =",
                message="Index -1 ",
            ),
            Bug(
                "a tile too large",
                "a_tile[TILE][TILE]",
                "a_tile[16 * TILE][16 * TILE]",
                "threadgroup-memory",
                "a_tile[16 * TILE]",
                variable="a_tile",
            ),
            Bug(
                "two threadgroups at one element",
                "c[row * N + column] =",
                "c[row * N + here.x] =",
                "device-race",
                "c[row * N + here.x] =",
                variable="c",
            ),
            Bug(
                "added to a result without a start",
                "c[row * N + column] =",
                "c[row * N + column] +=",
                "device-uninitialized",
                "c[row * N + column] +=",
                variable="c",
            ),
        ],
    ),
    Kernel(
        "quantized_matvec",
        ["x", "w", "scales", "biases"],
        ["y"],
        quantized_matvec,
        small=[(10, 320)],
        large=[(66, 1024)],
        bugs=[
            Bug(
                "no guard of the rows",
                "min(first_row + ROWS, rows)",
                "first_row + ROWS",
                "device-out-of-bounds",
                "uint packed =",
                variable="w",
            ),
            Bug(
                "one word too many",
                "word < words",
                "word <= words",
                "device-out-of-bounds",
                "values[i] = float(x",
                variable="x",
                element=320,
            ),
            Bug(
                "nine numbers of a word stored",
                "i < PER_WORD",
                "i <= PER_WORD",
                "array-out-of-bounds",
                "values[i] = float(x",
                message="Index 8 ",
            ),
            Bug(
                "nine numbers of a word unpacked",
                "i < PER_WORD",
                "i <= PER_WORD",
                "shift",
                "product +=",
                occurrence=1,
            ),
            Bug(
                "before the sums",
                "sums[row - first_row] +=",
                "sums[row - first_row - 1] +=",
                "array-out-of-bounds",
                "sums[row - first_row - 1] +=",
                message="Index -1 ",
            ),
            Bug(
                "all lanes write the result",
                "if (lane == 0) {",
                "{",
                "redundant-write",
                "y[row] =",
                variable="y",
            ),
            Bug(
                "lanes beyond the SIMD group",
                "float sum = simd_sum(sums[row - first_row]);",
                "float sum = sums[row - first_row];\n"
                "for (int step = 16; step > 0; step /= 2) sum += simd_shuffle(sum, lane + step);",
                "inactive-lane",
                "simd_shuffle(sum, lane + step)",
            ),
            Bug(
                "the next word's group",
                "word * PER_WORD / GROUP",
                "(word + 1) * PER_WORD / GROUP",
                "device-out-of-bounds",
                "float scale =",
                variable="scales",
                element=50,
                thread=(7, 0, 0),
                threadgroup=(1, 0, 0),
            ),
            Bug(
                "a SIMD operation in a loop of different lengths",
                "scale * product + bias * total;",
                "simd_sum(scale * product + bias * total);",
                "divergent-simd-operation",
                "simd_sum(scale * product",
            ),
        ],
    ),
    Kernel(
        "simdgroup_matmul",
        ["a", "b"],
        ["c"],
        simdgroup_matmul,
        small=[(32, 24, 48)],
        large=[(64, 256, 80)],
        options={"header": "#include <metal_simdgroup_matrix>\n"},
        bugs=[
            Bug(
                "no guard of the columns",
                "row < M && column < N",
                "row < M",
                "device-out-of-bounds",
                "simdgroup_load(right",
                variable="b",
            ),
            Bug(
                "one block too many",
                "k < K",
                "k <= K",
                "device-out-of-bounds",
                "simdgroup_load(right",
                variable="b",
            ),
            Bug(
                "one column before the start",
                "column + 8 * i, N",
                "column + 8 * i - 1, N",
                "device-out-of-bounds",
                "simdgroup_load(right",
                variable="b",
                element=-1,
            ),
            Bug(
                "SIMD groups that overlap",
                "simdgroup * 8 * BLOCK",
                "simdgroup * 8",
                "redundant-write",
                "simdgroup_store(",
                variable="c",
            ),
            Bug(
                "two threadgroups at one element",
                "c + (row + 8 * i) * N",
                "c + 8 * i * N",
                "device-race",
                "simdgroup_store(",
                variable="c",
            ),
            Bug(
                "a matrix product in half a SIMD group",
                "simdgroup_multiply_accumulate(",
                "if (thread_index_in_simdgroup < 16) simdgroup_multiply_accumulate(",
                "divergent-simd-operation",
                "simdgroup_multiply_accumulate(",
            ),
        ],
    ),
    Kernel(
        "scan",
        ["x"],
        ["y"],
        scan,
        small=[(3, 150, 64), (2, 31, 96)],
        large=[(12, 1000, 256)],
        bugs=[
            *missing_barriers(
                ("totals[simdgroup] =", "= totals[s]"),
                ("totals[simdgroup] =", "= totals[s]"),
            ),
            Bug(
                "barriers in a loop of different lengths",
                "for (int start = 0; start < columns; start += threads) {\n"
                "    int i = start + thread_index;",
                "for (int i = thread_index; i < columns; i += threads) {",
                "divergent-barrier",
                at_barrier=0,
            ),
            Bug(
                "a lane that is not there",
                "simd_broadcast(running, 31)",
                "simd_broadcast(running, 32)",
                "inactive-lane",
                "simd_broadcast(running, 32)",
            ),
            Bug(
                "an endless loop",
                "start += threads",
                "start += thread_index / threads",
                "timeout",
                timeout=0.3,
            ),
            Bug(
                "one SIMD group too many",
                "s < simdgroups;",
                "s <= simdgroups;",
                "threadgroup-uninitialized",
                "= totals[s]",
                variable="totals",
                element=2,
            ),
            Bug(
                "another threadgroup's result",
                "float carry = 0.0f;",
                "float carry = row > 0 ? float(y[row * columns - 1]) : 0.0f;",
                "device-race device-uninitialized",
                variable="y",
            ),
            Bug(
                "no guard of the elements read",
                "if (i < columns) {\n        value",
                "{\n        value",
                "device-out-of-bounds",
                "value = float(x",
                variable="x",
                threadgroup=(2, 0, 0),
            ),
            Bug(
                "writes before the start",
                "y[row * columns + i]",
                "y[row * columns + i - 1]",
                "device-out-of-bounds",
                "y[row * columns + i - 1]",
                variable="y",
                element=-1,
                thread=(0, 0, 0),
                threadgroup=(0, 0, 0),
            ),
        ],
    ),
    Kernel(
        "histogram",
        ["x"],
        ["histogram"],
        histogram,
        small=[(300, 20, 64), (40, 70, 32)],
        large=[(30_000, 300, 256)],
        dtypes=[mx.uint32],
        options={"atomic_outputs": True},
        bugs=[
            *missing_barriers(
                ("counts[bin] = 0", "atomic_fetch_add_explicit(count,"),
                ("atomic_fetch_add_explicit(count,", "&histogram[bin]"),
            ),
            Bug(
                "a plain addition in threadgroup memory",
                "atomic_fetch_add_explicit(count, 1u, memory_order_relaxed);",
                "counts[bin] += 1;",
                "threadgroup-race",
                "counts[bin] += 1;",
                variable="counts",
            ),
            Bug(
                "a plain addition in device memory",
                "atomic_fetch_add_explicit(&histogram[bin], counts[bin], memory_order_relaxed);",
                "((device uint*)histogram)[bin] += counts[bin];",
                "device-race",
                "((device uint*)histogram)[bin]",
                variable="histogram",
            ),
            Bug(
                "numbers that are no bin",
                "clamp(x[i], 0, BINS - 1)",
                "x[i]",
                "array-out-of-bounds",
                "&counts[bin];",
            ),
            Bug(
                "a count without a start",
                "int bin = thread_index",
                "int bin = thread_index + 1",
                "threadgroup-uninitialized",
                "atomic_fetch_add_explicit(count,",
                variable="counts",
                element=0,
            ),
            Bug(
                "no guard at the end",
                "min(first + PER_GROUP, size)",
                "first + PER_GROUP",
                "device-out-of-bounds",
                "x[i]",
                variable="x",
                threadgroup=(2, 0, 0),
            ),
            Bug(
                "one bin too many",
                "bin < BINS",
                "bin <= BINS",
                "array-out-of-bounds",
                "&histogram[bin]",
                thread=(20, 0, 0),
                message="Index 20 ",
                occurrence=1,
            ),
            Bug(
                "every bin one place too late",
                "&histogram[bin]",
                "&histogram[bin + 1]",
                "device-out-of-bounds",
                "&histogram[bin + 1]",
                variable="histogram",
                element=20,
                thread=(19, 0, 0),
            ),
        ],
    ),
    Kernel(
        "attention",
        ["q", "k", "v", "scale"],
        ["out"],
        attention,
        small=[(1, 2, 1, 20, 27, 16, False), (2, 4, 2, 9, 21, 8, True)],
        large=[(1, 2, 1, 40, 70, 64, True), (2, 2, 1, 37, 37, 32, False)],
        bugs=[
            *missing_barriers(
                ("key_tile[i / D]", "value_tile[i / D]", "score += query_part", "output[i] * shr"),
                ("key_tile[i / D]", "value_tile[i / D]", "score += query_part", "output[i] * shr"),
            ),
            Bug(
                "no guard of the keys",
                "inside ? float(keys[start * D + i]) : 0.0f",
                "float(keys[start * D + i])",
                "device-out-of-bounds",
                "float(keys[",
                variable="k",
            ),
            Bug(
                "one key too many",
                "start + i / D < S",
                "start + i / D <= S",
                "device-out-of-bounds",
                "float(keys[",
                variable="k",
            ),
            Bug(
                "no guard of the queries read",
                "query < L ? scale * float(q[query_offset + i]) : 0.0f",
                "scale * float(q[query_offset + i])",
                "device-out-of-bounds",
                "float(q[",
                variable="q",
            ),
            Bug(
                "no guard of the queries written",
                "if (query < L) {",
                "{",
                "device-race",
                "out[query_offset + i] =",
                variable="out",
            ),
            Bug(
                "a group size of zero",
                "head / (H / H_KV)",
                "head / (H_KV / H)",
                "division-by-zero",
                "head / (H_KV / H)",
            ),
            Bug(
                "the last element of the tile not filled",
                "i < KEYS * D",
                "i < KEYS * D - 1",
                "threadgroup-uninitialized",
                "score += query_part",
                variable="key_tile",
                element=127,
            ),
            Bug(
                "one element beyond the tile",
                "i < KEYS * D",
                "i <= KEYS * D",
                "array-out-of-bounds",
                "key_tile[i / D]",
                message="Index 8 ",
                thread=(0, 0, 0),
            ),
            Bug(
                "as many tiles as each query needs",
                "CAUSAL ? first_query + QUERIES - 1 + S - L",
                "CAUSAL ? query + S - L",
                "divergent-barrier",
                at_barrier=0,
                shape=(1, 4, 2, 9, 21, 16, True),
            ),
            Bug(
                "lanes beyond the SIMD group",
                "simd_shuffle_xor(score, 2)",
                "simd_shuffle(score, thread_index + 2)",
                "inactive-lane",
                "simd_shuffle(score",
            ),
            Bug(
                "a SIMD operation in an if",
                "score += simd_shuffle_xor(score, 1)",
                "if (query < L) score += simd_shuffle_xor(score, 1)",
                "divergent-simd-operation",
                "if (query < L) score",
            ),
        ],
    ),
]
