"""What week 1 writes and day 2 of week 2 changes."""

from typing import Any

import mlx.core as mx


def linear(x: mx.array, w: mx.array | Any, bias: mx.array | None = None) -> mx.array:
    """Apply a linear layer: `x @ w.T + bias`.

    Args:
        x: input, `... x I`.
        w: weight, `O x I` (one row per output, as checkpoints store it).
        bias: `O`, or None for no bias.

    Returns:
        `... x O`, dtype of `x`, whatever the dtypes of weight and bias.
    """
    y = x @ w.T
    if bias is not None:
        y = y + bias
    return y.astype(x.dtype)
