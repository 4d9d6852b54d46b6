"""Week 2, day 5: flash attention as a Metal kernel.

Without Apple's GPU it runs in the simulator, which finds races, overruns and missing barriers.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import oracles
from inputs import cases, float64, half_precision, halves, normal
from metal import ORDERS, in_orders
from oracle_models import random_model
from solution import attention, qwen3
from tiny_llm_lab.course.checks import assert_close, assert_raises_clearly, check, dtype_name

Arrays = tuple[mx.array, mx.array, mx.array]

# A kernel is compiled for each of these and of the kinds of masks, so there are few: every dtype
# and every head dim.
every_format = pytest.mark.parametrize(
    ["dtype", "D"],
    [
        (mx.float32, 32),
        (mx.float32, 128),
        (mx.float16, 64),
        (mx.float16, 128),
        (mx.bfloat16, 32),
        (mx.bfloat16, 64),
    ],
)


def inputs(
    B: int = 1,
    H_q: int = 1,
    H_kv: int = 1,
    L: int = 5,
    S: int = 40,
    D: int = 32,
    dtype: mx.Dtype = mx.float32,
) -> Arrays:
    """Query, key and value whose scores are exact, and far enough apart for uneven weights."""
    return (
        halves(B, H_q, L, D, seed=1, scale=1.0, dtype=dtype),
        halves(B, H_kv, S, D, seed=2, scale=1.0, dtype=dtype),
        normal(B, H_kv, S, D, seed=3, dtype=dtype),
    )


def causal(L: int, S: int) -> np.ndarray:
    """The definition: query i stands at position S - L + i and sees the keys up to there."""
    return np.where(np.arange(S) <= S - L + np.arange(L)[:, None], 0.0, -np.inf)


def expected_attention(
    arrays: Arrays, scale: float | None, mask: np.ndarray | mx.array | None
) -> tuple[np.ndarray, np.ndarray]:
    """The oracle, and its magnitude; 0 for a query that may look at no key."""
    B, H_q, L, _ = arrays[0].shape
    added = np.zeros(()) if mask is None else float64(mask)
    hidden = np.all(np.broadcast_to(added, (B, H_q, L, arrays[1].shape[2])) == -np.inf, axis=-1)
    with np.errstate(invalid="ignore"):
        output, magnitude = oracles.attention(*arrays, scale, mask)
    return (np.where(hidden[..., None], 0.0, values) for values in (output, magnitude))


def check_attention(
    arrays: Arrays,
    *,
    scale: float | None = None,
    mask: Any = None,
    how: str = "",
    orders: tuple[int, ...] = (0,),
) -> None:
    """Compare the student's `flash_attention_metal` with the definition."""
    query, key, _ = arrays
    added = causal(query.shape[2], key.shape[2]) if isinstance(mask, str) else mask
    expected, magnitude = expected_attention(arrays, scale, added)
    kind = "an array" if isinstance(mask, mx.array) else repr(mask)
    what = (
        f"flash_attention_metal with query {query.shape}, key {key.shape} in "
        f"{dtype_name(query.dtype)}, mask {kind}{how}"
    )

    def call() -> Any:
        return attention.flash_attention_metal(*arrays, scale=scale, mask=mask)

    for result, order in in_orders(call, orders):
        assert_close(
            result,
            expected,
            what=what + order,
            dtype=query.dtype,
            # In half precision only the result is rounded to it; everything else is float32.
            reduction=1,
            magnitude=magnitude
            if query.dtype == mx.float32
            else np.abs(expected) + 2.0**-8 * magnitude,
            axes="B H L D",
        )


# --- Task 1: online softmax ------------------------------------------------------------------


@every_format
def test_task_1_every_format(dtype: mx.Dtype, D: int) -> None:
    """Every dtype and head dim, any order of the threads."""
    check_attention(inputs(L=3, S=70, D=D, dtype=dtype), orders=(0, 3))


@cases("S", 1, 2, 31, 32, 33, 64, 65, 100)
def test_task_1_every_number_of_keys(S: int) -> None:
    """No key is left out, and nothing is read behind the last one."""
    check_attention(inputs(L=2, S=S))


@cases("L", 1, 3, 4, 5, 15, 16, 17, 33)
def test_task_1_every_number_of_queries(L: int) -> None:
    """No query is left out, and nothing is written behind the last one."""
    check_attention(inputs(L=L, S=35))


@cases("order", *ORDERS, 5, 6)
def test_task_1_any_order_of_the_threads(order: int) -> None:
    """SIMD groups may be far apart; only barriers keep them together."""
    check_attention(inputs(L=16, S=96), orders=(order,))


