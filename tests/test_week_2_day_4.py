"""Week 2, day 4: attention with an online softmax, in Python and as a C++ kernel."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import oracles
from caches import memory_in_use
from inputs import cases, half_precision, normal
from oracle_models import continue_greedily, ledger_question, random_model, tiny
from solution import attention, qwen3
from tiny_llm_lab.course.checks import (
    arguments_unchanged,
    assert_close,
    assert_raises_clearly,
    assert_tokens_equal,
    check,
    dtype_name,
)

every_dtype = pytest.mark.parametrize(
    "dtype", [mx.float32, mx.float16, mx.bfloat16], ids=["float32", "float16", "bfloat16"]
)
every_mask_dtype = pytest.mark.parametrize(
    "mask_dtype", [mx.float32, mx.float16, mx.bfloat16], ids=["float32", "float16", "bfloat16"]
)
Inputs = tuple[mx.array, mx.array, mx.array]


def inputs(
    L: int,
    S: int,
    *,
    seed: int,
    B: int = 2,
    H_q: int = 4,
    H_kv: int = 2,
    D: int = 32,
    dtype: mx.Dtype = mx.float32,
    scale: float = 1.5,
) -> Inputs:
    """Query, key and value whose scores differ enough for the weights to be far from uniform."""
    return (
        normal(B, H_q, L, D, seed=seed, scale=scale, dtype=dtype),
        normal(B, H_kv, S, D, seed=seed + 1, dtype=dtype),
        normal(B, H_kv, S, D, seed=seed + 2, dtype=dtype),
    )


def causal(L: int, S: int) -> np.ndarray:
    """The definition: query i stands at position S - L + i and sees the keys up to there."""
    return np.where(np.arange(S) <= np.arange(S - L, S)[:, None], 0.0, -np.inf)


def expected_of(
    query: mx.array, key: mx.array, value: mx.array, scale: float | None, mask: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The oracle's result and magnitude; queries that see no key get 0."""
    if isinstance(mask, str):
        mask = causal(query.shape[-2], key.shape[-2])
    with np.errstate(invalid="ignore"):
        # Scores in float32 are exact by the measure of half precision.
        expected, magnitude = oracles.attention(
            query, key, value, scale, mask, exact_scores=query.dtype != mx.float32
        )
    if mask is not None:
        added = np.array(mask.astype(mx.float32)) if isinstance(mask, mx.array) else mask
        blind = np.broadcast_to(added, (*query.shape[:-1], key.shape[-2])).max(axis=-1) == -np.inf
        expected[blind], magnitude[blind] = 0, 0
    return expected, magnitude


def check_attention(
    query: mx.array,
    key: mx.array,
    value: mx.array,
    how: str = "",
    *,
    scale: float | None = None,
    mask: Any = None,
) -> None:
    """Compare the student's `flash_attention` with the definition."""
    expected, magnitude = expected_of(query, key, value, scale, mask)
    D, S = key.shape[-1], key.shape[-2]
    assert_close(
        attention.flash_attention(query, key, value, scale, mask),
        expected,
        what=f"flash_attention of query {query.shape}, key and value {key.shape}, in "
        f"{dtype_name(query.dtype)}{how}",
        dtype=query.dtype,
        reduction=D + S if query.dtype == mx.float32 else 1,
        magnitude=magnitude,
        axes="B H L D",
    )


# --- Task 1: the online softmax ------------------------------------------------------------------


def check_in_blocks(
    query: mx.array,
    key: mx.array,
    value: mx.array,
    block_size: int,
    how: str = "",
    *,
    scale: float | None = None,
    mask: Any = None,
) -> None:
    """Compare the student's `attention_in_blocks` with the definition."""
    expected, magnitude = expected_of(query, key, value, scale, mask)
    assert_close(
        attention.attention_in_blocks(query, key, value, block_size, scale, mask),
        expected,
        what=f"attention_in_blocks of query {query.shape}, key {key.shape}, in blocks of "
        f"{block_size}{how}",
        dtype=query.dtype,
        reduction=key.shape[-1] + key.shape[-2] if query.dtype == mx.float32 else 1,
        magnitude=magnitude,
    )


