"""Week 1, day 1: softmax, the linear layer, attention, and multi-head attention."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import oracles
from inputs import cases, float64, half_precision, halves, normal
from solution import attention, basics
from tiny_llm_lab.course.checks import (
    arguments_unchanged,
    assert_close,
    assert_raises_clearly,
    dtype_name,
)

# --- Task 1: softmax ------------------------------------------------------------------------


def check_softmax(x: mx.array, axis: int, what: str) -> None:
    """Compare with the oracle, in the dtype of `x`."""
    expected = np.apply_along_axis(oracles.softmax, axis, float64(x))
    # In half precision the exponential, the sum and the quotient may be rounded, each by u at
    # most; assert_close allows 8 * u of the magnitude.
    magnitude = expected / 2
    if x.dtype == mx.float32:
        # exp() turns the rounding of a score into a relative error of that size.
        scores = np.where(np.isfinite(float64(x)), np.abs(float64(x)), 0.0)
        magnitude = expected * (1 + np.max(scores, axis=axis, keepdims=True))
    assert_close(
        basics.softmax(x, axis=axis), expected, what=what, dtype=x.dtype, magnitude=magnitude
    )


@cases("axis", 0, 1, 2, -1, -2)
def test_task_1_softmax_along_any_axis(axis: int) -> None:
    """The exponentials are divided by their sum along the given axis, counted from either end."""
    check_softmax(normal(3, 4, 5, seed=1, scale=3.0), axis, f"softmax(x, axis={axis})")


def test_task_1_softmax_of_a_vector() -> None:
    """A single axis is enough."""
    check_softmax(normal(7, seed=2, scale=3.0), 0, "softmax(x, axis=0) of a vector")


def test_task_1_large_scores_do_not_overflow() -> None:
    """Scores far above 88, where exp() is infinite in float32, give ordinary probabilities."""
    x = mx.array([[10000.0, 9999.0, 9997.0], [-10000.0, -9999.0, -10001.0], [200.0, 0.0, -200.0]])
    check_softmax(x, 1, "softmax(x, axis=1) of scores up to 10000 in size")


def test_task_1_minus_infinity_gets_probability_zero() -> None:
    """A score of -inf, which is what a mask makes, gets exactly 0 and spoils nothing else."""
    x = mx.array([[-mx.inf, 1.0, 2.0], [0.5, -mx.inf, -mx.inf]])
    check_softmax(x, -1, "softmax(x, axis=-1) with -inf in x")


# Probabilities below 6e-5 are subnormal in float16, and some devices round these to 0. The inputs
# of the next three tests avoid them.


@half_precision
def test_task_1_half_precision(dtype: mx.Dtype) -> None:
    """The result has the dtype of the input, and the work is done in float32."""
    scale = 1.0 if dtype == mx.float16 else 2.5
    x = normal(4, 300, seed=3, scale=scale, dtype=dtype)
    check_softmax(x, -1, f"softmax(x, axis=-1) in {dtype_name(dtype)}")


@half_precision
def test_task_1_half_precision_long_row(dtype: mx.Dtype) -> None:
    """The sum of thousands of exponentials is taken in float32."""
    x = normal(2, 4096, seed=5, scale=0.3, dtype=dtype)
    check_softmax(x, -1, f"softmax(x, axis=-1) of 4096 scores in {dtype_name(dtype)}")


@half_precision
def test_task_1_half_precision_far_below_the_maximum(dtype: mx.Dtype) -> None:
    """The difference of a score to the maximum is not rounded before its exponential is taken."""
    far = 9.0 if dtype == mx.float16 else 60.0
    scores = np.random.default_rng(6).uniform(-far, 1 - far, (3, 40))
    scores[:, 7] = 0.332
    x = mx.array(scores.astype(np.float32)).astype(dtype)
    what = f"softmax(x, axis=-1) in {dtype_name(dtype)}, one score far above the others"
    check_softmax(x, -1, what)


def test_task_1_input_is_left_alone() -> None:
    """The caller's scores are the same after the call."""
    x = normal(3, 4, seed=4)
    with arguments_unchanged("softmax(x, axis=-1)", x=x):
        mx.eval(basics.softmax(x, axis=-1))


