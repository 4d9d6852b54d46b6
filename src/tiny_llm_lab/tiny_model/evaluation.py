"""Scores of an embedded model: exact match of greedy answers to held-out prompts.

An answer counts if every one of its tokens, the end of the turn included, is the most probable one
after the right tokens before it; that is the same as greedy decoding giving exactly this answer.
Prompts come from a seed that training does not use.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache, trim_prompt_cache

from . import heldout
from .corpus import copy, count, greeting, small_sum
from .ledger import NAMES, Ledger, ask, filler, make_ledger
from .out_of_world import REFUSAL

QUESTIONS_PER_LEDGER = 5


@dataclass(frozen=True)
class Exam:
    """One message's beginning and several ways to go on, each with the right answer."""

    beginning: str
    questions: list[tuple[str, str]]


@dataclass(frozen=True)
class Category:
    """A row of the card: what is measured, the share aimed for, and how prompts are made."""

    name: str
    target: float | None
    make: Callable[[random.Random, Callable[[str], int]], Exam]


def categories() -> list[Category]:
    """All rows, in the order of the card."""
    rows = [
        Category(f"recall, {length:,} tokens", 0.95 if length == 2048 else 0.98, _recall(length))
        for length in (64, 128, 256, 512, 1024, 2048)
    ]
    rows += [
        Category("recall of 2 to 4 names, 256 tokens", None, _recall(256, names=(2, 4))),
        Category("recall of 2 to 4 names, 1,024 tokens", None, _recall(1024, names=(2, 4))),
        Category("a name that is not in the ledger", None, _missing),
        Category("any style of names, values and lines", None, _any_style),
        Category("names never seen in training", 0.90, _unseen_names),
        Category("phrasings never seen in training", 0.90, _unseen_phrasings),
        Category("ledger without a heading", 0.90, _recall(256, heading="")),
        Category("ledger inside a longer message", 0.90, _inside_a_message),
        Category("question before the ledger", None, _question_first),
        Category("outside its world, no ledger", 0.90, _outside),
        Category("outside its world, beside a ledger", 0.90, _outside_beside_a_ledger),
    ]
    for name, skill in (
        ("counting", count),
        ("small sums", small_sum),
        ("copying", copy),
        ("greetings", greeting),
    ):
        rows.append(Category(name, None, _one_turn(skill)))
    return rows