@cases("block_size", 1, 2, 3, 6, 7, 8, 100)
def test_task_1_every_block_size(block_size: int) -> None:
    """However the seven keys are cut into blocks, the result is the same."""
    check_in_blocks(*inputs(5, 7, seed=10, H_q=2, D=4), block_size)


@cases("leading", (), (3,), (2, 3))
def test_task_1_leading_axes(leading: tuple[int, ...]) -> None:
    """Any axes may stand in front, and values may have another size."""
    query, key = normal(*leading, 3, 4, seed=20), normal(*leading, 10, 4, seed=21)
    check_in_blocks(query, key, normal(*leading, 10, 5, seed=22), 4)


@cases("order", "rising", "falling")
def test_task_1_the_maximum_moves(order: str) -> None:
    """Each block may bring a new maximum, or none: what is kept is corrected, or not."""
    steps = np.arange(12.0) if order == "rising" else np.arange(12.0)[::-1]
    key = mx.array(np.repeat(steps, 4).reshape(12, 4).astype(np.float32))
    check_in_blocks(mx.ones((3, 4)), key, normal(12, 4, seed=30), 3, f", {order} scores", scale=0.5)


@cases("size", 1e2, 1e4)
def test_task_1_extreme_scores(size: float) -> None:
    """Scores of any size: no exp is infinite."""
    query, key, value = inputs(4, 20, seed=40, H_q=2, D=4, scale=size)
    check_in_blocks(query, key, value, 6, f", scores of about {size:g}")
    check_in_blocks(query, key, value, 6, f", scores of about {size:g}", mask=mx.array(-size))


@cases("shape", (6,), (3, 6), (2, 1, 3, 6), (2, 2, 3, 1), ())
def test_task_1_masks(shape: tuple[int, ...]) -> None:
    """A mask is added to the scaled scores, block by block; missing axes are repeated."""
    query, key, value = inputs(3, 6, seed=50, H_q=2, D=4)
    check_in_blocks(query, key, value, 4, f", a mask {shape}", mask=normal(*shape, seed=53))
    check_in_blocks(
        query, key, value, 4, f", a mask {shape}, scale=2", mask=normal(*shape, seed=53), scale=2.0
    )


def test_task_1_hidden_keys() -> None:
    """Blocks of which a query sees nothing, first and last, and queries that see nothing at all."""
    query, key, value = inputs(4, 9, seed=60, H_q=2, D=4)
    mask = np.zeros((4, 9), np.float32)
    mask[0, :4], mask[1, 3:], mask[2] = -np.inf, -np.inf, -np.inf
    check_in_blocks(query, key, value, 3, ", whole blocks hidden", mask=mx.array(mask))


@cases("scale", 0.0, 1.0, -0.5)
def test_task_1_scale(scale: float) -> None:
    """A scale that is given replaces 1 / sqrt(D), 0 included."""
    check_in_blocks(*inputs(3, 6, seed=70, H_q=2, D=4), 4, f", scale={scale}", scale=scale)


@half_precision
def test_task_1_half_precision(dtype: mx.Dtype) -> None:
    """Everything between is in float32, and the result has the dtype of the query."""
    query, key, value = inputs(3, 300, seed=80, H_q=2, D=32, dtype=dtype)
    check_in_blocks(query, key, value, 32, f", in {dtype_name(dtype)}")
    check_in_blocks(20 * query, key, value, 32, f", in {dtype_name(dtype)}, large scores")
    mask = normal(3, 300, seed=83)
    check_in_blocks(query, key, value, 32, f", in {dtype_name(dtype)}, a mask", mask=mask)


def test_task_1_memory() -> None:
    """There are never all scores at once."""
    query, key, value = (normal(n, 8, seed=90 + n) for n in (512, 4096, 4097))
    value = value[:4096]
    mx.eval(query, key, value)
    before = memory_in_use()
    mx.reset_peak_memory()
    mx.eval(attention.attention_in_blocks(query, key, value, 64))
    needed = mx.get_peak_memory() - before
    check(
        needed < 4_000_000,
        f"attention_in_blocks of 512 queries and 4,096 keys in blocks of 64 needs "
        f"{needed / 1e6:.1f} MB.\n"
        "  expected   some arrays of 512 x 64 scores, of 0.1 MB each\n"
        "  got        about the size of all 512 x 4,096 scores, 8.4 MB",
    )


