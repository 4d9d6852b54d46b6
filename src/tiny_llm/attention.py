"""Scaled dot-product attention: plain, multi-head, grouped-query, and with an online softmax."""

import math

import mlx.core as mx

from tiny_llm_lab.kernels import load_extension, load_metal_kernel, uses_metal

from .basics import linear, softmax


def scaled_dot_product_attention_simple(
    query: mx.array,
    key: mx.array,
    value: mx.array,
    scale: float | None = None,
    mask: mx.array | None = None,
) -> mx.array:
    """Attention as in the paper: `softmax(scale * query @ key.T + mask) @ value`.

    Args:
        query: `... x L x D`.
        key: `... x S x D`, same leading axes as `query`.
        value: `... x S x D_v`, same leading axes as `query`.
        scale: what the scores are multiplied by, 0 included; `1 / sqrt(D)` if None.
        mask: added to the scaled scores before the softmax; broadcastable to `... x L x S`.
            Usually 0 where attention is allowed and `-inf` where it is not, but any numbers do.

    Returns:
        `... x L x D_v`, dtype of `query`.

    Source: Vaswani et al., "Attention Is All You Need", https://arxiv.org/abs/1706.03762,
    section 3.2.1.
    """
    raise NotImplementedError("Week 1 Day 1, Task 3: Scaled dot-product attention")


