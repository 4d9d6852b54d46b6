"""What week 1 writes and day 2 of week 2 changes."""

from typing import Any


class Qwen3Model:
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
        args = mlx_model.args
        inner = mlx_model.model
        self.embedding = Embedding(
            args.vocab_size, args.hidden_size, dense_weight(inner.embed_tokens)
        )
        self.layers = [
            Qwen3TransformerBlock(
                num_attention_heads=args.num_attention_heads,
                num_kv_heads=args.num_key_value_heads,
                hidden_size=args.hidden_size,
                head_dim=args.head_dim,
                intermediate_size=args.intermediate_size,
                rms_norm_eps=args.rms_norm_eps,
                wq=dense_weight(layer.self_attn.q_proj),
                wk=dense_weight(layer.self_attn.k_proj),
                wv=dense_weight(layer.self_attn.v_proj),
                wo=dense_weight(layer.self_attn.o_proj),
                q_norm=layer.self_attn.q_norm.weight,
                k_norm=layer.self_attn.k_norm.weight,
                w_gate=dense_weight(layer.mlp.gate_proj),
                w_up=dense_weight(layer.mlp.up_proj),
                w_down=dense_weight(layer.mlp.down_proj),
                w_input_layernorm=layer.input_layernorm.weight,
                w_post_attention_layernorm=layer.post_attention_layernorm.weight,
                max_seq_len=args.max_position_embeddings,
                theta=args.rope_theta,
                attention=attention,
            )
            for layer in inner.layers
        ]
        self.norm = RMSNorm(args.hidden_size, inner.norm.weight, args.rms_norm_eps)
        self.w_lm_head = None if args.tie_word_embeddings else dense_weight(mlx_model.lm_head)
