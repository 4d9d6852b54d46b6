"""What week 2 day 5 extends in attention.py, as it is before."""

import mlx.core as mx

from tiny_llm_lab.kernels import load_extension


def flash_attention(
    query: mx.array,
    key: mx.array,
    value: mx.array,
    scale: float | None = None,
    mask: mx.array | str | None = None,
) -> mx.array:
    """`scaled_dot_product_attention_grouped` by the kernels in `cpp`, with an online softmax.

    No score leaves the processor's cache: the memory needed does not grow with `S`.

    Args:
        query: `B x H_q x L x D`, float32, float16 or bfloat16; `D` is 32, 64 or 128.
        key: `B x H_kv x S x D`, dtype of `query`.
        value: `B x H_kv x S x D`, dtype of `query`.
        scale: what the scores are multiplied by, 0 included; `1 / sqrt(D)` if None.
        mask: None; an array in one of these dtypes, added to the scaled scores, broadcastable to
            `B x H_q x L x S`; or `"causal"` for `causal_mask(L, S)`.

    Returns:
        `B x H_q x L x D`, dtype of `query`; everything between is in float32. A query whose scores
        are all `-inf` gets 0.

    Raises:
        ValueError: a shape or a dtype is another; `H_q` is not a multiple of `H_kv`; `mask` is a
            string other than `"causal"`, or `"causal"` with fewer keys than queries.
        BuildError: the kernels do not compile.

    Source: Dao et al., "FlashAttention: Fast and Memory-Efficient Exact Attention with
    IO-Awareness", https://arxiv.org/abs/2205.14135; Dao, "FlashAttention-2: Faster Attention with
    Better Parallelism and Work Partitioning", https://arxiv.org/abs/2307.08691.
    """
    if isinstance(mask, str) and mask != "causal":
        raise ValueError(f'mask must be an array, "causal" or None, not "{mask}"')
    causal = isinstance(mask, str)
    kernels = load_extension(__package__ or "")
    output: mx.array = kernels.flash_attention(
        query, key, value, scale, None if causal else mask, causal
    )
    return output
