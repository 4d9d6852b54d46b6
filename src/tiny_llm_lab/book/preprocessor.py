"""The book's mdBook preprocessor: task headers, formulas, figures, shapes and executed examples.

mdBook runs it as `python -m tiny_llm_lab.book.preprocessor` with the book as JSON on stdin, and
reads the changed book from stdout (https://rust-lang.github.io/mdBook/for_developers). What it
does to a chapter:

    {{#task 1.3.2}}                  on a line of its own: the task's header (`tasks.py`)
    {{#figure NAME.svg | caption}}   on a line of its own: figures/NAME.svg (`figures.py`)
    {{#component NAME KEY=VALUE ... | NAME.svg | caption}}   on a line of its own: an interactive
                                     component, in the place of a figure (`components.py`)
    {{#include PATH:ANCHOR}}         mdBook does it; we check that file and anchor exist
    $...$ and $$...$$                MathML (`formulas.py`); never in code
    ```shapes                        a block of shapes
    ```python example, ```text output   an example and its output, compared by `examples.py`

Everything else in double braces, everything that is missing and every formula that is wrong stops
the build with `file:line: what is wrong`.
"""

import html
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiny_llm_lab.book.chapter import ChapterError, Fence, Problem, Text, split_chapter
from tiny_llm_lab.book.components import parse_component
from tiny_llm_lab.book.examples import pair_examples
from tiny_llm_lab.book.figures import render_figure
from tiny_llm_lab.book.formulas import render_formula
from tiny_llm_lab.book.tasks import render_task
from tiny_llm_lab.course.manifest import Course, CourseError, Symbol, Task, load_course

# At the end of every processed chapter: proves to the strict build that this preprocessor ran.
MARK = "<!-- processed by tiny_llm_lab.book -->"

# What may stand behind an opening fence. A typing error there would otherwise pass unnoticed.
_INFO_STRINGS = ("shapes", "python example", "text output", "text", "sh", "json", "toml")
# These hold nothing but an {{#include}}: code is executed or included, never typed.
_INCLUDE_ONLY = ("python", "cpp", "metal")

_SYNTAX = re.compile(
    r"(?P<comment><!--.*?-->)"
    r"|(?P<code>(?<!`)(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`))"
    r"|(?P<escape>\\.)"
    r"|(?P<directive>\{\{.*?\}\})"
    r"|(?P<display>\$\$.+?\$\$)"
    r"|(?P<inline>\$(?!\s)(?:\\.|[^$\\])+?(?<!\s)\$)"
    r"|(?P<stray>\$|\{\{)",
    re.DOTALL,
)
_SUMMARY = re.compile(r"(?<=<summary>).*?(?=</summary>)", re.DOTALL)
_SUMMARY_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_INCLUDE = re.compile(r"\{\{\s*#include\s+([^}]*?)\s*\}\}")


