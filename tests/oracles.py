"""What the graded tests compare with: the definitions, one vector at a time, in float64.

They are written to be obviously right, not to be fast, and not to be the way a solution goes.
"""

import mlx.core as mx
import numpy as np

from inputs import float64


def softmax(scores: np.ndarray) -> np.ndarray:
    """The softmax of one vector."""
    exponentials = np.exp(scores - np.max(scores))
    return exponentials / np.sum(exponentials)


def attention(
    query: mx.array | np.ndarray,
    key: mx.array | np.ndarray,
    value: mx.array | np.ndarray,
    scale: float | None = None,
    mask: mx.array | np.ndarray | None = None,
    exact_scores: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Scaled dot-product attention, query by query; `H_q / H_kv` query heads share a key head.

    Shapes as in `scaled_dot_product_attention_grouped`; with as many key heads as query heads,
    or without a head axis, it is plain attention.

    Returns:
        The result, and the size of what is rounded on the way to it: the weighted values, and
        the scores, whose errors become errors of the weights, unless the inputs are chosen so
        that the scores are exact.
    """
    q, k, v = float64(query), float64(key), float64(value)
    if q.ndim > 2:
        group = q.shape[-3] // k.shape[-3]
        shared = [head // group for head in range(q.shape[-3])]
        k, v = k[..., shared, :, :], v[..., shared, :, :]
    if scale is None:
        scale = q.shape[-1] ** -0.5
    added = np.zeros(()) if mask is None else float64(mask)
    added = np.broadcast_to(added, (*q.shape[:-1], k.shape[-2]))
    output = np.empty((*q.shape[:-1], v.shape[-1]))
    magnitude = np.empty_like(output)
    for index in np.ndindex(*q.shape[:-1]):
        head = index[:-1]
        weights = softmax(scale * k[head] @ q[index] + added[index])
        output[index] = weights @ v[head]
        shifts = np.where(np.isfinite(added[index]), np.abs(added[index]), 0.0)
        score_sizes = abs(scale) * np.abs(k[head]) @ np.abs(q[index]) + shifts
        if exact_scores:
            score_sizes = np.zeros_like(score_sizes)
        magnitude[index] = (weights * (1 + score_sizes + weights @ score_sizes)) @ np.abs(v[head])
    return output, magnitude


def rope(
    x: mx.array, positions: np.ndarray, base: float = 10000, traditional: bool = False
) -> np.ndarray:
    """RoPE as multiplication by a complex number: pair `(a, b)` is `a + b i`.

    Args:
        x: `B x L x H x D`.
        positions: `B x L`.
        base: the base of the frequencies.
        traditional: True for pairs of neighbours, False for pairs half a head apart.
    """
    features = float64(x)
    D = features.shape[-1]
    output = np.empty_like(features)
    for j in range(D // 2):
        a, b = (2 * j, 2 * j + 1) if traditional else (j, j + D // 2)
        turn = np.exp(1j * positions * base ** (-2 * j / D))[:, :, None]
        turned = turn * (features[..., a] + 1j * features[..., b])
        output[..., a], output[..., b] = turned.real, turned.imag
    return output


def pair_lengths(x: mx.array, traditional: bool) -> np.ndarray:
    """For each feature of `x`, the length of the pair it is in: what a rotation keeps."""
    features = float64(x)
    half = features.shape[-1] // 2
    if traditional:
        first, second = features[..., 0::2], features[..., 1::2]
        return np.repeat(np.hypot(first, second), 2, axis=-1)
    lengths = np.hypot(features[..., :half], features[..., half:])
    return np.concatenate([lengths, lengths], axis=-1)


def rms_norm(x: mx.array, weight: mx.array, eps: float) -> np.ndarray:
    """RMSNorm along the last axis."""
    features = float64(x)
    mean_square = np.mean(features**2, axis=-1, keepdims=True)
    return features / np.sqrt(mean_square + eps) * float64(weight)


def silu(x: np.ndarray) -> np.ndarray:
    """SiLU, written with tanh because it cannot overflow."""
    return x * (0.5 + 0.5 * np.tanh(0.5 * x))
