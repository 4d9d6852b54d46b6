"""What the host's compiler says, at the lines of the kernel's author and in the words of Metal."""

import re
from pathlib import Path

from .sources import lines_by_file

_MESSAGE = re.compile(r"^(?P<file>[^\n]*?):(?P<line>\d+):(?:\d+:)? (?P<kind>[\w ]+): (?P<text>.*)$")
_CONTEXT = re.compile(r"^(?:In file included)? +from (?P<file>.*?):(?P<line>\d+)|"
                      r"^(?P<file2>[^\n]*?):(?P<line2>\d+):(?:\d+:)?   required from")  # fmt: skip


def _own(text: str) -> str:
    """A compiler's message in the words of Metal: without the namespaces that we add."""
    # What g++ says of an unknown function inside a template.
    text = re.sub(
        r"there are no arguments to (\S+) that depend on .*", r"\1 was not declared", text
    )
    shared = re.search(r"no matching function for call to 'threadgroup_variable<(\w+)__type>", text)
    if shared is not None:
        return (
            f"{text[: shared.start()]}The size of the threadgroup variable '{shared[1]}' must be a "
            "constant: use a template argument or a constexpr."
        )
    if re.search(r"no matching function for call to 'atomic_\w+\((?!metal::atomic|msl::)", text):
        text += ". Is the memory atomic? Outputs are with atomic_outputs=True"
    return text.replace("msl::metal::", "").replace("msl::", "").replace("metal::", "")


def first_error(shown: str, text: str) -> str:
    """The first error of a compiler's output, at the line of the author's text that it comes from.

    Args:
        shown: what the compiler wrote.
        text: the Metal source.
    """
    files = lines_by_file(text)
    place: tuple[str, int] | None = None  # the last line of the author's on the way to the error
    for line in shown.split("\n"):
        context = _CONTEXT.match(line)
        if context is not None:
            file, number = (
                context["file"] or context["file2"],
                context["line"] or context["line2"],
            )
            if Path(file).name in files:
                place = (Path(file).name, int(number))
            continue
        message = _MESSAGE.match(line)
        if message is None:
            continue
        file = Path(message["file"]).name
        if "error" in message["kind"]:
            if file in files:
                place = (file, int(message["line"]))
            if place is None:
                return _own(f"{file}:{message['line']}: {message['text']}")
            file, number = place
            lines = files[file]
            quoted = f"\n    {lines[number - 1].strip()}" if number <= len(lines) else ""
            return _own(f"{file}:{number}: {message['text']}") + quoted
    return _own("\n".join(shown.split("\n")[:10]))


def uninitialized_warnings(shown: str, text: str) -> list[tuple[str, int, str]]:
    """The compiler's warnings about uninitialized variables at lines of the author's text."""
    files = lines_by_file(text)
    found = []
    elsewhere = ""  # a warning at a line of the language header, into which a value went
    for line in shown.split("\n"):
        message = _MESSAGE.match(line)
        if message is None:
            continue
        file = Path(message["file"]).name
        if message["kind"] == "warning":
            elsewhere = ""
            if "uninitialized" in message["text"]:
                said = _own(re.sub(r" \[-W[\w-]+\]$", "", message["text"]))
                if file in files:
                    found.append((file, int(message["line"]), said))
                else:
                    elsewhere = said
        elif elsewhere and message["text"].endswith("was declared here") and file in files:
            found.append((file, int(message["line"]), elsewhere))
            elsewhere = ""
    return found
