"""The generation loop: prompt in, text out."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx


def simple_generate(
    model: Any,
    tokenizer: Any,
    prompt: str,
    sampler: Callable[[mx.array], mx.array] | None = None,
    max_tokens: int = 256,
    on_text: Callable[[str], None] | None = None,
) -> str:
    """Generate text from a prompt, one token at a time, without a cache.

    Every step runs the model on the whole sequence so far and takes the logits of its last
    position. It ends at any of the tokenizer's end-of-sequence ids, which is not part of the
    text, or after `max_tokens` tokens.

    Args:
        model: called as `model(tokens)` with token ids `1 x L`; returns logits
            `1 x L x vocab_size`.
        tokenizer: an `mlx_lm` tokenizer. Used are `encode(prompt, add_special_tokens=False)`,
            `eos_token_ids`, and `detokenizer` with `reset()`, `add_token(token)`, `finalize()`,
            `last_segment` and `text`.
        prompt: the text to continue, chat template applied.
        sampler: picks tokens `1` from log-probabilities `1 x vocab_size`; greedy if None.
        max_tokens: the largest number of tokens to generate, at least 1.
        on_text: called after every generated token with the text that became readable with it
            (which may be empty), and once more at the end if text was still held back. The
            pieces add up to the result.

    Returns:
        The generated text, without the prompt.

    Raises:
        ValueError: the prompt is empty, or `max_tokens` is below 1.
    """
    raise NotImplementedError("Week 1 Day 6, Tasks 1 to 3")


def simple_generate_with_kv_cache(
    model: Any,
    tokenizer: Any,
    prompt: str,
    sampler: Callable[[mx.array], mx.array] | None = None,
    max_tokens: int = 256,
    on_text: Callable[[str], None] | None = None,
) -> str:
    """Generate text from a prompt, with a KV cache: no token goes through the model twice.

    The first call of the model gets the whole prompt (prefill), every later one the token that was
    generated last (decode). The caches are released at the end, also if an exception ends it.

    Args:
        model: makes its caches by `create_kv_cache()`, and is called as
            `model(tokens, offset, cache)` with the new tokens `1 x L` only and the number of
            tokens before them; returns logits `1 x L x vocab_size`.
        tokenizer, prompt, sampler, max_tokens, on_text: as in `simple_generate`.

    Returns:
        The generated text, the same as that of `simple_generate`.

    Raises:
        ValueError: as in `simple_generate`.
    """
    raise NotImplementedError("Week 2 Day 1, Task 4: Generating with a cache")