@cases("block_size", 0, -1)
def test_task_1_no_block(block_size: int) -> None:
    """A block has at least one key."""
    query, key, value = inputs(3, 6, seed=100, H_q=2, D=4)
    assert_raises_clearly(
        ValueError,
        lambda: mx.eval(attention.attention_in_blocks(query, key, value, block_size)),
        what=f"attention_in_blocks with block_size={block_size}",
    )


# --- What tasks 2 and 4 have in common: many queries, and one ------------------------------------


def check_strides(L: int) -> None:
    """Arrays need not be contiguous: views of caches, transposes, broadcasts."""
    query, key, value = inputs(L, 70, seed=200)
    room = [mx.concatenate([a, mx.full(a.shape, mx.nan)], axis=2)[:, :, :70] for a in (key, value)]
    check_attention(query, *room, ", a view of a longer cache")
    turned = [mx.contiguous(a.swapaxes(1, 2)).swapaxes(1, 2) for a in (query, key, value)]
    check_attention(*turned, ", B x L x H x D in memory")
    turned = [mx.contiguous(a.swapaxes(2, 3)).swapaxes(2, 3) for a in (query, key, value)]
    check_attention(*turned, ", D before L in memory")
    apart = [mx.repeat(a, 2, axis=3)[..., ::2] for a in (query, key, value)]
    check_attention(*apart, ", every other element")
    back = [a[:, ::-1, ::-1, ::-1] for a in (query, key, value)]
    check_attention(*back, ", backwards")
    one = [mx.broadcast_to(a[:1, :1], a.shape) for a in (query, key, value)]
    check_attention(*one, ", one head broadcast")


def check_extremes(L: int) -> None:
    """Scores of any size, equal scores, and scores that rise or fall from block to block."""
    for size in (1e-4, 1e2, 1e4):
        query, key, value = inputs(L, 150, seed=210, scale=size)
        check_attention(query, key, value, f", scores of about {size:g}")
    query, key, value = inputs(L, 150, seed=210)
    check_attention(0 * query, key, value, ", all scores 0")
    for name, steps in (("rising", np.arange(150)), ("falling", np.arange(150)[::-1])):
        column = mx.array(steps.astype(np.float32))[:, None]
        ones = mx.ones_like(query)
        check_attention(ones, 0 * key + column / 8, value, f", {name} scores", scale=0.1)


def check_shared_heads(L: int) -> None:
    """Consecutive query heads share a key/value head."""
    query, key, _ = inputs(L, 40, seed=220, H_q=6, H_kv=3)
    value = mx.broadcast_to(mx.arange(3.0)[None, :, None, None], key.shape)
    expected = np.repeat(np.arange(3.0), 2)[None, :, None, None]
    assert_close(
        attention.flash_attention(query, key, value),
        np.broadcast_to(expected, query.shape),
        what="flash_attention where the values of key/value head h are all h",
        reduction=40,
        axes="B H L D",
    )


def check_agrees_with_mlx(L: int, mask: str | None) -> None:
    """MLX's own attention gives the same result."""
    query, key, value = inputs(L, 300, seed=230, D=128)
    assert_close(
        attention.flash_attention(query, key, value, 0.3, mask),
        mx.fast.scaled_dot_product_attention(
            query, key, value, scale=0.3, mask=mask, stream=mx.cpu
        ),
        what="flash_attention, compared with mx.fast.scaled_dot_product_attention",
        reduction=128 + 300,
        magnitude=oracles.attention(query, key, value, 0.3)[1],
        axes="B H L D",
    )


def check_is_lazy(L: int) -> None:
    """The result is a node of MLX's graph: it may depend on others, and others on it."""
    query, key, value = inputs(L, 40, seed=240, H_q=2, H_kv=2)
    first = attention.flash_attention(query / 2, key * 2, value)
    expected, size = oracles.attention(query, key, value)
    assert_close(first + 1, expected + 1, what="an attention, plus 1", reduction=72, magnitude=size)
    with mx.stream(mx.new_stream(mx.cpu)):
        elsewhere = attention.flash_attention(query, key, value)
        mx.eval(elsewhere)
    assert_close(elsewhere, expected, what="on another stream", reduction=72, magnitude=size)


