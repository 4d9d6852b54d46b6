"""mlx-lm's own Qwen3, the oracle for the model: small random ones, and the embedded one."""

import functools
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm.models.qwen3 as mlx_qwen3
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.cache import make_prompt_cache

from inputs import normal
from tiny_llm_lab.models import load_model


def random_model(
    *,
    seed: int,
    vocab_size: int = 37,
    hidden_size: int = 24,
    layers: int = 1,
    heads: int = 6,
    kv_heads: int = 2,
    head_dim: int = 8,
    intermediate_size: int = 28,
    eps: float = 1e-6,
    theta: float = 1000000,
    positions: int = 512,
    tied: bool = True,
    bits: int | None = None,
    dtype: mx.Dtype = mx.float32,
) -> mlx_qwen3.Model:
    """A Qwen3 model whose weights are drawn such that every part of it shows in its output.

    The norms have weights of both signs, no two matrices are alike, and attention and MLP add
    about as much to the residual stream as there is in it. No two sizes are equal, and
    `heads * head_dim` is not `hidden_size`.

    Args:
        bits: quantize every layer to so many bits, in groups of 32; None for plain weights.
    """
    model = mlx_qwen3.Model(
        mlx_qwen3.ModelArgs(
            model_type="qwen3",
            hidden_size=hidden_size,
            num_hidden_layers=layers,
            intermediate_size=intermediate_size,
            num_attention_heads=heads,
            rms_norm_eps=eps,
            vocab_size=vocab_size,
            num_key_value_heads=kv_heads,
            max_position_embeddings=positions,
            head_dim=head_dim,
            tie_word_embeddings=tied,
            rope_theta=theta,
        )
    )
    weights = []
    for index, (name, weight) in enumerate(tree_flatten(model.parameters()), 1000 * seed):
        if weight.ndim == 1:  # a norm
            drawn = normal(*weight.shape, seed=index, mean=1.0, scale=0.7)
        elif "embed_tokens" in name:
            drawn = normal(*weight.shape, seed=index)
        else:
            drawn = normal(*weight.shape, seed=index, scale=weight.shape[1] ** -0.5)
        weights.append((name, drawn.astype(dtype)))
    model.update(tree_unflatten(weights))
    if bits is not None:
        nn.quantize(model, group_size=32, bits=bits)
    mx.eval(model.parameters())
    return model


MISTAKES = (
    NORM_AFTER_ROPE,
    ROPE_BY_HEAD,
    ROPE_OF_NEIGHBOURS,
    SWAPPED_NORMS,
    JOINED_TOO_EARLY,
) = (
    "QK-norm follows RoPE",
    "RoPE runs on B x H x L x D, turning by head and not by position",
    "RoPE pairs neighbours (traditional=True)",
    "q_norm and k_norm are swapped",
    "the heads are joined before the axes are swapped back",
)
"""What goes wrong most often in Qwen3's attention."""


def mistaken_attention(
    attention: mlx_qwen3.Attention, x: mx.array, mask: mx.array | str | None, mistake: str
) -> mx.array:
    """What comes out of mlx-lm's attention with one of the `MISTAKES`."""
    B, L, _ = x.shape
    q_norm, k_norm = attention.q_norm, attention.k_norm
    if mistake == SWAPPED_NORMS:
        q_norm, k_norm = k_norm, q_norm
    rope = nn.RoPE(
        attention.rope.dims,
        traditional=mistake == ROPE_OF_NEIGHBOURS,
        base=attention.rope.base,
    )

    def heads(projection: nn.Linear, count: int, norm: nn.RMSNorm) -> mx.array:
        """Project `x` to `B x H x L x D`, normalized and rotated."""
        split = projection(x).reshape(B, L, count, -1)
        if mistake == ROPE_BY_HEAD:  # MLX takes the last axis but one for the position
            return rope(norm(split)).swapaxes(1, 2)
        split = split.swapaxes(1, 2)
        return norm(rope(split)) if mistake == NORM_AFTER_ROPE else rope(norm(split))

    output = mx.fast.scaled_dot_product_attention(
        heads(attention.q_proj, attention.n_heads, q_norm),
        heads(attention.k_proj, attention.n_kv_heads, k_norm),
        attention.v_proj(x).reshape(B, L, attention.n_kv_heads, -1).swapaxes(1, 2),
        scale=attention.scale,
        mask=mask,
    )
    if mistake != JOINED_TOO_EARLY:
        output = output.swapaxes(1, 2)
    return attention.o_proj(output.reshape(B, L, -1))


@functools.cache
def tiny() -> tuple[Any, Any]:
    """The embedded model and its tokenizer, loaded once for all tests."""
    return load_model("tiny")


def chat(tokenizer: Any, message: str) -> str:
    """The prompt that asks the embedded model to answer one message."""
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": message}], add_generation_prompt=True, tokenize=False
    )


def ledger_question(lines: int) -> str:
    """A ledger of so many lines, and a question about one in the middle."""
    names = ["oak", "fox", "lamp", "river", "stone", "bread", "wolf", "chair", "salt", "apple"]
    entries = [
        f"{names[i % 10]}{'' if i < 10 else f' {i // 10}'}: {(i * 137 + 41) % 900 + 100}"
        for i in range(lines)
    ]
    asked = entries[lines // 2].split(":")[0]
    return "\n".join(["Ledger:", *entries, "", f"What is {asked}?"])


def continue_greedily(model: Any, prompt: list[int], steps: int) -> tuple[list[int], list[float]]:
    """Let mlx-lm's model continue a prompt with its own KV cache.

    Returns:
        The `steps` most probable tokens, and by how much each one's logit leads the second.
    """
    cache = make_prompt_cache(model)
    tokens: list[int] = []
    leads: list[float] = []
    inputs = mx.array([prompt])
    for _ in range(steps):
        logits = model(inputs, cache=cache)[0, -1]
        second, first = mx.topk(logits, 2).tolist()
        tokens.append(int(mx.argmax(logits).item()))
        leads.append(abs(first - second))
        inputs = mx.array([tokens[-1:]])
    return tokens, leads
