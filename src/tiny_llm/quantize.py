"""Quantized weights: matrices of 4 or 8 bits per element, and products with them.

The format is MLX's affine one: `weight = scale * code + bias`, where each group of elements in a
row shares a scale and a bias, and codes are packed into words of 32 bits, the first one in the
lowest bits.

Source: https://ml-explore.github.io/mlx/build/html/python/_autosummary/mlx.core.quantize.html
"""

import math
from typing import Any

import mlx.core as mx

from tiny_llm_lab.kernels import load_extension, load_metal_kernel, uses_metal


class QuantizedWeights:
    """A weight matrix as a quantized checkpoint stores it; `linear(x, w)` takes it for `w`."""

    def __init__(
        self, scales: mx.array, biases: mx.array, group_size: int, bits: int, weight: mx.array
    ) -> None:
        """Keep the arrays.

        Args:
            scales: `... x I / group_size`, any float dtype.
            biases: shape and dtype of `scales`.
            group_size: 32, 64 or 128.
            bits: 4 or 8.
            weight: the packed codes, `... x I * bits / 32`, uint32.

        Raises:
            ValueError: `bits`, `group_size`, a dtype or a shape is another.
        """
        if bits not in (4, 8):
            raise ValueError(f"bits must be 4 or 8, not {bits}")
        if group_size not in (32, 64, 128):
            raise ValueError(f"group_size must be 32, 64 or 128, not {group_size}")
        if weight.dtype != mx.uint32:
            raise ValueError(f"weight must be packed in uint32, not {weight.dtype}")
        if weight.ndim == 0 or weight.shape[-1] * 32 % (bits * group_size) != 0:
            raise ValueError(
                f"a weight of shape {weight.shape} does not hold whole groups of {group_size}"
            )
        shape = (*weight.shape[:-1], weight.shape[-1] * 32 // (bits * group_size))
        for name, array in (("scales", scales), ("biases", biases)):
            if array.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, not {array.shape}")
            if array.dtype != scales.dtype or not mx.issubdtype(array.dtype, mx.floating):
                raise ValueError(
                    "scales and biases must have one float dtype, "
                    f"not {scales.dtype} and {biases.dtype}"
                )
        self.scales, self.biases, self.weight = scales, biases, weight
        self.group_size, self.bits = group_size, bits

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the matrix that is meant, `... x I`."""
        return (*self.weight.shape[:-1], self.weight.shape[-1] * 32 // self.bits)

    @classmethod
    def from_mlx_layer(cls, layer: Any) -> "QuantizedWeights":
        """Take the weights over from a quantized layer, without a copy.

        Args:
            layer: an `mlx.nn.QuantizedLinear` or `mlx.nn.QuantizedEmbedding`. Its attributes have
                the names of the arguments above.

        Raises:
            ValueError: the layer is not quantized, or in another format than the affine one
                (`layer.mode`).
        """
        raise NotImplementedError("Week 2 Day 2, Task 1: Dequantize")

    def linear(self, x: mx.array, bias: mx.array | None = None) -> mx.array:
        """`quantized_linear` with this weight: what `basics.linear` calls."""
        raise NotImplementedError("Week 2 Day 2, Task 4: A model that stays quantized")


def dequantize_weights(w: QuantizedWeights) -> mx.array:
    """The matrix that is meant: `scale * code + bias` for every element.

    Args:
        w: of shape `... x I`.

    Returns:
        `... x I`, dtype of the scales. Computed in float32 and rounded once.
    """
    raise NotImplementedError("Week 2 Day 2, Task 1: Dequantize")


def quantized_matmul(
    scales: mx.array,
    biases: mx.array,
    group_size: int,
    bits: int,
    a: mx.array,
    b: mx.array,
    transpose_b: bool = True,
) -> mx.array:
    """Multiply with a quantized matrix: `a @ dequantized(b).T`, by the kernel in `cpp`.

    Args:
        scales: `N x K / group_size`, dtype of `a` or float32.
        biases: shape and dtype of `scales`.
        group_size: 32, 64 or 128.
        bits: 4 or 8.
        a: `... x K`, float32, float16 or bfloat16.
        b: packed codes, `N x K * bits / 32`, uint32.
        transpose_b: False multiplies with the matrix as it is, so that `a` is `... x N` and the
            result `... x K`. There is no kernel for it: the matrix is dequantized.

    Returns:
        `... x N`, dtype of `a`. The sums are in float32.

    Raises:
        ValueError: `bits`, `group_size`, a dtype or a shape is another.
        BuildError: the kernel does not compile.
    """
    raise NotImplementedError("Week 2 Day 2, Task 2: Matrix-vector, for decoding")


def quantized_matmul_metal(
    scales: mx.array, biases: mx.array, group_size: int, bits: int, a: mx.array, b: mx.array
) -> mx.array:
    """`quantized_matmul`, transposed, by the kernels in `metal`: `matvec_metal` for up to 4 rows.

    Args:
        scales: `N x K / group_size`, dtype of `a` or float32.
        biases: shape and dtype of `scales`.
        group_size: 32, 64 or 128.
        bits: 4 or 8.
        a: `... x K`, float32, float16 or bfloat16.
        b: packed codes, `N x K * bits / 32`, uint32.

    Returns:
        `... x N`, dtype of `a`. The sums are in float32.

    Raises:
        ValueError: `bits`, `group_size`, a dtype or a shape is another.
    """
    raise NotImplementedError("Week 2 Day 3, Task 3: By device and by shape")


def check_product(w: QuantizedWeights, a: mx.array) -> None:
    """Check that the kernels can multiply these two: they read as the shapes say.

    Args:
        w: the matrix.
        a: the vectors.

    Raises:
        ValueError: `w` is not `N x K`, `a` not `... x K`, or a dtype is not one of theirs.
    """
    if len(w.shape) != 2 or w.shape[1] == 0:
        raise ValueError(f"b must have two axes, and at least one group, not {w.weight.shape}")
    if a.ndim == 0 or a.shape[-1] != w.shape[1]:
        raise ValueError(
            f"the last axis of a must have the {w.shape[1]} elements of a row of b, not {a.shape}"
        )
    if a.dtype not in (mx.float32, mx.float16, mx.bfloat16):
        raise ValueError(f"a must be float32, float16 or bfloat16, not {a.dtype}")
    if w.scales.dtype not in (a.dtype, mx.float32):
        raise ValueError(
            f"scales must have the dtype of a, {a.dtype}, or float32, not {w.scales.dtype}"
        )


def matvec_metal(w: QuantizedWeights, a: mx.array) -> mx.array:
    """Launch `metal/quantized_matvec.metal`, the kernel for a few vectors.

    A SIMD group computes the products of one vector with `ROWS` rows of `w`.

    Args:
        w: of shape `N x K`, checked by `check_product`.
        a: `M x K`.

    Returns:
        `a @ dequantized(w).T`, `M x N`, dtype of `a`.
    """
    raise NotImplementedError("Week 2 Day 3, Task 1: Matrix-vector, for decoding")


def matmul_metal(w: QuantizedWeights, a: mx.array) -> mx.array:
    """Launch `metal/quantized_matmul.metal`, the kernel for many vectors.

    A threadgroup of 128 threads computes a tile of `TILE x TILE` elements; `TILE` is 32.

    Args:
        w: of shape `N x K`, checked by `check_product`.
        a: `M x K`.

    Returns:
        `a @ dequantized(w).T`, `M x N`, dtype of `a`.
    """
    raise NotImplementedError("Week 2 Day 3, Task 2: Matrix-matrix, for prefill")


def quantized_linear(x: mx.array, w: QuantizedWeights, bias: mx.array | None = None) -> mx.array:
    """Apply a linear layer with a quantized weight: `x @ dequantized(w).T + bias`.

    Args:
        x: input, `... x I`, float32, float16 or bfloat16.
        w: of shape `O x I`, with scales in the dtype of `x` or float32.
        bias: `O`, or None for no bias.

    Returns:
        `... x O`, dtype of `x`, whatever the dtype of the bias.
    """
    raise NotImplementedError("Week 2 Day 2, Task 4: A model that stays quantized")
