"""Ledgers (`name: value` lines) and the questions about them.

A question is built from parts (a lead, a polite frame, a verb, an object, a tail, punctuation), so
that the same request has many thousands of surface forms. A share of the questions is a key among
arbitrary words, or in a sentence about something else, which teaches the rule that matters: *a
message that names a key asks for it*. The answer repeats the key (`oak: 220`), one line for each
name; a name that is not there gets `none`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from . import heldout, out_of_world
from .words import (
    ADJECTIVES,
    ANIMALS,
    CITIES,
    COLORS,
    COUNTRIES,
    FOODS,
    GENERAL,
    GLUE,
    JOBS,
    LEDGER_NOUNS,
    PEOPLE,
    THINGS,
    TOPICS,
    VALUE_NOUNS,
    VERBS,
)

NAMES = list(dict.fromkeys(THINGS + FOODS + ANIMALS + JOBS + TOPICS))
CAPITALIZED = list(dict.fromkeys(PEOPLE + CITIES + COUNTRIES))
_RESERVED = {name.lower() for name in heldout.NAMES}

_ONSETS = (
    "b c d f g h j k l m n p qu r s t v w x z bl br ch cl cr dr fl gr kr ph pl sh sk sl st th tr"
)
_NUCLEI = "a e i o u a e i o u ai ea ee oo ou y"
_CODAS = "b d g k l m n p r s t x ck ft ld lm lt mp nd ng nk nt rd rk rm rn rt sh st th"
_ONSET_LIST, _NUCLEUS_LIST, _CODA_LIST = _ONSETS.split(), _NUCLEI.split(), _CODAS.split()


# ---------------------------------------------------------------------------------------- names


def made_up_name(rng: random.Random) -> str:
    """A word that means nothing: it takes several tokens, and is never learned by heart."""
    while True:
        kind = rng.random()
        if kind < 0.45:
            name = "".join(
                rng.choice(_ONSET_LIST)
                + rng.choice(_NUCLEUS_LIST)
                + (rng.choice(_CODA_LIST) if rng.random() < 0.4 else "")
                for _ in range(rng.choice([1, 2, 2, 2, 3]))
            )
        elif kind < 0.75:
            first, second = rng.choice(GENERAL), rng.choice(GENERAL)
            name = first[: rng.randint(1, len(first))] + second[rng.randrange(len(second)) :]
        else:
            letters = "abcdefghijklmnopqrstuvwxyz"
            name = "".join(rng.choice(letters) for _ in range(rng.randint(2, 7)))
        if 2 <= len(name) <= 14 and name.lower() not in _RESERVED:
            return name


def _code_name(rng: random.Random) -> str:
    """Names with a number in them: `bay 7`, `item-12`, `x4`."""
    stem = rng.choice([rng.choice(NAMES), made_up_name(rng), rng.choice("abcdefghkmnprstxyz")])
    return (
        stem + rng.choice([" ", "-", "_", "", ""]) + str(rng.randint(1, rng.choice([9, 99, 999])))
    )


def name_maker(rng: random.Random) -> Callable[[], str]:
    """Choose a style for one ledger's names; return a function that makes a name of that style."""
    kind, case = rng.random(), rng.random()

    def plain() -> str:
        return rng.choice(NAMES)

    def mixed() -> str:
        return made_up_name(rng) if rng.random() < 0.4 else rng.choice(NAMES)

    def invented() -> str:
        return made_up_name(rng)

    def proper() -> str:
        return rng.choice(CAPITALIZED) if rng.random() < 0.7 else made_up_name(rng).capitalize()

    def double() -> str:
        first = rng.choice([rng.choice(ADJECTIVES + COLORS), made_up_name(rng), rng.choice(NAMES)])
        return first + rng.choice([" ", " ", " ", "-", "_"]) + mixed()

    def code() -> str:
        return _code_name(rng)

    def any_style() -> str:
        return rng.choice([plain, mixed, invented, proper, double, code])()

    shares = (
        (0.30, plain),
        (0.52, mixed),
        (0.72, invented),
        (0.86, proper),
        (0.91, double),
        (0.96, code),
        (1.01, any_style),
    )
    make = next(make for limit, make in shares if kind < limit)
    if make is proper or case < 0.82:
        return make
    if case < 0.94:
        return lambda: make().capitalize()
    return lambda: make().upper()


