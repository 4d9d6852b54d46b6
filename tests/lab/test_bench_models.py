"""Models with random weights: for measurements, so the same ones every time."""

from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from tiny_llm_lab.models import RANDOM_MODELS, ByteTokenizer, load_model


@pytest.fixture(scope="module")
def small() -> Any:
    return load_model("random:small")[0]


def test_it_has_the_shape_and_format_that_its_name_says(small: Any) -> None:
    for name, size in RANDOM_MODELS["random:small"].items():
        assert getattr(small.args, name) == size
    assert small.args.max_position_embeddings == 32768
    layer = small.model.layers[0].mlp.up_proj
    assert (layer.bits, layer.group_size, layer.scales.dtype) == (4, 64, mx.float32)
    assert small.model.embed_tokens.bits == 4


def test_it_is_the_same_every_time(small: Any) -> None:
    again = dict(tree_flatten(load_model("random:small")[0].parameters()))
    for name, tensor in tree_flatten(small.parameters()):
        assert mx.array_equal(tensor, again[name]), name


def test_its_next_token_depends_on_more_than_the_last_one(small: Any) -> None:
    tokens = mx.random.randint(3, 2048, (6, 40), key=mx.random.key(1))
    tokens[:, -1] = 7
    answers = mx.argmax(small(tokens)[:, -1], axis=-1).tolist()
    assert len(set(answers)) >= 4 and 7 not in answers


def test_bytes_stand_in_for_tokens() -> None:
    _, tokenizer = load_model("random:small")
    assert isinstance(tokenizer, ByteTokenizer)
    ids = tokenizer.encode("hé", add_special_tokens=False)
    assert ids == [104, 195, 169] and not tokenizer.eos_token_ids
    detokenizer = tokenizer.detokenizer
    detokenizer.reset()
    for token in (104, 2000):
        detokenizer.add_token(token)
    assert (detokenizer.text, detokenizer.last_segment) == ("h<2000>", "<2000>")
    detokenizer.finalize()
    assert detokenizer.last_segment == "" and detokenizer is not tokenizer.detokenizer
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
