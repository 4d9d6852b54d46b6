"""Derives a student's package from the reference: the bodies of the tasks' symbols become stubs.

The text around a body, or around a marked region, stays as it is. What a later day extends has its
earlier body, and its earlier docstring, until that day is done.
"""

import ast
import re
from dataclasses import dataclass

from .earlier import EarlierBody, earlier_bodies
from .manifest import Course, CourseError, Day, Symbol, Task
from .packages import (
    Function,
    body_range,
    functions,
    is_docstring,
    owner,
    read_package,
    regions,
)

LINE_LENGTH = 100

STUDENT_DOCSTRING = '''"""Your LLM serving engine, written day by day.

A function that you have not written yet raises NotImplementedError and names its task.
"""'''

_WORD = re.compile(r"[\w.]+\W?")


@dataclass(frozen=True)
class Definition:
    """A function or method of a module, and the tasks that ask for it (none if it is given)."""

    name: str
    node: Function
    tasks: tuple[Task, ...]


def build_package(course: Course, through: Day | None = None) -> dict[str, str]:
    """The files of the package `tiny_llm` of a student who has done all days up to `through`.

    Args:
        course: the course.
        through: the last day that is done; None for the untouched skeleton.

    Returns:
        The text of each file, by its path relative to the package.

    Raises:
        CourseError: a symbol does not exist in the reference, or a definition of the reference
            is neither a task's symbol nor given; something is wrong with an earlier body.
    """
    sources = read_package(course.reference)
    for symbol, tasks in course.tasks_by_symbol.items():
        if symbol.file not in sources:
            raise CourseError(
                f"Task {tasks[0].id} names the symbol {symbol.text}, "
                f"but the reference has no file {symbol.file}."
            )
    earlier = earlier_bodies(course)
    package = {}
    for file, source in sources.items():
        if file.endswith(".py"):
            text = _replace_bodies(course, file, source, earlier, through)
            package[file] = _student_docstring(text) if file == "__init__.py" else text
        else:
            package[file] = _stub_regions(course, file, source, through)
    return package


def build_module(course: Course, file: str, through: Day) -> str:
    """One Python file of that package, whatever may be wrong with the others."""
    path = course.reference / file
    if not path.is_file():
        raise CourseError(f"the reference has no {file}")
    source = path.read_text(encoding="utf-8")
    return _replace_bodies(course, file, source, earlier_bodies(course), through)


def differences(course: Course) -> list[str]:
    """Where the student's package is not the generated skeleton, one sentence per file."""
    expected = build_package(course)
    actual = read_package(course.student)
    folder = course.student.relative_to(course.root).as_posix()
    problems = []
    for file in sorted({*expected, *actual}):
        if file not in actual:
            problems.append(f"{folder}/{file} is missing.")
        elif file not in expected:
            problems.append(f"{folder}/{file} is not generated from the reference.")
        elif actual[file] != expected[file]:
            problems.append(f"{folder}/{file} is not what is generated from the reference.")
    return problems


def stub_message(tasks: tuple[Task, ...]) -> str:
    """What a stub says: `Week 1 Day 3, Task 1: Causal mask`, or `Week 1 Day 2, Tasks 1 to 3`."""
    first, last = tasks[0], tasks[-1]
    where = f"Week {first.week} Day {first.day}"
    if len(tasks) == 1:
        return f"{where}, Task {first.number}: {first.title}"
    numbers = [task.number for task in tasks]
    if len(tasks) > 2 and numbers == list(range(first.number, last.number + 1)):
        return f"{where}, Tasks {first.number} to {last.number}"
    listed = ", ".join(str(number) for number in numbers[:-1])
    return f"{where}, Tasks {listed} and {last.number}"


def stub_of_another_task(course: Course, task: Task, message: str) -> str:
    """The message of the stub that stopped a test of `task`, if it is not the task's own stub.

    Args:
        course: the course.
        task: the task that the test belongs to.
        message: what the stub raised with.

    Returns:
        `message`; empty if the stub is the task's own or not a generated one. The stub of what the
        task extends is another's.
    """
    own = {stub_message(course.tasks_by_symbol[symbol]) for symbol in task.symbols}
    return message if message not in own and message.startswith("Week ") else ""


def leaked_lines(course: Course, package: dict[str, str]) -> list[str]:
    """The lines of a solution's body, or of an earlier one, that a package contains.

    They are given as `file: line`.

    Lines that say nothing by themselves (short ones, single words) do not count, nor do lines that
    the reference also has outside of the bodies that a student writes.
    """
    secret = {_normalized(line) for body in earlier_bodies(course) for line in body.statements}
    public: set[str] = set()
    for file, source in read_package(course.reference).items():
        lines = source.splitlines()
        inside: set[int] = set()
        if file.endswith(".py"):
            for definition in definitions(course, file, ast.parse(source)):
                if definition.tasks:
                    node = definition.node
                    inside.update(range(node.body[0].end_lineno or 0, node.end_lineno or 0))
        else:
            for region in regions(file, source):
                inside.update(range(region.start, region.end))
        secret.update(_normalized(lines[index]) for index in inside)
        public.update(_normalized(line) for i, line in enumerate(lines) if i not in inside)
    secret = {line for line in secret - public if len(line) >= 12 and not _WORD.fullmatch(line)}
    return [
        f"{file}: {line.strip()}"
        for file, text in package.items()
        for line in text.splitlines()
        if _normalized(line) in secret
    ]