# --- Task 2: linear layer -------------------------------------------------------------------


def check_linear(x: mx.array, w: mx.array) -> None:
    """Compare with the oracle, without a bias."""
    assert_close(
        basics.linear(x, w),
        float64(x) @ float64(w).T,
        what=f"linear(x, w), x {x.shape}, w {w.shape}",
        reduction=x.shape[-1],
    )


@cases("x", (5,), (3, 5), (2, 3, 5), (2, 3, 4, 5))
def test_task_2_linear(x: tuple[int, ...]) -> None:
    """Each output is the dot product of the last axis of x with one row of w."""
    check_linear(normal(*x, seed=1), normal(7, 5, seed=2))


def test_task_2_as_many_outputs_as_inputs() -> None:
    """A square w is transposed too, although the shapes fit without."""
    check_linear(normal(2, 3, 5, seed=1), normal(5, 5, seed=2))


def test_task_2_bias_is_added_once() -> None:
    """The bias, one number per output, is added to every row."""
    x, w, bias = normal(2, 3, 5, seed=1), normal(7, 5, seed=2), normal(7, seed=3)
    assert_close(
        basics.linear(x, w, bias),
        float64(x) @ float64(w).T + float64(bias),
        what="linear(x, w, bias)",
        reduction=6,
    )


@half_precision
def test_task_2_half_precision(dtype: mx.Dtype) -> None:
    """The result has the dtype of x, also when the bias comes in float32."""
    x, w = normal(2, 3, 5, seed=1, dtype=dtype), normal(7, 5, seed=2, dtype=dtype)
    bias = normal(7, seed=3)
    assert_close(
        basics.linear(x, w, bias),
        float64(x) @ float64(w).T + float64(bias),
        what="linear(x, w, bias), x and w in half precision, bias in float32",
        dtype=dtype,
        reduction=6,
        magnitude=np.abs(float64(x)) @ np.abs(float64(w)).T + np.abs(float64(bias)),
    )


def test_task_2_dtype_is_not_that_of_the_weight() -> None:
    """The result has the dtype of x, whatever the dtype of the weight."""
    for x_dtype, w_dtype in ((mx.float16, mx.float32), (mx.float32, mx.bfloat16)):
        x, w = normal(2, 3, 5, seed=1, dtype=x_dtype), normal(7, 5, seed=2, dtype=w_dtype)
        assert_close(
            basics.linear(x, w),
            float64(x) @ float64(w).T,
            what=f"linear(x, w), x {dtype_name(x_dtype)}, w {dtype_name(w_dtype)}",
            dtype=x_dtype,
            reduction=5,
            magnitude=np.abs(float64(x)) @ np.abs(float64(w)).T,
        )


# --- Task 3: scaled dot-product attention ---------------------------------------------------

L, S, D, D_V = 5, 7, 4, 6


def attention_inputs(
    *leading: int, dtype: mx.Dtype = mx.float32
) -> tuple[mx.array, mx.array, mx.array]:
    """Query, key and value whose scores differ enough for the weights to be far from uniform."""
    return (
        halves(*leading, L, D, seed=1, scale=1.5, dtype=dtype),
        halves(*leading, S, D, seed=2, scale=1.5, dtype=dtype),
        normal(*leading, S, D_V, seed=3, dtype=dtype),
    )


def check_attention(
    query: mx.array, key: mx.array, value: mx.array, *, what: str, **options: Any
) -> None:
    """Compare with the oracle, in the dtype of the query. The options are scale and mask."""
    # Rounded scores would allow anything in half precision. These are exact: 1 / sqrt(D) is 1/2.
    half = query.dtype != mx.float32
    expected, magnitude = oracles.attention(query, key, value, **options, exact_scores=half)
    assert_close(
        attention.scaled_dot_product_attention_simple(query, key, value, **options),
        expected,
        what=what,
        dtype=query.dtype,
        reduction=1 if half else D + S,
        magnitude=magnitude,
        axes="B H L D_v" if query.ndim == 4 else None,
    )


