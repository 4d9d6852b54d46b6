"""Quantized matrices whose codes are known, for the tests of quantized products."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from inputs import float64, normal
from tiny_llm_lab.course.checks import assert_close, dtype_name


@dataclass(frozen=True)
class Quantized:
    """A matrix `N x K` in MLX's affine packing, and what it means in float64."""

    scales: mx.array
    biases: mx.array
    group_size: int
    bits: int
    weight: mx.array
    matrix: np.ndarray
    magnitude: np.ndarray
    """The size of the two terms of each element, `|scale * code| + |bias|`."""

    @property
    def layer(self) -> dict[str, Any]:
        """The first five arguments of `QuantizedWeights`, by name."""
        names = ("scales", "biases", "group_size", "bits", "weight")
        return {name: getattr(self, name) for name in names}


def quantized(
    N: int,
    K: int,
    *,
    seed: int,
    group_size: int = 64,
    bits: int = 4,
    dtype: mx.Dtype = mx.float32,
    scale: float = 1.0,
    bias: float = 1.0,
    codes: np.ndarray | None = None,
) -> Quantized:
    """A matrix with random codes, scales and biases, which have nothing to do with each other.

    Args:
        scale: the size of the scales, which are of both signs.
        bias: the size of the biases.
        codes: `N x K`, instead of random ones.
    """
    if codes is None:
        codes = np.random.default_rng(seed).integers(0, 2**bits, (N, K))
    scales = normal(N, K // group_size, seed=seed + 1, scale=scale / 2**bits, dtype=dtype)
    biases = normal(N, K // group_size, seed=seed + 2, scale=bias, dtype=dtype)
    scaled = np.repeat(float64(scales), group_size, axis=1) * codes
    shift = np.repeat(float64(biases), group_size, axis=1)
    return Quantized(
        scales,
        biases,
        group_size,
        bits,
        pack(codes, bits),
        scaled + shift,
        np.abs(scaled) + np.abs(shift),
    )


def all_positive(w: Quantized) -> Quantized:
    """The matrix with the absolute values of its scales and biases."""
    matrix = w.magnitude  # |scale * code| + |bias|
    return Quantized(
        mx.abs(w.scales), mx.abs(w.biases), w.group_size, w.bits, w.weight, matrix, matrix
    )


def pack(codes: np.ndarray, bits: int) -> mx.array:
    """Codes in words of 32 bits, written out digit by digit: the first code is the last digit."""
    per_word = 32 // bits
    words = codes.reshape(*codes.shape[:-1], codes.shape[-1] // per_word, per_word)
    places = (2**bits) ** np.arange(per_word, dtype=np.uint64)
    return mx.array((words.astype(np.uint64) * places).sum(axis=-1).astype(np.uint32))


def assert_product(actual: Any, a: mx.array, w: Quantized, *, what: str) -> None:
    """Compare with `a @ w.T` in float64. Sums in float32 are rounded to the dtype of `a` once."""
    is_half = a.dtype != mx.float32
    assert_close(
        actual,
        float64(a) @ w.matrix.T,
        what=what,
        dtype=a.dtype,
        reduction=1 if is_half else a.shape[-1],
        # The result is rounded, in half precision; before that, the terms are, in float32.
        magnitude=np.abs(float64(a) @ w.matrix.T) + 2.0**-10 * np.abs(float64(a)) @ w.magnitude.T
        if is_half
        else np.abs(float64(a)) @ w.magnitude.T,
    )


def described(a: mx.array, w: Quantized, function: str = "quantized_matmul") -> str:
    """The product of two arguments, for a message."""
    return (
        f"{function} with a {a.shape} in {dtype_name(a.dtype)}, b {w.matrix.shape} of "
        f"{w.bits} bits, group_size={w.group_size}"
    )


WRONG: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "bits=3": lambda _: {"bits": 3},
    "bits=5": lambda _: {"bits": 5},
    "bits=0": lambda _: {"bits": 0},
    "bits=8 for codes of 4 bits": lambda _: {"bits": 8},
    "group_size=16": lambda _: {"group_size": 16},
    "group_size=0": lambda _: {"group_size": 0},
    "group_size=-64": lambda _: {"group_size": -64},
    "group_size=32 for groups of 64": lambda _: {"group_size": 32},
    "a with too few columns": lambda given: {"a": given["a"][:, :-1]},
    "a with too many columns": lambda given: {"a": mx.concatenate([given["a"]] * 2, axis=1)},
    "a without an axis": lambda _: {"a": mx.array(1.0)},
    "a of integers": lambda given: {"a": given["a"].astype(mx.int32)},
    "a of complex numbers": lambda given: {"a": given["a"].astype(mx.complex64)},
    "b with one axis": lambda given: {"b": given["b"][0]},
    "b with three axes": lambda given: {"b": given["b"][None]},
    "b of int32": lambda given: {"b": given["b"].astype(mx.int32)},
    "b of uint8": lambda given: {"b": given["b"].view(mx.uint8)},
    "b without columns": lambda given: {"b": given["b"][:, :0], "a": given["a"][:, :0]},
    "b with half a group": lambda given: {"b": given["b"][:, :-4], "a": given["a"][:, :-32]},
    "scales with too few rows": lambda given: {"scales": given["scales"][:-1]},
    "scales with too many columns": lambda given: {"scales": mx.ones((6, 3))},
    "scales with one axis": lambda given: {"scales": given["scales"].reshape(-1)},
    "scales and biases of float16": lambda given: {
        "scales": given["scales"].astype(mx.float16),
        "biases": given["biases"].astype(mx.float16),
    },
    "scales of int32": lambda given: {"scales": given["scales"].astype(mx.int32)},
    "biases with too few rows": lambda given: {"biases": given["biases"][:-1]},
    "biases of float16": lambda given: {"biases": given["biases"].astype(mx.float16)},
}
"""Arguments of a product of 2 x 128 with 6 x 128, 4 bits, groups of 64, that make it impossible.

Each gets the right arguments by name, and gives those that it replaces.
"""