def check_memory(L: int) -> None:
    """Keys and values are read where they lie, for all heads that share them."""
    query, key, value = inputs(L, 4096, seed=250, B=1, H_q=8, H_kv=1, D=64)
    mx.eval(query, key, value)
    before = memory_in_use()
    mx.reset_peak_memory()
    mx.eval(attention.flash_attention(query, key, value))
    needed = mx.get_peak_memory() - before
    check(
        needed < 2 * query.nbytes + 100_000,
        f"flash_attention of {L} queries and 4,096 keys allocates {needed / 1e6:.2f} MB.\n"
        f"  expected   the result, {query.nbytes / 1e6:.2f} MB\n"
        "  got        more: scores, a mask, or copies of the keys",
    )


def check_arguments_unchanged(L: int) -> None:
    """The caller's arrays are the same after the call."""
    query, key, value = inputs(L, 70, seed=260)
    with arguments_unchanged("flash_attention(...)", query=query, key=key, value=value):
        mx.eval(attention.flash_attention(query, key, value))


# --- Task 2: the kernel for many queries ---------------------------------------------------------


@cases("D", 32, 64, 128)
@every_dtype
def test_task_2_every_head_dim(D: int, dtype: mx.Dtype) -> None:
    """Head dims 32, 64 and 128 in every dtype."""
    check_attention(*inputs(30, 100, seed=300, D=D, dtype=dtype))


@cases("L", 2, 3, 11, 12, 13, 23, 24, 25, 47, 48, 49, 97)
@cases("S", 1, 3, 4, 5, 63, 64, 65, 130)
def test_task_2_ragged_edges(L: int, S: int) -> None:
    """Whatever the numbers of queries and keys are, the last panel and block are complete."""
    check_attention(*inputs(L, S, seed=310, B=1))


@cases("H_q H_kv", (1, 1), (3, 3), (3, 1), (10, 2), (32, 1))
def test_task_2_head_counts(H_q: int, H_kv: int) -> None:
    """Groups of any size, of which a panel may hold a part."""
    check_attention(*inputs(7, 40, seed=320, H_q=H_q, H_kv=H_kv))


def test_task_2_consecutive_heads_share() -> None:
    """Query heads 0 and 1 read key/value head 0, and so on (not 0, 1, 2, 0, 1, 2)."""
    check_shared_heads(L=5)


@cases("scale", 0.0, 1.0, -0.5, 2)
def test_task_2_scale(scale: float) -> None:
    """A scale that is given replaces 1 / sqrt(D)."""
    check_attention(*inputs(9, 70, seed=330), f", scale={scale}", scale=scale)


def test_task_2_extremes() -> None:
    """Scores of any size and order."""
    check_extremes(L=5)


def test_task_2_strides() -> None:
    """Arrays need not be contiguous."""
    check_strides(L=5)


def test_task_2_agrees_with_mlx() -> None:
    """MLX's own attention gives the same result."""
    check_agrees_with_mlx(L=50, mask=None)


def test_task_2_long_context() -> None:
    """128 blocks of keys."""
    check_attention(*inputs(3, 8192, seed=340, B=1, D=128))


def test_task_2_is_lazy() -> None:
    """The result is a node of MLX's graph, on any CPU stream."""
    check_is_lazy(L=6)


def test_task_2_memory() -> None:
    """The memory needed does not grow with S."""
    check_memory(L=32)


def test_task_2_arguments_unchanged() -> None:
    """Nothing is written to the caller's arrays."""
    check_arguments_unchanged(L=7)


@cases("B L S", (0, 3, 5), (2, 0, 5), (2, 3, 0), (2, 1, 0))
def test_task_2_nothing_to_do(B: int, L: int, S: int) -> None:
    """No batch or no query gives nothing; without a key, queries get 0."""
    query, key, value = inputs(L, S, seed=350, B=B)
    assert_close(
        attention.flash_attention(query, key, value),
        np.zeros(query.shape),
        what=f"flash_attention with B = {B}, L = {L}, S = {S}",
    )


