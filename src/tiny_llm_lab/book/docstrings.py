"""Docstrings as Markdown, for the headers of tasks."""

import inspect
import re

_SECTION = re.compile(r"^([A-Z][a-z]+):$")
_ENTRY = re.compile(r"^ {4}([*\w]+(?:, [*\w]+)*): (.*)$")


def render_docstring(docstring: str) -> str:
    """Translate a docstring in Google style.

    The arguments become a list. Every other section becomes a bold word, followed by its text or
    its list. A URL becomes a link. Everything else is Markdown already.
    """
    parts: list[str] = []
    lines = inspect.cleandoc(docstring).split("\n")
    index = 0
    while index < len(lines):
        section = _SECTION.match(lines[index])
        if section is None:
            parts.append(re.sub(r"^Source: ", "**Source** ", _prose(lines[index])))
            index += 1
            continue
        end = index + 1
        while end < len(lines) and (not lines[end] or lines[end].startswith(" ")):
            end += 1
        entries = _entries([line for line in lines[index + 1 : end] if line])
        if section[1] == "Args":
            parts += [*(f"- {entry}" for entry in entries), ""]
        elif len(entries) == 1:
            parts += [f"**{section[1]}** {entries[0]}", ""]
        else:
            parts += [f"**{section[1]}**", "", *(f"- {entry}" for entry in entries), ""]
        index = end
    return "\n".join(parts).strip()


def _entries(lines: list[str]) -> list[str]:
    """The entries of a section, each in one line; a section of plain text is one entry."""
    entries: list[str] = []
    for line in lines:
        if entry := _ENTRY.match(line):
            entries.append(f"`{entry[1]}`: {entry[2]}")
        elif entries:
            entries[-1] += " " + line.strip()
        else:
            entries.append(line.strip())
    return [_prose(entry) for entry in entries]


def _prose(line: str) -> str:
    linked = re.sub(r"https://[^\s<>]*[^\s<>.,;:)]", r"<\g<0>>", line)
    # Outside of code and links, an angle bracket would start an HTML element.
    return "".join(
        part if part.startswith(("`", "<https://")) else part.replace("<", "&lt;")
        for part in re.split(r"(`[^`]*`|<https://[^>]*>)", linked)
    )
