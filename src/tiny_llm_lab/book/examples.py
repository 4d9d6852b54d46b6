"""The executed examples of the book: `python example` blocks and the outputs they claim.

Run as `python -m tiny_llm_lab.book.examples PACKAGE` it is the process that executes the examples
of one chapter, with `tiny_llm` standing for PACKAGE. Every example is complete in itself: none
sees the names of another.
"""

import contextlib
import importlib
import io
import json
import subprocess
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_llm_lab.book.chapter import ChapterError, Fence, Problem, Text, split_chapter


@dataclass(frozen=True)
class Example:
    """A `python example` block and the `text output` block that follows it."""

    code: Fence
    output: Fence


def pair_examples(blocks: Iterable[Text | Fence]) -> Iterator[Example]:
    """Find the examples of a chapter.

    Raises:
        ChapterError: an example is not directly followed by its output.
    """
    code: Fence | None = None
    for block in blocks:
        if isinstance(block, Text) and not block.text.strip(" \t\n>"):
            continue
        if code is not None:
            if not isinstance(block, Fence) or block.info != "text output":
                raise ChapterError(code.line, "this example is not followed by a ```text output")
            yield Example(code, block)
            code = None
        elif isinstance(block, Fence) and block.info == "python example":
            code = block
    if code is not None:
        raise ChapterError(code.line, "this example is not followed by a ```text output")


def check_examples(chapter: Path, shown_as: str, package: str, fix: bool = False) -> list[Problem]:
    """Execute the examples of a chapter and compare what they print with what the chapter shows.

    Args:
        chapter: the chapter's file.
        shown_as: how messages name it.
        package: what `tiny_llm` stands for in the examples.
        fix: write what they print into the chapter, where it differs.
    """
    try:
        examples = list(pair_examples(split_chapter(chapter.read_text(encoding="utf-8"))))
    except ChapterError as error:
        return [Problem(shown_as, error.line, error.message)]
    if not examples:
        return []
    request = [(example.code.line, "\n".join(example.code.lines)) for example in examples]
    process = subprocess.run(
        [sys.executable, "-m", "tiny_llm_lab.book.examples", package, shown_as],
        input=json.dumps(request), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if process.returncode != 0:
        last = (process.stderr.strip().splitlines() or ["no message"])[-1]
        return [Problem(shown_as, 0, f"its examples cannot be executed: {last}")]
    problems = []
    corrections = []
    for example, result in zip(examples, json.loads(process.stdout), strict=True):
        actual, expected = result["output"].rstrip("\n").split("\n"), list(example.output.lines)
        if result["error"] is not None:
            line, message = result["error"]
            problems.append(Problem(shown_as, line, f"this example fails: {message}"))
        elif actual != expected and fix:
            corrections.append((example.output, actual))
        elif actual != expected:
            problems.append(_difference(example, actual, shown_as))
    if corrections:
        _correct(chapter, corrections)
    return problems


def _difference(example: Example, actual: list[str], shown_as: str) -> Problem:
    expected = example.output.lines
    same = 0
    while same < min(len(actual), len(expected)) and actual[same] == expected[same]:
        same += 1
    printed = f'"{actual[same]}"' if same < len(actual) else "nothing more"
    shown = f'"{expected[same]}"' if same < len(expected) else "nothing more"
    return Problem(
        shown_as,
        example.output.line + 1 + same,
        f"the example above prints {printed} where the chapter shows {shown} "
        "(check-book --fix corrects it)",
    )


def _correct(chapter: Path, corrections: list[tuple[Fence, list[str]]]) -> None:
    lines = chapter.read_text(encoding="utf-8").split("\n")
    for fence, actual in reversed(corrections):
        rows = [(fence.indent + row).rstrip() for row in actual]
        lines[fence.line : fence.line + len(fence.lines)] = rows
    chapter.write_text("\n".join(lines), encoding="utf-8")


def _execute(package: str, name: str, examples: list[tuple[int, str]]) -> list[dict[str, Any]]:
    # Submodules are then found through the package's own path, under the alias.
    sys.modules["tiny_llm"] = importlib.import_module(package)
    results: list[dict[str, Any]] = []
    for line, code in examples:
        printed = io.StringIO()
        error = None
        try:
            # Empty lines in front make a traceback count in the chapter's lines.
            program = compile("\n" * line + code, name, "exec")
            with contextlib.redirect_stdout(printed):
                exec(program, {"__name__": "__main__"})
        except SyntaxError as problem:
            error = (problem.lineno or line, f"SyntaxError: {problem.msg}")
        except (Exception, SystemExit) as problem:
            frames = [f for f in traceback.extract_tb(problem.__traceback__) if f.filename == name]
            where = (frames[-1].lineno if frames else None) or line
            error = (where, f"{type(problem).__name__}: {problem}")
        results.append({"output": printed.getvalue(), "error": error})
    return results


if __name__ == "__main__":
    answer = _execute(sys.argv[1], sys.argv[2], json.load(sys.stdin))
    json.dump(answer, sys.stdout)
