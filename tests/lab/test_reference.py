"""Properties of the reference beyond what a student is graded on."""

import mlx.core as mx

from tiny_llm_lab.models import load_model
from tiny_llm_ref.qwen3 import Qwen3Model


class ConcatenatingCache:
    """The simplest KV cache: keys and values of all calls so far, along the sequence axis."""

    def __init__(self) -> None:
        self.keys: mx.array | None = None
        self.values: mx.array | None = None

    def update_and_fetch(
        self, key: mx.array, value: mx.array, mask_length: int, mask: mx.array | str | None
    ) -> tuple[mx.array, mx.array, int, mx.array | str | None]:
        if self.keys is not None and self.values is not None:
            key = mx.concatenate([self.keys, key], axis=2)
            value = mx.concatenate([self.values, value], axis=2)
        self.keys, self.values = key, value
        return key, value, key.shape[2], mask


def test_model_with_cache_and_offset_gives_the_logits_of_the_whole_sequence() -> None:
    mlx_model, _ = load_model("tiny")
    model = Qwen3Model(mlx_model)
    mx.random.seed(3)
    tokens = mx.random.randint(0, mlx_model.args.vocab_size, (2, 13))
    whole = model(tokens)
    cache = [ConcatenatingCache() for _ in model.layers]
    pieces = [
        model(tokens[:, start:end], offset=start, cache=cache)
        for start, end in ((0, 5), (5, 6), (6, 13))
    ]
    assert mx.allclose(mx.concatenate(pieces, axis=1), whole, atol=1e-4)