@dataclass
class ChapterProcessor:
    """Processes one chapter.

    Attributes:
        course: the course that the tasks come from.
        source_folder: the book's `src` folder.
        path: the chapter's file, relative to that folder.
        problems: what was found wrong, filled by `process`.
    """

    course: Course
    source_folder: Path
    path: str
    problems: list[Problem] = field(default_factory=list)
    _shown: dict[Symbol, Task] = field(default_factory=dict)

    def process(self, markdown: str) -> str:
        """The chapter with everything of ours expanded; fills `problems`."""
        try:
            blocks = list(split_chapter(markdown))
            outputs = {example.output.line for example in pair_examples(blocks)}
        except ChapterError as error:
            self._report(error.line, error.message)
            return markdown
        parts = []
        for block in blocks:
            if isinstance(block, Fence):
                parts.append(self._fence(block, block.line in outputs))
            else:
                parts.append(self._text(block))
        return "\n".join([*parts, "", MARK, ""])

    def _report(self, line: int, message: str) -> None:
        self.problems.append(Problem(f"book/src/{self.path}", line, message))

    def _fence(self, fence: Fence, is_output: bool) -> str:
        for offset, row in enumerate(fence.lines, start=1):
            for include in _INCLUDE.finditer(row):
                self._check_include(include[1], fence.line + offset)
        if fence.info in _INCLUDE_ONLY:
            if not all(_INCLUDE.fullmatch(row.strip()) for row in fence.lines if row.strip()):
                self._report(
                    fence.line,
                    f"a block of {fence.info} must be an executed example (```python example) "
                    "or hold only an {{#include}}",
                )
            return fence.render(fence.info)
        if fence.info not in _INFO_STRINGS:
            known = ", ".join((*_INFO_STRINGS, *_INCLUDE_ONLY))
            self._report(
                fence.line, f'"{fence.info}" is not a kind of code block; there are: {known}'
            )
        if fence.info == "text output" and not is_output:
            self._report(fence.line, "this output does not follow a ```python example")
        language, _, role = fence.info.partition(" ")
        if fence.info == "shapes":
            language, role = "text", "shapes"
        block = fence.render(language)
        if not role:
            return block
        return _in_container(fence.indent, role, block)

    def _text(self, block: Text) -> str:
        text = _SUMMARY.sub(
            lambda m: _SUMMARY_CODE.sub(lambda c: f"<code>{html.escape(c[1])}</code>", m[0]),
            block.text,
        )
        parts = []
        # Paragraph by paragraph: a dollar sign cannot find its partner in another one.
        line = block.line
        for paragraph in re.split(r"(\n[ \t]*\n)", text):
            start = line
            parts.append(
                _SYNTAX.sub(lambda m, p=paragraph, s=start: self._expand(m, p, s), paragraph)
            )
            line += paragraph.count("\n")
        return "".join(parts)

    def _expand(self, match: re.Match[str], paragraph: str, first_line: int) -> str:
        line = first_line + paragraph.count("\n", 0, match.start())
        found = match[0]
        before = paragraph[: match.start()].rpartition("\n")[2]
        after = paragraph[match.end() :].partition("\n")[0]
        match match.lastgroup:
            case "code" | "comment":
                for include in _INCLUDE.finditer(found):
                    self._check_include(include[1], line)
                return found
            case "escape":
                return found
            case "directive":
                alone = not before.strip() and not after.strip()
                return self._directive(found, line, alone)
            case "display":
                if before.strip(" \t>") or after.strip():
                    self._report(
                        line, "a formula in $$ needs lines of its own; use $ in a sentence"
                    )
                    return found
                mathml = self._formula(found[2:-2], line, display=True)
                return f'\n{before}<div class="formula">{mathml}</div>\n{before}'
            case "inline":
                return self._formula(found[1:-1], line, display=False)
        if found == "$":
            self._report(line, "this $ has no partner; write \\$ for a dollar sign")
        else:
            self._report(line, "this {{ is never closed")
        return found

    def _formula(self, latex: str, line: int, display: bool) -> str:
        try:
            return render_formula(latex, display)
        except ValueError as error:
            self._report(line, f"the formula ${' '.join(latex.split())}$ cannot be read: {error}")
            return ""

    def _directive(self, found: str, line: int, alone: bool) -> str:
        name, _, argument = found[2:-2].strip().partition(" ")
        argument = argument.strip()
        if name == "#include":
            self._check_include(argument, line)
            return found
        if name not in ("#task", "#figure", "#component"):
            self._report(
                line, f"{found} is unknown; there are #task, #figure, #component and #include"
            )
        elif not alone:
            self._report(line, f"{{{{{name}}}}} needs a line of its own")
        elif name == "#task":
            return self._task(argument, line)
        elif name == "#component":
            return self._component(argument, line)
        else:
            return self._figure(argument, line)
        return found

    def _task(self, task_id: str, line: int) -> str:
        try:
            task = self.course.task(task_id)
            day = self.course.day(task.week, task.day)
            if day.chapter != self.path:
                self._report(line, f"task {task.id} belongs to the chapter {day.chapter}")
            return f"\n{render_task(self.course, task, self._shown)}\n"
        except CourseError as error:
            self._report(line, f"task {task_id}: {error}")
            return ""

    def _figure(self, argument: str, line: int) -> str:
        name, _, caption = (part.strip() for part in argument.partition("|"))
        if not caption:
            self._report(line, f"the figure {name} has no caption: write NAME.svg | caption")
        stem = f"{Path(self.path).stem}-{Path(name).stem}-"
        try:
            svg = render_figure(self.source_folder / "figures" / name, stem)
        except ValueError as error:
            self._report(line, f"book/src/figures/{name} {error}")
            return ""
        caption = self._text(Text(line, caption))
        return f"\n<figure>\n{svg}\n<figcaption>\n\n{caption}\n\n</figcaption>\n</figure>\n"

    def _component(self, argument: str, line: int) -> str:
        try:
            component = parse_component(argument)
        except ValueError as error:
            self._report(line, str(error))
            return ""
        return component.render(self._figure(component.figure, line))

    def _check_include(self, target: str, line: int) -> None:
        """mdBook leaves the braces or an empty block where the target is missing."""
        path, _, anchor = target.partition(":")
        file = self.source_folder / Path(self.path).parent / path
        if not file.is_file():
            self._report(line, f"the included file {path} does not exist")
        elif (anchor and not re.fullmatch(r"[\w-]+", anchor)) or anchor.isdigit():
            self._report(line, f'"{anchor}" is not an anchor; name one, line numbers go stale')
        elif anchor:
            text = file.read_text(encoding="utf-8")
            marks = (f"ANCHOR: {anchor}", f"ANCHOR_END: {anchor}")
            missing = [mark for mark in marks if not re.search(rf"\b{mark}\b", text)]
            if missing:
                self._report(line, f"{path} has no line with {missing[0]}")


def _in_container(indent: str, role: str, block: str) -> str:
    rows = [f'<div class="{role}">', ""]
    return "\n".join([*(indent + row for row in rows), block, indent.rstrip(), f"{indent}</div>"])


def process_book(book: Any, course: Course, source_folder: Path) -> list[Problem]:
    """Process every chapter of a book in mdBook's JSON form, in place; returns the problems."""
    problems: list[Problem] = []
    for chapter in _chapters(book["items"]):
        if chapter["path"] is None:
            continue  # A draft: a line in SUMMARY.md without a file.
        processor = ChapterProcessor(course, source_folder, chapter["path"])
        chapter["content"] = processor.process(chapter["content"])
        problems += processor.problems
    return problems


def _chapters(items: list[Any]) -> Iterator[dict[str, Any]]:
    for item in items:
        if isinstance(item, dict) and "Chapter" in item:
            yield item["Chapter"]
            yield from _chapters(item["Chapter"]["sub_items"])


def main(arguments: list[str]) -> int:
    """Answer mdBook: `supports RENDERER`, or a book on stdin."""
    if arguments[:1] == ["supports"]:
        return 0 if arguments[1:] == ["html"] else 1
    context, book = json.load(sys.stdin)
    try:
        course = load_course()
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    source_folder = Path(context["root"]) / context["config"]["book"].get("src", "src")
    problems = process_book(book, course, source_folder)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        return 1
    json.dump(book, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