WRONG: dict[str, Callable[[mx.array, mx.array, mx.array], tuple[Any, ...]]] = {
    "a query of three axes": lambda q, k, v: (q[0], k, v),
    "a query of no axes": lambda q, k, v: (mx.array(1.0), k, v),
    "keys and values of five axes": lambda q, k, v: (q, k[None], v[None]),
    "fewer values than keys": lambda q, k, v: (q, k, v[:, :, 1:]),
    "values of another head dim": lambda q, k, v: (q, k, mx.concatenate([v, v], axis=-1)),
    "keys of another head dim": lambda q, k, v: (
        mx.concatenate([q, q], axis=-1),
        k,
        v,
    ),
    "a head dim of 16": lambda q, k, v: (q[..., :16], k[..., :16], v[..., :16]),
    "a head dim of 0": lambda q, k, v: (q[..., :0], k[..., :0], v[..., :0]),
    "a head dim of 96": lambda q, k, v: tuple(mx.concatenate([a] * 3, axis=-1) for a in (q, k, v)),
    "keys of another batch": lambda q, k, v: (q, k[:1], v[:1]),
    "4 query heads for 3 key/value heads": lambda q, k, v: (
        q,
        *(mx.concatenate([a, a[:, :1]], axis=1) for a in (k, v)),
    ),
    "no key/value heads": lambda q, k, v: (q, k[:, :0], v[:, :0]),
    "integers": lambda q, k, v: tuple(a.astype(mx.int32) for a in (q, k, v)),
    "complex numbers": lambda q, k, v: tuple(a.astype(mx.complex64) for a in (q, k, v)),
    "keys in float16": lambda q, k, v: (q, k.astype(mx.float16), v),
    "values in bfloat16": lambda q, k, v: (q, k, v.astype(mx.bfloat16)),
}


@pytest.mark.parametrize("name", WRONG)
def test_task_2_wrong_arguments(name: str) -> None:
    """What does not go together is refused with a sentence, and never read out of bounds."""
    arrays = WRONG[name](*inputs(5, 9, seed=360))
    assert_raises_clearly(
        ValueError,
        lambda: mx.eval(attention.flash_attention(*arrays)),
        what=f"flash_attention with {name}",
    )


# --- Task 3: masks -------------------------------------------------------------------------------


@cases(
    "L S",
    *[(2, 2), (12, 12), (25, 25), (65, 65), (100, 100), (200, 200)],
    *[(2, 3), (5, 64), (5, 65), (5, 68), (30, 100), (64, 129), (100, 300)],
)
@cases("H_q", 2, 6)
def test_task_3_causal(L: int, S: int, H_q: int) -> None:
    """Later keys are hidden; the queries are the last of the positions."""
    check_attention(*inputs(L, S, seed=400, B=1, H_q=H_q), ', mask="causal"', mask="causal")


@every_dtype
def test_task_3_causal_in_every_dtype(dtype: mx.Dtype) -> None:
    """The result has the dtype of the query."""
    check_attention(*inputs(30, 70, seed=410, D=64, dtype=dtype), ', mask="causal"', mask="causal")


def test_task_3_causal_agrees_with_mlx() -> None:
    """MLX's own attention gives the same result."""
    check_agrees_with_mlx(L=50, mask="causal")


def test_task_3_causal_extremes() -> None:
    """Hidden keys count for nothing, however large their scores are."""
    query, key, value = inputs(20, 90, seed=420)
    key = mx.where(mx.arange(90)[:, None] > 75, 1000.0, key)
    check_attention(
        mx.abs(query), key, value, ', mask="causal", later keys of 1,000', mask="causal"
    )


