"""The header of a task: title, points, file, signatures with docstrings, and the test command.

All of it comes from course.toml and from the reference's source, so a chapter cannot disagree
with them. The bodies of the reference are never shown.
"""

import ast
import html
import textwrap
from pathlib import Path

from tiny_llm_lab.course.manifest import Course, CourseError, Symbol, Task

_Definition = ast.FunctionDef | ast.ClassDef


def render_task(course: Course, task: Task, shown: dict[Symbol, Task]) -> str:
    """The header of a task, as Markdown.

    Args:
        course: where the reference is found.
        task: the task.
        shown: the symbols already shown in this chapter, each with its first task; the new ones
            are added. A symbol that appears again is folded.

    Raises:
        CourseError: the reference lacks a symbol of the task.
    """
    files = dict.fromkeys(f"src/tiny_llm/{symbol.file}" for symbol in task.symbols)
    points = f"{task.points} point{'s' if task.points > 1 else ''}"
    facts = [f'<span class="task-points">{points}</span>']
    facts += [f"<code>{html.escape(file)}</code>" for file in files]
    parts = [
        '<div class="task">',
        f"## Task {task.number}: {task.title} {{#task-{task.number}}}",
        f'<p class="task-facts">{" ".join(facts)}</p>',
    ]
    for symbol in task.symbols:
        if symbol.is_region:
            continue
        code = f"```python\n{contract(course.reference / symbol.file, symbol.name)}\n```"
        first = shown.setdefault(symbol, task)
        if first is task:
            parts.append(code)
        else:
            summary = (
                f"<summary>Signature of <code>{html.escape(symbol.name)}</code>, "
                f"as in Task {first.number}</summary>"
            )
            parts += [f"<details>{summary}", code, "</details>"]
    command = f"pdm run test --week {task.week} --day {task.day} -- -k task_{task.number}"
    parts += [f"```sh\n{command}\n```", "</div>"]
    return "\n\n".join(parts)


def contract(path: Path, name: str) -> str:
    """The signature and docstring of a definition; for a class, of its public methods too.

    Args:
        path: a Python file.
        name: a function, a class, or `Class.method`.

    Raises:
        CourseError: there is no such file or definition.
    """
    try:
        source = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CourseError(f"the reference has no {path.name}") from None
    scope: ast.Module | _Definition = ast.parse(source)
    for part in name.split("."):
        scope = _find(scope, part, f"{path.name} has no {name}")
    assert not isinstance(scope, ast.Module)
    return textwrap.dedent("\n\n".join(_heads(source.splitlines(), scope)))


def _find(scope: ast.Module | _Definition, name: str, message: str) -> _Definition:
    for node in scope.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node
    raise CourseError(message)


def _heads(lines: list[str], node: _Definition) -> list[str]:
    """The lines of a definition down to the end of its docstring, method by method."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    last = node.body[0].lineno - 1
    if ast.get_docstring(node) is not None:
        last = node.body[0].end_lineno or last
    heads = ["\n".join(lines[first - 1 : last])]
    if isinstance(node, ast.ClassDef):
        for member in node.body:
            if isinstance(member, ast.AnnAssign):
                heads.append("\n".join(lines[member.lineno - 1 : member.end_lineno]))
            elif isinstance(member, ast.FunctionDef) and (
                not member.name.startswith("_") or member.name in ("__init__", "__call__")
            ):
                heads += _heads(lines, member)
    return heads
