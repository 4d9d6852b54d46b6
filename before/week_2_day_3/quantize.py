"""What week 2 day 3 extends in quantize.py, as it is before."""

import mlx.core as mx

from tiny_llm_lab.kernels import load_extension


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
