"""From the exception that ended a graded test to the lines that a student reads."""

import ast
import linecache
import os
import re
import textwrap
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from metal_simulator import CompileError, KernelError
from tiny_llm_lab.kernels import BuildError

from . import solution
from .checks import CheckFailure
from .manifest import Symbol, Task

# A message of this many lines and characters per line is shown whole.
MOST_LINES = 14
MOST_COLUMNS = 160

# The simulator's sentences are wrapped to this many.
REPORT_COLUMNS = 100


class TimeLimitExceeded(BaseException):
    """A graded test took too long. Not an Exception, so that `except Exception` lets it pass."""


@dataclass(frozen=True)
class Location:
    """A line of the solution package, and the function or class around or behind it."""

    path: Path
    line: int
    name: str

    def __str__(self) -> str:
        """`src/tiny_llm/attention.py:55, in causal_mask`."""
        return f"{os.path.relpath(self.path)}:{self.line}, in {self.name}"


def describe(error: BaseException, task: Task | None, package: Path) -> list[str]:
    """What went wrong and where to look, as lines without a common indent.

    Args:
        error: what the test ended with.
        task: the task whose definition is named if no line of the package raised `error`;
            None for an error outside of a test.
        package: the folder of the solution package.
    """
    if isinstance(error, SyntaxError) and error.filename is not None:
        return _describe_syntax_error(error)
    raised_at = _raised_at(error, package)
    lines = _missing_name(error, package) or _message(error)
    if raised_at is not None:
        lines.append(f"  look at    {raised_at}")
        source = linecache.getline(str(raised_at.path), raised_at.line).strip()
        if source:
            lines.append(f"             {_shorten(source)}")
    elif task is not None:
        for symbol in (*task.symbols, *task.extends):
            tested = _tested_method(symbol, package, error)
            place = find_definition(tested, package) or os.path.relpath(package / symbol.file)
            lines.append(f"  look at    {place}")
    return lines


def place(error: BaseException, package: Path) -> str:
    """The line of the package to repair, as `src/tiny_llm/attention.py:55`, or "".

    An import of what the package does not hold is not named: it may well be right.
    """
    if _missing_name(error, package):
        return ""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{os.path.relpath(error.filename)}:{error.lineno}"
    raised_at = _raised_at(error, package)
    return f"{os.path.relpath(raised_at.path)}:{raised_at.line}" if raised_at else ""


def is_of_the_solution(error: BaseException, package: Path) -> bool:
    """Whether the solution, not the test file, is why the import of a test file ended so."""
    if isinstance(error, SyntaxError):
        return _is_in(error.filename or "", package)
    name = (error.name or "") if isinstance(error, ImportError) else ""
    if name.split(".")[0] in (package.name, solution.ALIAS):
        return True
    return deepest_location(error.__traceback__, package) is not None


def is_stub(error: BaseException, package: Path) -> bool:
    """Whether a function of the package itself says that it is not written yet."""
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, NotImplementedError) and _is_in(frames[-1].filename, package)


def deepest_location(trace: TracebackType | None, package: Path) -> Location | None:
    """The innermost line of the package that an exception passed through, if any."""
    for frame in reversed(traceback.extract_tb(trace)):
        if _is_in(frame.filename, package):
            return Location(Path(frame.filename).resolve(), frame.lineno or 0, frame.name)
    return None


def find_definition(symbol: Symbol, package: Path) -> Location | None:
    """Where the package defines a symbol; None if it does not, or cannot be read."""
    path = package / symbol.file
    try:
        text = path.read_text(encoding="utf-8")
        if symbol.is_region:
            mark = re.compile(rf"\s*\S+ BEGIN SOLUTION {re.escape(symbol.name)}\s*")
            numbered = enumerate(text.splitlines(), start=1)
            found = [number for number, line in numbered if mark.fullmatch(line)]
            return Location(path, found[0], symbol.name) if found else None
        body = ast.parse(text).body
    except (OSError, UnicodeDecodeError, SyntaxError):
        return None
    line = None
    for part in symbol.name.split("."):
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == part:
                line, body = node.lineno, node.body
                break
        else:
            return None
    return Location(path, line, symbol.name) if line is not None else None