@cases("rising", True, False)
def test_task_1_the_largest_score_last_or_first(rising: bool) -> None:
    """A new largest score shrinks everything that was summed before it."""
    query, key, value = inputs(L=3, S=100)
    steps = mx.arange(100.0) if rising else mx.arange(100.0)[::-1]
    key = mx.zeros_like(key) + (steps / 4)[:, None] * mx.eye(32)[0]
    query = mx.zeros_like(query) + 8 * mx.eye(32)[0]
    how = f", scores that {'rise' if rising else 'fall'} from key to key"
    check_attention((query, key, value), how=how)


def test_task_1_extreme_scores() -> None:
    """Scores whose exponentials are far too large for a float, and far too small."""
    query, key, value = inputs(L=4, S=70)
    for size in (100.0, -100.0, 1e4):
        check_attention((query * size, key, value), how=f", query times {size:g}")


@cases("scale", 0.0, 0.5, -1.0)
def test_task_1_scale(scale: float) -> None:
    """The scale is the caller's if there is one, 0 included."""
    check_attention(inputs(), scale=scale, how=f", scale={scale}")


@cases("B H_q H_kv", (1, 2, 2), (2, 2, 1), (2, 6, 2), (3, 3, 3))
def test_task_1_heads_and_batch(B: int, H_q: int, H_kv: int) -> None:
    """Neighbouring query heads share a key/value head, of their own item of the batch."""
    check_attention(inputs(B=B, H_q=H_q, H_kv=H_kv, L=3, S=34))


@half_precision
def test_task_1_sums_in_float32(dtype: mx.Dtype) -> None:
    """One large weight and thousands of small ones: in half precision the sum stands still."""
    query, key, value = (mx.zeros((1, 1, n, 64), dtype) for n in (1, 2000, 2000))
    query[..., 0] = 1
    key[:, :, 1:, 0] = -9.7 if dtype == mx.bfloat16 else -11.8
    value = 1 + mx.abs(normal(*value.shape, seed=4, dtype=dtype))
    check_attention((query, key, value), scale=1.0, how=", one large weight, and small ones")


@half_precision
def test_task_1_scores_in_float32(dtype: mx.Dtype) -> None:
    """Scores of about 100 that differ by about 1: in half precision they would be the same."""
    query = mx.full((1, 1, 3, 64), 1.25, dtype)
    key = normal(1, 1, 40, 64, seed=5, mean=1.25, scale=0.1, dtype=dtype)
    value = normal(1, 1, 40, 64, seed=6, dtype=dtype)
    check_attention((query, key, value), scale=1.0, how=", scores of about 100")


def test_task_1_strides() -> None:
    """Arrays need not be contiguous."""
    query, key, value = inputs(H_q=4, H_kv=2, L=5, S=40)
    turned = [mx.contiguous(x.swapaxes(1, 2)).swapaxes(1, 2) for x in (query, key, value)]
    check_attention((turned[0], turned[1], turned[2]), how=", heads behind positions in memory")


@cases("B L S", (0, 3, 5), (1, 0, 5), (1, 3, 0))
def test_task_1_nothing_to_attend(B: int, L: int, S: int) -> None:
    """Without queries the result is empty, and without keys it is 0."""
    result = attention.flash_attention_metal(*inputs(B=B, L=L, S=S))
    what = f"flash_attention_metal with B={B}, L={L}, S={S}"
    assert_close(result, np.zeros((B, 1, L, 32)), what=what, axes="B H L D")


WRONG: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "a query of three axes": lambda given: {"query": given["query"][0]},
    "a key of three axes": lambda given: {"key": given["key"][0]},
    "value with too few positions": lambda given: {"value": given["value"][:, :, 1:]},
    "value with too few heads": lambda given: {"value": given["value"][:, :1]},
    "key of another head dim": lambda given: {"key": given["key"][..., :16]},
    "a head dim of 48": lambda given: {
        name: mx.concatenate([given[name]] * 2, axis=-1)[..., :48]
        for name in ("query", "key", "value")
    },
    "key and value of another batch": lambda given: {
        name: mx.concatenate([given[name]] * 2) for name in ("key", "value")
    },
    "3 query heads for 2 key heads": lambda given: {"query": given["query"][:, :3]},
    "key of float16": lambda given: {"key": given["key"].astype(mx.float16)},
    "arrays of integers": lambda given: {
        name: given[name].astype(mx.int32) for name in ("query", "key", "value")
    },
    "another string for a mask": lambda _: {"mask": "causale"},
    "fewer keys than queries, causal": lambda given: {
        "key": given["key"][:, :, :2],
        "value": given["value"][:, :, :2],
        "mask": "causal",
    },
    "a mask of integers": lambda _: {"mask": mx.zeros((3, 5), mx.int32)},
    "a mask of bools": lambda _: {"mask": mx.ones((3, 5), mx.bool_)},
    "a mask with too few keys": lambda _: {"mask": mx.zeros((3, 4))},
    "a mask with too many queries": lambda _: {"mask": mx.zeros((4, 5))},
    "a mask with five axes": lambda _: {"mask": mx.zeros((1, 1, 1, 3, 5))},
}


