"""Makes the conversations on which the embedded models are trained.

A conversation is a list of segments, `(text, is_answer)`: the loss is taken on answers only. It has
a world of a few skills (ledgers, counting, copying, small sums, short stories, greetings) and one
honest answer for everything else. All of it comes from the random generator that is handed in.
"""

from __future__ import annotations

import random
import re

from . import out_of_world
from .ledger import Ledger, filler, heading, lookup, made_up_name, make_ledger, rough_tokens
from .out_of_world import REFUSAL
from .words import (
    ANIMALS,
    COLORS,
    GENERAL,
    NUMBER_WORDS,
    PEOPLE,
    PLACES,
    PROPER,
    STORY_ADJECTIVES,
    STORY_THINGS,
    THINGS,
)

IM_START, IM_END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
GREETING = "Hello! I am Tiny. I know ledgers, counting, copying, small sums and short stories."
ACKNOWLEDGEMENT = "Ok."

Turn = tuple[str, str]
Segment = tuple[str, bool]

LARGEST_COUNT = 110
LARGEST_TERM = 20


# --------------------------------------------------------------------------------- simple skills


def _polite(rng: random.Random, text: str) -> str:
    """Another surface form of a command: polite words, case, punctuation at its end."""
    kind = rng.random()
    if kind < 0.1:
        text = "Please " + text[:1].lower() + text[1:]
    elif kind < 0.2:
        frame = rng.choice(
            ["Can you ", "Could you ", "Would you ", "Can you please ", "I want you to "]
        )
        text = frame + text[:1].lower() + text[1:].rstrip(".") + rng.choice(["?", "?", "."])
    elif kind < 0.25:
        lead = rng.choice(["Ok, ", "Now ", "Hey, ", "Next, ", "And ", "Task: ", "Hi! "])
        text = lead + text[:1].lower() + text[1:]
    elif kind < 0.3:
        text = text.rstrip(".") + rng.choice([", please.", " please", " for me.", " now."])
    if rng.random() < 0.12:
        text = text[:1].lower() + text[1:]
    if rng.random() < 0.12:
        text = text.rstrip(".?!") + rng.choice(["", "", "!", " ?"])
    return text


def count(rng: random.Random) -> Turn:
    """Counting up from 1, from a number to another, or down."""
    kind = rng.random()
    if kind < 0.6:
        last = rng.randint(1, rng.choice([12, 12, 30, LARGEST_COUNT]))
        first, step = 1, 1
        forms = [
            "Count to {b}.",
            "Count up to {b}.",
            "Count from 1 to {b}.",
            "Count from one to {b}.",
        ]
        forms += [
            "Count till {b}.",
            "Count: {b}",
            "Say the numbers from 1 to {b}.",
            "Count until {b}.",
        ]
        forms += ["List the numbers from 1 to {b}.", "Give me the numbers 1 to {b}."]
    elif kind < 0.9:
        first = rng.randint(0, LARGEST_COUNT - 1)
        last, step = min(LARGEST_COUNT, first + rng.randint(1, 14)), 1
        forms = ["Count from {a} to {b}.", "Count from {a} up to {b}.", "Count {a} to {b}."]
        forms += ["Start at {a} and count to {b}.", "Say the numbers from {a} to {b}."]
        forms += ["List the numbers from {a} to {b}.", "Count up from {a} to {b}."]
    else:
        first, step = rng.randint(2, 20), -1
        last = 1 if rng.random() < 0.6 else rng.randint(1, first - 1)
        forms = ["Count down from {a} to {b}.", "Count backwards from {a} to {b}."]
    question = _polite(rng, rng.choice(forms).format(a=first, b=last))
    return question, " ".join(str(n) for n in range(first, last + step, step))