def _raised_at(error: BaseException, package: Path) -> Location | None:
    if isinstance(error, BuildError) and error.path is not None:
        return Location(error.path, error.line, "the C++ kernels")
    if isinstance(error, KernelError | CompileError):
        # The first place that the simulator names: quantized_matmul.metal:50
        for file, line in re.findall(r"([\w.-]+\.\w+):(\d+): ", str(error)):
            for path in sorted(package.rglob(file)):
                return Location(path, int(line), "the Metal kernels")
    raised_at = deepest_location(error.__traceback__, package)
    if raised_at is None and error.__cause__ is not None:
        raised_at = deepest_location(error.__cause__.__traceback__, package)
    return raised_at


def _tested_method(symbol: Symbol, package: Path, error: BaseException) -> Symbol:
    """The method of a class that an error is about; the symbol itself if there is none.

    The message names the call: `Embedding(...).as_linear(x)`, `RMSNorm(...)(x)`, or `RMSNorm(...)`
    where its arguments should have been refused.
    """
    headline = str(error).strip().partition("\n")[0]
    methods = re.findall(r"\.(\w+)\(", headline)
    if isinstance(error, AssertionError):
        is_about_arguments = re.search(r" raises? ", headline) and ")(" not in headline
        methods.append("__init__" if is_about_arguments else "__call__")
    for method in methods:
        tested = Symbol(f"{symbol.text}.{method}")
        if find_definition(tested, package) is not None:
            return tested
    return symbol


def _is_in(filename: str, package: Path) -> bool:
    # Not a file are names such as `<string>`, which would resolve to the current folder.
    path = Path(filename)
    return path.is_absolute() and path.resolve().is_relative_to(package)


def _message(error: BaseException) -> list[str]:
    """The exception's own words, with its type unless it was made for a student to read."""
    text = str(error).strip()
    if isinstance(error, TimeLimitExceeded | CheckFailure):
        pass  # made for a student to read
    elif isinstance(error, KernelError | CompileError):
        text = "\n".join(map(_wrapped, text.splitlines()))  # so is this, in long sentences
    elif isinstance(error, AssertionError):
        # An assertion of a test; one of the solution shows its line below.
        text = text or "An assertion does not hold."
    else:
        text = _without_signatures(text)
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    lines = text.splitlines()
    if len(lines) > MOST_LINES:
        lines = [*lines[:MOST_LINES], f"... ({len(lines) - MOST_LINES} more lines)"]
    return [_shorten(line) for line in lines]


def _without_signatures(text: str) -> str:
    """`max() does not accept (array, keepdim: bool)` for what MLX says in many long lines."""
    match = re.fullmatch(
        r"(\w+\(\)): incompatible function arguments\..*\nInvoked with types: ([^\n]*)",
        text,
        flags=re.DOTALL,
    )
    if match is None:
        return text
    types = re.sub(r"kwargs = \{ (.*) \}", r"\1", match[2]).replace("mlx.core.", "")
    return f"{match[1]} does not accept ({types})"


def _missing_name(error: BaseException, package: Path) -> list[str]:
    """One sentence if an import asks the package for what it does not hold."""
    if isinstance(error, ModuleNotFoundError):
        top, *modules = (error.name or "").split(".")
        return [_missing_module(package.joinpath(*modules))] if top == package.name else []
    match = re.match(r"cannot import name '(\w+)' from '([\w.]+)'", str(error))
    if not isinstance(error, ImportError) or match is None:
        return []
    missing, module = match[1], match[2].split(".")
    if module[0] != package.name:
        return []
    if len(module) == 1:
        return [_missing_module(package / missing)]
    return [f"{os.path.relpath(package.joinpath(*module[1:]))}.py does not define {missing}."]


def _missing_module(path: Path) -> str:
    return f"There is no {os.path.relpath(path)}.py: create it."


def _describe_syntax_error(error: SyntaxError) -> list[str]:
    where = f"{os.path.relpath(error.filename or '')}:{error.lineno}"
    lines = [f"{type(error).__name__}: {error.msg}", f"  look at    {where}"]
    source = (error.text or "").rstrip()
    if source.strip():
        lines.append(f"             {_shorten(source.strip())}")
    return lines


def _wrapped(line: str) -> str:
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.fill(line, REPORT_COLUMNS, subsequent_indent=indent)


def _shorten(line: str) -> str:
    return line if len(line) <= MOST_COLUMNS else line[: MOST_COLUMNS - 3] + "..."
