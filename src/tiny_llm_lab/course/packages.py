"""Reads and writes the packages of the reference and of the student: files, functions, regions.

Python needs no marks: the syntax tree says where a function's body begins and ends. Other files
(C++, Metal) mark what a student has to write:

    // BEGIN SOLUTION matvec
    ...
    // END SOLUTION
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .manifest import CourseError

Function = ast.FunctionDef | ast.AsyncFunctionDef

_MARK = re.compile(r"(BEGIN|END) SOLUTION")
_BEGIN = re.compile(r"^(?P<indent>\s*)(?P<comment>\S+) BEGIN SOLUTION (?P<name>\S+)\s*$")
_END = re.compile(r"^\s*\S+ END SOLUTION\s*$")


@dataclass(frozen=True)
class Region:
    """A marked region of a file that is not Python: the lines between its two marks."""

    name: str
    start: int
    end: int
    indent: str
    comment: str


def read_package(folder: Path) -> dict[str, str]:
    """The text of each file of a package, by its path relative to the folder."""
    return {
        path.relative_to(folder).as_posix(): _read(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }


def write_package(package: dict[str, str], folder: Path) -> None:
    """Write the files of a package into a folder, which is made if need be."""
    for file, text in package.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def functions(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """The functions and methods of a module, with names such as `RoPE.__call__`."""
    for node in tree.body:
        if isinstance(node, Function):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, Function):
                    yield f"{node.name}.{item.name}", item


def owner(name: str, known: set[str]) -> str:
    """The symbol that a function or method falls under: its own, else that of its class."""
    return name if name in known else name.partition(".")[0]


def is_docstring(node: ast.stmt) -> bool:
    """Whether a statement is a string by itself."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def body_range(lines: list[str], node: Function) -> tuple[int, int]:
    """The index of a body's first line behind the docstring, and the one behind its last line.

    Comments before its first and behind its last statement belong to it.
    """
    first = node.body[0]
    if is_docstring(first):
        start = first.end_lineno or 0
    else:
        decorators = getattr(first, "decorator_list", [])
        start = min(item.lineno for item in (first, *decorators)) - 1
        while not lines[start - 1].strip() or lines[start - 1].lstrip().startswith("#"):
            start -= 1
    end = node.end_lineno or 0
    for index in range(end, len(lines)):
        text = lines[index].strip()
        indent = len(lines[index]) - len(lines[index].lstrip())
        if text.startswith("#") and indent > node.col_offset:
            end = index + 1
        elif text:
            break
    return start, end


def regions(file: str, source: str) -> list[Region]:
    """The marked regions of a file, in order; CourseError if the marks do not pair up."""
    found: list[Region] = []
    begin: tuple[int, re.Match[str]] | None = None
    for index, line in enumerate(source.splitlines()):
        if _MARK.search(line) and not _BEGIN.match(line) and not _END.match(line):
            raise CourseError(
                f"{file}, line {index + 1}: write `BEGIN SOLUTION name` or `END SOLUTION` in a "
                "comment of its own, with a space after the comment's sign."
            )
        if match := _BEGIN.match(line):
            if begin is not None:
                raise CourseError(f"{file}, line {index + 1}: the region before has no end.")
            begin = index + 1, match
        elif _END.match(line):
            if begin is None:
                raise CourseError(f"{file}, line {index + 1}: END SOLUTION without a beginning.")
            start, match = begin
            found.append(Region(match["name"], start, index, match["indent"], match["comment"]))
            begin = None
    if begin is not None:
        raise CourseError(f"{file}, line {begin[0]}: BEGIN SOLUTION without an end.")
    return found


def _read(path: Path) -> str:
    # A student's folder may hold anything; what is not text is not ours to judge.
    return path.read_text(encoding="utf-8", errors="replace")
