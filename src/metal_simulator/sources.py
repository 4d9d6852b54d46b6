"""Where a line of a kernel's text comes from, and `.metal` files as text for `metal_kernel`.

A text says by `#line 12 "softmax.metal"` which file and line follows, as the C preprocessor has it:
Apple's compiler, the host's compiler and the reports of the simulator all go by that.
"""

import re
from pathlib import Path

_LINE = re.compile(r'^[ \t]*#[ \t]*line[ \t]+(\d+)[ \t]+"([^"\n]*)"[ \t]*$')
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+"([^"\n]+)"[ \t]*(//.*)?$')


def read_source(path: Path | str) -> tuple[str, str]:
    """Read a `.metal` file that holds a kernel's body.

    The `#include "file"` lines before the first line of code name headers beside it; they may
    include others. Each goes into the header text once. Includes of MLX's headers (`mlx/...`) stay.

    Returns:
        `header` and `source` for `metal_kernel`, whose messages name the files and their lines.

    Raises:
        FileNotFoundError: the file, or a header that it includes, is missing.
        ValueError: an include stands after the first line of code.
    """
    path = Path(path)
    header: list[str] = []
    lines = _read(path).split("\n")
    seen: set[Path] = set()
    in_code = False
    for i, line in enumerate(lines):
        include = _INCLUDE.match(line)
        if include is None:
            in_code = in_code or bool(line.strip() and not line.lstrip().startswith(("//", "#")))
            continue
        if in_code:
            raise ValueError(
                f"{path.name}:{i + 1}: an #include stands inside the kernel's body: "
                "move it above the first line of code."
            )
        header += _included(path, include.group(1), seen)
        lines[i] = ""
    return "\n".join(header), f'#line 1 "{path.name}"\n' + "\n".join(lines)


def _read(path: Path, by: str = "") -> str:
    if not path.is_file():
        raise FileNotFoundError(f"There is no Metal source {path}{by}.")
    return path.read_text()


def _included(includer: Path, name: str, seen: set[Path]) -> list[str]:
    """The lines of a header and of what it includes, without those that were there before."""
    if name.startswith("mlx/"):
        return [f'#include "{name}"']
    path = (includer.parent / name).resolve()
    if path in seen:
        return []
    seen.add(path)
    lines = [f'#line 1 "{path.name}"']
    for i, line in enumerate(_read(path, f", which {includer.name} includes").split("\n")):
        include = _INCLUDE.match(line)
        if include is None:
            lines.append("" if line.strip() == "#pragma once" else line)
        else:
            lines += _included(path, include.group(1), seen)
            lines.append(f'#line {i + 2} "{path.name}"')
    return lines


def split_sections(text: str) -> list[tuple[str, str]]:
    """A text as (file, lines of it) in order; every section's first line is that file's line 1."""
    sections: list[tuple[str, list[str]]] = [("source", [])]
    for line in text.split("\n"):
        found = _LINE.match(line)
        if found is None:
            sections[-1][1].append(line)
            continue
        number, name = int(found.group(1)), found.group(2)
        if name == sections[-1][0] and number >= len(sections[-1][1]):
            sections[-1][1].extend([""] * (number - 1 - len(sections[-1][1])))
        else:
            sections.append((name, [""] * (number - 1)))
    return [(name, "\n".join(lines)) for name, lines in sections if any(s.strip() for s in lines)]


def locate(text: str, line: int) -> tuple[str, int]:
    """The file and line that a line of the text stands for, both 1-based."""
    name, offset = "source", 0
    for number, content in enumerate(text.split("\n")[: line - 1], start=1):
        found = _LINE.match(content)
        if found is not None:
            name, offset = found.group(2), int(found.group(1)) - 1 - number
    return name, line + offset


def lines_by_file(text: str) -> dict[str, list[str]]:
    """Every file's lines, as far as the text has them."""
    files: dict[str, list[str]] = {}
    for name, content in split_sections(text):
        lines = files.setdefault(name, [])
        for i, line in enumerate(content.split("\n")):
            if i >= len(lines):
                lines.append(line)
            elif line:
                lines[i] = line
    return files