def hide(*hidden: int) -> mx.array:
    """A mask for `S` keys: -inf for the hidden ones, 0 for the others."""
    return mx.array([-mx.inf if s in hidden else 0.0 for s in range(S)])


@cases("leading", (), (3,), (2, 3), (2, 3, 2))
def test_task_3_attention(leading: tuple[int, ...]) -> None:
    """Every query gets the average of the values, weighted by the softmax of its scores, which
    are multiplied by 1 / sqrt(D) unless a scale is given."""
    query, key, value = attention_inputs(*leading)
    check_attention(
        query,
        key,
        value,
        what=f"attention of query {query.shape}, key {key.shape}, value {value.shape}",
    )


@cases("scale", 1.0, 0.3, 0.0, -0.5, 2)
def test_task_3_given_scale(scale: float) -> None:
    """A scale that is given replaces 1 / sqrt(D); with scale 0 all the weights are equal."""
    query, key, value = attention_inputs(2, 3)
    check_attention(query, key, value, scale=scale, what=f"attention with scale={scale}")


@cases("shape", (S,), (3, L, S), (3, 1, S), (2, 3, 1, S))
def test_task_3_masks_that_broadcast(shape: tuple[int, ...]) -> None:
    """A mask of any numbers; missing axes, and those of size 1, are repeated."""
    query, key, value = attention_inputs(2, 3)
    mask = normal(*shape, seed=9)
    check_attention(query, key, value, mask=mask, what=f"attention with a mask {shape}")


def test_task_3_one_query() -> None:
    """A single query, as in decoding, attends to all the keys."""
    query, key, value = attention_inputs(2, 3)
    check_attention(query[:, :, :1], key, value, what="attention of a single query")


def test_task_3_mask_for_each_query() -> None:
    """An L x S mask hides other keys from each query, in every batch row and head."""
    query, key, value = attention_inputs(2, 3)
    mask = mx.stack([hide(0), hide(1, 2), hide(), hide(3, 5, 6), hide(0, 1, 2, 3, 4, 6)])
    check_attention(query, key, value, mask=mask, what="attention with an L x S mask")


def test_task_3_masked_keys_get_nothing() -> None:
    """A mask of -inf removes a key even if its score is 1,000 above all the others."""
    _, key, value = attention_inputs(2, 3)
    query = mx.ones((2, 3, L, D))
    key[..., 1:3, :] = 500.0
    what = "attention where the masked keys have scores of 1,000"
    check_attention(query, key, value, mask=hide(1, 2)[None], what=what)


def test_task_3_mask_for_each_batch_row() -> None:
    """A B x 1 x 1 x S mask, which hides the padding of each row, is broadcast to all the heads."""
    query, key, value = attention_inputs(2, 3)
    mask = mx.stack([hide(5, 6), hide(0)]).reshape(2, 1, 1, S)
    check_attention(query, key, value, mask=mask, what="attention with a B x 1 x 1 x S mask")


def test_task_3_mask_is_added_to_the_scaled_scores() -> None:
    """A mask with finite numbers shifts the scores, after they are scaled, by these numbers."""
    query, key, value = attention_inputs(2, 3)
    mask = normal(2, 3, L, S, seed=8)
    check_attention(query, key, value, mask=mask, what="attention with a mask of finite numbers")


def test_task_3_agrees_with_mlx() -> None:
    """MLX's own attention gives the same result, with a mask of finite numbers."""
    query, key, value = (
        normal(2, 3, 5, 8, seed=4),
        normal(2, 3, 9, 8, seed=5),
        normal(2, 3, 9, 8, seed=6),
    )
    mask = normal(5, 9, seed=7)
    expected = mx.fast.scaled_dot_product_attention(
        query, key, value, scale=8**-0.5, mask=mask, stream=mx.cpu
    )
    assert_close(
        attention.scaled_dot_product_attention_simple(query, key, value, mask=mask),
        expected,
        what="attention with a mask of finite numbers, compared with MLX's",
        reduction=8 + 9,
        axes="B H L D_v",
    )


