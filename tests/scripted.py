"""A model that follows a script, and a small tokenizer, to drive a generation loop with."""

from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.tokenizer_utils import (
    BPEStreamingDetokenizer,
    StreamingDetokenizer,
    TokenizerWrapper,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from inputs import normal
from tiny_llm_lab.course.checks import check

END_OF_TEXT, END_OF_TURN, START, END_OF_CALL = "<|end|>", "<|turn|>", "<|start|>", "<|call|>"


def byte_tokenizer(
    detokenizer: type[StreamingDetokenizer] = BPEStreamingDetokenizer,
    *,
    adds_start: bool = False,
) -> TokenizerWrapper:
    """A byte-level tokenizer as `mlx_lm.load` gives it: every byte is a token, and a few words.

    It has three end-of-sequence ids, and the first of them, `<|end|>`, is token 0.

    Args:
        detokenizer: the streaming detokenizer that belongs to it.
        adds_start: whether `encode` puts `<|start|>` in front when it adds special tokens.
    """
    special = [END_OF_TEXT, END_OF_TURN, START, END_OF_CALL]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("o", "n"), ("on", "e")]
    words = [first + second for first, second in merges]
    vocab = {token: id for id, token in enumerate(special + letters + words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    if adds_start:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{START} $A", special_tokens=[(START, vocab[START])]
        )
    return TokenizerWrapper(
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            eos_token=END_OF_TEXT,
            bos_token=START if adds_start else None,
            clean_up_tokenization_spaces=False,
        ),
        detokenizer,
        eos_token_ids=[vocab[END_OF_TURN], vocab[END_OF_CALL]],
    )


def ids_of(tokenizer: TokenizerWrapper, text: str) -> list[int]:
    """The token ids of a text, special tokens as they stand in it."""
    return list(tokenizer.encode(text, add_special_tokens=False))


def one_by_one(tokenizer: TokenizerWrapper, text: str) -> list[int]:
    """The token ids of a text, character by character: not the way `encode` would split it."""
    return [id for character in text for id in ids_of(tokenizer, character)]


class ScriptedModel:
    """A causal language model that continues one prompt with a script, token by token.

    After any prefix of prompt and script it predicts the token that comes next there. After
    anything else, and after the end of the script, it predicts `decoy`. It has a logit for each of
    `vocab_size` token ids. `calls` holds the tokens of each call.
    """

    def __init__(
        self, prompt: list[int], script: list[int], *, decoy: int, vocab_size: int
    ) -> None:
        self.prompt, self.script = prompt, script
        self.decoy, self.vocab_size = decoy, vocab_size
        self.calls: list[list[int]] = []

    def __call__(self, inputs: mx.array, *_: Any, **__: Any) -> mx.array:
        """Logits, `1 x L x vocab_size`. The arguments of later days are accepted and not used."""
        tokens = self.note_call(inputs)
        return mx.stack([self.logits(tokens[: i + 1]) for i in range(len(tokens))])[None]

    def note_call(self, inputs: mx.array) -> list[int]:
        """Check the tokens of a call, `1 x L`, and note them."""
        check(
            isinstance(inputs, mx.array) and mx.issubdtype(inputs.dtype, mx.integer),
            "The model is called with something that is not an mx.array of integer token ids.",
        )
        check(
            inputs.ndim == 2 and inputs.shape[0] == 1 and inputs.shape[1] > 0,
            "The model is called with tokens of the wrong shape.\n"
            "  expected   1 x L, L at least 1\n"
            f"  got        {' x '.join(map(str, inputs.shape)) or 'a scalar'}",
        )
        tokens: list[int] = np.array(inputs)[0].tolist()
        self.calls.append(tokens)
        return tokens

    def logits(self, prefix: list[int]) -> mx.array:
        """The logits after a prefix, `vocab_size`. They are far from being log-probabilities."""
        whole = self.prompt + self.script
        known = len(self.prompt) <= len(prefix) < len(whole) and whole[: len(prefix)] == prefix
        token = whole[len(prefix)] if known else self.decoy
        noise = normal(self.vocab_size, seed=len(prefix), mean=-40.0)
        return noise + 12.0 * (mx.arange(self.vocab_size) == token)
