"""Sampling: from the model's log-probabilities to the next token."""

from collections.abc import Callable

import mlx.core as mx


def make_sampler(
    temp: float, top_p: float | None = None, top_k: int | None = None
) -> Callable[[mx.array], mx.array]:
    """Make a function that picks one token per row.

    `top_k` and `top_p` each name a set of tokens that may be drawn, by the model's own
    probabilities (before the temperature); with both, a token must be in both sets. The most
    probable token always stays.

    Args:
        temp: the temperature. 0 picks the most probable token (greedy decoding), 1 samples from
            the model's own distribution, more flattens it, less sharpens it.
        top_p: keep the smallest set of most probable tokens whose probabilities sum to at least
            `top_p`; None, 0 or 1 keeps all.
        top_k: keep the `top_k` most probable tokens; None or 0 keeps all, as does a number
            beyond the vocabulary.

    Returns:
        A function from log-probabilities `B x vocab_size`, any float dtype, to tokens `B`. It
        leaves its argument as it is. Rows are sampled independently, with MLX's global random
        state (`mx.random.seed`).

    Raises:
        ValueError: `temp` or `top_k` is negative, or `top_p` is not between 0 and 1.

    Source: Holtzman et al., "The Curious Case of Neural Text Degeneration",
    https://arxiv.org/abs/1904.09751, section 3.
    """
    if temp < 0:
        raise ValueError(f"temp must not be negative, but is {temp}")
    if top_p is not None and not 0 <= top_p <= 1:
        raise ValueError(f"top_p must be between 0 and 1, but is {top_p}")
    if top_k is not None and top_k < 0:
        raise ValueError(f"top_k must not be negative, but is {top_k}")

    def sample(logprobs: mx.array) -> mx.array:
        if temp == 0:
            return mx.argmax(logprobs, axis=-1)
        # Sums and quotients below need more than half precision.
        logprobs = logprobs.astype(mx.float32)
        # Descending order, and for each token its place in that order: rank 0 is the most probable.
        order = mx.argsort(-logprobs, axis=-1)
        rank = mx.argsort(order, axis=-1)
        filtered = logprobs
        if top_k:
            filtered = mx.where(rank < top_k, filtered, -mx.inf)
        if top_p:
            # A token stays if the more probable ones do not reach top_p without it.
            probs = mx.exp(mx.take_along_axis(logprobs, order, axis=-1))
            mass_before = mx.cumsum(probs, axis=-1, inclusive=False)
            in_nucleus = mx.take_along_axis(mass_before < top_p, rank, axis=-1)
            filtered = mx.where(in_nucleus, filtered, -mx.inf)
        return mx.random.categorical(filtered / temp, axis=-1)

    return sample
