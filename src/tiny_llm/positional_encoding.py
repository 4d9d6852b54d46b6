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
        raise NotImplementedError("Week 1 Day 2, Tasks 1 to 3")

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
        raise NotImplementedError("Week 1 Day 2, Tasks 1 to 3")
