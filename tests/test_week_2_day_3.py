"""Week 2, day 3: Metal kernels that multiply with quantized weights.

Without Apple's GPU they run in the simulator, which finds races, overruns and missing barriers.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from inputs import cases, float64, half_precision, normal
from metal import ORDERS, in_orders, kernels_run
from oracle_models import random_model
from quantized import WRONG, Quantized, all_positive, assert_product, described, quantized
from solution import quantize, qwen3
from tiny_llm_lab.course.checks import assert_close, assert_raises_clearly, check
from tiny_llm_lab.kernels import uses_simulator

# A kernel is compiled for each of these, so there are few: every dtype with both numbers of bits,
# and these with every group size.
every_format = pytest.mark.parametrize(
    ["dtype", "bits", "group_size"],
    [
        (mx.float32, 4, 64),
        (mx.float32, 8, 32),
        (mx.float16, 4, 32),
        (mx.float16, 8, 64),
        (mx.bfloat16, 4, 128),
        (mx.bfloat16, 8, 128),
    ],
)

Product = Callable[[Any, mx.array], mx.array]
"""`matvec_metal` or `matmul_metal` of the solution."""


def check_product(
    name: str, a: mx.array, w: Quantized, how: str = "", orders: tuple[int, ...] = (0,)
) -> None:
    """Compare the student's `matvec_metal(w, a)` or `matmul_metal(w, a)` with the definition."""
    weights = quantize.QuantizedWeights(**w.layer)
    what = described(a, w, name) + how
    for result, order in in_orders(lambda: getattr(quantize, name)(weights, a), orders):
        assert_product(result, a, w, what=what + order)


def check_format(name: str, dtype: mx.Dtype, bits: int, group_size: int, M: int) -> None:
    """Compare a product in one format, in several orders of the threads."""
    w = quantized(37, 3 * group_size, seed=10, bits=bits, group_size=group_size, dtype=dtype)
    check_product(name, normal(M, 3 * group_size, seed=11, dtype=dtype), w, orders=ORDERS)


def check_codes_in_order(name: str, bits: int, group_size: int) -> None:
    """Vectors that pick one element of each row tell where each code has come from."""
    w = quantized(10, 128, seed=20, bits=bits, group_size=group_size)
    check_product(name, mx.eye(128)[:70], w, ", row i of a picks element i of each row of b")
    check_product(name, mx.eye(128)[70:], w, ", row i of a picks element 70 + i of each row of b")


def check_only_biases(name: str, M: int) -> None:
    """With codes of 0 only the biases are left, and they meet every element of a."""
    w = quantized(20, 192, seed=30, codes=np.zeros((20, 192), int))
    check_product(name, normal(M, 192, seed=33), w, ", all codes 0")


def check_sums_in_float32(name: str, dtype: mx.Dtype, M: int) -> None:
    """A sum of thousands of terms of one sign stands still in half precision."""
    group_size = 32 if dtype == mx.float16 else 128
    w = all_positive(quantized(9, 4096, seed=40, group_size=group_size, dtype=dtype))
    a = mx.abs(normal(M, 4096, seed=43, scale=0.2, dtype=dtype))
    check_product(name, a, w, ", all positive")


def check_float32_scales(name: str, M: int) -> None:
    """Scales and biases may be in float32 where the activations are not."""
    w = quantized(21, 128, seed=50)
    check_product(name, normal(M, 128, seed=53, dtype=mx.float16), w, ", scales in float32")


def check_extremes(name: str, M: int) -> None:
    """Large and small numbers, and zeros."""
    for scale in (1e-30, 1e-15, 1e15, 1e30):
        w = quantized(18, 128, seed=60, scale=scale, bias=scale)
        check_product(name, normal(M, 128, seed=63), w, f", scales of about {scale:g}")
        w = quantized(18, 128, seed=60)
        check_product(name, normal(M, 128, seed=63, scale=scale), w, f", a of about {scale:g}")
    check_product(name, mx.zeros((M, 128)), quantized(18, 128, seed=60), ", a zero")


def check_strides(name: str, M: int) -> None:
    """What is not contiguous in memory is no less valid."""
    w = quantized(24, 256, seed=70)
    check_product(name, normal(256, M, seed=71).T, w, ", a transposed")
    check_product(name, normal(M, 512, seed=72)[:, ::2], w, ", every other element of a")
    half = Quantized(
        w.scales[::2], w.biases[::2], 64, 4, w.weight[::2], w.matrix[::2], w.magnitude[::2]
    )
    check_product(name, normal(M, 256, seed=73), half, ", every other row of b")


# --- Task 1: matrix-vector -------------------------------------------------------------------


@every_format
def test_task_1_every_format(dtype: mx.Dtype, bits: int, group_size: int) -> None:
    """4 and 8 bits, groups of 32, 64 and 128, every dtype, any order of the threads."""
    check_format("matvec_metal", dtype, bits, group_size, M=1)


@cases("bits group_size", (4, 64), (8, 32))
def test_task_1_codes_in_order(bits: int, group_size: int) -> None:
    """Each code meets the element of the vector that it belongs to."""
    check_codes_in_order("matvec_metal", bits, group_size)