def test_task_3_weights_sum_to_one_under_a_mask() -> None:
    """Masked before the softmax, the weights of the visible keys sum to 1: values of 1 give 1."""
    query, key, _ = attention_inputs(2, 3)
    value = mx.ones((2, 3, S, D_V))
    assert_close(
        attention.scaled_dot_product_attention_simple(query, key, value, mask=hide(1, 4)[None]),
        np.ones((2, 3, L, D_V)),
        what="attention over values that are all 1, with two keys masked",
        reduction=S,
    )


def test_task_3_extreme_scores() -> None:
    """Scores in the thousands neither overflow nor give NaN."""
    query, key, value = attention_inputs(2, 3)
    # Whole numbers, so that the scores are exact and ties are resolved alike.
    query, key = mx.round(40 * query), mx.round(40 * key)
    check_attention(query, key, value, what="attention with scores in the thousands")


@half_precision
def test_task_3_half_precision(dtype: mx.Dtype) -> None:
    """The result has the dtype of the query, also when the mask comes in float32."""
    query, key, value = attention_inputs(2, 3, dtype=dtype)
    check_attention(query, key, value, what=f"attention in {dtype_name(dtype)}")
    what = f"attention in {dtype_name(dtype)} with a float32 mask"
    check_attention(query, key, value, mask=hide(0, 3)[None], what=what)


def test_task_3_query_is_left_alone() -> None:
    """The caller's query is the same after the call."""
    query, key, value = attention_inputs(2, 3)
    with arguments_unchanged("scaled_dot_product_attention_simple(query, key, value)", query=query):
        mx.eval(attention.scaled_dot_product_attention_simple(query, key, value))


# --- Task 4: multi-head attention -----------------------------------------------------------

B, H, E = 2, 3, 12


def weights(dtype: mx.Dtype = mx.float32) -> dict[str, mx.array]:
    """The four projections, scaled so that projected vectors are about as long as the input."""
    return {
        name: halves(E, E, seed=seed, scale=0.35, dtype=dtype)
        for seed, name in enumerate(["wq", "wk", "wv", "wo"], start=10)
    }


