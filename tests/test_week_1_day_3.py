"""Week 1, day 3: the causal mask and grouped-query attention."""

import mlx.core as mx
import numpy as np
import pytest

import oracles
from inputs import half_precision, left_alone, normal
from solution import attention
from tiny_llm_lab.course.checks import assert_close, assert_raises_clearly

# All different, but for H_KV = B: then a mask that is broadcast along the wrong axis fits too,
# and the result is wrong instead of an error. Three query heads share a key/value head.
B, H_Q, H_KV, L, S, D = 2, 6, 2, 5, 7, 4

# --- Task 1: causal mask --------------------------------------------------------------------


def visible(L: int, S: int) -> np.ndarray:
    """The definition: query i stands at position S - L + i and sees the keys up to there."""
    return np.array([[0.0 if s <= S - L + i else -np.inf for s in range(S)] for i in range(L)])


@pytest.mark.parametrize("length", [1, 4])
def test_task_1_as_many_keys_as_queries(length: int) -> None:
    """Query i sees keys 0 to i: itself and what comes before it."""
    assert_close(
        attention.causal_mask(length, length, mx.float32),
        visible(length, length),
        what=f"causal_mask({length}, {length}, float32)",
        axes="L S",
    )


@pytest.mark.parametrize(("L", "S"), [(3, 7), (4, 5), (1, 6)])
def test_task_1_more_keys_than_queries(L: int, S: int) -> None:
    """The queries are the last ones: the keys of earlier tokens are visible to all of them."""
    assert_close(
        attention.causal_mask(L, S, mx.float32),
        visible(L, S),
        what=f"causal_mask({L}, {S}, float32)",
        axes="L S",
    )


@half_precision
def test_task_1_dtype(dtype: mx.Dtype) -> None:
    """The mask has the dtype that is asked for."""
    assert_close(
        attention.causal_mask(3, 5, dtype),
        visible(3, 5),
        what="causal_mask(3, 5, dtype)",
        dtype=dtype,
        axes="L S",
    )


@pytest.mark.parametrize(("L", "S"), [(5, 4), (3, 0)])
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
        normal(*leading, H_q, L, D, seed=1, scale=1.5, dtype=dtype),
        normal(*leading, H_kv, S, D, seed=2, scale=1.5, dtype=dtype),
        normal(*leading, H_kv, S, D, seed=3, dtype=dtype),
    )


def check_attention(
    query: mx.array,
    key: mx.array,
    value: mx.array,
    *,
    what: str,
    scale: float | None = None,
    mask: mx.array | str | None = None,
) -> None:
    """Compare with the oracle, in the dtype of the query."""
    allowed = visible(query.shape[-2], S) if isinstance(mask, str) else mask
    expected, magnitude = oracles.attention(query, key, value, scale, allowed)
    assert_close(
        attention.scaled_dot_product_attention_grouped(query, key, value, scale=scale, mask=mask),
        expected,
        what=what,
        dtype=query.dtype,
        reduction=D + S,
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


@pytest.mark.parametrize("leading", [(), (3,), (3, 2)], ids=str)
def test_task_2_grouped_attention(leading: tuple[int, ...]) -> None:
    """Six query heads share two key/value heads, with any number of axes in front."""
    query, key, value = inputs(*leading)
    check_attention(
        query,
        key,
        value,
        what=f"grouped attention of query {query.shape}, key and value {key.shape}",
    )


@pytest.mark.parametrize(("H_q", "H_kv"), [(4, 2), (6, 3), (3, 3), (3, 1)])
def test_task_2_head_counts(H_q: int, H_kv: int) -> None:
    """Groups of two; groups of one (plain multi-head attention); one group of all the heads."""
    query, key, value = inputs(B, H_q=H_q, H_kv=H_kv)
    check_attention(
        query,
        key,
        value,
        what=f"grouped attention with {H_q} query heads and {H_kv} key/value heads",
    )


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


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_task_2_given_scale(scale: float) -> None:
    """A scale that is given replaces 1 / sqrt(D); with scale 0 all the weights are equal."""
    query, key, value = inputs(B)
    check_attention(query, key, value, scale=scale, what=f"grouped attention with scale={scale}")


@half_precision
def test_task_2_half_precision(dtype: mx.Dtype) -> None:
    """The result has the dtype of the query."""
    query, key, value = inputs(B, dtype=dtype)
    check_attention(query, key, value, what="grouped attention in half precision")


def test_task_2_query_is_left_alone() -> None:
    """The caller's query is the same after the call."""
    query, key, value = inputs(B)
    with left_alone(query, "scaled_dot_product_attention_grouped(query, key, value)"):
        mx.eval(attention.scaled_dot_product_attention_grouped(query, key, value))


@pytest.mark.parametrize(("H_q", "H_kv"), [(5, 2), (1, 3)])
def test_task_2_uneven_groups_are_refused(H_q: int, H_kv: int) -> None:
    """Query heads that cannot share the key/value heads evenly raise ValueError."""
    query, key, value = inputs(B, H_q=H_q, H_kv=H_kv)
    assert_raises_clearly(
        ValueError,
        lambda: mx.eval(attention.scaled_dot_product_attention_grouped(query, key, value)),
        what=f"grouped attention with {H_q} query heads and {H_kv} key/value heads",
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


@pytest.mark.parametrize("leading", [(), (3, 2)], ids=str)
def test_task_3_other_leading_axes(leading: tuple[int, ...]) -> None:
    """A mask for each query head, and "causal", without a batch axis and with more than one."""
    query, key, value = inputs(*leading)
    where = f"query {query.shape}, key and value {key.shape}"
    what = f"grouped attention with a mask H_q x L x S, {where}"
    check_attention(query, key, value, mask=random_mask(H_Q, L, S), what=what)
    what = f'grouped attention with mask="causal", {where}'
    check_attention(query, key, value, mask="causal", what=what)


@pytest.mark.parametrize("length", [1, L, S])
def test_task_3_causal(length: int) -> None:
    """`mask="causal"` hides later keys; the queries are the last of the positions."""
    query, key, value = inputs(B, L=length)
    check_attention(
        query,
        key,
        value,
        mask="causal",
        what=f'grouped attention with mask="causal", {length} queries and {S} keys',
    )


def test_task_3_causal_agrees_with_mlx() -> None:
    """MLX's own `mask="causal"` gives the same result."""
    check_against_mlx(
        what='grouped attention with mask="causal", compared with MLX', scale=D**-0.5, mask="causal"
    )


def test_task_3_half_precision() -> None:
    """The result has the dtype of the query, with "causal" and with a mask in float32."""
    query, key, value = inputs(B, dtype=mx.bfloat16)
    check_attention(query, key, value, what='bfloat16 with mask="causal"', mask="causal")
    mask = random_mask(L, S)
    check_attention(query, key, value, what="bfloat16 with a float32 mask", mask=mask)


def test_task_3_unknown_mask_is_refused() -> None:
    """A string that is not "causal" raises ValueError."""
    query, key, value = inputs(B)
    assert_raises_clearly(
        ValueError,
        lambda: mx.eval(
            attention.scaled_dot_product_attention_grouped(query, key, value, mask="sliding")
        ),
        what='grouped attention with mask="sliding"',
    )
