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
    if scale is None:
        scale = 1.0 / math.sqrt(query.shape[-1])
    keys = key.swapaxes(-2, -1)
    if query.shape[-2] > 1:  # a copy, which makes the larger product twice as fast on a CPU
        keys = mx.contiguous(keys)
    scores = (query * scale) @ keys
    if mask is not None:
        scores = scores + mask
    return (softmax(scores, axis=-1) @ value).astype(query.dtype)


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
        if hidden_size % num_heads != 0:
            raise ValueError(
                f"hidden_size ({hidden_size}) must be a multiple of num_heads ({num_heads})"
            )
        self.num_heads = num_heads
        self.head_dim = hidden_size // num_heads
        self.wq, self.wk, self.wv, self.wo = wq, wk, wv, wo

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

        def split_heads(x: mx.array) -> mx.array:
            B, L, _ = x.shape
            return x.reshape(B, L, self.num_heads, self.head_dim).swapaxes(1, 2)

        B, L, _ = query.shape
        output = scaled_dot_product_attention_simple(
            split_heads(linear(query, self.wq)),
            split_heads(linear(key, self.wk)),
            split_heads(linear(value, self.wv)),
            mask=mask,
        )
        joined = output.swapaxes(1, 2).reshape(B, L, self.num_heads * self.head_dim)
        return linear(joined, self.wo)


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
    if S < L:
        raise ValueError(f"there are {L} queries but only {S} keys: S must be at least L")
    query_positions = mx.arange(S - L, S)[:, None]
    key_positions = mx.arange(S)[None, :]
    allowed = key_positions <= query_positions
    return mx.where(allowed, mx.array(0, dtype), mx.array(-mx.inf, dtype))


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
    *leading, H_q, L, D = query.shape
    H_kv, S = key.shape[-3], key.shape[-2]
    if H_q % H_kv != 0:
        raise ValueError(f"{H_q} query heads cannot share {H_kv} key/value heads evenly")
    if isinstance(mask, str):
        if mask != "causal":
            raise ValueError(f'mask must be an array, "causal" or None, not "{mask}"')
        mask = causal_mask(L, S, query.dtype) if L > 1 else None  # a single query sees all keys
    group = H_q // H_kv
    if mask is not None and mask.ndim > 2:  # an axis of heads, which the scores have as two
        heads = (1, 1) if mask.shape[-3] == 1 else (H_kv, group)
        mask = mask.reshape(*mask.shape[:-3], *heads, *mask.shape[-2:])
    # The new axis of size 1 lets a group of query heads broadcast against one key/value head.
    output = scaled_dot_product_attention_simple(
        query.reshape(*leading, H_kv, group, L, D),
        mx.expand_dims(key, -3),
        mx.expand_dims(value, -3),
        scale=scale,
        mask=mask,
    )
    return output.reshape(*leading, H_q, L, value.shape[-1])


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
    if chunk_start < 0 or chunk_size < 1 or chunk_start + chunk_size > total_length:
        raise ValueError(
            f"a chunk of {chunk_size} tokens from position {chunk_start} on does not lie within "
            f"{total_length} tokens"
        )
    positions = mx.arange(chunk_start, chunk_start + chunk_size)[:, None]
    allowed = mx.arange(total_length)[None, :] <= positions
    return mx.where(allowed, mx.array(0, dtype), mx.array(-mx.inf, dtype))


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
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, not {block_size}")
    L, S = query.shape[-2], key.shape[-2]
    if scale is None:
        scale = 1.0 / math.sqrt(query.shape[-1])
    scaled = query.astype(mx.float32) * scale
    if mask is not None:
        mask = mx.broadcast_to(mask, (*query.shape[:-2], L, S))
    maximum = mx.full((*query.shape[:-1], 1), -mx.inf)
    total = mx.zeros_like(maximum)
    output = mx.zeros((*query.shape[:-1], value.shape[-1]))
    for start in range(0, S, block_size):
        block = slice(start, start + block_size)
        scores = scaled @ key[..., block, :].astype(mx.float32).swapaxes(-2, -1)
        if mask is not None:
            scores = scores + mask[..., block]
        new_maximum = mx.maximum(maximum, scores.max(axis=-1, keepdims=True))
        # As long as a query has seen no key, any number does: inf - inf would be NaN.
        shift = mx.where(new_maximum == -mx.inf, 0, new_maximum)
        weights = mx.exp(scores - shift)
        correction = mx.exp(maximum - shift)
        total = correction * total + weights.sum(axis=-1, keepdims=True)
        output = correction * output + weights @ value[..., block, :].astype(mx.float32)
        maximum = new_maximum
    return mx.where(total == 0, 0, output / total).astype(query.dtype)


def flash_attention(
    query: mx.array,
    key: mx.array,
    value: mx.array,
    scale: float | None = None,
    mask: mx.array | str | None = None,
) -> mx.array:
    """`scaled_dot_product_attention_grouped` by a kernel with an online softmax.

    This is the one place that chooses the kernels: that in `metal` if `uses_metal()`, else those in
    `cpp`. No score is written to memory: what is needed of it does not grow with `S`.

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
        BuildError: the kernels in `cpp` do not compile.

    Source: Dao et al., "FlashAttention: Fast and Memory-Efficient Exact Attention with
    IO-Awareness", https://arxiv.org/abs/2205.14135; Dao, "FlashAttention-2: Faster Attention with
    Better Parallelism and Work Partitioning", https://arxiv.org/abs/2307.08691.
    """
    if uses_metal():
        return flash_attention_metal(query, key, value, scale, mask)
    if isinstance(mask, str) and mask != "causal":
        raise ValueError(f'mask must be an array, "causal" or None, not "{mask}"')
    causal = isinstance(mask, str)
    kernels = load_extension(__package__ or "")
    output: mx.array = kernels.flash_attention(
        query, key, value, scale, None if causal else mask, causal
    )
    return output


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
    check_attention(query, key, value, mask)
    B, H_q, L, D = query.shape
    if query.size == 0 or key.shape[2] == 0:
        return mx.zeros(query.shape, query.dtype)
    queries, simdgroups = 4, 4
    added = mask.astype(mx.float32) if isinstance(mask, mx.array) else mx.zeros(1)
    template = {
        "T": query.dtype,
        "D": D,
        "SIMDGROUPS": simdgroups,
        "QUERIES": queries,
        "CAUSAL": isinstance(mask, str),
        "MASKED": isinstance(mask, mx.array),
    }
    kernel = load_metal_kernel(
        __package__ or "", "flash_attention", ["q", "k", "v", "scale", "mask"], ["out"]
    )
    (out,) = kernel(
        inputs=[
            query,
            key,
            value,
            1.0 / math.sqrt(D) if scale is None else float(scale),
            added.reshape((1,) * (4 - added.ndim) + added.shape),
        ],
        template=list(template.items()),
        grid=(math.ceil(L / (simdgroups * queries)) * simdgroups * 32, H_q, B),
        threadgroup=(simdgroups * 32, 1, 1),
        output_shapes=[query.shape],
        output_dtypes=[query.dtype],
    )
    return out


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