def multi_head_attention(
    query: mx.array,
    key: mx.array,
    value: mx.array,
    weights: dict[str, mx.array],
    num_heads: int,
    mask: mx.array | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The oracle, head by head: head h has rows `h * D .. (h + 1) * D - 1` of wq, wk and wv,
    and the same columns of wo. Adding up what each head contributes replaces the joining.

    Returns:
        The result, and the size of what is rounded on the way to it, given exact scores.
    """
    wq, wk, wv, wo = (float64(weights[name]) for name in ("wq", "wk", "wv", "wo"))
    added = np.zeros(()) if mask is None else float64(mask)
    added = np.broadcast_to(added, (query.shape[0], num_heads, query.shape[1], key.shape[1]))
    head_dim = wq.shape[0] // num_heads
    output, magnitude = np.zeros((2, *query.shape))
    for h in range(num_heads):
        rows = slice(h * head_dim, (h + 1) * head_dim)
        attended, size = oracles.attention(
            float64(query) @ wq[rows].T,
            float64(key) @ wk[rows].T,
            float64(value) @ wv[rows].T,
            mask=added[:, h],
            exact_scores=True,
        )
        output += attended @ wo[:, rows].T
        magnitude += size @ np.abs(wo[:, rows]).T
    return output, magnitude


def check_multi_head_attention(
    num_heads: int, what: str, dtype: mx.Dtype = mx.float32, **options: mx.array
) -> None:
    """Compare with the oracle. The three inputs differ, and there are fewer queries than keys.

    The option is the mask. For H heads all products up to the scores are exact in every dtype.
    """
    query = mx.round(normal(B, L, E, seed=1, scale=1.2)).astype(dtype)
    key = mx.round(normal(B, S, E, seed=2, scale=1.2)).astype(dtype)
    value = mx.round(normal(B, S, E, seed=3, scale=2.0)).astype(dtype)
    layer = attention.SimpleMultiHeadAttention(E, num_heads, **weights(dtype))
    expected, magnitude = multi_head_attention(
        query, key, value, weights(dtype), num_heads, **options
    )
    assert_close(
        layer(query, key, value, **options),
        expected,
        what=what,
        dtype=dtype,
        reduction=2 * E + S if dtype == mx.float32 else 1,
        magnitude=magnitude,
        axes="B L E",
    )


@cases("num_heads", 3, 2, 1)
def test_task_4_multi_head_attention(num_heads: int) -> None:
    """Head h works on slice h of the projections; the joined heads go through wo."""
    what = f"SimpleMultiHeadAttention(hidden_size={E}, num_heads={num_heads}, ...)"
    check_multi_head_attention(num_heads, what)


def test_task_4_agrees_with_mlx() -> None:
    """MLX's own layer gives the same result for self-attention."""
    x = normal(B, L, E, seed=1, scale=2.0)
    oracle = nn.MultiHeadAttention(E, H)
    for name, weight in weights().items():
        projection = {"wq": "query_proj", "wk": "key_proj", "wv": "value_proj", "wo": "out_proj"}
        oracle[projection[name]].weight = weight
    with mx.stream(mx.cpu):
        expected = oracle(x, x, x)
    layer = attention.SimpleMultiHeadAttention(E, H, **weights())
    assert_close(
        layer(x, x, x),
        expected,
        what="multi-head self-attention, compared with mlx.nn.MultiHeadAttention",
        reduction=2 * E + L,
        axes="B L E",
    )


MASKS = {
    "L x S": (L, S),
    "B x 1 x 1 x S": (B, 1, 1, S),
    "B x H x L x S": (B, H, L, S),
}


@pytest.mark.parametrize("shape", MASKS)
def test_task_4_mask(shape: str) -> None:
    """A mask is broadcast to the scores of every head; each head can have its own."""
    mask = mx.where(normal(*MASKS[shape], seed=4) > 0.5, -mx.inf, 0.0)
    mask[..., 2] = 0.0  # no query without any key
    check_multi_head_attention(H, f"multi-head attention with a mask {shape}", mask=mask)


@half_precision
def test_task_4_half_precision(dtype: mx.Dtype) -> None:
    """The result has the dtype of the query, also when the mask comes in float32."""
    what = f"multi-head attention in {dtype_name(dtype)}"
    check_multi_head_attention(H, what, dtype=dtype)
    check_multi_head_attention(H, f"{what} with a float32 mask", dtype=dtype, mask=hide(0, 3)[None])


def test_task_4_uneven_heads_are_refused() -> None:
    """A hidden size that cannot be cut into equal heads raises ValueError."""
    assert_raises_clearly(
        ValueError,
        lambda: attention.SimpleMultiHeadAttention(E, 5, **weights()),
        what=f"SimpleMultiHeadAttention(hidden_size={E}, num_heads=5, ...)",
    )


def test_task_4_a_layer_keeps_nothing_but_its_weights() -> None:
    """Neither an earlier call, nor another layer, nor a batch of 1 changes the result."""
    layer = attention.SimpleMultiHeadAttention(E, H, **weights())
    others = {name: -2 * weight for name, weight in weights().items()}
    attention.SimpleMultiHeadAttention(E, H, **others)
    for rows, mask in ((2, hide(1, 2)[None]), (1, None)):
        query, key, value = (normal(rows, n, E, seed=n + rows, scale=2.0) for n in (L, S, S))
        expected, magnitude = multi_head_attention(query, key, value, weights(), H, mask)
        assert_close(
            layer(query, key, value, mask=mask),
            expected,
            what=f"multi-head attention, batch {rows}, one of several calls of one layer",
            reduction=2 * E + S,
            magnitude=magnitude,
            axes="B L E",
        )