@cases("hidden", 24, 72, 120)
def test_task_3_causal_skips_keys(hidden: int) -> None:
    """Keys that no query of a panel may look at are not read: NaN in them does not matter."""
    query, key, value = inputs(240, 240, seed=430, B=1, H_q=2)
    expected, magnitude = expected_of(query, key, value, None, "causal")
    later = mx.arange(240)[:, None] >= hidden
    key, value = mx.where(later, mx.nan, key), mx.where(later, mx.nan, value)
    assert_close(
        attention.flash_attention(query, key, value, mask="causal")[:, :, :hidden],
        expected[:, :, :hidden],
        what=f"the first {hidden} queries of flash_attention of 240 queries and keys, "
        f'mask="causal", where keys and values from {hidden} on are NaN',
        reduction=32 + hidden,
        magnitude=magnitude[:, :, :hidden],
        axes="B H L D",
    )


MASKS = {
    "S": (70,),
    "L x S": (30, 70),
    "L x 1": (30, 1),
    "H_q x 1 x S": (4, 1, 70),
    "B x 1 x L x S": (2, 1, 30, 70),
    "B x 1 x 1 x S": (2, 1, 1, 70),
    "B x H_q x L x S": (2, 4, 30, 70),
    "a scalar": (),
}


@pytest.mark.parametrize("shape", MASKS)
@cases("scale", None, 2.0)
def test_task_3_masks(shape: str, scale: float | None) -> None:
    """A mask is added to the scaled scores; missing axes, and those of size 1, are repeated."""
    mask = normal(*MASKS[shape], seed=440, scale=3.0)
    check_attention(
        *inputs(30, 70, seed=441), f", a mask {shape}, scale={scale}", mask=mask, scale=scale
    )


@every_dtype
@every_mask_dtype
def test_task_3_masks_in_every_dtype(dtype: mx.Dtype, mask_dtype: mx.Dtype) -> None:
    """A mask may have another dtype than the query."""
    mask = normal(30, 70, seed=450, dtype=mask_dtype)
    check_attention(
        *inputs(30, 70, seed=451, dtype=dtype),
        f", a mask in {dtype_name(mask_dtype)}",
        mask=mask,
    )


def hiding_mask(L: int, S: int) -> mx.array:
    """Hides about a third of the keys; from some queries all, or all of the first or last ones."""
    mask = np.where(np.random.default_rng(460).random((4, L, S)) < 0.3, -np.inf, 0.0)
    mask[1, 0], mask[2, -1], mask[3] = -np.inf, -np.inf, -np.inf
    mask[0, 0, : S - 2], mask[0, -1, 2:] = -np.inf, -np.inf
    return mx.array(mask.astype(np.float32))


@cases("L S", (30, 70), (2, 65), (3, 200))
def test_task_3_hidden_keys(L: int, S: int) -> None:
    """Queries that see no key get 0, and hidden blocks leave the others as they are."""
    check_attention(*inputs(L, S, seed=461), ", some queries see nothing", mask=hiding_mask(L, S))


@half_precision
def test_task_3_hidden_keys_in_half_precision(dtype: mx.Dtype) -> None:
    """0, not NaN, in every dtype."""
    check_attention(
        *inputs(30, 70, seed=470, dtype=dtype),
        ", some queries see nothing",
        mask=hiding_mask(30, 70).astype(dtype),
    )


def test_task_3_lowest_number() -> None:
    """A mask of the lowest finite number does not hide: all keys alike are all keys equal."""
    query, key, value = inputs(5, 70, seed=480)
    mask = mx.full((5, 70), mx.finfo(mx.float32).min)
    expected = np.broadcast_to(np.array(value).mean(axis=2, keepdims=True), key.shape)
    assert_close(
        attention.flash_attention(query, key, value, mask=mask),
        np.repeat(expected[:, :, :5], 2, axis=1),
        what="flash_attention with the lowest float32 as the mask everywhere",
        reduction=70,
        magnitude=1.0,
        axes="B H L D",
    )


def test_task_3_mask_strides() -> None:
    """A mask need not be contiguous."""
    query, key, value = inputs(30, 70, seed=490)
    mask = normal(70, 60, seed=493).T[::-2]
    check_attention(query, key, value, ", a mask with strides", mask=mask)


@cases("mask", "sliding", "CAUSAL", "causal_lower_right", "")
def test_task_3_unknown_mask(mask: str) -> None:
    """A string that is not "causal" raises ValueError."""
    query, key, value = inputs(5, 9, seed=500)
    assert_raises_clearly(
        ValueError,
        lambda: mx.eval(attention.flash_attention(query, key, value, mask=mask)),
        what=f'flash_attention with mask="{mask}"',
    )


