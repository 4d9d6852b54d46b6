"""Week 1, day 3: the causal mask and grouped-query attention."""

from itertools import product
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import oracles
from inputs import cases, half_precision, halves, normal
from solution import attention
from tiny_llm_lab.course.checks import (
    arguments_unchanged,
    assert_close,
    assert_raises_clearly,
    dtype_name,
)

# All different, but for H_KV = B: then a mask that is broadcast along the wrong axis fits too,
# and the result is wrong instead of an error. Three query heads share a key/value head.
B, H_Q, H_KV, L, S, D = 2, 6, 2, 5, 7, 4

# --- Task 1: causal mask --------------------------------------------------------------------


def visible(L: int, S: int) -> np.ndarray:
    """The definition: query i stands at position S - L + i and sees the keys up to there."""
    return np.array([[0.0 if s <= S - L + i else -np.inf for s in range(S)] for i in range(L)])


def check_causal_mask(L: int, S: int, dtype: mx.Dtype = mx.float32) -> None:
    """Compare with the definition."""
    assert_close(
        attention.causal_mask(L, S, dtype),
        visible(L, S),
        what=f"causal_mask({L}, {S}, {dtype_name(dtype)})",
        dtype=dtype,
        axes="L S",
    )


@cases("L S", (4, 4), (1, 1))
def test_task_1_as_many_keys_as_queries(L: int, S: int) -> None:
    """Query i sees keys 0 to i: itself and what comes before it."""
    check_causal_mask(L, S)


@cases("L S", (3, 7), (4, 5), (1, 6))
def test_task_1_more_keys_than_queries(L: int, S: int) -> None:
    """The queries are the last ones: the keys of earlier tokens are visible to all of them."""
    check_causal_mask(L, S)


@half_precision
def test_task_1_dtype(dtype: mx.Dtype) -> None:
    """The mask has the dtype that is asked for."""
    check_causal_mask(3, 5, dtype)


@cases("L S", (5, 4), (3, 0))
def test_task_1_fewer_keys_than_queries_are_refused(L: int, S: int) -> None:
    """Every query has a key of its own, so there cannot be fewer keys than queries."""
    assert_raises_clearly(
        ValueError,
        lambda: mx.eval(attention.causal_mask(L, S, mx.float32)),
        what=f"causal_mask({L}, {S}, float32)",
    )


# --- Task 2: grouped-query attention --------------------------------------------------------


def inputs(
    *leading: int, H_q: int = H_Q, H_kv: int = H_KV, L: int = L, dtype: mx.Dtype = mx.float32
) -> tuple[mx.array, mx.array, mx.array]:
    """Query, key and value whose scores differ enough for the weights to be far from uniform."""
    return (
        halves(*leading, H_q, L, D, seed=1, scale=1.5, dtype=dtype),
        halves(*leading, H_kv, S, D, seed=2, scale=1.5, dtype=dtype),
        normal(*leading, H_kv, S, D, seed=3, dtype=dtype),
    )


def check_attention(
    query: mx.array, key: mx.array, value: mx.array, *, what: str, **options: Any
) -> None:
    """Compare with the oracle, in the dtype of the query. The options are scale and mask."""
    given = dict(options)
    if isinstance(given.get("mask"), str):
        given["mask"] = visible(query.shape[-2], S)
    # Rounded scores would allow anything in half precision. These are exact: 1 / sqrt(D) is 1/2.
    half = query.dtype != mx.float32
    expected, magnitude = oracles.attention(query, key, value, **given, exact_scores=half)
    assert_close(
        attention.scaled_dot_product_attention_grouped(query, key, value, **options),
        expected,
        what=what,
        dtype=query.dtype,
        reduction=1 if half else D + S,
        magnitude=magnitude,
        axes="B H_q L D" if query.ndim == 4 else None,
    )


def check_against_mlx(*, what: str, scale: float, mask: str | None = None) -> None:
    """Compare with MLX's own grouped attention."""
    query, key, value = inputs(B)
    _, magnitude = oracles.attention(query, key, value, scale)
    assert_close(
        attention.scaled_dot_product_attention_grouped(query, key, value, scale=scale, mask=mask),
        mx.fast.scaled_dot_product_attention(
            query, key, value, scale=scale, mask=mask, stream=mx.cpu
        ),
        what=what,
        reduction=D + S,
        magnitude=magnitude,
        axes="B H_q L D",
    )


