"""Seeded inputs for the graded tests, and float64 copies of them for the oracles."""

import mlx.core as mx
import numpy as np
import pytest

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
