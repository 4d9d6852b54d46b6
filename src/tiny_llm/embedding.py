"""The token embedding, which is also the output head when the two are tied."""

import mlx.core as mx

from .basics import linear
from .quantize import QuantizedWeights, dequantize_weights, quantized_linear


class Embedding:
    """A table with one vector per token id."""

    def __init__(self, vocab_size: int, embedding_dim: int, weight: mx.array) -> None:
        """Keep the table.

        Args:
            vocab_size: number of token ids.
            embedding_dim: `E`, the size of each vector.
            weight: `vocab_size x E`.

        Raises:
            ValueError: `weight` has another shape.
        """
        raise NotImplementedError("Week 1 Day 5, Task 1: Embedding and output head")

    def __call__(self, x: mx.array) -> mx.array:
        """Look up the vectors of token ids.

        Args:
            x: token ids, any shape `...`, integers.

        Returns:
            `... x E`, dtype of the table.
        """
        raise NotImplementedError("Week 1 Day 5, Task 1: Embedding and output head")

    def as_linear(self, x: mx.array) -> mx.array:
        """Use the table as the output head: score every token against each vector.

        Args:
            x: `... x E`.

        Returns:
            Logits, `... x vocab_size`, dtype of `x`.
        """
        raise NotImplementedError("Week 1 Day 5, Task 1: Embedding and output head")


class QuantizedEmbedding:
    """An embedding whose table stays quantized: only the vectors that are asked for are not."""

    def __init__(self, vocab_size: int, embedding_dim: int, weight: QuantizedWeights) -> None:
        """Keep the table.

        Args:
            vocab_size: number of token ids.
            embedding_dim: `E`, the size of each vector.
            weight: of shape `vocab_size x E`.

        Raises:
            ValueError: `weight` has another shape.
        """
        raise NotImplementedError("Week 2 Day 2, Task 4: A model that stays quantized")

    def __call__(self, x: mx.array) -> mx.array:
        """Look up the vectors of token ids, and dequantize them.

        Args:
            x: token ids, any shape `...`, integers.

        Returns:
            `... x E`, dtype of the scales.
        """
        raise NotImplementedError("Week 2 Day 2, Task 4: A model that stays quantized")

    def as_linear(self, x: mx.array) -> mx.array:
        """Use the table as the output head: score every token against each vector.

        Args:
            x: `... x E`.

        Returns:
            Logits, `... x vocab_size`, dtype of `x`.
        """
        raise NotImplementedError("Week 2 Day 2, Task 4: A model that stays quantized")
