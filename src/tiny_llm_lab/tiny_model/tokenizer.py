"""Trains the byte-level BPE tokenizer of the embedded models on a sample of the corpus.

Every word is a pre-token of its own *without a leading space*, so that a name is the same tokens in
a ledger, in a question and in an answer.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from .corpus import IM_END, IM_START, PAD, conversation

VOCAB_SIZE = 1536  # a multiple of 64, so that the embedding can be quantized in groups of 64
SAMPLE = 8000
CONTEXT = 8192
SPECIAL_TOKENS = [PAD, IM_START, IM_END]  # ids 0, 1, 2
PATTERN = r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+ ?|\n+| +|\s"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train_tokenizer(seed: int) -> Tokenizer:
    """Train the tokenizer on a seeded sample of conversations."""

    def texts() -> Iterator[str]:
        rng = random.Random(f"tokenizer-{seed}")
        for _ in range(SAMPLE):
            text = "".join(part for part, _ in conversation(rng, 256))
            yield text.replace(IM_START, "\n").replace(IM_END, "\n")

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json (with the chat template)."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": IM_END,
        "pad_token": PAD,
        "unk_token": None,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
