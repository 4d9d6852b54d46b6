"""What a student has written in the package `tiny_llm`, which nothing here ever overwrites."""

import ast
import re

from .manifest import Course, CourseError, Symbol, Task
from .packages import (
    Function,
    functions,
    is_docstring,
    owner,
    read_package,
    regions,
    write_package,
)
from .skeleton import build_package

_TODO = re.compile(r"^\s*\S+ TODO Week \d")


def written_symbols(course: Course) -> list[str]:
    """What a student has written in the package, such as `attention.causal_mask`.

    That is every function that is neither a stub nor given, every region between marks that holds
    more than its TODO line, and every file that Python cannot parse.
    """
    marked = [symbol for symbol in course.tasks_by_symbol if symbol.is_region]
    work = []
    for file, text in read_package(course.student).items():
        work += [symbol.text for symbol in marked if symbol.file == file and _edited(symbol, text)]
        if not file.endswith(".py"):
            continue
        tree = _parse(text)
        if tree is None:
            work.append(file)
            continue
        given = {symbol.name for symbol in course.given if symbol.file == file}
        for name, node in functions(tree):
            if not _is_stub(node) and owner(name, given) not in given:
                work.append(f"{file.removesuffix('.py')}.{name}")
    return work


def is_begun(course: Course, task: Task) -> bool:
    """Whether the student has begun a task: whether one of its symbols is no longer a stub.

    A task that only extends what an earlier day wrote can be begun as soon as that is there.
    """
    package = read_package(course.student)
    symbols = task.symbols or task.extends
    return any(_is_begun(course, symbol, package.get(symbol.file)) for symbol in symbols)


def write_skeleton(course: Course) -> None:
    """Regenerate the student's package in the project.

    Raises:
        CourseError: the package holds a student's work, which is never overwritten.
    """
    package = build_package(course)
    if work := written_symbols(course):
        raise CourseError(
            f"{course.student} holds work in {', '.join(work)}, which is never overwritten; "
            "move the folder away to have a new one generated."
        )
    write_package(package, course.student)


def _is_begun(course: Course, symbol: Symbol, text: str | None) -> bool:
    """The same for one symbol; `text` is its file, None if the student has removed it."""
    if text is None:
        return True
    if symbol.is_region:
        return _edited(symbol, text)
    tree = _parse(text)
    if tree is None:
        return True
    known = {other.name for other in course.tasks_by_symbol if other.file == symbol.file}
    known.add(symbol.name)  # a method that a task extends is named by no task if its class is
    own = [node for name, node in functions(tree) if owner(name, known) == symbol.name]
    return not own or not all(map(_is_stub, own))


def _edited(symbol: Symbol, text: str) -> bool:
    """Whether a region holds anything but the skeleton's TODO line, or its marks are gone."""
    try:
        found = regions(symbol.file, text)
    except CourseError:
        return True
    lines = text.splitlines()
    return not any(
        region.name == symbol.name
        and region.end - region.start == 1
        and _TODO.match(lines[region.start])
        for region in found
    )


def _parse(text: str) -> ast.Module | None:
    """The syntax tree of a student's module; None if Python cannot parse it."""
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):  # ValueError: a null byte, in Python 3.11
        return None


def _is_stub(node: Function) -> bool:
    """Whether a body is nothing but a docstring and `raise NotImplementedError(...)`."""
    body = [statement for statement in node.body if not is_docstring(statement)]
    if len(body) != 1 or not isinstance(body[0], ast.Raise):
        return False
    error = body[0].exc
    name = error.func if isinstance(error, ast.Call) else error
    return isinstance(name, ast.Name) and name.id == "NotImplementedError"
