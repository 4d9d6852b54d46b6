"""Softmax, linear layer and SiLU: the small functions that everything else is made of.

Here and in all modules, a function leaves its arguments as they are, and its result has the dtype
of its input.
"""

from typing import Any

import mlx.core as mx


def softmax(x: mx.array, axis: int) -> mx.array:
    """Turn scores into probabilities along one axis: `exp(x) / sum(exp(x))`.

    Args:
        x: scores, any shape, any float dtype. Entries may be large, or `-inf`
            as long as no slice along `axis` is `-inf` throughout.
        axis: the axis along which the result sums to 1; may be negative.

    Returns:
        Probabilities, shape and dtype of `x`. The exponentials are computed and
        summed in float32, whatever the dtype of `x`.
    """
    raise NotImplementedError("Week 1 Day 1, Task 1: Softmax")


def linear(x: mx.array, w: mx.array | Any, bias: mx.array | None = None) -> mx.array:
    """Apply a linear layer: `x @ w.T + bias`.

    Args:
        x: input, `... x I`.
        w: weight, `O x I` (one row per output, as checkpoints store it).
        bias: `O`, or None for no bias.

    Returns:
        `... x O`, dtype of `x`, whatever the dtypes of weight and bias.
    """
    raise NotImplementedError("Week 1 Day 1, Task 2: Linear layer")


def silu(x: mx.array) -> mx.array:
    """The SiLU activation, `x * sigmoid(x)`, element by element.

    Args:
        x: any shape, any float dtype.

    Returns:
        Shape and dtype of `x`. Finite wherever `x` is: large negative entries give 0, not NaN.

    Source: Elfwing et al., "Sigmoid-Weighted Linear Units", https://arxiv.org/abs/1702.03118,
    section 2.
    """
    raise NotImplementedError("Week 1 Day 4, Task 2: SiLU")