@cases("leading", (), (3,), (3, 2))
def test_task_2_grouped_attention(leading: tuple[int, ...]) -> None:
    """Six query heads share two key/value heads, with any number of axes in front."""
    query, key, value = inputs(*leading)
    check_attention(
        query,
        key,
        value,
        what=f"grouped attention of query {query.shape}, key and value {key.shape}",
    )


@cases("H_q H_kv", (4, 2), (6, 3), (3, 3), (3, 1))
def test_task_2_head_counts(H_q: int, H_kv: int) -> None:
    """Groups of two; groups of one (plain multi-head attention); one group of all the heads."""
    query, key, value = inputs(B, H_q=H_q, H_kv=H_kv)
    what = f"grouped attention with H_q = {H_q} and H_kv = {H_kv}"
    check_attention(query, key, value, what=what)


def test_task_2_consecutive_heads_share() -> None:
    """Query heads 0, 1, 2 read key/value head 0, and 3, 4, 5 read head 1 (not 0, 1, 0, 1, ...)."""
    query, key, _ = inputs(1)
    value = mx.broadcast_to(mx.array([0.0, 1.0])[None, :, None, None], key.shape)
    expected = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])[None, :, None, None]
    assert_close(
        attention.scaled_dot_product_attention_grouped(query, key, value),
        np.broadcast_to(expected, query.shape),
        what="grouped attention where the values of key/value head h are all h",
        reduction=S,
        axes="B H_q L D",
    )


def test_task_2_agrees_with_mlx() -> None:
    """MLX's own grouped attention gives the same result."""
    check_against_mlx(
        what="grouped attention, compared with mx.fast.scaled_dot_product_attention", scale=0.3
    )


@cases("scale", 1.0, 0.0, -0.5, 2)
def test_task_2_given_scale(scale: float) -> None:
    """A scale that is given replaces 1 / sqrt(D); with scale 0 all the weights are equal."""
    query, key, value = inputs(B)
    check_attention(query, key, value, scale=scale, what=f"grouped attention with scale={scale}")


@half_precision
def test_task_2_half_precision(dtype: mx.Dtype) -> None:
    """The result has the dtype of the query."""
    query, key, value = inputs(B, dtype=dtype)
    check_attention(query, key, value, what=f"grouped attention in {dtype_name(dtype)}")


def test_task_2_query_is_left_alone() -> None:
    """The caller's query is the same after the call."""
    query, key, value = inputs(B)
    with arguments_unchanged(
        "scaled_dot_product_attention_grouped(query, key, value)", query=query
    ):
        mx.eval(attention.scaled_dot_product_attention_grouped(query, key, value))


@cases("H_q H_kv", (5, 2), (1, 3))
def test_task_2_uneven_groups_are_refused(H_q: int, H_kv: int) -> None:
    """Query heads that cannot share the key/value heads evenly raise ValueError."""
    query, key, value = inputs(B, H_q=H_q, H_kv=H_kv)
    assert_raises_clearly(
        ValueError,
        lambda: mx.eval(attention.scaled_dot_product_attention_grouped(query, key, value)),
        what=f"grouped attention with H_q = {H_q} and H_kv = {H_kv}",
    )


# --- Task 3: masks for grouped heads --------------------------------------------------------


def random_mask(*shape: int) -> mx.array:
    """Hides about a third of the keys, but never key 2, so that every query has one."""
    mask = mx.where(normal(*shape, seed=4) > 0.5, -mx.inf, 0.0)
    mask[..., 2] = 0.0
    return mask


MASKS = {
    "L x S": (L, S),
    "B x 1 x L x S": (B, 1, L, S),
    "B x 1 x 1 x S": (B, 1, 1, S),
    "H_q x L x S": (H_Q, L, S),
    "B x H_q x L x S": (B, H_Q, L, S),
}


@pytest.mark.parametrize("shape", MASKS)
def test_task_3_mask(shape: str) -> None:
    """A mask is broadcast to B x H_q x L x S: to rows, query heads and queries."""
    query, key, value = inputs(B)
    mask = random_mask(*MASKS[shape])
    check_attention(query, key, value, mask=mask, what=f"grouped attention with a mask {shape}")