@cases("M", 1, 2, 4)
@cases("N", 1, 3, 4, 5, 7, 8, 9, 64, 65)
def test_task_1_every_number_of_vectors_and_rows(M: int, N: int) -> None:
    """No row is left out, and nothing is read or written behind the last one."""
    check_product("matvec_metal", normal(M, 576, seed=101), quantized(N, 576, seed=100))


@cases("K", 64, 128, 192, 256, 320, 512, 1024, 1088)
def test_task_1_every_length(K: int) -> None:
    """Rows with fewer words than lanes, with as many, and with some more."""
    check_product("matvec_metal", normal(2, K, seed=111), quantized(11, K, seed=110))


def test_task_1_a_matrix_of_one_row() -> None:
    """MLX puts arrays below 8 elements into `constant` memory; the kernel does not mind."""
    check_product("matvec_metal", normal(1, 64, seed=121), quantized(1, 64, seed=120))


@cases("M", 1, 3)
def test_task_1_biases(M: int) -> None:
    """A bias belongs to every element of its group, not to the group."""
    check_only_biases("matvec_metal", M)


@half_precision
def test_task_1_sums_in_float32(dtype: mx.Dtype) -> None:
    """Products and sums are in float32; only the result is rounded."""
    check_sums_in_float32("matvec_metal", dtype, M=1)


def test_task_1_scales_in_float32() -> None:
    """The scales may be more precise than the activations."""
    check_float32_scales("matvec_metal", M=1)


def test_task_1_extremes() -> None:
    """Large, small and zero."""
    check_extremes("matvec_metal", M=2)


def test_task_1_strides() -> None:
    """Arrays need not be contiguous."""
    check_strides("matvec_metal", M=2)


# --- Task 2: matrix-matrix -------------------------------------------------------------------


@every_format
def test_task_2_every_format(dtype: mx.Dtype, bits: int, group_size: int) -> None:
    """4 and 8 bits, groups of 32, 64 and 128, every dtype, any order of the threads."""
    check_format("matmul_metal", dtype, bits, group_size, M=9)


@cases("bits group_size", (4, 64), (8, 32))
def test_task_2_codes_in_order(bits: int, group_size: int) -> None:
    """Each code meets the element of the vector that it belongs to."""
    check_codes_in_order("matmul_metal", bits, group_size)


@cases("M", 1, 5, 8, 17, 31, 32, 33, 65)
@cases("N", 8, 15, 31, 32, 33, 70)
def test_task_2_ragged_edges(M: int, N: int) -> None:
    """The last tiles are complete, and nothing is read or written behind them."""
    check_product("matmul_metal", normal(M, 64, seed=201), quantized(N, 64, seed=200))


@cases("K", 32, 64, 96, 160, 416)
def test_task_2_every_number_of_steps(K: int) -> None:
    """Tile after tile along K adds to the same sums."""
    w = quantized(20, K, seed=210, bits=8, group_size=32)
    check_product("matmul_metal", normal(9, K, seed=211), w)


def test_task_2_a_matrix_of_one_row() -> None:
    """MLX puts arrays below 8 elements into `constant` memory; the kernel does not mind."""
    check_product("matmul_metal", normal(6, 64, seed=221), quantized(1, 64, seed=220))


@cases("order", 0, 1, 5, 6, 7, 8)
def test_task_2_any_order_of_the_threads(order: int) -> None:
    """SIMD groups may be far apart; only barriers keep them together."""
    a, w = normal(40, 192, seed=231), quantized(40, 192, seed=230)
    check_product("matmul_metal", a, w, orders=(order,))


def test_task_2_biases() -> None:
    """A bias belongs to every element of its group, not to the group."""
    check_only_biases("matmul_metal", M=9)


@half_precision
def test_task_2_sums_in_float32(dtype: mx.Dtype) -> None:
    """Products and sums are in float32; only the result is rounded."""
    check_sums_in_float32("matmul_metal", dtype, M=6)


def test_task_2_scales_in_float32() -> None:
    """The scales may be more precise than the activations."""
    check_float32_scales("matmul_metal", M=7)


def test_task_2_extremes() -> None:
    """Large, small and zero."""
    check_extremes("matmul_metal", M=7)


def test_task_2_strides() -> None:
    """Arrays need not be contiguous."""
    check_strides("matmul_metal", M=9)


# --- Task 3: which kernel --------------------------------------------------------------------


def product(a: mx.array, w: Quantized) -> Any:
    """The student's `quantized_matmul_metal`."""
    return quantize.quantized_matmul_metal(w.scales, w.biases, w.group_size, w.bits, a, w.weight)


@cases(
    "shape",
    (128,),
    (1, 128),
    (2, 2, 128),
    (5, 128),
    (2, 3, 128),
    (3, 1, 2, 128),
    (0, 128),
    (2, 0, 128),
)
def test_task_3_axes_in_front(shape: tuple[int, ...]) -> None:
    """`a` may have any number of axes in front, of any size."""
    a, w = normal(*shape, seed=301), quantized(35, 128, seed=300)
    assert_product(product(a, w), a, w, what=described(a, w, "quantized_matmul_metal"))


