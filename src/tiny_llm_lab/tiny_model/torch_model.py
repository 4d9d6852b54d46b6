"""The Qwen3 architecture in PyTorch, for training. Parameter names are those of the checkpoints."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class ModelConfig:
    """Dimensions. All that is quantized is a multiple of 64."""

    vocab_size: int
    hidden_size: int = 192
    num_hidden_layers: int = 4
    num_attention_heads: int = 6
    num_key_value_heads: int = 2
    head_dim: int = 32
    intermediate_size: int = 512
    rope_theta: float = 1e5
    rms_norm_eps: float = 1e-6


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on `B x H x L x D`, pairs half a head apart; cos and sin are `B x 1 x L x D/2`."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class RMSNorm(nn.Module):
    """RMSNorm over the last axis."""

    def __init__(self, dim: int, eps: float) -> None:
        """Start with a weight of ones."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """`... x dim` to the same."""
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Causal grouped-query attention with QK-norm and RoPE."""

    def __init__(self, config: ModelConfig) -> None:
        """Make the projections."""
        super().__init__()
        c = self.config = config
        queries, keys = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        self.q_proj = nn.Linear(c.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, c.hidden_size, bias=False)
        self.q_norm = RMSNorm(c.head_dim, c.rms_norm_eps)
        self.k_norm = RMSNorm(c.head_dim, c.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """`B x L x E` to the same."""
        B, L, _ = x.shape
        c = self.config
        q = self.q_norm(self.q_proj(x).view(B, L, -1, c.head_dim)).transpose(1, 2)
        k = self.k_norm(self.k_proj(x).view(B, L, -1, c.head_dim)).transpose(1, 2)
        v = self.v_proj(x).view(B, L, -1, c.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        group = c.num_attention_heads // c.num_key_value_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(B, L, -1))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: ModelConfig) -> None:
        """Make the projections."""
        super().__init__()
        c = config
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`... x E` to the same."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: ModelConfig) -> None:
        """Make the parts."""
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """`B x L x E` to the same."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Inner(nn.Module):
    """Everything but the output head, under the name that checkpoints use."""

    def __init__(self, config: ModelConfig) -> None:
        """Make the parts."""
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Qwen3(nn.Module):
    """The language model, with the output head tied to the embedding."""

    def __init__(self, config: ModelConfig) -> None:
        """Initialize: 0.7 / sqrt(inputs), half of that for what adds to the residual stream."""
        super().__init__()
        self.config = config
        self.model = Inner(config)
        for name, parameter in self.named_parameters():
            if "embed" in name:
                nn.init.normal_(parameter, std=0.02)
            elif parameter.dim() == 2:
                adds = "o_proj" in name or "down_proj" in name
                nn.init.normal_(parameter, std=(0.35 if adds else 0.7) * parameter.shape[1] ** -0.5)

    def forward(self, tokens: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        """Logits at some places only.

        Args:
            tokens: `B x L`.
            positions: `B x L`, the position of each token for RoPE.
            targets: indices into the flattened `B * L` places, `N`.

        Returns:
            `N x vocab_size`.
        """
        c = self.config
        exponents = torch.arange(0, c.head_dim, 2, device=tokens.device).float() / c.head_dim
        angles = positions.float()[:, None, :, None] * c.rope_theta**-exponents
        cos, sin = angles.cos(), angles.sin()
        x = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        x = x.reshape(-1, c.hidden_size)[targets]
        return self.model.norm(x) @ self.model.embed_tokens.weight.t()