def _value_maker(rng: random.Random) -> Callable[[], str]:
    """Choose a kind of value for one ledger; return a function that makes a value of that kind."""
    kind = rng.random()
    if kind < 0.30:
        return lambda: str(rng.randint(100, 999))
    if kind < 0.55:
        digits = rng.choice([1, 2, 2, 4, 4, 5])
        low = 0 if digits == 1 else 10 ** (digits - 1)
        return lambda: str(rng.randint(low, 10**digits - 1))
    if kind < 0.70:
        return lambda: str(rng.randint(0, 10 ** rng.randint(1, 4) - 1))
    if kind < 0.78:
        return lambda: rng.choice(COLORS)
    if kind < 0.85:
        return lambda: rng.choice(GENERAL)
    if kind < 0.89:
        return lambda: made_up_name(rng)
    if kind < 0.92:
        return lambda: f"{rng.randint(0, 99)}.{rng.randint(0, 9)}{rng.choice(['', '0', '5'])}"
    if kind < 0.95:
        mark = rng.choice(["${}", "{} kg", "{}%", "-{}", "{} cm", "#{}", "{} {{}}"])
        if "{{}}" in mark:
            return lambda: f"{rng.randint(1, 99)} {rng.choice(NAMES)}"
        return lambda: mark.format(rng.randint(1, 999))
    return lambda: f"{rng.choice(ADJECTIVES + COLORS)} {rng.choice(NAMES)}"


# -------------------------------------------------------------------------------------- ledgers


@dataclass
class Ledger:
    """Names and values, and how the lines are written."""

    entries: dict[str, str]
    new_name: Callable[[], str]  # makes another name of the same style
    line: str = "{k}: {v}"
    separator: str = "\n"

    def text(self) -> str:
        """The lines of the ledger."""
        return self.separator.join(
            self.line.format(i=i, k=k, v=v) for i, (k, v) in enumerate(self.entries.items(), 1)
        )

    def answer(self, keys: list[str]) -> str:
        """The right answer for some names, in the order asked."""
        return "\n".join(f"{key}: {self.entries.get(key, 'none')}" for key in keys)


def rough_tokens(text: str) -> int:
    """About how many tokens a text has; cheaper than encoding it, exact enough to fill a row."""
    count, run = 0, 0
    for char in text:
        if char.isalpha():
            run += 1
            count += run % 6 == 1
        else:
            run = 0
            count += 1
    return count


def make_ledger(rng: random.Random, tokens: int, taken: set[str], most: int = 10_000) -> Ledger:
    """A ledger of about `tokens` tokens, with names that are not in `taken` (which it extends)."""
    new_name, new_value = name_maker(rng), _value_maker(rng)
    form = rng.random()
    line, separator = "{k}: {v}", "\n"
    if form < 0.12:
        line, separator = rng.choice(
            [
                ("- {k}: {v}", "\n"),
                ("* {k}: {v}", "\n"),
                ("  {k}: {v}", "\n"),
                ("{k} = {v}", "\n"),
                ("{k}:{v}", "\n"),
                ("{k} - {v}", "\n"),
                ("{i}. {k}: {v}", "\n"),
                ("{k}: {v}", ", "),
                ("{k}: {v}", "; "),
                ("{k}: {v},", "\n"),
                ("{k}: {v}", "\n\n"),
            ]
        )
    entries: dict[str, str] = {}
    used, tries = 0, 0
    while (used < tokens or len(entries) < 2) and len(entries) < most and tries < 5000:
        tries += 1
        name = new_name()
        if name in taken or name.lower() in _RESERVED:
            continue
        taken.add(name)
        entries[name] = new_value()
        used += rough_tokens(line.format(i=1, k=name, v=entries[name])) + len(separator)
    return Ledger(entries, new_name, line, separator)


HEADINGS = [
    "{Noun}:",
    "{Noun}:",
    "{noun}:",
    "The {noun}:",
    "My {noun}:",
    "Our {noun}:",
    "{Word} {noun}:",
    "{Word}:",
    "Here is the {noun}:",
    "Here are the {noun}:",
    "Here is my {noun} for the {word}:",
    "This is the {noun}:",
    "These are the {noun} of {Person}:",
    "{Person}'s {noun}:",
    "{Noun} of the {word}:",
    "{Noun} ({word})",
    "# {Noun}",
    "## {Word} {noun}",
    "**{Noun}**",
    "=== {Noun} ===",
    "{NOUN}",
    "{Noun}",
    "Read this {noun}:",
    "Please read the {noun} below.",
    "Look at this {noun}:",
    "Use this {noun} to answer:",
    "Take this {noun}.",
    "I have a {noun}:",
    "I wrote down these {noun}:",
    "Below is a {noun}.",
    "The following {noun} is from the {word}:",
    "Remember these {noun}.",
    "Keep this {noun} in mind:",
]


