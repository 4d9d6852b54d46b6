"""Kernels that nobody here wrote: MLX's own, from the headers that its wheel installs, unmodified.

They run checked, launched as MLX's C++ code launches them, and must give what MLX's CPU operations
give.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from inputs import float64, normal
from metal_simulator import Library, Output

KERNELS = "mlx/backend/metal/kernels"
# In place of buffers that a kernel with these function constants does not touch.
UNUSED = np.zeros(64, np.uint8)
METAL_TYPES = {mx.float32: "float", mx.float16: "half", mx.bfloat16: "bfloat16_t"}
ROUNDOFF = {mx.float32: 2.0**-24, mx.float16: 2.0**-11, mx.bfloat16: 2.0**-8}

every_dtype = pytest.mark.parametrize("dtype", METAL_TYPES, ids=METAL_TYPES.values())


@pytest.fixture(autouse=True)
def on_the_cpu_without_warnings() -> Iterator[None]:
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    mx.set_default_device(before)


def library(
    *headers: str, constants: dict[int, bool | int] | None = None, allow: Sequence[str] = ()
) -> Library:
    includes = [f'#include "{KERNELS}/{header}.h"' for header in headers]
    source = "\n".join(["#include <metal_stdlib>", "using namespace metal;", *includes])
    return Library(source, headers[-1].split("/")[-1], constants, allow=allow)


def run(
    source: Library,
    kernel: str,
    template: Sequence[Any],
    arguments: Sequence[Any],
    threadgroups: tuple[int, int, int],
    threadgroup: tuple[int, int, int],
) -> mx.array:
    """Runs a kernel with arguments in the order of their buffers.

    Integers are passed as int32, floats as float32, None stands for an unused buffer.
    """
    buffers = []
    for argument in arguments:
        if argument is None:
            argument = UNUSED
        elif isinstance(argument, int | float):
            argument = np.array([argument], np.int32 if isinstance(argument, int) else np.float32)
        buffers.append(argument)
    names = [
        METAL_TYPES.get(value, str(value).lower() if isinstance(value, bool) else value)
        for value in template
    ]
    (result,) = source.run(
        kernel,
        dict(enumerate(buffers)),
        grid=tuple(n * size for n, size in zip(threadgroups, threadgroup, strict=True)),
        threadgroup=threadgroup,
        template=", ".join(map(str, names)),
    )
    return result


def size_t(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def check_close(
    result: mx.array,
    expected: mx.array,
    dtype: mx.Dtype,
    terms: int,
    rounded: mx.array | float = 0.0,
) -> None:
    """Compares up to the rounding of the result, and of sums of so many terms in float32.

    Args:
        result: what the kernel gave.
        expected: what MLX's CPU operations give, rounded to the dtype too.
        dtype: of both.
        terms: how many numbers are added up.
        rounded: the size of what the kernel rounds to the dtype on the way.
    """
    got, want = float64(result), float64(expected)
    assert got.shape == want.shape
    scale = np.abs(want).max()
    tolerance = 2 * ROUNDOFF[dtype] * np.abs(want) + terms * 2.0**-24 * scale + 2.0**-24
    tolerance = tolerance + ROUNDOFF[dtype] * np.array(rounded, np.float64)
    assert np.all(np.abs(got - want) <= tolerance), (np.abs(got - want) - tolerance).max()


@every_dtype
def test_softmax(dtype: mx.Dtype) -> None:
    x = normal(3, 250, seed=0, scale=3.0, dtype=dtype)
    result = run(
        library("utils", "softmax"),
        "softmax_single_row",
        [dtype, "float"],
        [x, Output(x.shape, dtype), 250],
        threadgroups=(3, 1, 1),
        threadgroup=(64, 1, 1),
    )
    check_close(result, mx.softmax(x, axis=-1, precise=True), dtype, 250)


def test_softmax_of_long_rows() -> None:
    x = normal(2, 4500, seed=1, scale=3.0)
    result = run(
        library("utils", "softmax"),
        "softmax_looped",
        ["float"],
        [x, Output(x.shape, mx.float32), 4500],
        threadgroups=(2, 1, 1),
        threadgroup=(1024, 1, 1),
    )
    check_close(result, mx.softmax(x, axis=-1), mx.float32, 4500)


@every_dtype
def test_logsumexp(dtype: mx.Dtype) -> None:
    x = normal(3, 250, seed=2, scale=3.0, dtype=dtype)
    result = run(
        library("utils", "logsumexp"),
        "logsumexp",
        [dtype],
        [x, Output((3,), dtype), 250],
        threadgroups=(3, 1, 1),
        threadgroup=(64, 1, 1),
    )
    check_close(result, mx.logsumexp(x.astype(mx.float32), axis=-1).astype(dtype), dtype, 250)


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@every_dtype
def test_vector_attention(dtype: mx.Dtype, causal: bool) -> None:
    B, H, H_kv, L, S, D = 1, 4, 2, 2, 45, 64
    q = normal(B, H, L, D, seed=3, dtype=dtype)
    k = normal(B, H_kv, S, D, seed=4, dtype=dtype)
    v = normal(B, H_kv, S, D, seed=5, dtype=dtype)
    constants = {20: False, 21: False, 22: causal, 23: False, 24: False, 25: False, 26: 1}
    strides = [size_t(S * D), size_t(D), size_t(S * D), size_t(D)]
    result = run(
        library("utils", "sdpa_vector", constants=constants),
        "sdpa_vector",
        [dtype, D],
        [q, k, v, Output(q.shape, dtype), H // H_kv, S, *strides, D**-0.5, *[None] * 7],
        threadgroups=(B * H, L, 1),
        threadgroup=(1024, 1, 1),
    )
    expected = mx.fast.scaled_dot_product_attention(
        *(x.astype(mx.float32) for x in (q, k, v)),
        scale=D**-0.5,
        mask="causal" if causal else None,
    )
    check_close(result, expected.astype(dtype), dtype, 8 * S)


QUANTIZED = ("utils", "steel/gemm/gemm", "quantized_utils", "quantized")


@every_dtype
@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_matrix_vector(dtype: mx.Dtype, bits: int) -> None:
    rows, columns = 24, 1024
    x = normal(1, columns, seed=6, dtype=dtype)
    w, scales, biases = mx.quantize(
        normal(rows, columns, seed=7, dtype=dtype), group_size=64, bits=bits
    )
    result = run(
        library(*QUANTIZED, constants={200: True, 201: True, 202: True}),
        "affine_qmv_fast",
        [dtype, 64, bits, False],
        [w, scales, biases, x, Output((1, rows), dtype), columns, rows, *[None] * 8],
        threadgroups=(1, rows // 8, 1),
        threadgroup=(32, 2, 1),
    )
    expected = mx.quantized_matmul(
        x.astype(mx.float32),
        w,
        scales.astype(mx.float32),
        biases.astype(mx.float32),
        group_size=64,
        bits=bits,
    )
    check_close(result, expected.astype(dtype), dtype, columns)


@every_dtype
def test_quantized_matrix_matrix(dtype: mx.Dtype) -> None:
    M, N, K = 35, 40, 128
    x = normal(M, K, seed=8, dtype=dtype)
    w, scales, biases = mx.quantize(normal(N, K, seed=9, dtype=dtype), group_size=64, bits=4)
    result = run(
        library(*QUANTIZED, constants={200: True, 201: True, 202: True}),
        "affine_qmm_t",
        [dtype, 64, 4, False, False],
        [w, scales, biases, x, Output((M, N), dtype), K, N, M, *[None] * 8],
        threadgroups=(2, 2, 1),
        threadgroup=(32, 2, 2),
    )
    scales, biases, x = (array.astype(mx.float32) for array in (scales, biases, x))
    weight = mx.dequantize(w, scales, biases, group_size=64, bits=4)
    # The kernel multiplies weights that are rounded to the dtype, twice: scale * number + bias.
    sizes = mx.abs(x) @ (mx.abs(weight) + mx.repeat(mx.abs(biases), 64, axis=1)).T
    check_close(result, (x @ weight.T).astype(dtype), dtype, K, rounded=2 * sizes)


def structure(*fields: tuple[str, Any]) -> np.ndarray:
    """The bytes of a C structure, aligned as in C: (numpy type, value) of each field."""
    kinds = [
        (f"f{i}", kind, np.shape(value)) if np.shape(value) else (f"f{i}", kind)
        for i, (kind, value) in enumerate(fields)
    ]
    values = np.array([tuple(value for _, value in fields)], np.dtype(kinds, align=True))
    return values.view(np.uint8)


@pytest.mark.parametrize(
    ("M", "N", "K", "transpose_b"),
    [(64, 32, 48, False), (45, 37, 41, True)],
    ids=["even", "ragged-transposed"],
)
@every_dtype
def test_steel_matrix_product(dtype: mx.Dtype, M: int, N: int, K: int, transpose_b: bool) -> None:
    tile_m, tile_n, tile_k = 32, 32, 16
    a = normal(M, K, seed=10, dtype=dtype)
    b = normal(N, K, seed=11, dtype=dtype) if transpose_b else normal(K, N, seed=11, dtype=dtype)
    tiles_m, tiles_n = -(-M // tile_m), -(-N // tile_n)
    i32, i64, f32 = np.int32, np.int64, np.float32
    parameters = structure(
        *((i32, value) for value in (M, N, K, K, K if transpose_b else N, N, tiles_n, tiles_m)),
        *((i64, value) for value in (M * K, K * N, M * N)),
        *((i32, value) for value in (0, K // tile_k, 1)),
    )
    add = structure((i32, 0), (i32, 0), (i64, 0), (f32, 0), (f32, 0))
    constants = {
        10: False,
        100: False,
        110: False,
        200: M % tile_m == 0,
        201: N % tile_n == 0,
        202: K % tile_k == 0,
    }
    result = run(
        library(
            "utils", "steel/gemm/gemm", "steel/gemm/kernels/steel_gemm_fused", constants=constants
        ),
        "gemm",
        [dtype, tile_m, tile_n, tile_k, 2, 2, False, transpose_b],
        [a, b, None, Output((M, N), dtype), parameters, add, None, None],
        threadgroups=(tiles_n, tiles_m, 1),
        threadgroup=(32, 2, 2),
    )
    expected = a.astype(mx.float32) @ (b.T if transpose_b else b).astype(mx.float32)
    check_close(result, expected.astype(dtype), dtype, K)


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@every_dtype
def test_steel_attention(dtype: mx.Dtype, causal: bool) -> None:
    B, H, H_kv, L, S, D = 1, 2, 1, 40, 55, 64
    tile_q, tile_k = 32, 32
    q = normal(B, H, L, D, seed=12, dtype=dtype)
    k = normal(B, H_kv, S, D, seed=13, dtype=dtype)
    v = normal(B, H_kv, S, D, seed=14, dtype=dtype)
    i32, i64 = np.int32, np.int64
    blocks_q, blocks_k = -(-L // tile_q), -(-S // tile_k)
    parameters = structure(
        *((i32, value) for value in (B, H, D, L, S, H // H_kv)),
        (np.float32, D**-0.5),
        *((i32, value) for value in (blocks_q, blocks_k, L // tile_q, S // tile_k)),
        *((i32, value) for value in (L % tile_q, S % tile_k, S - L)),
        *((i64, (heads * n * D, n * D, D)) for heads, n in ((H, L), (H_kv, S), (H_kv, S), (H, L))),
    )
    constants = {
        200: L % tile_q == 0,
        201: S % tile_k == 0,
        300: False,
        301: causal,
        302: False,
        303: False,
    }
    result = run(
        library("utils", "steel/attn/kernels/steel_attention", constants=constants),
        "attention",
        [dtype, tile_q, tile_k, D, D, 4, 1],
        [q, k, v, Output(q.shape, dtype), parameters, *[None] * 4],
        threadgroups=(blocks_q, H, B),
        threadgroup=(32, 4, 1),
    )
    expected = mx.fast.scaled_dot_product_attention(
        *(x.astype(mx.float32) for x in (q, k, v)),
        scale=D**-0.5,
        mask="causal" if causal else None,
    )
    check_close(result, expected.astype(dtype), dtype, 8 * S)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("inclusive", [False, True], ids=["exclusive", "inclusive"])
def test_scan(inclusive: bool, reverse: bool) -> None:
    rows, columns = 3, 700
    x = normal(rows, columns, seed=15)
    # With fewer than 32 SIMD groups, the kernel also reads sums of groups that are not there. What
    # comes of them goes nowhere.
    result = run(
        library("utils", "scan", allow=["threadgroup-uninitialized"]),
        "contiguous_scan",
        ["float", "float", "CumSum<float>", 4, inclusive, reverse],
        [x, Output(x.shape, mx.float32), size_t(columns)],
        threadgroups=(1, rows, 1),
        threadgroup=(64, 1, 1),
    )
    expected = mx.cumsum(x, axis=1, inclusive=inclusive, reverse=reverse)
    check_close(result, expected, mx.float32, columns)


def test_scan_along_another_axis() -> None:
    columns, inner = 70, 37
    x = normal(2, columns, inner, seed=16)
    result = run(
        library("utils", "scan"),
        "strided_scan",
        ["float", "float", "CumSum<float>", 4, True, False],
        [x, Output(x.shape, mx.float32), size_t(columns), size_t(inner), size_t(2)],
        threadgroups=(1, 2 * 2, 1),
        threadgroup=(8 * 32, 1, 1),
    )
    check_close(result, mx.cumsum(x, axis=1), mx.float32, columns)


@pytest.mark.parametrize("indices", [False, True], ids=["sort", "argsort"])
def test_sort(indices: bool) -> None:
    rows, columns = 3, 300
    x = normal(rows, columns, seed=17)
    result = run(
        library("utils", "sort"),
        "block_sort",
        ["float", "uint" if indices else "float", indices, 64, 8],
        [
            x,
            Output(x.shape, mx.uint32 if indices else mx.float32),
            columns,
            1,
            1,
            columns,
            columns,
        ],
        threadgroups=(1, rows, 1),
        threadgroup=(64, 1, 1),
    )
    expected = mx.argsort(x, axis=1) if indices else mx.sort(x, axis=1)
    assert mx.array_equal(result, expected)
