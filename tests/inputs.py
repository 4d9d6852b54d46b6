"""Seeded inputs for the graded tests, and float64 copies of them for the oracles."""

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
import numpy as np
import pytest

from tiny_llm_lab.course.checks import check

half_precision = pytest.mark.parametrize(
    "dtype", [mx.float16, mx.bfloat16], ids=["float16", "bfloat16"]
)
"""Runs a test, which takes `dtype`, in both."""


def normal(
    *shape: int,
    seed: int,
    scale: float = 1.0,
    mean: float = 0.0,
    dtype: mx.Dtype = mx.float32,
) -> mx.array:
    """Normally distributed numbers. The same seed and shape give the same numbers."""
    numbers = np.random.default_rng(seed).normal(mean, scale, shape)
    return mx.array(numbers.astype(np.float32)).astype(dtype)


def float64(x: mx.array | np.ndarray) -> np.ndarray:
    """The values of `x` (as rounded to its dtype), for an oracle to compute with."""
    if isinstance(x, mx.array):
        x = np.array(x.astype(mx.float32))
    return x.astype(np.float64)


@contextmanager
def left_alone(x: mx.array, call: str) -> Iterator[None]:
    """The block must not change `x`; `call` is what it does with it."""
    before = float64(x)
    yield
    check(
        np.array_equal(float64(x), before),
        f"{call} changes its argument.\n"
        "  expected   the array as it was before the call\n"
        "  got        other numbers: `x -= y` changes the caller's array, `x = x - y` does not",
    )