def heading(rng: random.Random) -> str:
    """A line that may stand above a ledger."""
    noun = rng.choice(LEDGER_NOUNS) if rng.random() < 0.85 else rng.choice(GENERAL)
    word = rng.choice(GENERAL)
    return rng.choice(HEADINGS).format(
        noun=noun,
        Noun=noun.capitalize(),
        NOUN=noun.upper(),
        word=word,
        Word=word.capitalize(),
        Person=rng.choice(PEOPLE),
    )


FILLERS = [
    "Hello.",
    "Hi there,",
    "Good day!",
    "Dear friend,",
    "Thanks for your time.",
    "I hope you are well.",
    "{Person} sent me this {noun} {day}.",
    "I went to {City} {day} and wrote it down.",
    "We counted everything in the {word} {day}.",
    "The {word} was {adj} and the {word2} was {adj2}.",
    "{Person} thinks that the {word} is too {adj}.",
    "There is a {adj} {word} near the {word2}.",
    "My {job} keeps a {noun} of the {word}.",
    "Nothing has changed since {day}.",
    "It was a {adj} day in {City}.",
    "Please be careful with the {word}.",
    "{Person} and {Person2} will {verb} the {word} in {City}.",
    "The {job} said that we must {verb} more.",
    "We do not {verb} the {word} any more.",
    "I like {word} and {word2}.",
    "Some of this is {adj}, but most is {adj2}.",
    "Then {Person} went home.",
    "All the {noun} are up to date.",
    "This is only a part of the {noun}.",
    "Sorry for the long message.",
    "Best wishes, {Person}",
    "That was the {noun}.",
    "End of the {noun}.",
    "Note: the {word} is {adj}.",
    "In {City} they {verb} a {adj} {word} every {day2}.",
]
DAYS = [
    "yesterday",
    "today",
    "last",
    "week",
    "this",
    "morning",
    "on",
    "Monday",
    "on",
    "Friday",
    "in",
    "May",
    "last",
    "year",
]
DAYS = ["yesterday", "today", "last week", "this morning", "on Monday", "on Friday", "last year"]
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "month"]


def filler(rng: random.Random, sentences: int) -> str:
    """Text that has nothing to do with the ledger it stands beside."""
    out = []
    for _ in range(sentences):
        if rng.random() < 0.12:
            out.append(" ".join(rng.choice(GENERAL) for _ in range(rng.randint(3, 12))) + ".")
            continue
        out.append(
            rng.choice(FILLERS).format(
                Person=rng.choice(PEOPLE),
                Person2=rng.choice(PEOPLE),
                City=rng.choice(CITIES),
                noun=rng.choice(LEDGER_NOUNS),
                word=rng.choice(GENERAL),
                word2=rng.choice(GENERAL),
                adj=rng.choice(ADJECTIVES),
                adj2=rng.choice(ADJECTIVES),
                job=rng.choice(JOBS),
                verb=rng.choice(["build", "paint", "clean", "watch", "carry", "sell", "fix"]),
                day=rng.choice(DAYS),
                day2=rng.choice(WEEKDAYS),
            )
        )
    return rng.choice([" ", " ", "\n"]).join(out)


# ------------------------------------------------------------------------------------ questions

