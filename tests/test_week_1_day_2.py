"""Week 1, day 2: rotary position embedding (RoPE)."""

from itertools import product
from typing import Any

import mlx.core as mx
import numpy as np

import oracles
from inputs import cases, float64, half_precision, normal
from solution import positional_encoding
from tiny_llm_lab.course.checks import (
    arguments_unchanged,
    assert_close,
    assert_raises_clearly,
    check,
)

# All different, also from D / 2, so that no axis can be taken for another.
B, L, H, D = 2, 5, 3, 8
SEQ_LEN = 4096
AXES = "B L H D"


def check_rotation(
    x: mx.array,
    offset: int | list[int] | mx.array,
    *,
    traditional: bool,
    base: float = 10000,
    seq_len: int = SEQ_LEN,
    rope: Any = None,
) -> None:
    """Rotate `x`, with a new RoPE unless one is given, and compare with the oracle."""
    rows, length = x.shape[:2]
    first = np.broadcast_to(np.array(offset), (rows,))
    positions = first[:, None] + np.arange(length)
    expected = oracles.rope(x, positions, base=base, traditional=traditional)
    # A rotation turns a rounding error in one feature of a pair into one in the other.
    magnitude = oracles.pair_lengths(x, traditional)
    if x.dtype == mx.float32:
        # Angles are rounded too, and so are the frequencies: the more, the larger the position.
        magnitude = magnitude * (1 + 4 * positions[:, :, None, None])
    if rope is None:
        rope = positional_encoding.RoPE(x.shape[-1], seq_len, base=base, traditional=traditional)
    assert_close(
        rope(x, offset),
        expected,
        what=f"RoPE(..., base={base}, traditional={traditional})(x, offset={offset})",
        dtype=x.dtype,
        magnitude=magnitude,
        axes=AXES,
    )


def check_against_mlx(traditional: bool) -> None:
    """Compare with MLX's RoPE, which has the axes of heads and positions the other way round."""
    x = normal(B, L, H, D, seed=2)
    with mx.stream(mx.cpu):
        expected = mx.fast.rope(
            x.swapaxes(1, 2), D, traditional=traditional, base=10000, scale=1.0, offset=3
        )
    assert_close(
        positional_encoding.RoPE(D, SEQ_LEN, traditional=traditional)(x, offset=3),
        expected.swapaxes(1, 2),
        what=f"RoPE(..., traditional={traditional})(x, offset=3), compared with mx.fast.rope",
        magnitude=4 * (3 + L) * oracles.pair_lengths(x, traditional),
        axes=AXES,
    )


# --- Task 1: rotate pairs of neighbours -----------------------------------------------------


def test_task_1_turns_neighbours() -> None:
    """Features 2j and 2j + 1 turn together, by the position times the frequency of pair j."""
    check_rotation(normal(B, L, H, D, seed=1), 0, traditional=True)


def test_task_1_agrees_with_mlx() -> None:
    """MLX's own RoPE gives the same result."""
    check_against_mlx(traditional=True)


def test_task_1_base() -> None:
    """The frequencies come from the base that is given (Qwen3 has a base of 1,000,000)."""
    check_rotation(normal(B, L, H, D, seed=1), 0, traditional=True, base=1_000_000)


def test_task_1_offset() -> None:
    """The first of the tokens stands at position `offset`, each later one at the next."""
    check_rotation(normal(B, L, H, D, seed=1), 7, traditional=True)


def test_task_1_single_token() -> None:
    """A single token, as in decoding, stands at position `offset`."""
    check_rotation(normal(B, 1, H, D, seed=1), 100, traditional=True)


def test_task_1_last_position() -> None:
    """Position `seq_len - 1` is allowed, and its angles are as exact as float32 has them."""
    check_rotation(normal(B, L, H, D, seed=1), SEQ_LEN - L, traditional=True)


@half_precision
def test_task_1_half_precision(dtype: mx.Dtype) -> None:
    """The result has the dtype of x; angles of several thousand are computed in float32."""
    check_rotation(normal(B, L, H, D, seed=1, dtype=dtype), SEQ_LEN - L, traditional=True)


def test_task_1_far_positions() -> None:
    """Qwen3 has 40,960 positions."""
    x = normal(B, L, H, D, seed=1)
    check_rotation(x, 40960 - L, traditional=True, base=1_000_000, seq_len=40960)


def test_task_1_one_object_many_calls() -> None:
    """What one call or another RoPE was given does not matter to the next call."""
    rope = positional_encoding.RoPE(D, SEQ_LEN, base=100, traditional=True)
    positional_encoding.RoPE(D, SEQ_LEN, base=5000, traditional=False)
    for rows, length, offset in ((2, 5, 0), (2, 5, 9), (1, 5, 9), (2, 1, 14), (2, 7, 0), (2, 5, 3)):
        x = normal(rows, length, H, D, seed=rows + length + offset)
        check_rotation(x, offset, traditional=True, base=100, rope=rope)


def test_task_1_scores_depend_on_the_distance_only() -> None:
    """A query and a key have the same dot product wherever they stand at the same distance."""
    rope = positional_encoding.RoPE(D, SEQ_LEN, traditional=True)
    query, key = normal(1, 1, 1, D, seed=1), normal(1, 1, 1, D, seed=2)

    def score(query_position: int, key_position: int) -> mx.array:
        return mx.sum(rope(query, query_position) * rope(key, key_position))

    assert_close(
        score(60, 57),
        score(3, 0),
        what="the score of a query at position 60 and a key at 57, compared with 3 and 0",
        reduction=D,
        magnitude=60 * np.linalg.norm(float64(query)) * np.linalg.norm(float64(key)),
    )


