"""Seeded inputs for the graded tests, and float64 copies of them for the oracles."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

half_precision = pytest.mark.parametrize(
    "dtype", [mx.float16, mx.bfloat16], ids=["float16", "bfloat16"]
)
"""Runs a test, which takes `dtype`, in both."""


def cases(names: str, *values: Any) -> pytest.MarkDecorator:
    """Runs a test with each of the values. Reports show them by name, such as `L=3 S=7`.

    Args:
        names: the parameters of the test that get a value, separated by spaces.
        values: the values of the parameter, or tuples of values if there are several.
    """
    parameters = names.split()
    rows = values if len(parameters) > 1 else [(value,) for value in values]

    def shown(name: str, value: Any) -> str:
        if isinstance(value, tuple):
            value = " x ".join(map(str, value)) or "none"
        return f"{name}={value}"

    ids = [" ".join(map(shown, parameters, row)) for row in rows]
    return pytest.mark.parametrize(parameters, rows, ids=ids)


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


def halves(*shape: int, seed: int, scale: float, dtype: mx.Dtype = mx.float32) -> mx.array:
    """Multiples of 1/2, about normally distributed.

    Sums of a few of their products are exact in every dtype, in whatever order they are taken.
    """
    return (mx.round(2 * normal(*shape, seed=seed, scale=scale)) / 2).astype(dtype)


def float64(x: mx.array | np.ndarray) -> np.ndarray:
    """The values of `x` (as rounded to its dtype), for an oracle to compute with."""
    if isinstance(x, mx.array):
        x = np.array(x.astype(mx.float32))
    return x.astype(np.float64)