OBJECTS = [
    "{k}",
    "{k}",
    "{k}",
    "the {noun} of {k}",
    "the {noun} for {k}",
    "the {noun} next to {k}",
    "the {noun} that goes with {k}",
    "the {noun} listed for {k}",
    "the {noun} under {k}",
    "the {noun} after {k}",
    "the {noun} written beside {k}",
    "the {noun} that belongs to {k}",
    "the line for {k}",
    "the line that starts with {k}",
    "the entry for {k}",
    "the {noun} {k} {have}",
    "what {k} {be}",
    "what the {ledger} says about {k}",
    "what stands next to {k}",
    "how much {k} {be}",
    "how many {k} there are",
    "{k}'s {noun}",
    "which {noun} {k} {have}",
    "{k} in the {ledger}",
    "the {ledger} {noun} of {k}",
]
COMMANDS = [
    "tell me {o}",
    "give me {o}",
    "show me {o}",
    "send me {o}",
    "find {o}",
    "find me {o}",
    "find out {o}",
    "look up {o}",
    "look for {o}",
    "read {o}",
    "read out {o}",
    "report {o}",
    "state {o}",
    "fetch {o}",
    "get {o}",
    "get me {o}",
    "return {o}",
    "list {o}",
    "print {o}",
    "check {o}",
    "write down {o}",
    "provide {o}",
    "retrieve {o}",
    "output {o}",
    "share {o}",
    "pull up {o}",
    "search for {o}",
    "recall {o}",
    "display {o}",
]
FRAMES = [
    "{c}",
    "{c}",
    "{c}",
    "please {c}",
    "{c} please",
    "{c}, please",
    "{c} for me",
    "can you {c}",
    "could you {c}",
    "would you {c}",
    "will you {c}",
    "can you please {c}",
    "could you please {c}",
    "kindly {c}",
    "I want you to {c}",
    "I would like you to {c}",
    "help me {c}",
    "now {c}",
    "next {c}",
    "I need you to {c}",
    "are you able to {c}",
]
SENTENCES = [
    "what {be} {k}",
    "what {be} {k}",
    "what's {k}",
    "what {be} the {noun} of {k}",
    "what {be} the {noun} for {k}",
    "what's the {noun} of {k}",
    "what {be} {k}'s {noun}",
    "what {noun} {do} {k} have",
    "what {noun} {be} {k}",
    "which {noun} {do} {k} have",
    "which {noun} goes with {k}",
    "which {noun} belongs to {k}",
    "which {noun} stands beside {k}",
    "how much {be} {k}",
    "how many {k}",
    "how many {k} are there",
    "how many {k} do we have",
    "how much {k} is there",
    "how much {do} {k} cost",
    "what {do} {k} say",
    "what does the {ledger} say about {k}",
    "what does the {ledger} give for {k}",
    "what do you have for {k}",
    "what did I write for {k}",
    "what {be} written next to {k}",
    "what stands next to {k}",
    "what {be} listed under {k}",
    "what about {k}",
    "how about {k}",
    "do you know {o}",
    "do you have {o}",
    "do you see {o}",
    "I need {o}",
    "I want {o}",
    "I would like {o}",
    "I am looking for {o}",
    "I forgot {o}",
    "I want to know {o}",
    "let me see {o}",
    "let me know {o}",
    "let's see {o}",
    "remind me of {o}",
    "{k} {be} what",
    "{k} {have} which {noun}",
    "for {k}, what {be} the {noun}",
    "for {k} I need the {noun}",
    "about {k}: which {noun}",
]
TERSE = [
    "{k}",
    "{k}",
    "{k}?",
    "{k}:",
    "{k} =",
    "{k} = ?",
    "{k}...",
    "and {k}?",
    "{k} please",
    "{k}, please.",
    "{noun} of {k}",
    "{noun} for {k}?",
    "{k} {noun}?",
    "{Noun} {k}?",
    "{Noun}: {k}",
    "{k} -> ?",
    "key: {k}",
    "lookup {k}",
    "Q: {k}",
]
LEADS = [
    "ok, ",
    "hey, ",
    "hi, ",
    "hello, ",
    "so ",
    "now ",
    "and ",
    "then ",
    "question: ",
    "Q: ",
    "quick question: ",
    "thanks. ",
    "great. ",
    "using the {ledger} above, ",
    "according to the {ledger}, ",
    "in the {ledger}, ",
    "from the {ledger}: ",
    "based on the {ledger}, ",
    "look at the {ledger}. ",
    "with the {ledger} in mind, ",
    "one more thing: ",
    "task: ",
    "tell me: ",
    "by the way, ",
]
TAILS = [
    " in the {ledger}",
    " in this {ledger}",
    " from the {ledger}",
    " from the {ledger} above",
    " according to the {ledger}",
    " here",
    " now",
    " today",
    " again",
    ", thanks",
    ", thank you",
    " exactly",
    " for me",
    ". Answer briefly",
    ". Thank you",
    " then",
]


def join_names(rng: random.Random, names: list[str]) -> str:
    """Several names in one phrase."""
    mark = rng.choice(["{}"] * 12 + ["'{}'", '"{}"', "`{}`"])
    names = [mark.format(name) for name in names]
    if len(names) == 1:
        return names[0]
    style = rng.random()
    if style < 0.55:
        return ", ".join(names[:-1]) + " and " + names[-1]
    if style < 0.65:
        return ", ".join(names)
    if style < 0.75:
        return " and ".join(names)
    if style < 0.83:
        return ", ".join(names[:-1]) + ", and " + names[-1]
    if style < 0.88:
        return " & ".join(names)
    if style < 0.92:
        return ", then ".join(names)
    if style < 0.95:
        return "both " + " and ".join(names) if len(names) == 2 else " as well as ".join(names)
    return rng.choice(["\n", " ", " or "]).join(names)