@cases("L S", (6, 5), (2, 0), (1, 0))
def test_task_3_causal_with_fewer_keys(L: int, S: int) -> None:
    """Every query has a key of its own, so there cannot be fewer keys than queries."""
    query, key, value = inputs(L, S, seed=510)
    assert_raises_clearly(
        ValueError,
        lambda: mx.eval(attention.flash_attention(query, key, value, mask="causal")),
        what=f'flash_attention with mask="causal", L = {L} and S = {S}',
    )


@cases("shape", (8,), (4, 9), (3, 5, 9), (2, 2, 5, 9), (1, 2, 4, 5, 9), (5, 10), (0,))
def test_task_3_masks_that_do_not_fit(shape: tuple[int, ...]) -> None:
    """A mask that cannot be broadcast is refused, and never read out of bounds."""
    query, key, value = inputs(5, 9, seed=520)
    assert_raises_clearly(
        ValueError,
        lambda: mx.eval(attention.flash_attention(query, key, value, mask=mx.zeros(shape))),
        what=f"flash_attention of 5 queries and 9 keys with a mask {shape}",
    )


@cases("dtype", mx.bool_, mx.int32, mx.complex64)
def test_task_3_masks_of_other_dtypes(dtype: mx.Dtype) -> None:
    """What is added to scores is a float; True might mean hidden, or visible, or 1."""
    query, key, value = inputs(5, 9, seed=530)
    assert_raises_clearly(
        ValueError,
        lambda: mx.eval(
            attention.flash_attention(query, key, value, mask=mx.ones((5, 9)).astype(dtype))
        ),
        what=f"flash_attention with a mask in {dtype_name(dtype)}",
    )


# --- Task 4: decoding ----------------------------------------------------------------------------


@cases("D", 32, 64, 128)
@every_dtype
def test_task_4_every_head_dim(D: int, dtype: mx.Dtype) -> None:
    """One query, head dims 32, 64 and 128 in every dtype."""
    check_attention(*inputs(1, 100, seed=600, D=D, dtype=dtype))


@cases("S", 1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 65, 511, 512, 513, 1023, 1024, 1025, 1100, 1600, 2047)
def test_task_4_ragged_edges(S: int) -> None:
    """Whatever the number of keys is, the last block and the last split are complete."""
    check_attention(*inputs(1, S, seed=610))


@cases("H_q H_kv", (1, 1), (3, 3), (2, 1), (3, 1), (4, 1), (5, 1), (14, 2), (8, 1), (32, 2))
def test_task_4_head_counts(H_q: int, H_kv: int) -> None:
    """Groups of any size."""
    check_attention(*inputs(1, 140, seed=620, H_q=H_q, H_kv=H_kv))


def test_task_4_consecutive_heads_share() -> None:
    """Query heads 0 and 1 read key/value head 0, and so on."""
    check_shared_heads(L=1)


@cases("scale", 0.0, 1.0, -0.5, 2)
def test_task_4_scale(scale: float) -> None:
    """A scale that is given replaces 1 / sqrt(D)."""
    check_attention(*inputs(1, 70, seed=630), f", scale={scale}", scale=scale)


def test_task_4_extremes() -> None:
    """Scores of any size and order."""
    check_extremes(L=1)


@cases("S", 1100, 3000)
def test_task_4_extremes_in_splits(S: int) -> None:
    """The splits have maxima of their own, which may be far apart."""
    query, key, value = inputs(1, S, seed=640)
    for name, steps in (("rising", np.arange(S)), ("falling", np.arange(S)[::-1])):
        column = mx.array(steps.astype(np.float32))[:, None]
        for slope in (0.002, 0.2):
            check_attention(
                mx.ones_like(query), 0 * key + slope * column, value, f", {name}", scale=0.1
            )


def test_task_4_strides() -> None:
    """Arrays need not be contiguous."""
    check_strides(L=1)


@cases("mask", None, "causal")
def test_task_4_agrees_with_mlx(mask: str | None) -> None:
    """MLX's own attention gives the same result."""
    check_agrees_with_mlx(L=1, mask=mask)


