"""The header of a task: title, points, file, signatures, docstrings, and the test command.

All of it comes from course.toml and from the reference's source, so a chapter cannot disagree
with them. The docstrings are those in the student's package: what a later day extends shows what
it promises until then. The bodies of the reference are never shown.
"""

import ast
import html
import textwrap

from tiny_llm_lab.book.docstrings import render_docstring
from tiny_llm_lab.course.manifest import Course, CourseError, Symbol, Task
from tiny_llm_lab.course.skeleton import build_module

_Definition = ast.FunctionDef | ast.ClassDef


def render_task(course: Course, task: Task, shown: dict[Symbol, Task]) -> str:
    """The header of a task, as Markdown.

    Args:
        course: where the reference is found.
        task: the task.
        shown: the symbols already shown in this chapter, each with its first task; the new ones
            are added. A symbol that appears again is folded.

    Raises:
        CourseError: the reference lacks a symbol of the task, or the skeleton of its file cannot
            be generated.
    """
    symbols = (*task.symbols, *task.extends)
    files = dict.fromkeys(f"src/tiny_llm/{symbol.file}" for symbol in symbols)
    points = f"{task.points} point{'s' if task.points > 1 else ''}"
    facts = [f'<span class="task-points">{points}</span>']
    facts += [f"<code>{html.escape(file)}</code>" for file in files]
    parts = [
        '<div class="task">',
        f"## Task {task.number}: {task.title} {{#task-{task.number}}}",
        f'<p class="task-facts">{" ".join(facts)}</p>',
    ]
    day = course.day(task.week, task.day)
    python_files = {symbol.file for symbol in symbols if not symbol.is_region}
    sources = {file: build_module(course, file, day) for file in python_files}
    for symbol in symbols:
        if symbol.is_region:
            continue
        if symbol in task.extends:
            parts.append(_origin(course, symbol))
        contract = render_contract(sources[symbol.file], symbol)
        first = shown.setdefault(symbol, task)
        if first is task:
            parts.append(contract)
        else:
            summary = (
                f"<summary><code>{html.escape(symbol.name)}</code>, "
                f"as in Task {first.number}</summary>"
            )
            parts += [f"<details>{summary}", contract, "</details>"]
    parts += [f"```sh\npdm run test {task.test_options}\n```", "</div>"]
    return "\n\n".join(parts)


def render_contract(source: str, symbol: Symbol) -> str:
    """What a definition promises: its signature as code, then its docstring as text.

    Args:
        source: the text of the symbol's file.
        symbol: a function, a class (its public methods belong to it), or a method.

    Raises:
        CourseError: there is no such definition, or it has no docstring.
    """
    name = symbol.name
    scope: ast.Module | _Definition = ast.parse(source)
    for part in name.split("."):
        scope = _find(scope, part, f"{symbol.file} of the reference has no {name}")
    assert not isinstance(scope, ast.Module)
    lines = source.splitlines()
    signatures = [_signature(lines, scope)]
    texts = [_docstring(scope, name)]
    for method in _public_methods(scope):
        signatures.append(_signature(lines, method))
        texts.append(f'<p class="task-method"><code>{method.name}</code></p>')
        texts.append(_docstring(method, name))
    code = textwrap.dedent("\n".join(signatures))
    return "\n\n".join([f"```python\n{code}\n```", *texts])


def _origin(course: Course, symbol: Symbol) -> str:
    """Where the student wrote what a task extends."""
    owner = course.owners(symbol)[0]
    day = course.day(owner.week, owner.day)
    link = f"[{day.name}, Task {owner.number}]({day.chapter}#task-{owner.number})"
    return f"This task extends `{symbol.name}`, which you wrote in {link}:"


def _find(scope: ast.Module | _Definition, name: str, message: str) -> _Definition:
    for node in scope.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node
    raise CourseError(message)


def _public_methods(node: _Definition) -> list[ast.FunctionDef]:
    if isinstance(node, ast.FunctionDef):
        return []
    return [
        member
        for member in node.body
        if isinstance(member, ast.FunctionDef)
        and (not member.name.startswith("_") or member.name in ("__init__", "__call__"))
    ]


def _signature(lines: list[str], node: _Definition) -> str:
    """The lines of a definition from its decorators to its colon."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return "\n".join(lines[first - 1 : node.body[0].lineno - 1])


def _docstring(node: _Definition, name: str) -> str:
    docstring = ast.get_docstring(node)
    if docstring is None:
        raise CourseError(f"{node.name} ({name}) has no docstring")
    return render_docstring(docstring)