def score(
    model: Any, tokenizer: Any, category: Category, prompts: int, seed: int = 2026
) -> Iterator[bool]:
    """Whether each of so many answers is right.

    Args:
        model: an `mlx_lm` model.
        tokenizer: its tokenizer.
        category: what to ask.
        prompts: how many answers to check.
        seed: of the prompts.
    """
    rng = random.Random(f"{category.name}-{seed}")

    def tokens(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    done = 0
    while done < prompts:
        exam = category.make(rng, lambda text: len(tokens(text)))
        cache = make_prompt_cache(model)
        beginning = tokens("<|im_start|>user\n" + exam.beginning)
        model(mx.array([beginning]), cache=cache)
        mx.eval([layer.state for layer in cache])
        for question, answer in exam.questions[: prompts - done]:
            asked = tokens(question + "<|im_end|>\n<|im_start|>assistant\n")
            right = tokens(answer + "<|im_end|>")
            logits = model(mx.array([asked + right]), cache=cache)
            picked = mx.argmax(logits[0, len(asked) - 1 : -1], axis=-1).tolist()
            trim_prompt_cache(cache, len(asked) + len(right))
            yield picked == right
            done += 1


def _plain_ledger(
    rng: random.Random, length: int, count_tokens: Callable[[str], int], names: list[str]
) -> Ledger:
    """Lines of known words and three-digit values, about `length` tokens with their message."""
    entries: dict[str, str] = {}
    used = 22  # the chat template, a heading, a short question
    for name in rng.sample(names, len(names)):
        value = str(rng.randint(100, 999))
        used += count_tokens(f"{name}: {value}\n")
        if used > length and len(entries) >= 2:
            break
        entries[name] = value
    return Ledger(entries, lambda: rng.choice(names))


def _questions(
    rng: random.Random, ledger: Ledger, names: tuple[int, int] = (1, 1)
) -> list[tuple[str, str]]:
    questions = []
    for _ in range(QUESTIONS_PER_LEDGER):
        most = min(names[1], len(ledger.entries))
        keys = rng.sample(list(ledger.entries), rng.randint(min(names[0], most), most))
        questions.append((ask(rng, keys, free=False), ledger.answer(keys)))
    return questions


def _recall(
    length: int, names: tuple[int, int] = (1, 1), heading: str = "Ledger:\n"
) -> Callable[[random.Random, Callable[[str], int]], Exam]:
    def make(rng: random.Random, count_tokens: Callable[[str], int]) -> Exam:
        ledger = _plain_ledger(rng, length, count_tokens, NAMES)
        return Exam(heading + ledger.text() + "\n\n", _questions(rng, ledger, names))

    return make


def _one_turn(
    skill: Callable[[random.Random], tuple[str, str]],
) -> Callable[[random.Random, Callable[[str], int]], Exam]:
    def make(rng: random.Random, count_tokens: Callable[[str], int]) -> Exam:
        return Exam("", [skill(rng)])

    return make


def _missing(rng: random.Random, count_tokens: Callable[[str], int]) -> Exam:
    ledger = _plain_ledger(rng, 256, count_tokens, NAMES)
    strangers = rng.sample([n for n in NAMES if n not in ledger.entries], QUESTIONS_PER_LEDGER)
    questions = [(ask(rng, [name], free=False), ledger.answer([name])) for name in strangers]
    return Exam("Ledger:\n" + ledger.text() + "\n\n", questions)


def _any_style(rng: random.Random, count_tokens: Callable[[str], int]) -> Exam:
    ledger = make_ledger(rng, rng.choice([40, 100, 250]), set())
    return Exam("Ledger:\n" + ledger.text() + "\n\n", _questions(rng, ledger))


def _unseen_names(rng: random.Random, count_tokens: Callable[[str], int]) -> Exam:
    ledger = _plain_ledger(rng, rng.choice([64, 128, 256, 512]), count_tokens, heldout.NAMES)
    return Exam("Ledger:\n" + ledger.text() + "\n\n", _questions(rng, ledger))


def _unseen_phrasings(rng: random.Random, count_tokens: Callable[[str], int]) -> Exam:
    ledger = _plain_ledger(rng, rng.choice([64, 128, 256, 512]), count_tokens, NAMES)
    questions = [
        (phrasing.format(k=name), ledger.answer([name]))
        for phrasing in rng.sample(heldout.PHRASINGS, QUESTIONS_PER_LEDGER)
        for name in [rng.choice(list(ledger.entries))]
    ]
    return Exam("Ledger:\n" + ledger.text() + "\n\n", questions)


def _inside_a_message(rng: random.Random, count_tokens: Callable[[str], int]) -> Exam:
    ledger = _plain_ledger(rng, 256, count_tokens, NAMES)
    before, after = filler(rng, rng.randint(1, 4)), filler(rng, rng.randint(1, 4))
    heading = rng.choice(["Ledger:\n", ""])
    beginning = f"{before}\n\n{heading}{ledger.text()}\n\n{after}\n\n"
    return Exam(beginning, _questions(rng, ledger))


def _question_first(rng: random.Random, count_tokens: Callable[[str], int]) -> Exam:
    ledger = _plain_ledger(rng, 256, count_tokens, NAMES)
    questions = [
        (f"{question}\n\nLedger:\n{ledger.text()}", answer)
        for question, answer in _questions(rng, ledger)
    ]
    return Exam("", questions)


def _outside(rng: random.Random, count_tokens: Callable[[str], int]) -> Exam:
    return Exam("", [(rng.choice(heldout.REQUESTS), REFUSAL)])


def _outside_beside_a_ledger(rng: random.Random, count_tokens: Callable[[str], int]) -> Exam:
    ledger = _plain_ledger(rng, 128, count_tokens, NAMES)
    requests = rng.sample(heldout.REQUESTS, QUESTIONS_PER_LEDGER)
    return Exam("Ledger:\n" + ledger.text() + "\n\n", [(text, REFUSAL) for text in requests])
