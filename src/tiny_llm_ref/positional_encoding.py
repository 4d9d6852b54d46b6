"""Rotary position embedding (RoPE): position as a rotation of pairs of features."""

import mlx.core as mx


class RoPE:
    """Rotates pairs of features by an angle that grows with the position.

    Pair `j` of `dims / 2` turns by `position * base ** (-2 j / dims)` radians. In the traditional
    layout pair `j` is features `(2 j, 2 j + 1)`; otherwise, as Qwen3 has it, features
    `(j, j + dims / 2)`.

    Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding",
    https://arxiv.org/abs/2104.09864, section 3.2.2 and equation 34.
    """

    def __init__(
        self, dims: int, seq_len: int, base: float = 10000, traditional: bool = False
    ) -> None:
        """Prepare the frequencies.

        Args:
            dims: the head dim `D`; even.
            seq_len: the number of positions; the largest allowed position is `seq_len - 1`.
            base: the base of the geometric sequence of frequencies.
            traditional: True for pairs of neighbours, False for pairs half a head apart.

        Raises:
            ValueError: `dims` is odd.
        """
        if dims % 2 != 0:
            raise ValueError(f"RoPE rotates pairs of features, so dims must be even, not {dims}")
        self.seq_len = seq_len
        self.traditional = traditional
        self.frequencies = mx.power(base, -mx.arange(0, dims, 2, dtype=mx.float32) / dims)

    def __call__(self, x: mx.array, offset: int | list[int] | mx.array = 0) -> mx.array:
        """Rotate `x` to its positions.

        Args:
            x: `B x L x H x D`, any float dtype.
            offset: the position of the first of the `L` tokens: one int for all rows,
                or one per row (a list, or an array of shape `B`).

        Returns:
            Shape and dtype of `x`; the angles are computed in float32.

        Raises:
            ValueError: an int offset puts a token beyond position `seq_len - 1`, or is negative.
                Offsets per row need not be checked.
        """
        _, L, _, _ = x.shape
        if isinstance(offset, int) and not 0 <= offset <= self.seq_len - L:
            raise ValueError(
                f"{L} tokens at offset {offset} do not fit into positions 0 to {self.seq_len - 1}"
            )
        # B x L positions (1 x L for a single offset), then B x L x 1 x D/2 angles.
        positions = mx.array(offset).reshape(-1, 1) + mx.arange(L)
        angles = positions[:, :, None, None].astype(mx.float32) * self.frequencies
        cos, sin = mx.cos(angles), mx.sin(angles)
        features = x.astype(mx.float32)
        if self.traditional:
            first, second = features[..., 0::2], features[..., 1::2]
        else:
            first, second = mx.split(features, 2, axis=-1)
        rotated = [first * cos - second * sin, second * cos + first * sin]
        if self.traditional:
            output = mx.stack(rotated, axis=-1).reshape(x.shape)
        else:
            output = mx.concatenate(rotated, axis=-1)
        return output.astype(x.dtype)
