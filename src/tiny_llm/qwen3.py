"""The Qwen3 model: MLP, attention with QK-norm, transformer block, and the whole stack.

Source: Yang et al., "Qwen3 Technical Report", https://arxiv.org/abs/2505.09388, section 2.
"""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from tiny_llm_lab.models import dense_weight

from .attention import scaled_dot_product_attention_grouped
from .basics import linear, silu
from .embedding import Embedding, QuantizedEmbedding
from .kv_cache import TinyKvFullCache
from .layer_norm import RMSNorm
from .positional_encoding import RoPE
from .quantize import QuantizedWeights


class Qwen3MLP:
    """The SwiGLU feed-forward network of a transformer block.

    Source: Shazeer, "GLU Variants Improve Transformer", https://arxiv.org/abs/2002.05202,
    section 2.
    """

    def __init__(
        self, dim: int, hidden_dim: int, w_gate: mx.array, w_up: mx.array, w_down: mx.array
    ) -> None:
        """Keep the weights.

        Args:
            dim: `E`, the size of the last axis of the input and of the output.
            hidden_dim: `F`, the size in between.
            w_gate: `F x E`.
            w_up: `F x E`.
            w_down: `E x F`.

        Raises:
            ValueError: a weight has another shape.
        """
        raise NotImplementedError("Week 1 Day 4, Task 3: The SwiGLU MLP")

    def __call__(self, x: mx.array) -> mx.array:
        """Compute `down(silu(gate(x)) * up(x))`.

        Args:
            x: `... x E`.

        Returns:
            `... x E`, dtype of `x`.
        """
        raise NotImplementedError("Week 1 Day 4, Task 3: The SwiGLU MLP")


