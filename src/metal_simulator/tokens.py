"""Metal source as tokens, as far as rewriting it needs them.

This is no parser: it knows comments, preprocessor lines, strings, names, numbers and symbols, so
that no rule of the rewriter looks into a comment or a string. Joining the texts gives the source.
"""

import re
from dataclasses import dataclass

ADDRESS_SPACES = frozenset({"threadgroup", "device", "constant", "thread"})
CLOSING = {"(": ")", "{": "}", "[": "]", "<": ">", "[[": "]]"}

_TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?\*/)
    |(?P<directive>^[ \t]*\#(?:[^\n\\]|\\.|\\\n)*)
    |(?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
    |(?P<name>[A-Za-z_]\w*)
    |(?P<number>\.?\d(?:[eEpP][+-]|[\w.])*)
    |(?P<symbol>::|->|\[\[|\]\]|[-+*/%&|^=<>!]=|[^\s\w])
    |(?P<space>\s+)""",
    re.S | re.M | re.X,
)


@dataclass
class Token:
    """A piece of the source. The rewriter changes `text` in place."""

    kind: str  # comment, directive, string, name, number, symbol, or space
    text: str
    line: int  # 1-based

    def blank(self) -> None:
        """Remove the text, but keep its line ends, so that all lines keep their numbers."""
        self.text = "\n" * self.text.count("\n")
        self.kind = "space"

    def is_name(self, text: str) -> bool:
        """Whether this is the given name or keyword."""
        return self.kind == "name" and self.text == text

    def is_symbol(self, *texts: str) -> bool:
        """Whether this is one of the given symbols."""
        return self.kind == "symbol" and self.text in texts


def tokenize(source: str) -> list[Token]:
    """Split a source; `]]` is one token only where it closes a `[[`."""
    tokens: list[Token] = []
    place, line, attributes = 0, 1, 0
    while place < len(source):
        found = _TOKEN.match(source, place)
        kind, text = (
            (found.lastgroup, found.group()) if found else ("symbol", source[place])
        )  # a stray character, such as an open quote
        if text == "[[":
            attributes += 1
        elif text == "]]":
            if attributes:
                attributes -= 1
            else:
                text = "]"
        tokens.append(Token(kind or "symbol", text, line))
        line += text.count("\n")
        place += len(text)
    return tokens


def text_of(tokens: list[Token]) -> str:
    """The source that the tokens make."""
    return "".join(token.text for token in tokens)


def is_code(token: Token) -> bool:
    """Whether the token is neither space, nor a comment, nor a preprocessor line."""
    return token.kind not in ("space", "comment", "directive")


def neighbor(tokens: list[Token], place: int, step: int) -> int:
    """The next (step 1) or previous (step -1) place that holds code; may be outside of the list."""
    place += step
    while 0 <= place < len(tokens) and not is_code(tokens[place]):
        place += step
    return place


def matching(tokens: list[Token], place: int) -> int:
    """The place of the bracket that closes the one at `place`; the last place if none does."""
    opening = tokens[place].text
    closing, depth = CLOSING[opening], 0
    for i in range(place, len(tokens)):
        if tokens[i].is_symbol(opening):
            depth += 1
        elif tokens[i].is_symbol(closing):
            depth -= 1
            if depth == 0:
                return i
    return len(tokens) - 1