@cases("H_q H_kv scale", *product([6], [2], [None, 0.3]), (3, 3, 0.3), (3, 1, 0.3))
def test_task_3_mask_is_added_to_the_scaled_scores(
    H_q: int, H_kv: int, scale: float | None
) -> None:
    """Finite numbers count too, and a mask does not replace the scale, whatever the groups."""
    what = f"grouped attention with {H_q} and {H_kv} heads, scale={scale}"
    for length in (L, S):
        query, key, value = inputs(B, L=length, H_q=H_q, H_kv=H_kv)
        mask = normal(B, H_q, length, S, seed=8)
        check_attention(query, key, value, scale=scale, mask=mask, what=f"{what} and a mask")
        check_attention(
            query, key, value, scale=scale, mask="causal", what=f'{what} and mask="causal"'
        )


@cases("shape", (S,), (H_Q, 1, S), (H_Q, 1, 1), (1, H_Q, 1, S))
def test_task_3_masks_that_broadcast(shape: tuple[int, ...]) -> None:
    """Missing axes of a mask, and those of size 1, are repeated."""
    query, key, value = inputs(B)
    what = f"grouped attention with a mask {shape}"
    check_attention(query, key, value, mask=normal(*shape, seed=9), what=what)


def test_task_3_three_axes_are_heads() -> None:
    """A mask of three axes is H_q x L x S, also with as many rows as query heads."""
    query, key, value = inputs(H_Q)
    what = "grouped attention with a mask H_q x L x S, where B is H_q"
    check_attention(query, key, value, mask=random_mask(H_Q, L, S), what=what)


@cases("leading", (), (3, 2))
def test_task_3_other_leading_axes(leading: tuple[int, ...]) -> None:
    """A mask for each query head, and "causal", without a batch axis and with more than one."""
    query, key, value = inputs(*leading)
    where = f"query {query.shape}, key and value {key.shape}"
    what = f"grouped attention with a mask H_q x L x S, {where}"
    check_attention(query, key, value, mask=random_mask(H_Q, L, S), what=what)
    what = f'grouped attention with mask="causal", {where}'
    check_attention(query, key, value, mask="causal", what=what)


@cases("L", 1, L, S)
def test_task_3_causal(L: int) -> None:
    """`mask="causal"` hides later keys; the queries are the last of the positions."""
    query, key, value = inputs(B, L=L)
    what = f'grouped attention with mask="causal", L = {L} and S = {S}'
    check_attention(query, key, value, mask="causal", what=what)


def test_task_3_masked_keys_get_nothing() -> None:
    """Masked keys are removed even if their scores are 1,000 above all the others."""
    query, key, value = inputs(B)
    query = mx.ones_like(query)
    key[..., L:, :] = 500.0
    mask = mx.where(mx.arange(S) < L, 0.0, -mx.inf)[None]
    what = "grouped attention where the masked keys have scores of 1,000"
    check_attention(query, key, value, mask=mask, what=what)
    # These are the last two keys: the first three queries must not see them.
    what = 'grouped attention with mask="causal", where later keys have scores of 1,000'
    check_attention(query, key, value, mask="causal", what=what)


def test_task_3_causal_agrees_with_mlx() -> None:
    """MLX's own `mask="causal"` gives the same result."""
    check_against_mlx(
        what='grouped attention with mask="causal", compared with MLX', scale=D**-0.5, mask="causal"
    )


@half_precision
def test_task_3_half_precision(dtype: mx.Dtype) -> None:
    """The result has the dtype of the query, with "causal" and with a mask in float32."""
    query, key, value = inputs(B, dtype=dtype)
    what = f"grouped attention in {dtype_name(dtype)}"
    check_attention(query, key, value, mask="causal", what=f'{what} with mask="causal"')
    mask = random_mask(L, S)
    check_attention(query, key, value, mask=mask, what=f"{what} with a float32 mask")


@cases("mask", "sliding", "CAUSAL", "causal_lower_right")
def test_task_3_unknown_mask_is_refused(mask: str) -> None:
    """A string that is not "causal" raises ValueError."""
    query, key, value = inputs(B)
    assert_raises_clearly(
        ValueError,
        lambda: mx.eval(
            attention.scaled_dot_product_attention_grouped(query, key, value, mask=mask)
        ),
        what=f'grouped attention with mask="{mask}"',
    )