class SimpleMultiHeadAttention:
    """Multi-head attention: `num_heads` attentions side by side on slices of the hidden size.

    Source: Vaswani et al., "Attention Is All You Need", https://arxiv.org/abs/1706.03762,
    section 3.2.2.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        wq: mx.array,
        wk: mx.array,
        wv: mx.array,
        wo: mx.array,
    ) -> None:
        """Keep the weights.

        Args:
            hidden_size: `E`, the size of the last axis of the input and of the output.
            num_heads: `H`; the head dim is `D = E / H`.
            wq: query projection, `H*D x E`.
            wk: key projection, `H*D x E`.
            wv: value projection, `H*D x E`.
            wo: output projection, `E x H*D`.

        Raises:
            ValueError: `hidden_size` is not a multiple of `num_heads`.
        """
        raise NotImplementedError("Week 1 Day 1, Task 4: Multi-head attention")

    def __call__(
        self,
        query: mx.array,
        key: mx.array,
        value: mx.array,
        mask: mx.array | None = None,
    ) -> mx.array:
        """Project, attend in each head, join the heads, project back.

        Args:
            query: `B x L x E`.
            key: `B x S x E`.
            value: `B x S x E`.
            mask: added to the scores of every head; `L x S`, or broadcastable to `B x H x L x S`.

        Returns:
            `B x L x E`, dtype of `query`.
        """
        raise NotImplementedError("Week 1 Day 1, Task 4: Multi-head attention")


def causal_mask(L: int, S: int, dtype: mx.Dtype) -> mx.array:
    """The mask that keeps a query from looking at later keys.

    The `L` queries are the *last* `L` of the `S` positions: query row `i` stands at
    position `S - L + i` and may look at keys `0 .. S - L + i`.

    Args:
        L: number of queries.
        S: number of keys, at least `L`.
        dtype: dtype of the mask.

    Returns:
        `L x S`: 0 where attention is allowed, `-inf` where it is not.

    Raises:
        ValueError: `S` is smaller than `L`.
    """
    raise NotImplementedError("Week 1 Day 3, Task 1: Causal mask")


def scaled_dot_product_attention_grouped(
    query: mx.array,
    key: mx.array,
    value: mx.array,
    scale: float | None = None,
    mask: mx.array | str | None = None,
) -> mx.array:
    """Grouped-query attention: `H_q / H_kv` consecutive query heads share one key/value head.

    Query head `h` reads key/value head `h // (H_q // H_kv)`. The keys and values are not copied.

    Args:
        query: `... x H_q x L x D`.
        key: `... x H_kv x S x D`, same leading axes as `query`.
        value: `... x H_kv x S x D`, same leading axes as `query`.
        scale: what the scores are multiplied by, 0 included; `1 / sqrt(D)` if None.
        mask: None; an array added to the scaled scores, broadcastable to `... x H_q x L x S`;
            or `"causal"` for `causal_mask(L, S)`.

    Returns:
        `... x H_q x L x D`, dtype of `query`.

    Raises:
        ValueError: `H_q` is not a multiple of `H_kv`, or `mask` is a string other than `"causal"`.

    Source: Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models",
    https://arxiv.org/abs/2305.13245, section 2.2.
    """
    raise NotImplementedError("Week 1 Day 3, Tasks 2 and 3")


def chunked_attention_mask(
    chunk_start: int, chunk_size: int, total_length: int, dtype: mx.Dtype = mx.float32
) -> mx.array:
    """The rows of the causal mask that belong to one chunk of a sequence.

    Row `i` is the token at position `chunk_start + i`, and may look at keys `0 .. chunk_start + i`.

    Args:
        chunk_start: the position of the chunk's first token, from 0.
        chunk_size: the number of tokens in the chunk, at least 1.
        total_length: the number of keys, at least `chunk_start + chunk_size`. Keys behind the
            chunk are hidden from all of its tokens.
        dtype: dtype of the mask.

    Returns:
        `chunk_size x total_length`: 0 where attention is allowed, `-inf` where it is not; rows
        `chunk_start .. chunk_start + chunk_size - 1` of `causal_mask(total_length, total_length)`.

    Raises:
        ValueError: a number is out of range.
    """
    raise NotImplementedError("Week 2 Day 7, Task 6: The mask of a chunk")


def attention_in_blocks(
    query: mx.array,
    key: mx.array,
    value: mx.array,
    block_size: int,
    scale: float | None = None,
    mask: mx.array | None = None,
) -> mx.array:
    """`scaled_dot_product_attention_simple` with an online softmax: the keys come in blocks.

    There are never more than `L x block_size` scores at a time.

    Args:
        query: `... x L x D`.
        key: `... x S x D`, same leading axes as `query`.
        value: `... x S x D_v`, same leading axes as `query`.
        block_size: the number of keys in a block, at least 1; the last block may have fewer.
        scale: what the scores are multiplied by; `1 / sqrt(D)` if None.
        mask: added to the scaled scores; broadcastable to `... x L x S`.

    Returns:
        `... x L x D_v`, dtype of `query`; everything between is in float32. A query whose scores
        are all `-inf` gets 0.

    Raises:
        ValueError: `block_size` is below 1.

    Source: Milakov and Gimelshein, "Online normalizer calculation for softmax",
    https://arxiv.org/abs/1805.02867, section 3; Dao et al., "FlashAttention: Fast and
    Memory-Efficient Exact Attention with IO-Awareness", https://arxiv.org/abs/2205.14135,
    section 3.1.
    """
    raise NotImplementedError("Week 2 Day 4, Task 1: The online softmax")


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
    raise NotImplementedError("Week 2 Day 4, Task 2: Many queries, for prefill")


def flash_attention_metal(
    query: mx.array,
    key: mx.array,
    value: mx.array,
    scale: float | None = None,
    mask: mx.array | str | None = None,
) -> mx.array:
    """Grouped-query attention by `metal/flash_attention.metal`: no score is written to memory.

    A threadgroup has `SIMDGROUPS` (4) SIMD groups, each of which computes `QUERIES` (4) queries.

    Args:
        query: `B x H_q x L x D`, float32, float16 or bfloat16; `D` is 32, 64 or 128.
        key: `B x H_kv x S x D`, dtype of `query`.
        value: `B x H_kv x S x D`, dtype of `query`.
        scale: what the scores are multiplied by, 0 included; `1 / sqrt(D)` if None.
        mask: None; an array added to the scaled scores, float32, float16 or bfloat16, broadcastable
            to `B x H_q x L x S`; or `"causal"` for `causal_mask(L, S)`.

    Returns:
        `B x H_q x L x D`, dtype of `query`. Everything between is in float32. A query that may look
        at no key gets 0.

    Raises:
        ValueError: a shape, a dtype or `mask` is another.

    Source: Dao et al., "FlashAttention: Fast and Memory-Efficient Exact Attention with
    IO-Awareness", https://arxiv.org/abs/2205.14135, section 3.1.
    """
    raise NotImplementedError("Week 2 Day 5, Tasks 1 and 2")


def check_attention(
    query: mx.array, key: mx.array, value: mx.array, mask: mx.array | str | None
) -> None:
    """Check that a kernel can take these: it reads as the shapes say.

    Raises:
        ValueError: a shape, a dtype or `mask` is not one of those of `flash_attention_metal`.
    """
    floats = (mx.float32, mx.float16, mx.bfloat16)
    if query.ndim != 4 or key.ndim != 4:
        raise ValueError(f"query and key must have four axes, not {query.shape} and {key.shape}")
    B, H_q, L, D = query.shape
    _, H_kv, S, _ = key.shape
    if D not in (32, 64, 128):
        raise ValueError(f"the head dim must be 32, 64 or 128, not {D}")
    if key.shape != (B, H_kv, S, D) or value.shape != key.shape:
        raise ValueError(
            f"key and value must both have shape ({B}, H_kv, S, {D}), "
            f"not {key.shape} and {value.shape}"
        )
    if H_kv == 0 or H_q % H_kv != 0:
        raise ValueError(f"{H_q} query heads cannot share {H_kv} key/value heads evenly")
    if query.dtype not in floats or not query.dtype == key.dtype == value.dtype:
        raise ValueError(
            "query, key and value must all be float32, all float16 or all bfloat16, "
            f"not {query.dtype}, {key.dtype} and {value.dtype}"
        )
    if isinstance(mask, str):
        if mask != "causal":
            raise ValueError(f'mask must be an array, "causal" or None, not "{mask}"')
        if S < L:
            raise ValueError(f"there are {L} queries but only {S} keys: S must be at least L")
    elif mask is not None:
        if mask.dtype not in floats:
            raise ValueError(f"mask must be float32, float16 or bfloat16, not {mask.dtype}")
        full = (B, H_q, L, S)
        pairs = zip(reversed(mask.shape), reversed(full), strict=False)
        if mask.ndim > 4 or any(size not in (1, wanted) for size, wanted in pairs):
            raise ValueError(f"mask must be broadcastable to {full}, but is {mask.shape}")
