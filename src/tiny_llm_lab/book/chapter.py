"""Splits a chapter's Markdown into fenced code blocks and the text between them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_FENCE = re.compile(r"^(?P<indent>[ \t>]*)(?P<marks>`{3,}|~{3,})[ \t]*(?P<info>[^`]*)$")


@dataclass(frozen=True)
class Problem:
    """Something that must be mended before the book can be published.

    Attributes:
        path: the file, as a path that the author can open.
        line: the line in it, counted from 1; 0 if the problem concerns the file as a whole.
        message: one sentence.
    """

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        """The problem as compilers print it: `path:line: message`."""
        place = f"{self.path}:{self.line}" if self.line else self.path
        return f"{place}: {self.message}"


@dataclass
class ChapterError(Exception):
    """One thing in a chapter that cannot be built; `line` is counted from 1."""

    line: int
    message: str


@dataclass(frozen=True)
class Text:
    """Lines outside of fenced code.

    Attributes:
        line: the number of the first line, counted from 1.
        text: the lines, joined by newlines.
    """

    line: int
    text: str


@dataclass(frozen=True)
class Fence:
    """A fenced code block.

    Attributes:
        line: the number of the line with the opening fence, counted from 1.
        indent: what stands before the opening fence (spaces in a list, `>` in a quotation).
        marks: the opening fence itself.
        info: the info string, such as `python example`.
        lines: the code, line by line, with the indent removed.
    """

    line: int
    indent: str
    marks: str
    info: str
    lines: tuple[str, ...]

    def render(self, info: str) -> str:
        """The block as Markdown, with another info string."""
        rows = [self.marks + info, *self.lines, self.marks]
        return "\n".join((self.indent + row).rstrip() for row in rows)


def split_chapter(markdown: str) -> Iterator[Text | Fence]:
    """Yield the blocks of a chapter in order.

    Raises:
        ChapterError: a fence is never closed.
    """
    lines = markdown.split("\n")
    text_start = 0
    index = 0
    while index < len(lines):
        opening = _FENCE.match(lines[index])
        if opening is None:
            index += 1
            continue
        if index > text_start:
            yield Text(text_start + 1, "\n".join(lines[text_start:index]))
        indent, marks = opening["indent"], opening["marks"]
        closing = re.compile(rf"^[ \t>]*{re.escape(marks[0])}{{{len(marks)},}}[ \t]*$")
        end = next((i for i in range(index + 1, len(lines)) if closing.match(lines[i])), None)
        if end is None:
            raise ChapterError(index + 1, "this code block is never closed")
        code = tuple(
            row[len(indent) :] if row.startswith(indent) else row.lstrip(" \t>")
            for row in lines[index + 1 : end]
        )
        yield Fence(index + 1, indent, marks, opening["info"].strip(), code)
        index = text_start = end + 1
    if text_start < len(lines):
        yield Text(text_start + 1, "\n".join(lines[text_start:]))