def small_sum(rng: random.Random) -> Turn:
    """Sums and differences of numbers from 0 to 20; the answer repeats the terms."""
    a, b = rng.randint(0, LARGEST_TERM), rng.randint(0, LARGEST_TERM)
    x, y = (NUMBER_WORDS[a], NUMBER_WORDS[b]) if rng.random() < 0.1 else (str(a), str(b))
    plus = rng.random() < 0.55
    if plus:
        forms = [
            "What is {x} + {y}?",
            "{x} + {y} = ?",
            "{x} + {y}",
            "{x}+{y}",
            "{x}+{y}=",
            "{x} + {y} =",
        ]
        forms += [
            "Add {x} and {y}.",
            "What is {x} plus {y}?",
            "{x} plus {y}",
            "How much is {x} + {y}?",
        ]
        forms += ["Calculate {x} + {y}.", "Compute {x} + {y}.", "What is the sum of {x} and {y}?"]
        forms += [
            "What's {x} + {y}?",
            "What's {x}+{y}?",
            "What does {x} + {y} make?",
            "Sum {x} and {y}.",
        ]
        forms += ["Solve {x} + {y}.", "How much is {x} plus {y}?", "Add {y} to {x}."]
    else:
        forms = [
            "What is {x} - {y}?",
            "{x} - {y} = ?",
            "{x} - {y}",
            "{x}-{y}",
            "{x}-{y}=",
            "{x} - {y} =",
        ]
        forms += ["Subtract {y} from {x}.", "What is {x} minus {y}?", "{x} minus {y}"]
        forms += ["How much is {x} - {y}?", "Calculate {x} - {y}.", "Compute {x} - {y}."]
        forms += [
            "What's {x} - {y}?",
            "What's {x}-{y}?",
            "Take {y} from {x}.",
            "Take {y} away from {x}.",
        ]
        forms += ["Solve {x} - {y}.", "How much is {x} minus {y}?"]
    form = rng.choice(forms).format(x=x, y=y)
    question = form[:1].upper() + form[1:]
    if rng.random() < 0.4:
        question = _polite(rng, question)
    return question, f"{a} + {b} = {a + b}" if plus else f"{a} - {b} = {a - b}"