def test_task_1_input_is_left_alone() -> None:
    """The caller's x is the same after the call."""
    x = normal(B, L, H, D, seed=1)
    rope = positional_encoding.RoPE(D, SEQ_LEN, traditional=True)
    with arguments_unchanged("RoPE(..., traditional=True)(x, offset=1)", x=x):
        mx.eval(rope(x, offset=1))


def test_task_1_odd_dims_are_refused() -> None:
    """Seven features cannot be paired."""
    assert_raises_clearly(
        ValueError,
        lambda: positional_encoding.RoPE(7, SEQ_LEN, traditional=True),
        what="RoPE(dims=7, ...)",
    )


@cases("L offset", (1, 16), (5, 12), (17, 0), (1, -1))
def test_task_1_positions_outside_are_refused(L: int, offset: int) -> None:
    """With seq_len=16, no token may stand before position 0 or after position 15."""
    rope = positional_encoding.RoPE(D, 16, traditional=True)
    x = normal(1, L, 1, D, seed=1)
    assert_raises_clearly(
        ValueError,
        lambda: mx.eval(rope(x, offset)),
        what=f"RoPE(dims={D}, seq_len=16)(x, offset={offset}) with L = {L}",
    )


# --- Task 2: rotate pairs half a head apart -------------------------------------------------


def test_task_2_turns_features_half_a_head_apart() -> None:
    """Features j and j + D/2 turn together, by the position times the frequency of pair j."""
    check_rotation(normal(B, L, H, D, seed=1), 0, traditional=False)


def test_task_2_agrees_with_mlx() -> None:
    """MLX's own RoPE gives the same result."""
    check_against_mlx(traditional=False)


def test_task_2_is_the_default() -> None:
    """Without `traditional`, pairs are half a head apart, and the base is 10000."""
    x = normal(B, L, H, D, seed=1)
    positions = np.broadcast_to(np.arange(L), (B, L))
    assert_close(
        positional_encoding.RoPE(D, SEQ_LEN)(x),
        oracles.rope(x, positions, base=10000, traditional=False),
        what=f"RoPE({D}, {SEQ_LEN})(x)",
        magnitude=4 * L * oracles.pair_lengths(x, traditional=False),
        axes=AXES,
    )


@cases("offset", 7, SEQ_LEN - L)
def test_task_2_base_and_offset(offset: int) -> None:
    """Base and offset mean the same as with pairs of neighbours."""
    check_rotation(normal(B, L, H, D, seed=1), offset, traditional=False, base=1_000_000)


def test_task_2_wide_heads() -> None:
    """Heads of 128 features, as Qwen3 has them."""
    check_rotation(normal(B, L, H, 128, seed=1), 7, traditional=False, base=1_000_000)


@half_precision
def test_task_2_half_precision(dtype: mx.Dtype) -> None:
    """The result has the dtype of x; angles of several thousand are computed in float32."""
    check_rotation(normal(B, L, H, D, seed=1, dtype=dtype), SEQ_LEN - L, traditional=False)


@cases("form traditional", *product(["list", "array"], [True, False]))
def test_task_3_one_offset_per_row(form: str, traditional: bool) -> None:
    """Row b begins at offsets[b], given as a list or as an mx.array."""
    offsets = [40, 0, 7]
    x = normal(3, L, H - 1, D, seed=1)
    check_rotation(x, offsets if form == "list" else mx.array(offsets), traditional=traditional)


def test_task_3_as_many_rows_as_tokens() -> None:
    """The offsets belong to the rows also where there are as many tokens, or heads, as rows."""
    check_rotation(normal(3, 3, 3, D, seed=1), [40, 0, 7], traditional=False)


def test_task_3_single_tokens() -> None:
    """One token per row, each at its own position: this is what batched decoding does."""
    check_rotation(normal(4, 1, H, D, seed=1), [12, 3, 0, 1000], traditional=False)


def test_task_3_single_row() -> None:
    """A batch of one row with a list of one offset."""
    check_rotation(normal(1, L, H, D, seed=1), [9], traditional=False)


def test_task_3_half_precision() -> None:
    """The positions are not rounded to the dtype of x."""
    x = normal(3, L, H, D, seed=1, dtype=mx.bfloat16)
    check_rotation(x, [SEQ_LEN - L, 0, 1001], traditional=False)


def test_task_3_offsets_are_forgotten_and_left_alone() -> None:
    """Offsets of an earlier call do not matter, and the caller's own stay as they are."""
    rope = positional_encoding.RoPE(D, SEQ_LEN)
    offsets = [40, 0]
    for offset in (offsets, [3, 11], 5, mx.array([5, 6]), offsets):
        check_rotation(normal(2, L, H, D, seed=1), offset, traditional=False, rope=rope)
    check(offsets == [40, 0], f"RoPE(...)(x, offset) changes the list of offsets to {offsets}")


def test_task_3_one_offset_for_all_still_works() -> None:
    """An int means the same offset for every row."""
    check_rotation(normal(3, L, H, D, seed=1), 7, traditional=False)
