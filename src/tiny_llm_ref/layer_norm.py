"""RMSNorm: normalization by the root mean square."""

import mlx.core as mx


class RMSNorm:
    """Divides each vector by its root mean square, then scales each feature.

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization",
    https://arxiv.org/abs/1910.07467, section 4, equation 4.
    """

    def __init__(self, dim: int, weight: mx.array, eps: float = 1e-5) -> None:
        """Keep the weight.

        Args:
            dim: the size of the last axis of the input.
            weight: `dim`, what each feature is multiplied by after the normalization.
            eps: added to the mean of the squares, inside the root.

        Raises:
            ValueError: `weight` is not a vector of `dim` elements.
        """
        if weight.shape != (dim,):
            raise ValueError(f"weight must have shape ({dim},), not {weight.shape}")
        self.weight = weight.astype(mx.float32)
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        """Normalize along the last axis.

        Args:
            x: `... x dim`, any float dtype.

        Returns:
            `x / sqrt(mean(x^2) + eps) * weight`, shape and dtype of `x`, whatever the dtype of
            the weight. The squares are computed and averaged in float32.
        """
        features = x.astype(mx.float32)
        mean_square = mx.mean(mx.square(features), axis=-1, keepdims=True)
        return (features * mx.rsqrt(mean_square + self.eps) * self.weight).astype(x.dtype)