@pytest.mark.parametrize("name", WRONG)
def test_task_1_wrong_arguments(name: str) -> None:
    """What cannot be attended to is refused with a sentence, and never read out of bounds."""
    query, key, value = inputs(H_q=4, H_kv=2, L=3, S=5)
    given = {"query": query, "key": key, "value": value, "mask": None}
    assert_raises_clearly(
        ValueError,
        lambda: mx.eval(attention.flash_attention_metal(**{**given, **WRONG[name](given)})),
        what=f"flash_attention_metal with {name}",
    )


# --- Task 2: masks ---------------------------------------------------------------------------


@cases(
    "L S",
    (1, 1),
    (1, 40),
    (5, 5),
    (16, 16),
    (17, 17),
    (20, 33),
    (3, 64),
    (32, 33),
    (33, 64),
    (40, 72),
)
def test_task_2_causal(L: int, S: int) -> None:
    """The queries are the last L of the S positions, and see the keys up to their own."""
    check_attention(inputs(L=L, S=S), mask="causal")


def test_task_2_causal_skips_what_nobody_sees() -> None:
    """Keys behind the last query of a block are not even read: NaN there does no harm."""
    query, key, value = inputs(L=64, S=64)
    key[:, :, 32:] = mx.nan
    value[:, :, 32:] = mx.nan
    result = attention.flash_attention_metal(query, key, value, mask="causal")[:, :, :16]
    expected, magnitude = oracles.attention(
        query[:, :, :16], key[:, :, :32], value[:, :, :32], None, causal(64, 64)[:16, :32]
    )
    what = "the first 16 queries of flash_attention_metal, causal, with NaN from key 32 on"
    assert_close(result, expected, what=what, magnitude=magnitude, axes="B H L D")


@pytest.mark.parametrize(["dtype", "D"], [(mx.float16, 64), (mx.bfloat16, 128)])
def test_task_2_causal_formats(dtype: mx.Dtype, D: int) -> None:
    """Heads, batch and another format."""
    check_attention(inputs(2, 4, 2, L=18, S=35, D=D, dtype=dtype), mask="causal", orders=(0, 4))


@cases("shape", (3, 40), (1, 40), (3, 1), (4, 3, 40), (2, 1, 3, 40), (2, 4, 1, 40), (2, 4, 3, 40))
def test_task_2_an_array(shape: tuple[int, ...]) -> None:
    """A mask is added to the scores, whichever of the axes it has."""
    mask = normal(*shape, seed=201)
    check_attention(inputs(2, 4, 2, L=3, S=40), mask=mask, how=f" of shape {shape}")


@cases("shape", (1, 1), (3, 1), (1,), ())
def test_task_2_a_small_array(shape: tuple[int, ...]) -> None:
    """MLX puts arrays below 8 elements into `constant` memory; the kernel does not mind."""
    check_attention(inputs(L=3, S=40), mask=normal(*shape, seed=211), how=f" of shape {shape}")


@half_precision
def test_task_2_a_mask_of_another_dtype(dtype: mx.Dtype) -> None:
    """A mask may be less precise than the arrays."""
    mask = normal(3, 40, seed=221, dtype=dtype)
    check_attention(inputs(L=3, S=40), mask=mask, how=f" in {dtype_name(dtype)}")


@cases("allowed", 0.5, 0.1, 0.02)
def test_task_2_hidden_keys(allowed: float) -> None:
    """Keys at -inf have no weight, also where a whole tile of them comes first."""
    visible = np.random.default_rng(230).random((1, 2, 20, 100)) < allowed
    visible[..., 99] |= ~visible.any(axis=-1)
    mask = mx.array(np.where(visible, 0.0, -np.inf).astype(np.float32))
    how = f", {visible.mean():.0%} of its elements 0 and the others -inf"
    check_attention(inputs(1, 2, 1, L=20, S=100), mask=mask, how=how)


def test_task_2_a_query_that_sees_nothing() -> None:
    """Fully masked rows are 0, not NaN, and disturb no others."""
    for S in (20, 70):
        mask = np.zeros((6, S), np.float32)
        mask[[0, 3]] = -np.inf
        check_attention(inputs(L=6, S=S), mask=mx.array(mask), how=", rows 0 and 3 all -inf")


