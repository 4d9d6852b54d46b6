"""Quantized weights: matrices of 4 or 8 bits per element, and products with them.

The format is MLX's affine one: `weight = scale * code + bias`, where each group of elements in a
row shares a scale and a bias, and codes are packed into words of 32 bits, the first one in the
lowest bits.

Source: https://ml-explore.github.io/mlx/build/html/python/_autosummary/mlx.core.quantize.html
"""

from typing import Any

import mlx.core as mx

from tiny_llm_lab.kernels import load_extension


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
        if not hasattr(layer, "scales"):
            raise ValueError(f"{type(layer).__name__} is not a quantized layer")
        if layer.mode != "affine":
            raise ValueError(f"the quantization must be affine, not {layer.mode}")
        return cls(layer.scales, layer.biases, layer.group_size, layer.bits, layer.weight)

    def linear(self, x: mx.array, bias: mx.array | None = None) -> mx.array:
        """`quantized_linear` with this weight: what `basics.linear` calls."""
        return quantized_linear(x, self, bias)


def dequantize_weights(w: QuantizedWeights) -> mx.array:
    """The matrix that is meant: `scale * code + bias` for every element.

    Args:
        w: of shape `... x I`.

    Returns:
        `... x I`, dtype of the scales. Computed in float32 and rounded once.
    """
    per_word = 32 // w.bits
    shifts = mx.arange(per_word, dtype=mx.uint32) * w.bits
    codes = (w.weight[..., None] >> shifts) & (2**w.bits - 1)  # ... x words x per_word
    groups = codes.reshape(*w.scales.shape, w.group_size).astype(mx.float32)
    scales, biases = (a[..., None].astype(mx.float32) for a in (w.scales, w.biases))
    return (scales * groups + biases).reshape(w.shape).astype(w.scales.dtype)


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
    if not transpose_b:
        w = QuantizedWeights(
            scales.astype(mx.float32), biases.astype(mx.float32), group_size, bits, b
        )
        return (a.astype(mx.float32) @ dequantize_weights(w)).astype(a.dtype)
    kernels = load_extension(__package__ or "")
    product: mx.array = kernels.quantized_matmul(scales, biases, group_size, bits, a, b)
    return product


def quantized_linear(x: mx.array, w: QuantizedWeights, bias: mx.array | None = None) -> mx.array:
    """Apply a linear layer with a quantized weight: `x @ dequantized(w).T + bias`.

    Args:
        x: input, `... x I`, float32, float16 or bfloat16.
        w: of shape `O x I`, with scales in the dtype of `x` or float32.
        bias: `O`, or None for no bias.

    Returns:
        `... x O`, dtype of `x`, whatever the dtype of the bias.
    """
    y = quantized_matmul(w.scales, w.biases, w.group_size, w.bits, x, w.weight)
    return y if bias is None else (y + bias).astype(x.dtype)