def test_task_3_a_matrix_without_rows() -> None:
    """There is nothing to launch, and the result is empty."""
    w = quantized(0, 128, seed=310)
    a = normal(3, 128, seed=311)
    assert_product(product(a, w), a, w, what=described(a, w, "quantized_matmul_metal"))


@cases(
    "shape kernel",
    ((128,), "quantized_matvec"),
    ((4, 128), "quantized_matvec"),
    ((2, 2, 128), "quantized_matvec"),
    ((5, 128), "quantized_matmul"),
    ((2, 3, 128), "quantized_matmul"),
)
def test_task_3_by_the_number_of_rows(shape: tuple[int, ...], kernel: str) -> None:
    """Up to 4 vectors are multiplied by the kernel for few, 5 and more by the one for many."""
    with kernels_run() as names:
        mx.eval(product(normal(*shape, seed=321), quantized(35, 128, seed=320)))
    if uses_simulator():
        check(
            names == [kernel],
            f"quantized_matmul_metal with a of shape {shape} runs the wrong kernel.\n"
            f"  expected   {kernel}\n"
            f"  got        {', '.join(names) or 'none'}",
        )


@pytest.mark.parametrize("name", WRONG)
def test_task_3_wrong_arguments(name: str) -> None:
    """What cannot be multiplied is refused with a sentence, and never read out of bounds."""
    w = quantized(6, 128, seed=330)
    given = {
        "scales": w.scales,
        "biases": w.biases,
        "group_size": 64,
        "bits": 4,
        "a": normal(2, 128, seed=331),
        "b": w.weight,
    }
    assert_raises_clearly(
        ValueError,
        lambda: mx.eval(quantize.quantized_matmul_metal(**{**given, **WRONG[name](given)})),
        what=f"quantized_matmul_metal with {name}",
    )


def set_device(monkeypatch: pytest.MonkeyPatch, on_metal: bool) -> list[mx.array]:
    """Let `uses_metal()` say this, and note what `quantized_matmul_metal` is asked to multiply."""
    multiplied: list[mx.array] = []
    original = quantize.quantized_matmul_metal

    def noted(
        scales: mx.array, biases: mx.array, group_size: int, bits: int, a: mx.array, b: mx.array
    ) -> mx.array:
        multiplied.append(a)
        return original(scales, biases, group_size, bits, a, b)

    monkeypatch.setattr(quantize, "uses_metal", lambda: on_metal)
    monkeypatch.setattr(quantize, "quantized_matmul_metal", noted)
    return multiplied


@cases("M", 1, 9)
def test_task_3_by_device(M: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`quantized_matmul` asks `uses_metal()`, at each call, unless there is no kernel for it."""
    w = quantized(64, 128, seed=340)
    for on_metal in (True, False, True):
        with monkeypatch.context() as patch:
            multiplied = set_device(patch, on_metal)
            for transpose_b in (True, False):
                a = normal(M, 128 if transpose_b else 64, seed=341)
                result = quantize.quantized_matmul(
                    w.scales, w.biases, 64, 4, a, w.weight, transpose_b=transpose_b
                )
                matrix, magnitude = (x.T if transpose_b else x for x in (w.matrix, w.magnitude))
                assert_close(
                    result,
                    float64(a) @ matrix,
                    what=f"quantized_matmul(transpose_b={transpose_b}), uses_metal() is {on_metal}",
                    reduction=a.shape[-1],
                    magnitude=np.abs(float64(a)) @ magnitude,
                )
        check(
            len(multiplied) == on_metal,
            f"quantized_matmul must call quantized_matmul_metal if uses_metal() and transpose_b.\n"
            f"  expected   {int(on_metal)} calls for the two products, uses_metal() is {on_metal}\n"
            f"  got        {len(multiplied)}",
        )


def test_task_3_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logits of a quantized model are mlx-lm's, with every product by a Metal kernel."""
    multiplied = set_device(monkeypatch, on_metal=True)
    mlx_model = random_model(
        seed=360,
        layers=1,
        vocab_size=70,
        hidden_size=64,
        head_dim=16,
        intermediate_size=128,
        tied=True,
        bits=4,
    )
    model = qwen3.Qwen3Model(mlx_model, quantized=True)
    for length in (1, 6):
        multiplied.clear()
        ids = mx.array(np.random.default_rng(361).integers(0, 70, (1, length)))
        assert_close(
            model(ids),
            mlx_model(ids),
            what=f"Qwen3Model(mlx_model, quantized=True)(inputs), inputs 1 x {length}, with Metal",
            reduction=128,
            axes="B L vocab",
        )
        check(
            len(multiplied) == 8,
            "A model must multiply by quantized_matmul_metal where uses_metal() is True.\n"
            "  expected   8 products: 4 of the attention, 3 of the MLP, the output head\n"
            f"  got        {len(multiplied)}",
        )