@every_dtype
def test_task_4_long_context(dtype: mx.Dtype) -> None:
    """As many keys as a long conversation has."""
    check_attention(*inputs(1, 8192, seed=650, B=1, D=128, dtype=dtype))


@cases("shape", (1100,), (4, 1, 1100), (2, 1, 1, 1100), (2, 4, 1, 1))
@cases("scale", None, 2.0)
def test_task_4_masks(shape: tuple[int, ...], scale: float | None) -> None:
    """A mask is added to the scaled scores."""
    check_attention(
        *inputs(1, 1100, seed=660),
        f", a mask {shape}, scale={scale}",
        mask=normal(*shape, seed=663, scale=3.0),
        scale=scale,
    )


@cases("S", 70, 1100)
def test_task_4_hidden_keys(S: int) -> None:
    """Queries that see no key, or none of a split, and hidden keys in front as in a batch."""
    check_attention(*inputs(1, S, seed=670), ", some see nothing", mask=hiding_mask(1, S))
    for visible in (1, 5, S // 2, S - 1):
        mask = mx.where(mx.arange(S) < S - visible, -mx.inf, 0.0)
        check_attention(*inputs(1, S, seed=671), f", the last {visible} visible", mask=mask)
        check_attention(*inputs(1, S, seed=671), f", the first {visible} visible", mask=mask[::-1])


def test_task_4_is_lazy() -> None:
    """The result is a node of MLX's graph, on any CPU stream."""
    check_is_lazy(L=1)


def test_task_4_memory() -> None:
    """Keys and values are read where they lie."""
    check_memory(L=1)


def test_task_4_arguments_unchanged() -> None:
    """Nothing is written to the caller's arrays."""
    check_arguments_unchanged(L=1)


def test_task_4_prefill_and_decode_agree() -> None:
    """A query comes out the same, whether it comes alone or among others."""
    query, key, value = inputs(40, 600, seed=680)
    together = attention.flash_attention(query, key, value)
    for row in (0, 17, 39):
        alone = query[:, :, row : row + 1]
        assert_close(
            attention.flash_attention(alone, key, value),
            together[:, :, row : row + 1],
            what=f"query {row} of 40, alone",
            reduction=632,
            magnitude=expected_of(alone, key, value, None, None)[1],
            axes="B H L D",
        )


def test_task_4_model() -> None:
    """The logits of a model that attends with flash_attention are mlx-lm's."""
    mlx_model = random_model(seed=690, layers=2, head_dim=32)
    ids = mx.array(np.random.default_rng(691).integers(0, 37, (2, 30)))
    calls = []

    def counted(*arguments: Any, **options: Any) -> mx.array:
        calls.append(arguments)
        return attention.flash_attention(*arguments, **options)

    model = qwen3.Qwen3Model(mlx_model, attention=counted)
    assert_close(
        model(ids),
        mlx_model(ids),
        what="Qwen3Model(mlx_model, attention=flash_attention)(inputs)",
        reduction=2 * 128,
        axes="B L vocab",
    )
    check(
        len(calls) == 2,
        "Qwen3Model(mlx_model, attention=f) must call f once in each layer, but a model of 2 "
        f"layers calls it {len(calls)} times.",
    )


def test_task_4_the_embedded_model() -> None:
    """The same tokens as mlx-lm, for the embedded model: prefill, and then decoding."""
    mlx_model, tokenizer = tiny()
    prompt = tokenizer.encode(ledger_question(12), add_special_tokens=False)
    expected, _ = continue_greedily(mlx_model, prompt, 8)
    model = qwen3.Qwen3Model(mlx_model, attention=attention.flash_attention)
    caches = model.create_kv_cache()
    got, tokens, offset = [], prompt, 0
    for _ in expected:
        logits = model(mx.array([tokens]), offset, caches)
        offset += len(tokens)
        tokens = [int(mx.argmax(logits[0, -1]).item())]
        got += tokens
    assert_tokens_equal(
        got, expected, what="greedy tokens of Qwen3Model(mlx_model, attention=flash_attention)"
    )