def definitions(course: Course, file: str, tree: ast.Module) -> list[Definition]:
    """The functions and methods of a reference module, with the tasks that ask for each.

    Raises:
        CourseError: a top-level definition is neither a task's symbol nor given; a symbol does
            not exist; a function that a student has to write has no docstring.
    """
    tasks_of = {
        symbol.name: tasks
        for symbol, tasks in course.tasks_by_symbol.items()
        if symbol.file == file
    }
    given = {symbol.name for symbol in course.given if symbol.file == file}
    _check_top_level(file, tree, {*tasks_of, *given})
    _check_classes(file, [name for name in tasks_of if name not in given], tree)
    found = []
    for name, node in functions(tree):
        symbol = owner(name, {*tasks_of, *given})
        found.append(Definition(name, node, tasks_of.get(symbol, ())))
    for name, tasks in tasks_of.items():
        if not any(owner(definition.name, set(tasks_of)) == name for definition in found):
            raise CourseError(
                f"Task {tasks[0].id} names {name}, but {file} of the reference has no such "
                "function, or no such class with a method to write."
            )
    for definition in found:
        if definition.tasks and ast.get_docstring(definition.node) is None:
            raise CourseError(
                f"{definition.name} in {file} of the reference has no docstring, "
                "so that a student could not know what to write."
            )
    return found


def _check_top_level(file: str, tree: ast.Module, known: set[str]) -> None:
    """Check that everything a reference module defines is a task's symbol or given."""
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom) or is_docstring(node):
            continue
        names: list[str] = []
        if isinstance(node, Function | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [ast.unparse(target) for target in targets]
        for name in names or [f"line {node.lineno}"]:
            if name not in known:
                raise CourseError(
                    f"{file} of the reference: {name} is neither the symbol of a task nor listed "
                    "under `given` in course.toml, so that the skeleton would give it away."
                )


def _check_classes(file: str, names: list[str], tree: ast.Module) -> None:
    """Check that the classes of these names hold nothing but methods and attributes."""
    for node in tree.body:
        if not isinstance(node, ast.ClassDef) or node.name not in names:
            continue
        for item in node.body:
            if not (isinstance(item, Function | ast.Assign | ast.AnnAssign) or is_docstring(item)):
                raise CourseError(
                    f"{file} of the reference, line {item.lineno}: the class {node.name} may only "
                    "hold methods and attributes, else the skeleton would give the rest away."
                )


def _replace_bodies(
    course: Course, file: str, source: str, earlier: list[EarlierBody], through: Day | None
) -> str:
    lines = source.splitlines(keepends=True)
    for definition in reversed(definitions(course, file, ast.parse(source))):
        if not definition.tasks:
            continue
        # Of several days that extend it, the next one says what it is now.
        extended = [
            body
            for body in earlier
            if (body.symbol.file, body.symbol.name) == (file, definition.name)
            and not _is_done(body.task, through)
        ]
        node = definition.node
        if not _is_done(definition.tasks[0], through):
            body = [_raise(stub_message(definition.tasks), node.body[0].col_offset)]
        elif extended:
            body = extended[0].statements
        else:
            continue
        start, end = body_range(lines, node)
        if extended and extended[0].docstring:
            start = node.body[0].lineno - 1
            body = [*extended[0].docstring, *body]
        lines[start:end] = body
    return "".join(lines)


def _raise(message: str, indent: int) -> str:
    """The statement that is a stub's body, as ruff formats it."""
    margin = " " * indent
    line = f'{margin}raise NotImplementedError("{message}")\n'
    if len(line) <= LINE_LENGTH + 1:
        return line
    return f'{margin}raise NotImplementedError(\n{margin}    "{message}"\n{margin})\n'


def _student_docstring(source: str) -> str:
    """The package's `__init__.py` with a docstring that speaks to the student."""
    tree = ast.parse(source)
    lines = source.splitlines(keepends=True)
    if tree.body and is_docstring(tree.body[0]):
        del lines[: tree.body[0].end_lineno]
    return STUDENT_DOCSTRING + "\n" + "".join(lines)


def _stub_regions(course: Course, file: str, source: str, through: Day | None) -> str:
    tasks_by_symbol = course.tasks_by_symbol
    found = regions(file, source)
    for symbol, tasks in tasks_by_symbol.items():
        if symbol.file == file and symbol.name not in [region.name for region in found]:
            raise CourseError(
                f"Task {tasks[0].id} names {symbol.text}, but {file} of the reference has no "
                f"line `BEGIN SOLUTION {symbol.name}`."
            )
    lines = source.splitlines(keepends=True)
    for region in reversed(found):
        symbol = Symbol(f"{file}#{region.name}")
        if symbol not in tasks_by_symbol:
            raise CourseError(f"{symbol.text} is marked as a solution, but no task names it.")
        tasks = tasks_by_symbol[symbol]
        if not _is_done(tasks[0], through):
            todo = f"{region.indent}{region.comment} TODO {stub_message(tasks)}\n"
            lines[region.start : region.end] = [todo]
    return "".join(lines)


def _is_done(task: Task, through: Day | None) -> bool:
    return through is not None and (task.week, task.day) <= (through.week, through.number)


def _normalized(line: str) -> str:
    return " ".join(line.split())
