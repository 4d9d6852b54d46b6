"""Week 2, day 2: quantized weights, and a C++ kernel that multiplies with them."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from caches import memory_in_use
from inputs import cases, float64, half_precision, normal
from oracle_models import continue_greedily, ledger_question, random_model, tiny
from quantized import WRONG, Quantized, all_positive, assert_product, described, pack, quantized
from solution import basics, embedding, quantize, qwen3
from tiny_llm_lab.course.checks import (
    arguments_unchanged,
    assert_close,
    assert_raises_clearly,
    assert_tokens_equal,
    check,
    dtype_name,
)
from tiny_llm_lab.models import load_model

every_format = cases(
    "bits group_size", *[(bits, group_size) for bits in (4, 8) for group_size in (32, 64, 128)]
)
every_dtype = pytest.mark.parametrize(
    "dtype", [mx.float32, mx.float16, mx.bfloat16], ids=["float32", "float16", "bfloat16"]
)

# --- Task 1: dequantize ----------------------------------------------------------------------


def assert_dequantized(w: Quantized, *, what: str) -> None:
    """Compare the matrix with its definition, rounded once to the dtype of the scales."""
    assert_close(
        quantize.dequantize_weights(quantize.QuantizedWeights(**w.layer)),
        w.matrix,
        what=what,
        dtype=w.scales.dtype,
        magnitude=np.abs(w.matrix) + 2.0**-10 * w.magnitude
        if w.scales.dtype != mx.float32
        else w.magnitude,
    )


@cases("bits", 4, 8)
def test_task_1_the_order_of_the_codes(bits: int) -> None:
    """The first code lies in the lowest bits of the first word."""
    codes = np.arange(64).reshape(1, 64) % 2**bits
    ones = mx.ones((1, 1))
    w = quantize.QuantizedWeights(ones, mx.zeros((1, 1)), 64, bits, pack(codes, bits))
    assert_close(
        quantize.dequantize_weights(w),
        codes,
        what=f"dequantize_weights of a row with the codes 0, 1, 2, ... of {bits} bits",
        axes="O I",
    )


@every_format
@every_dtype
def test_task_1_every_format(bits: int, group_size: int, dtype: mx.Dtype) -> None:
    """Each group has its own scale and bias; the result has the scales' dtype."""
    w = quantized(5, 3 * group_size, seed=10, bits=bits, group_size=group_size, dtype=dtype)
    name = dtype_name(dtype)
    assert_dequantized(w, what=f"dequantize_weights, {bits} bits, groups of {group_size}, {name}")


@half_precision
def test_task_1_is_computed_in_float32(dtype: mx.Dtype) -> None:
    """Scale times code and bias nearly cancel: half precision in between would show."""
    codes = np.full((4, 128), 15)
    w = quantized(4, 128, seed=20, dtype=dtype, codes=codes)
    biases = mx.array((-15 * float64(w.scales)).astype(np.float32)).astype(dtype)
    matrix = np.repeat(15 * float64(w.scales) + float64(biases), 64, axis=1)
    actual = quantize.dequantize_weights(
        quantize.QuantizedWeights(w.scales, biases, 64, 4, w.weight)
    )
    assert_close(
        actual,
        matrix,
        what=f"dequantize_weights in {dtype_name(dtype)} with biases of about -15 scales",
        dtype=dtype,
        magnitude=np.abs(matrix) + 2.0**-14 * np.abs(w.magnitude),
    )