def _copy_word(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.55:
        return rng.choice(GENERAL)
    if kind < 0.70:
        return rng.choice(PROPER)
    if kind < 0.92:
        word = made_up_name(rng)
        return word if rng.random() < 0.7 else word.capitalize()
    return str(rng.randint(0, 10 ** rng.randint(1, 4)))


def copy(rng: random.Random) -> Turn:
    """Repeating a text as it stands."""
    kind = rng.random()
    if kind < 0.8:
        text = " ".join(
            _copy_word(rng) for _ in range(rng.choice([1, 2, 2, 3, 3, 4, 5, 6, 8, 10, 12]))
        )
        if rng.random() < 0.3:
            text = text[:1].upper() + text[1:] + rng.choice([".", "!", "?"])
    elif kind < 0.9:
        text = ", ".join(_copy_word(rng) for _ in range(rng.randint(2, 6)))
    else:
        text = out_of_world.request(rng).replace('"', "").strip()
    forms = ["{v}: {t}"] * 8 + ["{v} this: {t}", "{v} the following: {t}", "{v} exactly: {t}"]
    forms += [
        '{v}: "{t}"',
        '{v} "{t}"',
        '{v} "{t}"',
        "{v} after me: {t}",
        "{v} these words: {t}",
        "{v}:\n{t}",
    ]
    forms += ["{v} '{t}'", "{v} this text: {t}", "{v} the words: {t}"]
    verb = rng.choice(
        ["Repeat", "Repeat", "Repeat", "Copy", "Copy", "Say", "Say", "Echo", "Write", "Type"]
    )
    if rng.random() < 0.12 and kind < 0.8:
        verb, forms = rng.choice(["Repeat", "Repeat", "Echo"]), ["{v} {t}", "{v} after me {t}"]
    head = rng.choice(forms).format(v=verb, t="\0")
    lead = rng.random()
    if lead < 0.1:
        head = "Please " + head[:1].lower() + head[1:]
    elif lead < 0.16:
        head = rng.choice(["Can you ", "Could you ", "Now "]) + head[:1].lower() + head[1:]
    elif lead < 0.25:
        head = head[:1].lower() + head[1:]
    return head.replace("\0", text), text


def backwards(rng: random.Random) -> Turn:
    """Some words in reverse order."""
    words = rng.sample(THINGS + ANIMALS + COLORS, rng.randint(2, 6))
    forms = ["Say backwards: {}", "Say backwards: {}", "Reverse: {}", "Say in reverse order: {}"]
    forms += ["Say these words backwards: {}", "Reverse these words: {}", "Backwards: {}"]
    forms += ["Repeat backwards: {}", "Write backwards: {}", "Reverse the order: {}"]
    return rng.choice(forms).format(" ".join(words)), " ".join(reversed(words))


def story(rng: random.Random) -> Turn:
    """A short story made from a template, about a person and an animal."""
    who, other = rng.choice(PEOPLE), rng.choice(ANIMALS)
    place, thing, kind = rng.choice(PLACES), rng.choice(STORY_THINGS), rng.choice(STORY_ADJECTIVES)
    if rng.random() < 0.15:
        other = rng.choice([rng.choice(THINGS), made_up_name(rng)])
    if rng.random() < 0.1:
        who = made_up_name(rng).capitalize()
    about = rng.random()
    a = "an" if other[0] in "aeiou" and rng.random() < 0.7 else "a"
    subject = f"{who} and {a} {other}" if about < 0.7 else f"{a} {other}" if about < 0.85 else who
    forms = ["Tell a story about {}.", "Write a story about {}.", "A story about {}, please."]
    forms += ["Tell me a story about {}.", "Tell me a short story about {}.", "A story about {}."]
    forms += [
        "Write a short story about {}.",
        "Give me a story about {}.",
        "Make up a story about {}.",
    ]
    forms += ["Story about {}", "I want a story about {}.", "Write me a story about {}."]
    if about < 0.1:
        forms = ["Tell me a story.", "Tell a story.", "Write a story.", "A story, please."]
        forms += ["Tell me a short story.", "Write a short story.", "Give me a story."]
    question = _polite(rng, rng.choice(forms).format(subject))
    lines = [
        f"One day {who} went to the {place}.",
        f"There {who} met a {kind} {other}.",
        f"The {other} {rng.choice(['had lost', 'wanted', 'was looking for'])} a {thing}.",
        rng.choice(
            [
                f"{who} looked near the {rng.choice(PLACES)} and found the {thing}.",
                f"{who} helped the {other} look, and soon they found the {thing}.",
            ]
        ),
        rng.choice([f"The {other} was very happy.", f"The {other} danced with joy."]),
        rng.choice([f"{who} and the {other} became friends.", "Then they went home together."]),
        "The end.",
    ]
    return question, " ".join(lines)


def greeting(rng: random.Random) -> Turn:
    """Hello, who are you, thanks, goodbye."""
    kind = rng.random()
    end = rng.choice(["", ".", "!", "!"])
    if kind < 0.4:
        words = (
            "Hello|Hi|Hey|Hello there|Hi there|Good morning|Good evening|Good afternoon|Hello Tiny"
        )
        words += "|Hi Tiny|Greetings|Good day|Hey there|Hello, how are you|Hi, who are you"
        question, answer = rng.choice(words.split("|")) + end, GREETING
    elif kind < 0.75:
        words = "Who are you|What are you|What is your name|What's your name|What can you do"
        words += "|What do you know|How are you|What are you able to do|Introduce yourself|Help"
        words += "|How can you help me|What can I ask you|Tell me about yourself|What do you do"
        question, answer = rng.choice(words.split("|")) + rng.choice(["?", "?", "", "?"]), GREETING
    elif kind < 0.9:
        words = "Thank you|Thanks|Thanks a lot|Thank you very much|Many thanks|Thanks, Tiny"
        question, answer = rng.choice(words.split("|")) + end, "You are welcome."
    else:
        words = "Goodbye|Bye|Bye bye|See you|Good night|See you later|Goodbye, Tiny"
        question, answer = rng.choice(words.split("|")) + end, "Goodbye!"
    return (question.lower() if rng.random() < 0.15 else question), answer


def simple(rng: random.Random) -> Turn:
    """One turn of a skill that needs no ledger."""
    skills = [count, small_sum, copy, backwards, story, greeting]
    return rng.choices(skills, [19, 36, 20, 7, 10, 8])[0](rng)


# --------------------------------------------------------------------------------- conversations


def refusal(rng: random.Random, ledger: Ledger | None) -> Turn:
    """A request outside the world; beside a ledger it names none of its names."""
    if ledger is None:
        return out_of_world.request(rng), REFUSAL
    keys = {word for key in ledger.entries for word in re.findall(r"\w+", key.lower())}
    for _ in range(30):
        text = out_of_world.request(rng, with_ledger=True)
        words = re.findall(r"\w+", text.lower())
        bare = len(words) <= 1 or (len(words) == 3 and words[0] in ("what", "show", "buy", "call"))
        if not bare and not keys.intersection(words):
            return text, REFUSAL
    return rng.choice(out_of_world.FOREIGN), REFUSAL


def _user(text: str) -> Segment:
    return f"{IM_START}user\n{text}{IM_END}\n{IM_START}assistant\n", False


def _assistant(text: str) -> Segment:
    return f"{text}{IM_END}\n", True


def with_ledger(rng: random.Random, ledger: Ledger, question: str, first: bool) -> str:
    """One message with a ledger and a question: heading, text around it, and their order vary."""
    body = ledger.text()
    if (ledger.separator == "\n" and rng.random() < 0.72) or rng.random() < 0.4:
        body = heading(rng) + rng.choice(["\n", "\n", "\n", "\n\n"]) + body
    parts = [body]
    if rng.random() < 0.25:
        parts.insert(0, filler(rng, rng.choice([1, 1, 2, 3, 6])))
    if rng.random() < 0.22:
        parts.append(filler(rng, rng.choice([1, 1, 2, 3, 6])))
    gap = rng.choice(["\n\n", "\n\n", "\n\n", "\n"])
    if first:
        if rng.random() < 0.12:
            question = (
                rng.choice(["Answer this: ", "First read, then answer: ", "Question: "]) + question
            )
        parts.insert(0, question)
    elif len(parts) > 1 and rng.random() < 0.3:
        parts[-1] += " " + question
        return gap.join(parts)
    else:
        parts.append(question)
    return gap.join(parts)


SYSTEM_PROMPTS = ["You are a helpful assistant.", "You are Tiny.", "Be brief.", "Answer the user."]
SYSTEM_PROMPTS += [
    "You are a {}.",
    "You are a helpful {} for {}.",
    "Today is a {} day.",
    "{} {} {}.",
]


def conversation(rng: random.Random, tokens: int, ledger_share: float = 0.65) -> list[Segment]:
    """One conversation of about `tokens` tokens or a little more.

    Names are unique in a conversation, so that later ledgers add to what was said before and any
    name may be asked for at any time.
    """
    segments: list[Segment] = []
    used = 0
    taken: set[str] = set()
    known: Ledger | None = None
    budgets: list[int] = []  # tokens of the ledgers that are still to come
    if rng.random() < ledger_share:
        share = 0.7 if rng.random() < 0.3 else rng.uniform(0.05, 0.7)
        parts = 1 if rng.random() < 0.55 else rng.randint(2, 5)
        budgets = [max(12, int(tokens * share / parts))] * parts

    def add(*new: Segment) -> None:
        nonlocal used
        segments.extend(new)
        used += sum(rough_tokens(text) for text, _ in new)

    in_system = bool(budgets) and rng.random() < 0.12
    if not in_system and rng.random() < 0.08:
        words = [rng.choice(GENERAL) for _ in range(3)]
        add((f"{IM_START}system\n{rng.choice(SYSTEM_PROMPTS).format(*words)}{IM_END}\n", False))
    while used < tokens:
        fresh: Ledger | None = None
        if budgets and (known is None or rng.random() < 0.25):
            fresh = make_ledger(rng, budgets.pop(), taken)
            known = Ledger({**(known.entries if known else {}), **fresh.entries}, fresh.new_name)
        if fresh and in_system:
            body = heading(rng) + "\n" + fresh.text() if rng.random() < 0.7 else fresh.text()
            add((f"{IM_START}system\n{body}{IM_END}\n", False))
            in_system, fresh = False, None
        elif fresh and rng.random() < 0.06:
            body = heading(rng) + "\n" + fresh.text() if rng.random() < 0.7 else fresh.text()
            add(_user(body), _assistant(ACKNOWLEDGEMENT))
            fresh = None
        kind = rng.random()
        if known and kind < (0.74 if fresh else 0.62):
            asked = fresh if fresh and rng.random() < 0.9 else known
            question, answer = lookup(rng, Ledger(asked.entries, known.new_name), known=known)
        elif kind < (0.89 if known else 0.72):
            question, answer = refusal(rng, known) if known else simple(rng)
        elif known:
            question, answer = simple(rng)
        elif kind < 0.95:
            question, answer = refusal(rng, None)
        else:  # a question about a ledger that nobody has shown
            question, _ = lookup(rng, make_ledger(rng, 30, set()), missing=0.0, most=2)
            answer = REFUSAL
        if fresh:
            question = with_ledger(rng, fresh, question, first=rng.random() < 0.3)
        add(_user(question), _assistant(answer))
    return segments