def _upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sprinkle(rng: random.Random, phrase: str) -> str:
    """A key among arbitrary words, known and made up: whatever surrounds it, it is asked for."""
    pool = GENERAL if rng.random() < 0.4 else GLUE + VALUE_NOUNS + LEDGER_NOUNS + VERBS
    invented = rng.choice([0.0, 0.0, 0.2, 0.6])

    def word() -> str:
        return made_up_name(rng) if rng.random() < invented else rng.choice(pool)

    before = [word() for _ in range(rng.choice([0, 1, 1, 1, 2, 2, 3, 4, 6]))]
    after = [word() for _ in range(rng.choice([0, 0, 0, 1, 1, 2, 3, 5]))]
    if before and rng.random() < 0.15:
        before[-1] += rng.choice([",", ":", "."])
    if after and rng.random() < 0.15:
        after[0] = rng.choice([", ", ". ", "; "]) + after[0]
    text = " ".join([*before, phrase, *after]).replace(" ,", ",").replace(" .", ".")
    if before and rng.random() < 0.7:
        text = _upper_first(text.replace(" ;", ";"))
    return text + rng.choice(["", ".", ".", "?", "?", "!"])


def _in_a_sentence(rng: random.Random, phrase: str) -> str:
    """A key in place of a word of a sentence that has nothing to do with ledgers."""
    text = out_of_world.sentence(rng) if rng.random() < 0.7 else filler(rng, 1)
    words = text.split(" ")
    place = rng.randrange(len(words))
    mark = re.search(r"[.,;:?!]*$", words[place])
    words[place] = phrase + (mark[0] if mark else "")
    text = " ".join(words)
    return _upper_first(text) if place and rng.random() < 0.8 else text


def ask(rng: random.Random, keys: list[str], *, free: bool = True) -> str:
    """A question about some names.

    `free` allows any words around the names. It is off when a name is missing from the ledger:
    then only a recognizable question deserves `none`.
    """
    phrase = join_names(rng, keys)
    kind = rng.random()
    if free and kind < 0.3:
        return _sprinkle(rng, phrase)
    if free and kind < 0.6:
        return _in_a_sentence(rng, phrase)
    plural = len(keys) > 1
    noun = rng.choice(VALUE_NOUNS if not free or rng.random() < 0.8 else GENERAL)
    fill = {
        "k": phrase,
        "noun": noun + ("s" if plural and rng.random() < 0.5 else ""),
        "Noun": noun.capitalize(),
        "ledger": rng.choice(LEDGER_NOUNS[:12] if rng.random() < 0.8 else LEDGER_NOUNS),
        "be": "are" if plural and rng.random() < 0.8 else "is",
        "do": "do" if plural and rng.random() < 0.8 else "does",
        "have": "have" if plural and rng.random() < 0.8 else "has",
    }
    kind = rng.random()
    if kind < 0.15:
        return rng.choice(TERSE).format(**fill)
    fill["o"] = rng.choice(OBJECTS).format(**fill)
    if kind < 0.58:
        text, end = rng.choice(SENTENCES).format(**fill), rng.choice(["?", "?", "?", "", "."])
    else:
        text = rng.choice(FRAMES).format(c=rng.choice(COMMANDS).format(**fill))
        end = rng.choice([".", ".", ".", "", "!", "?"])
    if rng.random() < 0.2:
        text += rng.choice(TAILS).format(**fill)
    if rng.random() < 0.2:
        text = rng.choice(LEADS).format(**fill) + text
    if not text.startswith(phrase) and rng.random() < 0.75:
        text = _upper_first(text)
    return text + end


def lookup(
    rng: random.Random,
    ledger: Ledger,
    missing: float = 0.1,
    most: int = 4,
    known: Ledger | None = None,
) -> tuple[str, str]:
    """One question about a ledger and its answer.

    Args:
        rng: the source of all choices.
        ledger: where the names come from.
        missing: the share of questions with a name that is nowhere.
        most: the largest number of names.
        known: everything that was shown so far; the question names nothing else of it.
    """
    known = known or ledger
    count = min(rng.choice([1, 1, 1, 1, 2, 2, 3, 4]), most, len(ledger.entries))
    keys = rng.sample(list(ledger.entries), count)
    absent = rng.random() < missing
    if absent:
        stranger = ledger.new_name()
        for _ in range(100):
            if stranger not in known.entries:
                break
            stranger = ledger.new_name() if rng.random() < 0.5 else made_up_name(rng)
        keys[rng.randrange(count)] = stranger
    own = _words(" ".join(keys))
    others = {word for key in known.entries for word in _words(key)} - own
    for _ in range(10):
        question = ask(rng, keys, free=not absent)
        if not others & (_words(question) - own):
            return question, known.answer(keys)
    return f"What is {join_names(rng, keys)}?", known.answer(keys)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))