@cases("shape", (64,), (3, 64), (2, 3, 128))
def test_task_1_any_axes_in_front(shape: tuple[int, ...]) -> None:
    """Only the last axis is packed; what stands in front of it stays."""
    codes = np.random.default_rng(30).integers(0, 16, shape)
    groups = (*shape[:-1], shape[-1] // 64)
    scales, biases = normal(*groups, seed=31), normal(*groups, seed=32)
    w = quantize.QuantizedWeights(scales, biases, 64, 4, pack(codes, 4))
    expected = np.repeat(float64(scales), 64, axis=-1) * codes
    shift = np.repeat(float64(biases), 64, axis=-1)
    assert_close(
        quantize.dequantize_weights(w),
        expected + shift,
        what=f"dequantize_weights of shape {shape}",
        magnitude=np.abs(expected) + np.abs(shift),
    )


@every_format
def test_task_1_agrees_with_mlx(bits: int, group_size: int) -> None:
    """What `mx.quantize` packs comes back as `mx.dequantize` says."""
    weight, scales, biases = mx.quantize(normal(6, 2 * group_size, seed=40), group_size, bits)
    w = quantize.QuantizedWeights(scales, biases, group_size, bits, weight)
    assert_close(
        quantize.dequantize_weights(w),
        mx.dequantize(weight, scales, biases, group_size, bits),
        what=f"dequantize_weights of what mx.quantize made of a matrix, {bits} bits",
    )


@cases("kind", "QuantizedLinear", "QuantizedEmbedding")
def test_task_1_from_a_layer(kind: str) -> None:
    """The arrays are those of the layer, in their places."""
    plain = nn.Linear(128, 6, bias=False) if kind == "QuantizedLinear" else nn.Embedding(6, 128)
    layer = plain.to_quantized(group_size=32, bits=8)
    w = quantize.QuantizedWeights.from_mlx_layer(layer)
    check(
        isinstance(w, quantize.QuantizedWeights),
        f"from_mlx_layer must return QuantizedWeights, but returns {type(w).__name__}.",
    )
    for name in ("scales", "biases", "weight"):
        expected = getattr(layer, name)
        assert_close(
            getattr(w, name),
            expected,
            what=f"the {name} that from_mlx_layer takes over",
            dtype=expected.dtype,
        )
    got = (w.group_size, w.bits)
    check(got == (32, 8), f"from_mlx_layer: group_size and bits must be (32, 8), not {got}.")


def test_task_1_from_a_layer_of_another_kind() -> None:
    """A plain layer has nothing to take over, and other formats mean something else."""
    plain = nn.Linear(64, 32)
    assert_raises_clearly(
        ValueError,
        lambda: quantize.QuantizedWeights.from_mlx_layer(plain),
        what="QuantizedWeights.from_mlx_layer(nn.Linear(64, 32))",
    )
    other = plain.to_quantized(group_size=32, bits=4)
    other.mode = "mxfp4"
    assert_raises_clearly(
        ValueError,
        lambda: quantize.QuantizedWeights.from_mlx_layer(other),
        what='QuantizedWeights.from_mlx_layer(layer) with layer.mode = "mxfp4"',
    )


# --- Tasks 2 and 3: the kernels --------------------------------------------------------------


def product(a: mx.array, w: Quantized) -> Any:
    """The student's `a @ w.T`."""
    return quantize.quantized_matmul(w.scales, w.biases, w.group_size, w.bits, a, w.weight)


def check_product(a: mx.array, w: Quantized, how: str = "") -> None:
    """Compare the student's `a @ w.T` with the definition."""
    assert_product(product(a, w), a, w, what=described(a, w) + how)


def check_formats(bits: int, group_size: int, dtype: mx.Dtype, M: int) -> None:
    """Compare a product in one format, for a matrix of one group per row and of several."""
    for groups in (1, 5):
        w = quantized(
            37, groups * group_size, seed=100, bits=bits, group_size=group_size, dtype=dtype
        )
        check_product(normal(M, groups * group_size, seed=110, dtype=dtype), w)


def check_codes_in_order(M: int) -> None:
    """Vectors that pick one element of each row tell where each code has come from."""
    w = quantized(16, 128, seed=120)
    for start in range(0, 128, M):
        a = mx.eye(128)[start : start + M]
        check_product(a, w, f", row i of a picks element {start} + i of each row")


def check_only_biases(M: int) -> None:
    """With codes of 0 only the biases are left, and they meet every element of a."""
    w = quantized(20, 192, seed=130, codes=np.zeros((20, 192), int))
    check_product(normal(M, 192, seed=133), w, ", all codes 0")


def check_sums_in_float32(dtype: mx.Dtype, M: int) -> None:
    """A sum of thousands of terms of one sign stands still in half precision."""
    w = all_positive(quantized(19, 4096, seed=140, dtype=dtype))
    check_product(mx.abs(normal(M, 4096, seed=143, scale=0.2, dtype=dtype)), w, ", all positive")


def check_float32_scales(dtype: mx.Dtype, M: int) -> None:
    """Scales and biases may be in float32 where the activations are not."""
    w = quantized(21, 128, seed=150)
    check_product(normal(M, 128, seed=153, dtype=dtype), w, ", scales in float32")


def check_strides(M: int) -> None:
    """What is not contiguous in memory is no less valid: slices, transposes, broadcasts."""
    w = quantized(24, 256, seed=160)
    a = normal(M, 256, seed=163)
    check_product(normal(256, M, seed=164).T, w, ", a transposed")
    check_product(normal(M, 512, seed=165)[:, ::2], w, ", every other element of a")
    check_product(mx.broadcast_to(normal(256, seed=166), (M, 256)), w, ", one row broadcast")
    apart = Quantized(
        mx.concatenate([w.scales, w.scales], axis=1)[:, 4:],
        mx.repeat(w.biases, 2, axis=0)[::2],
        64,
        4,
        mx.contiguous(w.weight.T).T,
        w.matrix,
        w.magnitude,
    )
    check_product(a, apart, ", scales, biases and b not contiguous")
    half = Quantized(
        w.scales[::2], w.biases[::2], 64, 4, w.weight[::2], w.matrix[::2], w.magnitude[::2]
    )
    check_product(a, half, ", every other row of b")


def check_extremes(M: int) -> None:
    """Large and small numbers, and zeros."""
    for scale in (1e-30, 1e-15, 1e15, 1e30):
        w = quantized(18, 128, seed=170, scale=scale, bias=scale)
        check_product(normal(M, 128, seed=173), w, f", scales of about {scale:g}")
        w = quantized(18, 128, seed=170)
        check_product(normal(M, 128, seed=173, scale=scale), w, f", a of about {scale:g}")
    check_product(mx.zeros((M, 128)), quantized(18, 128, seed=170), ", a zero")
    large = quantized(18, 128, seed=170, dtype=mx.float16, scale=1e4, bias=1e4)
    check_product(mx.full((M, 128), 60000.0, mx.float16), large, ", sums too large for float16")


def check_arguments_unchanged(M: int) -> None:
    """The caller's arrays are the same after the call."""
    w, a = quantized(40, 64, seed=180), normal(M, 64, seed=183)
    with arguments_unchanged(
        "quantized_matmul(...)", scales=w.scales, biases=w.biases, a=a, b=w.weight
    ):
        mx.eval(product(a, w))


# --- Task 2: matrix-vector -------------------------------------------------------------------


@every_format
@every_dtype
def test_task_2_every_format(bits: int, group_size: int, dtype: mx.Dtype) -> None:
    """4 and 8 bits, groups of 32, 64 and 128, every dtype, one vector."""
    check_formats(bits, group_size, dtype, M=1)


@cases("M", 1, 2, 3, 4)
@cases("N", 1, 2, 31, 32, 33, 100)
def test_task_2_every_number_of_vectors_and_rows(M: int, N: int) -> None:
    """Whatever the number of vectors and of rows is, no row is left out."""
    check_product(normal(M, 192, seed=201), quantized(N, 192, seed=200))


@cases("M", 1, 4)
def test_task_2_codes_in_order(M: int) -> None:
    """Each code meets the element of the vector that it belongs to."""
    check_codes_in_order(M)


@cases("M", 1, 3)
def test_task_2_biases(M: int) -> None:
    """A bias belongs to every element of its group, not to the group."""
    check_only_biases(M)


@half_precision
@cases("M", 1, 4)
def test_task_2_sums_in_float32(dtype: mx.Dtype, M: int) -> None:
    """Products and sums are in float32; only the result is rounded."""
    check_sums_in_float32(dtype, M)


@half_precision
def test_task_2_scales_in_float32(dtype: mx.Dtype) -> None:
    """The scales may be more precise than the activations."""
    check_float32_scales(dtype, M=1)


@cases("M", 1, 3)
def test_task_2_strides(M: int) -> None:
    """Arrays need not be contiguous."""
    check_strides(M)


@cases("shape", (128,), (1, 128), (1, 1, 128), (2, 1, 128), (0, 128), (2, 0, 128))
def test_task_2_axes_in_front(shape: tuple[int, ...]) -> None:
    """`a` may have any number of axes in front, of any size."""
    check_product(normal(*shape, seed=211), quantized(35, 128, seed=210))


@cases("M", 1, 2)
def test_task_2_extremes(M: int) -> None:
    """Large, small and zero."""
    check_extremes(M)


def test_task_2_arguments_unchanged() -> None:
    """Nothing is written to the caller's arrays."""
    check_arguments_unchanged(M=1)


def test_task_2_a_long_row() -> None:
    """A matrix of the size of a real layer, on all cores."""
    check_product(normal(1, 4096, seed=221), quantized(1000, 4096, seed=220))


def test_task_2_is_lazy() -> None:
    """A product is a node of MLX's graph: it may depend on others, and others on it."""
    first, second = quantized(64, 128, seed=230), quantized(20, 64, seed=240)
    a = normal(1, 128, seed=231)
    hidden = product(a * 2, first)
    expected = 2 * float64(a) @ first.matrix.T
    assert_close(
        product(hidden + 1, second) - 1,
        (expected + 1) @ second.matrix.T - 1,
        what="a product of a product",
        reduction=128 * 64,
        magnitude=(2 * np.abs(float64(a)) @ first.magnitude.T + 1) @ second.magnitude.T,
    )


def test_task_2_on_a_stream_of_its_own() -> None:
    """The kernel runs on the CPU's current stream."""
    w, a = quantized(20, 64, seed=250), normal(1, 64, seed=251)
    with mx.stream(mx.new_stream(mx.cpu)):
        result = product(a, w)
        mx.eval(result)
    assert_product(result, a, w, what=described(a, w) + ", on another stream")


def test_task_2_without_transposing() -> None:
    """`transpose_b=False` multiplies with the matrix as it is."""
    w = quantized(48, 128, seed=260)
    for dtype in (mx.float32, mx.float16):
        a = normal(3, 48, seed=261, dtype=dtype)
        assert_close(
            quantize.quantized_matmul(w.scales, w.biases, 64, 4, a, w.weight, transpose_b=False),
            float64(a) @ w.matrix,
            what=f"quantized_matmul(..., transpose_b=False) in {dtype_name(dtype)}",
            dtype=dtype,
            reduction=48,
            magnitude=np.abs(float64(a)) @ w.magnitude,
        )


@pytest.mark.parametrize("name", WRONG)
def test_task_2_wrong_arguments(name: str) -> None:
    """What cannot be multiplied is refused with a sentence, and never read out of bounds."""
    w = quantized(6, 128, seed=270)
    given = {
        "scales": w.scales,
        "biases": w.biases,
        "group_size": 64,
        "bits": 4,
        "a": normal(2, 128, seed=271),
        "b": w.weight,
    }
    assert_raises_clearly(
        ValueError,
        lambda: mx.eval(quantize.quantized_matmul(**{**given, **WRONG[name](given)})),
        what=f"quantized_matmul with {name}",
    )


# --- Task 3: matrix-matrix -------------------------------------------------------------------


@every_format
@every_dtype
def test_task_3_every_format(bits: int, group_size: int, dtype: mx.Dtype) -> None:
    """4 and 8 bits, groups of 32, 64 and 128, every dtype, many vectors."""
    check_formats(bits, group_size, dtype, M=14)


@cases("M", 5, 6, 7, 8, 9, 10, 11, 12, 13, 31, 255, 256, 257, 300)
@cases("N", 1, 15, 16, 17, 32, 33, 70)
def test_task_3_ragged_edges(M: int, N: int) -> None:
    """Whatever the number of vectors and of rows is, the last tiles are complete."""
    check_product(normal(M, 64, seed=301), quantized(N, 64, seed=300))


@cases("K", 480, 512, 544, 1024, 1056, 1600)
def test_task_3_long_rows(K: int) -> None:
    """Rows that do not fit into the cache are multiplied piece by piece, and nothing is lost."""
    check_product(normal(9, K, seed=311), quantized(20, K, seed=310, group_size=32))


@cases("M", 5, 16)
def test_task_3_codes_in_order(M: int) -> None:
    """Each code meets the element of the vector that it belongs to."""
    check_codes_in_order(M)


def test_task_3_biases() -> None:
    """A bias belongs to every element of its group."""
    check_only_biases(M=9)


@half_precision
def test_task_3_sums_in_float32(dtype: mx.Dtype) -> None:
    """Products and sums are in float32, also from one piece of a row to the next."""
    check_sums_in_float32(dtype, M=8)


@half_precision
def test_task_3_scales_in_float32(dtype: mx.Dtype) -> None:
    """The scales may be more precise than the activations."""
    check_float32_scales(dtype, M=8)


def test_task_3_strides() -> None:
    """Arrays need not be contiguous."""
    check_strides(M=8)


@cases("shape", (5, 128), (2, 3, 128), (3, 1, 2, 128))
def test_task_3_axes_in_front(shape: tuple[int, ...]) -> None:
    """`a` may have any number of axes in front."""
    check_product(normal(*shape, seed=321), quantized(35, 128, seed=320))


def test_task_3_extremes() -> None:
    """Large, small and zero."""
    check_extremes(M=7)


def test_task_3_arguments_unchanged() -> None:
    """Nothing is written to the caller's arrays."""
    check_arguments_unchanged(M=7)


def test_task_3_prefill_and_decode_agree() -> None:
    """A row comes out the same, whether it is multiplied alone or among others."""
    w, a = quantized(80, 640, seed=330), normal(40, 640, seed=333)
    together = product(a, w)
    for row in (0, 17, 39):
        assert_close(
            product(a[row], w),
            together[row],
            what=f"row {row} of a product with 40 rows, multiplied alone",
            reduction=640,
            magnitude=np.abs(float64(a[row])) @ w.magnitude.T,
        )


# --- Task 4: the quantized model -------------------------------------------------------------


def weights_of(w: Quantized) -> Any:
    """A matrix as the student's `QuantizedWeights`."""
    return quantize.QuantizedWeights(**w.layer)


def linear(function: str, x: mx.array, w: Quantized, bias: mx.array | None = None) -> Any:
    """The student's `quantized_linear`, or their `linear` with a weight that is quantized."""
    if function == "quantized_linear":
        return quantize.quantized_linear(x, weights_of(w), bias)
    try:
        return basics.linear(x, weights_of(w), bias)
    except (TypeError, AttributeError) as error:
        check(False, f"linear(x, w, bias) must take QuantizedWeights for w, but: {error}")


def quantized_model(mlx_model: Any) -> Any:
    """The student's model with quantized weights."""
    model = qwen3.Qwen3Model(mlx_model, quantized=True)
    check(
        isinstance(model.embedding, embedding.QuantizedEmbedding),
        "The embedding of Qwen3Model(mlx_model, quantized=True) must be a QuantizedEmbedding, if "
        f"that of mlx_model is quantized, but is of type {type(model.embedding).__name__}.",
    )
    return model


@cases("shape", (128,), (3, 128), (2, 9, 128))
@cases("function", "quantized_linear", "linear")
def test_task_4_linear(shape: tuple[int, ...], function: str) -> None:
    """`quantized_linear(x, w)`, and `linear(x, w)` where w is quantized."""
    w, x = quantized(21, 128, seed=400), normal(*shape, seed=403)
    assert_product(linear(function, x, w), x, w, what=f"{function}(x, w), x {x.shape}, w quantized")


@every_dtype
@cases("function", "quantized_linear", "linear")
def test_task_4_bias(dtype: mx.Dtype, function: str) -> None:
    """The bias is added to every row, and the result keeps the dtype of x."""
    w, x = quantized(21, 128, seed=410, dtype=dtype), normal(3, 128, seed=413, dtype=dtype)
    bias = normal(21, seed=414)
    assert_close(
        linear(function, x, w, bias),
        float64(x) @ w.matrix.T + float64(bias),
        what=f"{function}(x, w, bias) in {dtype_name(dtype)}, w quantized",
        dtype=dtype,
        reduction=128 if dtype == mx.float32 else 4,
        magnitude=np.abs(float64(x)) @ w.magnitude.T
        if dtype == mx.float32
        else np.abs(float64(x) @ w.matrix.T) + np.abs(float64(bias)),
    )


@every_dtype
@cases("shape", (), (5,), (2, 3), (2, 0))
def test_task_4_embedding(shape: tuple[int, ...], dtype: mx.Dtype) -> None:
    """The rows of the ids, dequantized, in the dtype of the scales."""
    w = quantized(50, 64, seed=420, dtype=dtype)
    ids = np.random.default_rng(423).integers(0, 50, shape)
    table = embedding.QuantizedEmbedding(50, 64, weights_of(w))
    assert_close(
        table(mx.array(ids)),
        w.matrix[ids],
        what=f"QuantizedEmbedding(...)(x), x {shape}",
        dtype=dtype,
        magnitude=w.magnitude[ids],
    )


def test_task_4_embedding_dequantizes_only_what_is_looked_up() -> None:
    """A lookup of two rows needs no memory for the whole table."""
    codes = np.zeros((20000, 256), int)
    table = embedding.QuantizedEmbedding(
        20000, 256, weights_of(quantized(20000, 256, seed=430, codes=codes))
    )
    before = memory_in_use()
    mx.reset_peak_memory()
    mx.eval(table(mx.array([3, 19999])))
    needed = mx.get_peak_memory() - before
    check(
        needed < 2_000_000,
        f"Looking up 2 of 20,000 rows needs {needed / 1e6:.1f} MB.\n"
        "  expected   next to nothing: only these rows are dequantized\n"
        "  got        about the size of the dequantized table, 20.5 MB",
    )


@cases("shape", (64,), (3, 64), (2, 5, 64))
def test_task_4_embedding_as_output_head(shape: tuple[int, ...]) -> None:
    """The table scores every token."""
    w, x = quantized(50, 64, seed=440), normal(*shape, seed=443)
    actual = embedding.QuantizedEmbedding(50, 64, weights_of(w)).as_linear(x)
    assert_product(actual, x, w, what=f"QuantizedEmbedding(...).as_linear(x), x {shape}")


@cases("vocab_size embedding_dim", (49, 64), (50, 128), (64, 50))
def test_task_4_embedding_of_another_shape(vocab_size: int, embedding_dim: int) -> None:
    """The table has to have the shape that is announced."""
    w = weights_of(quantized(50, 64, seed=450))
    assert_raises_clearly(
        ValueError,
        lambda: embedding.QuantizedEmbedding(vocab_size, embedding_dim, w),
        what=f"QuantizedEmbedding({vocab_size}, {embedding_dim}, weight of shape (50, 64))",
    )


@cases("bits tied", (4, True), (4, False), (8, True))
def test_task_4_model(bits: int, tied: bool) -> None:
    """The logits of a quantized model are mlx-lm's, and plain layers stay plain."""
    for quantized_to in (bits, None):
        mlx_model = random_model(
            seed=460,
            layers=2,
            vocab_size=70,
            hidden_size=64,
            head_dim=16,
            intermediate_size=128,
            tied=tied,
            bits=quantized_to,
        )
        ids = mx.array(np.random.default_rng(461).integers(0, 70, (2, 9)))
        kind = f"of {quantized_to} bits" if quantized_to else "that is not quantized"
        if quantized_to:
            model = quantized_model(mlx_model)
        else:
            model = qwen3.Qwen3Model(mlx_model, quantized=True)
        assert_close(
            model(ids),
            mlx_model(ids),
            what=f"Qwen3Model(mlx_model, quantized=True)(inputs) of a checkpoint {kind}",
            reduction=2 * 128,
            axes="B L vocab",
        )


def test_task_4_model_stays_quantized() -> None:
    """The weights are not dequantized into memory, neither at once nor later."""
    mlx_model, _ = load_model("random:small")
    ids = mx.array([[1, 2, 3]])
    mx.eval(mlx_model(ids))
    before = memory_in_use()
    model = quantized_model(mlx_model)
    mx.eval(model(ids))
    more = memory_in_use() - before
    check(
        more < 2_000_000,
        f"Qwen3Model(mlx_model, quantized=True) holds {more / 1e6:.1f} MB beside the quantized "
        "weights.\n"
        "  expected   next to nothing: every layer keeps scales, biases and codes as they are\n"
        "  got        weights that are dequantized (all of them would be 17 MB)",
    )


def test_task_4_the_embedded_model() -> None:
    """The same tokens as mlx-lm, for the embedded model, without and with a cache."""
    mlx_model, tokenizer = tiny()
    prompt = tokenizer.encode(ledger_question(6), add_special_tokens=False)
    expected, _ = continue_greedily(mlx_model, prompt, 8)
    model = quantized_model(mlx_model)
    caches = model.create_kv_cache()
    got, tokens, offset = [], prompt, 0
    for _ in expected:
        logits = model(mx.array([tokens]), offset, caches)
        offset += len(tokens)
        tokens = [int(mx.argmax(logits[0, -1]).item())]
        got += tokens
    assert_tokens_equal(
        got, expected, what="greedy tokens of Qwen3Model(mlx_model, quantized=True)"
    )