class Qwen3MultiHeadAttention:
    """Grouped-query self-attention with RMSNorm on queries and keys (QK-norm) and RoPE."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        wq: mx.array,
        wk: mx.array,
        wv: mx.array,
        wo: mx.array,
        q_norm: mx.array,
        k_norm: mx.array,
        max_seq_len: int = 32768,
        theta: float = 1000000,
        rms_norm_eps: float = 1e-6,
        attention: Callable[..., mx.array] = scaled_dot_product_attention_grouped,
    ) -> None:
        """Keep the weights.

        Args:
            hidden_size: `E`.
            num_heads: `H_q`, the number of query heads.
            num_kv_heads: `H_kv`, the number of key/value heads.
            head_dim: `D`. In Qwen3 `H_q * D` may differ from `E`.
            wq: query projection, `H_q*D x E`.
            wk: key projection, `H_kv*D x E`.
            wv: value projection, `H_kv*D x E`.
            wo: output projection, `E x H_q*D`.
            q_norm: weight of the RMSNorm of each query head, `D`.
            k_norm: weight of the RMSNorm of each key head, `D`.
            max_seq_len: the number of positions RoPE is prepared for.
            theta: the base of RoPE's frequencies. Qwen3 has the pairs half a head apart.
            rms_norm_eps: the epsilon of both norms.
            attention: the function that attends, with the arguments of
                `scaled_dot_product_attention_grouped`; week 2, day 4 hands in a faster one.

        Raises:
            ValueError: `num_heads` is not a multiple of `num_kv_heads`.
        """
        raise NotImplementedError("Week 1 Day 5, Task 2: Attention with QK-norm")

    def __call__(
        self,
        x: mx.array,
        offset: int | list[int] | mx.array = 0,
        cache: Any | None = None,
        mask: mx.array | str | None = None,
    ) -> mx.array:
        """Attend to the tokens themselves (and, with a cache, to those before them).

        Args:
            x: `B x L x E`.
            offset: the position of the first of the `L` tokens, one int or one per row. Positions
                come from it, not from what the cache holds.
            cache: this layer's KV cache (week 2), or None. With a cache, attention uses the keys,
                values and mask that its `update_and_fetch` returns.
            mask: as in `scaled_dot_product_attention_grouped`; None means no mask.

        Returns:
            `B x L x E`, dtype of `x`.

        Raises:
            ValueError: the tokens do not fit into positions 0 to `max_seq_len - 1`.
        """
        raise NotImplementedError("Week 1 Day 5, Task 2: Attention with QK-norm")


class Qwen3TransformerBlock:
    """One layer: attention and MLP, each behind a norm and added to what came in (pre-norm)."""

    def __init__(
        self,
        num_attention_heads: int,
        num_kv_heads: int,
        hidden_size: int,
        head_dim: int,
        intermediate_size: int,
        rms_norm_eps: float,
        wq: mx.array,
        wk: mx.array,
        wv: mx.array,
        wo: mx.array,
        q_norm: mx.array,
        k_norm: mx.array,
        w_gate: mx.array,
        w_up: mx.array,
        w_down: mx.array,
        w_input_layernorm: mx.array,
        w_post_attention_layernorm: mx.array,
        max_seq_len: int = 32768,
        theta: float = 1000000,
        attention: Callable[..., mx.array] = scaled_dot_product_attention_grouped,
    ) -> None:
        """Build the four parts from their weights.

        Args:
            num_attention_heads: `H_q`.
            num_kv_heads: `H_kv`.
            hidden_size: `E`.
            head_dim: `D`.
            intermediate_size: `F`, the hidden dim of the MLP.
            rms_norm_eps: the epsilon of all norms.
            wq, wk, wv, wo, q_norm, k_norm: as in `Qwen3MultiHeadAttention`.
            w_gate, w_up, w_down: as in `Qwen3MLP`.
            w_input_layernorm: weight of the norm before the attention, `E`.
            w_post_attention_layernorm: weight of the norm before the MLP, `E`.
            max_seq_len, theta, attention: as in `Qwen3MultiHeadAttention`.
        """
        raise NotImplementedError("Week 1 Day 5, Task 3: The transformer block")

    def __call__(
        self,
        x: mx.array,
        offset: int | list[int] | mx.array = 0,
        cache: Any | None = None,
        mask: mx.array | str | None = None,
    ) -> mx.array:
        """Run the layer.

        Args:
            x: `B x L x E`.
            offset, cache, mask: as in `Qwen3MultiHeadAttention`.

        Returns:
            `B x L x E`, dtype of `x`.

        Raises:
            ValueError: as in `Qwen3MultiHeadAttention`.
        """
        raise NotImplementedError("Week 1 Day 5, Task 3: The transformer block")


class Qwen3Model:
    """The whole model: embedding, layers, final norm, output head."""

    def __init__(
        self,
        mlx_model: Any,
        quantized: bool = False,
        attention: Callable[..., mx.array] = scaled_dot_product_attention_grouped,
    ) -> None:
        """Take the weights over from a model that `mlx_lm` has loaded.

        Later changes of that model do not change this one.

        Args:
            mlx_model: an `mlx_lm.models.qwen3.Model`, quantized or not. `.args` holds its
                dimensions; `dense_weight(layer)` from `tiny_llm_lab.models` gives the weight of
                one of its linear or embedding layers as a plain array.
            quantized: False until week 2, day 2, which is about it.
            attention: as in `Qwen3MultiHeadAttention`, for all layers.
        """
        raise NotImplementedError("Week 1 Day 5, Task 4: The whole model")

    def create_kv_cache(self) -> list[TinyKvFullCache]:
        """One empty KV cache per layer, independent of each other and of earlier calls."""
        raise NotImplementedError("Week 2 Day 1, Task 3: A model with a cache")

    def __call__(
        self,
        inputs: mx.array,
        offset: int | list[int] | mx.array = 0,
        cache: Sequence[Any] | None = None,
    ) -> mx.array:
        """Predict, at every position, the token that comes next.

        Args:
            inputs: token ids, `B x L`.
            offset: the position of the first of the `L` tokens, one int or one per row.
            cache: one KV cache per layer (week 2), or None.

        Returns:
            Logits, `B x L x vocab_size`, dtype of the weights.

        Raises:
            ValueError: the tokens do not fit into positions 0 to
                `args.max_position_embeddings - 1`.
        """
        raise NotImplementedError("Week 1 Day 5, Task 4: The whole model")
