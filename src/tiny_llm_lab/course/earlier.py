"""Reads the earlier bodies of the functions that a later day extends.

What a task of week 2 day 7 extends in `batch.py` stands in `before/week_2_day_7/batch.py` as it is
before that day: the functions, and the methods in a class of their class's name. The signature is
the reference's. A docstring there promises what the function does until then; without one, that of
the reference holds from the beginning. Imports are for the eye alone.
"""

import ast
import copy
from dataclasses import dataclass

from .manifest import Course, CourseError, Symbol, Task
from .packages import Function, body_range, functions, is_docstring, read_package


@dataclass(frozen=True)
class EarlierBody:
    """The body of a function before a task extends it.

    Attributes:
        symbol: the function or method.
        task: the first task of the day that extends it.
        docstring: the lines of its docstring; none if the reference's holds.
        statements: the lines behind that.
    """

    symbol: Symbol
    task: Task
    docstring: list[str]
    statements: list[str]


def earlier_bodies(course: Course) -> list[EarlierBody]:
    """The bodies of all functions that a task extends, in the order of these tasks.

    Raises:
        CourseError: a body is missing, or is one that no task extends; a signature is not the
            reference's.
    """
    reference = read_package(course.reference)
    files = read_package(course.before)
    tasks: dict[str, dict[Symbol, Task]] = {}
    for task in course.tasks:
        for symbol in task.extends:
            path = f"week_{task.week}_day_{task.day}/{symbol.file}"
            tasks.setdefault(path, {}).setdefault(symbol, task)
    for path in files:
        if path not in tasks:
            raise CourseError(f"before/{path} belongs to no day that extends anything in it.")
    bodies = []
    for path, task_of in tasks.items():
        source = files.get(path, "")
        finished = dict(functions(ast.parse(reference.get(path.partition("/")[2], ""))))
        found = _functions(path, source)
        lines = source.splitlines(keepends=True)
        for symbol, task in task_of.items():
            node = found.pop(symbol.name, None)
            if node is None:
                raise CourseError(
                    f"Task {task.id} extends {symbol.text}, "
                    f"but before/{path} has no such function or method."
                )
            if symbol.name not in finished:
                raise CourseError(
                    f"Task {task.id} extends {symbol.text}, "
                    "but the reference has no such function or method."
                )
            signature, expected = _signature(node), _signature(finished[symbol.name])
            if signature != expected:
                raise CourseError(
                    f"before/{path}: the signature of {symbol.name} must be that of the "
                    f"reference, `{expected}`, not `{signature}`."
                )
            start, end = body_range(lines, node)
            first = node.body[0].lineno - 1 if is_docstring(node.body[0]) else start
            bodies.append(EarlierBody(symbol, task, lines[first:start], lines[start:end]))
        for name in found:
            raise CourseError(f"before/{path} defines {name}, which no task of that day extends.")
    return bodies


def _functions(path: str, source: str) -> dict[str, Function]:
    """The functions and methods of a file, which may hold nothing else but imports."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise CourseError(f"before/{path}, line {error.lineno}, is not valid Python.") from error
    for node in tree.body:
        for item in node.body if isinstance(node, ast.ClassDef) else [node]:
            if not (isinstance(item, Function | ast.Import | ast.ImportFrom) or is_docstring(item)):
                raise CourseError(
                    f"before/{path}, line {item.lineno}: "
                    "there may only be imports, functions, and classes with methods."
                )
    return dict(functions(tree))


def _signature(node: Function) -> str:
    """A definition without its body, in one line."""
    head = copy.copy(node)
    head.body = []
    return " ".join(ast.unparse(head).split())