def test_task_2_large_masks() -> None:
    """Numbers that are not infinite are added like any others."""
    mask = mx.array(np.where(np.arange(70) % 3 == 0, 0.0, -1e9).astype(np.float32))
    check_attention(inputs(L=6, S=70), mask=mask, how=" of 0 and -1e9")
    check_attention(inputs(L=6, S=70), mask=mx.full((6, 70), -1e9), how=" of -1e9 everywhere")


def test_task_2_chunks_agree_with_the_whole() -> None:
    """Queries come out the same, whether alone or among others: causal with an offset."""
    query, key, value = inputs(L=40, S=40)
    whole = attention.flash_attention_metal(query, key, value, mask="causal")
    for start, stop in ((0, 7), (7, 30), (30, 40)):
        part = attention.flash_attention_metal(
            query[:, :, start:stop], key[:, :, :stop], value[:, :, :stop], mask="causal"
        )
        what = f"queries {start} to {stop - 1} of 40, attended to by themselves"
        assert_close(part, whole[:, :, start:stop], what=what, reduction=40)


@cases("mask", None, "causal")
def test_task_2_agrees_with_mlx(mask: str | None) -> None:
    """The same as `mx.fast.scaled_dot_product_attention`."""
    query, key, value = (
        normal(1, heads, length, 64, seed=seed, dtype=mx.float16)
        for heads, length, seed in ((4, 20, 1), (2, 50, 2), (2, 50, 3))
    )
    expected = mx.fast.scaled_dot_product_attention(
        *(x.astype(mx.float32) for x in (query, key, value)), scale=0.125, mask=mask
    )
    assert_close(
        attention.flash_attention_metal(query, key, value, mask=mask),
        expected,
        what=f"flash_attention_metal against mx.fast.scaled_dot_product_attention, mask {mask!r}",
        dtype=mx.float16,
    )


# --- Task 3: by device -----------------------------------------------------------------------


def set_device(monkeypatch: pytest.MonkeyPatch, on_metal: bool) -> list[mx.array]:
    """Let `uses_metal()` say this, and note the queries that `flash_attention_metal` gets."""
    queries: list[mx.array] = []
    original = attention.flash_attention_metal

    def noted(
        query: mx.array,
        key: mx.array,
        value: mx.array,
        scale: float | None = None,
        mask: mx.array | str | None = None,
    ) -> mx.array:
        queries.append(query)
        return original(query, key, value, scale, mask)

    monkeypatch.setattr(attention, "uses_metal", lambda: on_metal)
    monkeypatch.setattr(attention, "flash_attention_metal", noted)
    return queries


def test_task_3_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """`flash_attention` asks `uses_metal()`, at each call, and hands on all of its arguments."""
    arrays = inputs(2, 4, 2, L=5, S=40)
    for on_metal in (True, False, True):
        with monkeypatch.context() as patch:
            queries = set_device(patch, on_metal)
            for scale, mask in ((None, None), (0.5, "causal"), (None, normal(5, 40, seed=301))):
                added = causal(5, 40) if isinstance(mask, str) else mask
                expected, magnitude = expected_attention(arrays, scale, added)
                assert_close(
                    attention.flash_attention(*arrays, scale=scale, mask=mask),
                    expected,
                    what=f"flash_attention where uses_metal() is {on_metal}",
                    magnitude=magnitude,
                    axes="B H L D",
                )
        check(
            len(queries) == 3 * on_metal,
            f"flash_attention must call flash_attention_metal if uses_metal(), and only then.\n"
            f"  expected   {3 * on_metal} of 3 times, where uses_metal() is {on_metal}\n"
            f"  got        {len(queries)}",
        )


def test_task_3_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is given `flash_attention` computes the same, by the Metal kernel."""
    queries = set_device(monkeypatch, on_metal=True)
    mlx_model = random_model(seed=310, layers=2, head_dim=32)
    model = qwen3.Qwen3Model(mlx_model, attention=attention.flash_attention)
    ids = mx.array(np.random.default_rng(311).integers(0, 37, (2, 9)))
    assert_close(
        model(ids),
        mlx_model(ids),
        what="Qwen3Model(mlx_model, attention=flash_attention)(inputs) with Metal",
        reduction=2 * 32,
        axes="B L vocab",
    )
    check(
        len(queries) == 2,
        "A model must attend by flash_attention_metal where uses_metal() is True.\n"
        "  expected   2 calls, one for each layer\n"
        f"  got        {len(queries)}",
    )
