"""The corpus is seeded and keeps what is held out apart; the committed models answer."""

import random
import re

import mlx.core as mx
import pytest

from tiny_llm_lab import PROJECT_ROOT
from tiny_llm_lab.generation import chat_prompt
from tiny_llm_lab.models import EMBEDDED_MODELS, load_model
from tiny_llm_lab.tiny_model import heldout, out_of_world
from tiny_llm_lab.tiny_model.corpus import GREETING, conversation
from tiny_llm_lab.tiny_model.evaluation import categories, score
from tiny_llm_lab.tiny_model.out_of_world import REFUSAL

DRAFT = PROJECT_ROOT / "models" / "tiny-qwen3-draft"


def conversations(seed: int, number: int = 200) -> list[str]:
    rng = random.Random(seed)
    return ["".join(text for text, _ in conversation(rng, 256)) for _ in range(number)]


def test_corpus_follows_from_its_seed() -> None:
    assert conversations(1, 20) == conversations(1, 20) != conversations(2, 20)


def test_held_out_names_and_requests_are_not_in_the_corpus() -> None:
    text = "\n".join(conversations(3)).lower()
    words = set(re.findall(r"[a-z]+", text))
    assert not words & {name.lower() for name in heldout.NAMES}
    said = set(re.findall(r"<\|im_start\|>user\n(.*?)<\|im_end\|>", text, re.DOTALL))
    assert not said & {request.lower() for request in heldout.REQUESTS}
    # Nor does any fit a template, whatever word stands in the template's slots.
    patterns = [
        re.compile(
            re.sub(r"\\\{\w+\\\}", r"\\S+", re.escape(template.rstrip(".?!"))), re.IGNORECASE
        )
        for name, templates in vars(out_of_world).items()
        if name.isupper() and not name.startswith("_") and isinstance(templates, list)
        for template in templates
    ]
    for request in heldout.REQUESTS:
        assert not any(pattern.fullmatch(request.rstrip(".?!")) for pattern in patterns), request


def test_held_out_phrasings_are_not_in_the_corpus() -> None:
    text = "\n".join(conversations(4)).lower()
    for phrasing in heldout.PHRASINGS:
        longest = max(phrasing.lower().split("{k}"), key=len).strip()
        if len(longest) > 12:  # the others, such as "extract", are told by their verb alone
            assert longest not in text, phrasing


def test_every_answer_about_a_ledger_stands_in_the_conversation() -> None:
    """What the model is asked to recall is there to be recalled."""
    rng = random.Random(5)
    checked = 0
    for _ in range(200):
        seen = ""
        for text, is_answer in conversation(rng, 256, ledger_share=1.0):
            match = re.fullmatch(r"([a-z]+): (\d+)<\|im_end\|>\n", text)
            if is_answer and match:
                assert match[1] in seen and match[2] in seen, text
                checked += 1
            seen += text
    assert checked > 30


@pytest.mark.parametrize("folder", [EMBEDDED_MODELS["tiny"], DRAFT], ids=lambda path: path.name)
def test_committed_model_is_small_quantized_and_loads(folder) -> None:
    model, tokenizer = load_model(str(folder))
    assert sum(file.stat().st_size for file in folder.iterdir()) < 3e6
    assert model.model.embed_tokens.bits == 4 and model.model.embed_tokens.group_size == 64
    assert (folder / "README.md").is_file()
    text = "oak: 220, Füße 漢字 🙂\n\n  x"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_both_models_have_the_same_tokenizer() -> None:
    tiny, draft = (
        (folder / "tokenizer.json").read_bytes() for folder in (EMBEDDED_MODELS["tiny"], DRAFT)
    )
    assert tiny == draft


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ("Ledger:\noak: 220\nfox: 17\nelm: 40\n\nWhat is fox?", "fox: 17"),
        ("Hello!", GREETING),
        ("Count to 7.", "1 2 3 4 5 6 7"),
        ("What is 8 + 5?", "8 + 5 = 13"),
        ("What is the capital of France?", REFUSAL),
    ],
)
def test_embedded_model_answers(message: str, answer: str) -> None:
    model, tokenizer = load_model("tiny")
    prompt = tokenizer.encode(chat_prompt(tokenizer, message), add_special_tokens=False)
    right = tokenizer.encode(answer + "<|im_end|>", add_special_tokens=False)
    logits = model(mx.array([prompt + right]))
    picked = mx.argmax(logits[0, len(prompt) - 1 : -1], axis=-1).tolist()
    assert tokenizer.decode(picked) == answer + "<|im_end|>"


def test_a_few_prompts_of_every_short_category_are_answered() -> None:
    """The whole measurement is `pdm run score-tiny-model`; this is a spot check of it."""
    model, tokenizer = load_model("tiny")
    for category in categories():
        if category.target is not None and not re.search(r"512|1,024|2,048", category.name):
            right = sum(score(model, tokenizer, category, prompts=10))
            # The card says by how much these two fall short of their target.
            short = "beside a ledger" in category.name or "phrasings" in category.name
            expected = 5 if short else 8
            assert right >= expected, f"{category.name}: {right} of 10"
