"""The book's build: what it expands, and that nothing broken passes in silence."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from synthetic_course import add_extending_day

from tiny_llm_lab.book.chapter import Fence, Problem, Text, split_chapter
from tiny_llm_lab.book.docstrings import render_docstring
from tiny_llm_lab.book.examples import check_examples
from tiny_llm_lab.book.figures import render_figure
from tiny_llm_lab.book.formulas import render_formula
from tiny_llm_lab.book.preprocessor import MARK, ChapterProcessor
from tiny_llm_lab.book.strict import build, check_pages, read_log
from tiny_llm_lab.book.tasks import render_contract, render_task
from tiny_llm_lab.course.manifest import Course, CourseError, Symbol, load_course

BOOK_TOML = """
[book]
title = "A tiny book"
[build]
create-missing = false
[preprocessor.tiny-llm]
command = "python -m tiny_llm_lab.book.preprocessor"
before = ["links"]
[output.html]
input-404 = ""
"""

FIGURE = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10">
<title>A box</title>

<desc>One box with an arrow.</desc>
<defs><linearGradient id="fade"/></defs>
<path id="box" d="M0 0h5" fill="url(#fade)" style="stroke: url(#fade)"/>
<use href="#box"/>
</svg>
"""

SOUND = {
    "book.toml": BOOK_TOML,
    "src/SUMMARY.md": "# Summary\n\n- [One](week-1-day-1.md)\n- [Two](two.md)\n",
    "src/week-1-day-1.md": "# One\n\n{{#task 1.1.1}}\n\nSee [Two](two.md#more), $x_i * y$.\n\n"
    "{{#figure box.svg | A `box`.}}\n\n$$\\frac{1}{n}$$\n",
    "src/two.md": "# Two\n\n## More\n\nBack to [the task](week-1-day-1.md#task-1).\n\n"
    "```python\n{{#include code.py:part}}\n```\n",
    "src/code.py": "# ANCHOR: part\nx = 1\n# ANCHOR_END: part\n# ANCHOR: open\n",
    "src/figures/box.svg": FIGURE,
}


def write_book(folder: Path, changes: dict[str, str | None]) -> Path:
    """Write the sound book with some files changed, added, or left out (None)."""
    for name, text in (SOUND | changes).items():
        if text is not None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return folder


def process(tmp_path: Path, markdown: str, path: str = "week-1-day-1.md") -> ChapterProcessor:
    """Process one chapter of the sound book; the result is in `.output`."""
    book = write_book(tmp_path, {})
    processor = ChapterProcessor(load_course(), book / "src", path)
    processor.output = processor.process(markdown)  # type: ignore[attr-defined]
    return processor


def test_a_sound_book_builds_and_shows_what_its_chapters_ask_for(tmp_path: Path) -> None:
    book = write_book(tmp_path / "book", {})
    assert build(book, tmp_path / "out") == []
    page = (tmp_path / "out" / "week-1-day-1.html").read_text(encoding="utf-8")
    assert '<h2 id="task-1">' in page
    assert "pdm run test --week 1 --day 1 -- -k task_1" in page
    assert "<mfrac>" in page
    assert "<mo>*</mo>" in page
    assert "A <code>box</code>." in page
    assert 'aria-labelledby="week-1-day-1-box-title week-1-day-1-box-desc"' in page
    assert "x = 1" in (tmp_path / "out" / "two.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"src/code.py": None}, "src/two.md:8: the included file code.py does not exist"),
        ({"src/two.md": None}, "SUMMARY.md: the chapter two.md does not exist"),
        ({"src/three.md": "# Three\n"}, "book/src/three.md: no line of SUMMARY.md leads to it"),
        ({"src/figures/spare.svg": FIGURE}, "figures/spare.svg: no chapter shows it"),
        (
            {"src/two.md": "# Two\n\n## More\n\n[x](week-1-day-1.md#task-9)\n"},
            "the link week-1-day-1.html#task-9 leads to no heading or id",
        ),
        ({"src/two.md": "# Two\n\n## More\n\n<b>x\n"}, "mdbook: WARN"),
        ({"book.toml": BOOK_TOML + "no-such-key = 1\n"}, "output.html.no-such-key is unknown"),
        ({"book.toml": BOOK_TOML + "[output.pdf]\n"}, "output.pdf is unknown"),
        (
            {"book.toml": BOOK_TOML.replace("[book]", "[book]\nno-such-key = 1")},
            "mdbook: ERROR: Invalid configuration file",
        ),
        (
            {"book.toml": BOOK_TOML.replace("python -m", "python3 -m other.package")},
            "[preprocessor.tiny-llm] needs command",
        ),
        ({"book.toml": BOOK_TOML.replace('["links"]', "[]")}, 'needs before = ["links"]'),
        (
            {"book.toml": BOOK_TOML.replace('["links"]', '["links"]\nrenderers = ["pdf"]')},
            "preprocessor.tiny-llm.renderers is unknown",
        ),
        ({"book.toml": BOOK_TOML.replace("false", "true")}, "needs create-missing = false"),
        ({"book.toml": "[book"}, "it is not valid TOML"),
        ({"book.toml": None}, "book.toml: it does not exist"),
    ],
)
def test_a_broken_book_does_not_pass(
    tmp_path: Path, changes: dict[str, str | None], complaint: str
) -> None:
    problems = build(write_book(tmp_path / "book", changes), tmp_path / "out")
    assert any(complaint in str(problem) for problem in problems), problems


def test_settings_from_outside_do_not_reach_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MDBOOK_OUTPUT__HTML__SITE_URL", "http://example.org/")
    monkeypatch.setenv("MDBOOK_BUILD__CREATE_MISSING", "true")
    monkeypatch.setenv("RUST_LOG", "off")
    two = "# Two\n\n## More\n\n<b>x\n"
    problems = build(write_book(tmp_path / "book", {"src/two.md": two}), tmp_path / "out")
    assert problems


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ('<a href="gone.html">x</a>', "the link gone.html leads to no file"),
        ('<a href="a.html#gone">x</a>', "the link a.html#gone leads to no heading or id"),
        ('<a href="#gone">x</a>', "the link #gone leads to no heading or id"),
        ('<i id="a">x</i> <i id="a">y</i>', 'the id "a" occurs 2 times'),
        ('<img src="https://example.org/cat.png" alt="A cat">', "from another host"),
        ('<script src="//example.org/x.js"></script>', "from another host"),
        ('<link rel="stylesheet" href="http://example.org/x.css">', "from another host"),
        ('<img src="cat.png">', "the image cat.png has no alternative text"),
        ("<p>{{#include x.py}}</p>", "{{#include x.py}} was not expanded"),
    ],
)
def test_a_broken_page_does_not_pass(tmp_path: Path, page: str, complaint: str) -> None:
    (tmp_path / "a.html").write_text(page + MARK, encoding="utf-8")
    problems = check_pages(tmp_path, ["a.md"])
    assert len(problems) == 1
    assert complaint in problems[0].message


def test_a_sound_page_passes(tmp_path: Path) -> None:
    (tmp_path / "cat.png").touch()
    page = (
        '<h2 id="x">X</h2> <a href="#x">x</a> <a href="a.html#x">x</a> <a href="cat.png">cat</a> '
        '<a href="https://example.org/">out</a> <img src="cat.png" alt="A cat"> '
        "<code>{{#task 1.1.1}}</code>"
    )
    (tmp_path / "a.html").write_text(page + MARK, encoding="utf-8")
    assert check_pages(tmp_path, ["a.md"]) == []


def test_a_page_that_the_preprocessor_did_not_see_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "seen.html").write_text(f"<p>x</p>{MARK}", encoding="utf-8")
    (tmp_path / "unseen.html").write_text("<p>{{#task 1.1.1}}</p>", encoding="utf-8")
    assert list(map(str, check_pages(tmp_path, ["seen.md", "unseen.md", "lost.md"]))) == [
        "unseen.html (built): {{#task 1.1.1}} was not expanded",
        "book/src/unseen.md: the preprocessor did not run on it",
        "book/src/lost.md: mdBook built no page from it",
    ]


def test_style_sheets_may_not_load_from_another_host(tmp_path: Path) -> None:
    sheet = "@import 'https://example.org/a.css'; b { src: url(//example.org/f.woff2) url(f.png) }"
    (tmp_path / "x.css").write_text(sheet, encoding="utf-8")
    assert [problem.message for problem in check_pages(tmp_path, [])] == [
        "it loads https://example.org/a.css",
        "it loads //example.org/f.woff2",
    ]


def test_our_own_messages_take_precedence_over_those_of_mdbook() -> None:
    log = (
        " INFO Book building has started\n"
        "book/src/a.md:3: something is missing\n"
        "ERROR The preprocessor exited unsuccessfully\n"
    )
    assert read_log(log) == [Problem("book/src/a.md", 3, "something is missing")]
    assert read_log(" WARN odd\n") == [Problem("mdbook", 0, "WARN: odd")]
    assert read_log(" INFO fine\n") == []


def test_the_preprocessor_supports_html_only() -> None:
    for renderer, code in (("html", 0), ("pdf", 1)):
        command = [sys.executable, "-m", "tiny_llm_lab.book.preprocessor", "supports", renderer]
        assert subprocess.run(command, env=os.environ, check=False).returncode == code


@pytest.mark.parametrize(
    ("markdown", "line", "complaint"),
    [
        ("x\n\n{{#task 1.1.9}}", 3, "There is no task 9"),
        ("{{#task soon}}", 1, "'soon' is not a task"),
        ("{{#task 1.2.1}}", 1, "belongs to the chapter week-1-day-2.md"),
        ("See {{#task 1.1.1}} now", 1, "{{#task}} needs a line of its own"),
        ("{{#tasks 1.1.1}}", 1, "{{#tasks 1.1.1}} is unknown"),
        ("{{ title }}", 1, "{{ title }} is unknown"),
        ("a\nb {{#task 1.1.1", 2, "this {{ is never closed"),
        ("{{#figure box.svg}}", 1, "has no caption"),
        ("{{#figure box.svg | costs 5 $}}", 1, "this $ has no partner"),
        ("`{{#include gone.py}}`", 1, "the included file gone.py does not exist"),
        ("{{#figure gone.svg | A box.}}", 1, "book/src/figures/gone.svg does not exist"),
        ("{{#include code.py:whole}}", 1, "code.py has no line with ANCHOR: whole"),
        ("{{#include code.py:open}}", 1, "code.py has no line with ANCHOR_END: open"),
        ("{{#include code.py:1:2}}", 1, '"1:2" is not an anchor'),
        ("{{#include code.py:2}}", 1, '"2" is not an anchor'),
        ("a\n\nb costs 5 $ or\n\nc", 3, "this $ has no partner"),
        ("a\n$\\nonsense{x}$", 2, "the formula $\\nonsense{x}$ cannot be read: \\nonsense is not"),
        ("a\n\ntext $$x$$ text", 3, "a formula in $$ needs lines of its own"),
        ("a\n```text\nx", 2, "this code block is never closed"),
        ("```\nx\n```", 1, '"" is not a kind of code block'),
        ("```pyhton example\nx\n```", 1, '"pyhton example" is not a kind of code block'),
        ("```python\nx = 1\n```", 1, "must be an executed example"),
        ("```python example\nx\n```\n\nText.", 1, "not followed by a ```text output"),
        ("```python example\nx\n```", 1, "not followed by a ```text output"),
        ("a\n\n```text output\nx\n```", 3, "does not follow a ```python example"),
    ],
)
def test_what_cannot_be_expanded_is_reported_with_its_line(
    tmp_path: Path, markdown: str, line: int, complaint: str
) -> None:
    problems = process(tmp_path, markdown).problems
    assert [problem.line for problem in problems] == [line]
    assert complaint in problems[0].message
    assert problems[0].path == "book/src/week-1-day-1.md"


@pytest.mark.parametrize(
    "markdown",
    [
        "Code: `$HOME`, ``a ` $b``, `{{ x }}`.",
        "It costs 5 \\$.",
        "<!-- $ {{#task}} -->",
        "```sh\necho $HOME {{ x }}\n```",
        "- a list\n\n  ```text\n  $5\n  ```\n",
        "> ```text\n> $5\n> ```\n",
    ],
)
def test_code_comments_and_escapes_stay_as_they_are(tmp_path: Path, markdown: str) -> None:
    processor = process(tmp_path, markdown)
    assert processor.problems == []
    assert processor.output.startswith(markdown)  # type: ignore[attr-defined]


def test_blocks_of_code_get_containers_and_plain_languages(tmp_path: Path) -> None:
    markdown = "```shapes\nB x L\n```\n\n```python example\nx\n```\n\n```text output\n1\n```\n"
    output = process(tmp_path, markdown).output  # type: ignore[attr-defined]
    assert '<div class="shapes">\n\n```text\nB x L\n```\n\n</div>' in output
    assert '<div class="example">\n\n```python\nx\n```\n\n</div>' in output
    assert '<div class="output">\n\n```text\n1\n```\n\n</div>' in output


def test_code_in_a_summary_is_code(tmp_path: Path) -> None:
    markdown = "<details><summary>Why `a < b`, and\n$x$?</summary>\n\nSo.\n\n</details>"
    output = process(tmp_path, markdown).output  # type: ignore[attr-defined]
    assert "Why <code>a &lt; b</code>, and\n<math>" in output


def test_a_symbol_that_appears_again_is_folded(tmp_path: Path) -> None:
    markdown = "{{#task 1.2.1}}\n\n{{#task 1.2.2}}\n"
    output = process(tmp_path, markdown, "week-1-day-2.md").output  # type: ignore[attr-defined]
    first, second = output.split("{#task-2}")
    assert "<details>" not in first
    assert "<details><summary><code>RoPE</code>, as in Task 1</summary>" in second


def test_every_task_of_the_course_can_be_rendered(tmp_path: Path) -> None:
    course = load_course()
    for day in course.days:
        markdown = "\n\n".join(f"{{{{#task {task.id}}}}}" for task in day.tasks)
        processor = process(tmp_path, markdown, day.chapter)
        assert processor.problems == []


def test_an_extended_symbol_names_its_first_task_and_shows_what_it_promises(course: Course) -> None:
    course = add_extending_day(course)
    first = render_task(course, course.task("1.1.1"), {})
    assert "Twice `x`, however large." in first
    assert "extends" not in first
    extending = render_task(course, course.task("1.3.1"), {})
    assert "<code>src/tiny_llm/basics.py</code> <code>src/tiny_llm/shapes.py</code>" in extending
    assert (
        "\n\nThis task extends `double`, which you wrote in "
        "[Week 1 Day 1, Task 1](week-1-day-1.md#task-1):\n\n"
        "```python\ndef double(x: int) -> int:\n```\n\nTwice `x`.\n\n- `x`: any number.\n\n"
    ) in extending
    assert (
        "This task extends `Square.half_perimeter`, which you wrote in "
        "[Week 1 Day 1, Task 2](week-1-day-1.md#task-2):\n\n"
        "```python\ndef half_perimeter(self) -> int:\n```\n\nTwo sides.\n\n"
    ) in extending


def test_a_contract_shows_signatures_and_docstrings_but_no_bodies() -> None:
    source = '''
class Box:
    """A box."""

    def __init__(self, size: int) -> None:
        """Keep the size.

        Args:
            size: how many
                fit.
        """
        self.secret = size

    def open(
        self,
        wide: bool = True,
    ) -> str:
        """Open it."""
        return "secret"

    def _hidden(self) -> None:
        """Nobody's business."""


def bare() -> None:
    pass
'''
    contract = render_contract(source, Symbol("box.Box"))
    assert "class Box:\n    def __init__(self, size: int) -> None:\n    def open(\n" in contract
    assert "- `size`: how many fit." in contract
    assert "Open it." in contract
    assert "secret" not in contract
    assert "_hidden" not in contract
    opened = render_contract(source, Symbol("box.Box.open"))
    assert opened.startswith("```python\ndef open(\n    self,\n")
    for name, complaint in (("Bag", "has no Bag"), ("bare", "has no docstring")):
        with pytest.raises(CourseError, match=complaint):
            render_contract(source, Symbol(f"box.{name}"))


def test_docstrings_become_lists_links_and_paragraphs() -> None:
    docstring = """Do it for `a < b`, where a < b.

    Args:
        x, y: numbers.
        z: a number that
            needs two lines.

    Returns:
        One thing
        or another.

    Raises:
        ValueError: bad.
        KeyError: worse.

    Source: A paper, https://example.org/1, page 2.
    """
    assert render_docstring(docstring).split("\n") == [
        "Do it for `a < b`, where a &lt; b.",
        "",
        "- `x, y`: numbers.",
        "- `z`: a number that needs two lines.",
        "",
        "**Returns** One thing or another.",
        "",
        "**Raises**",
        "",
        "- `ValueError`: bad.",
        "- `KeyError`: worse.",
        "",
        "**Source** A paper, <https://example.org/1>, page 2.",
    ]


def test_formulas_survive_markdown_and_have_whole_words() -> None:
    formula = render_formula(r"\operatorname{softmax}(x)_i * \mathrm{abc}_{\text{a\_b}}", False)
    assert formula.startswith("<math><mrow><mi>softmax</mi>")
    assert "<mi>abc</mi>" in formula
    for text in ElementTree.fromstring(formula.replace("&#", "")).itertext():
        assert not set(text) & set("*_`\\[]"), "Markdown would take this for its own"
    assert 'display="block"' in render_formula("x", True)


def test_functions_get_a_space_before_a_bare_argument_only() -> None:
    assert "<mi>cos</mi><mspace" in render_formula(r"\cos x", False)
    assert "<mspace" not in render_formula(r"\cos(x)", False)
    assert "<mspace" not in render_formula(r"x + \cos", False)


def test_arrows_and_slashes_are_operators_with_their_usual_space() -> None:
    formula = render_formula(r"f: a / b \iff c \to d", False)
    assert "<mo>:</mo>" in formula
    assert '<mo lspace="0" rspace="0">/</mo>' in formula
    assert "<mo>\u27fa</mo>" in formula
    assert "\u2192</mo>" in formula


@pytest.mark.parametrize(
    ("latex", "complaint"),
    [
        (r"\nonsense{x}", "not a supported command"),
        (r"\frac{a}", "an argument is missing"),
        (r"\frac{a", "braces do not match"),
        (r"a & b", "outside of a matrix"),
        (r"a \\ b", "a line break"),
        (r"x_", "LaTeX error"),
        (r"\left( x", "LaTeX error"),
    ],
)
def test_wrong_latex_is_refused(latex: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        render_formula(latex, False)


def test_a_figure_keeps_to_itself(tmp_path: Path) -> None:
    path = tmp_path / "box.svg"
    path.write_text(FIGURE, encoding="utf-8")
    text = render_figure(path, "p-")
    svg = ElementTree.fromstring(text)
    assert "\n\n" not in text, "an empty line would end the HTML block"
    assert svg.get("role") == "img"
    assert svg.get("aria-labelledby") == "p-title p-desc"
    assert [e.get("id") for e in svg.iter() if e.get("id")] == [
        "p-title", "p-desc", "p-fade", "p-box",
    ]  # fmt: skip
    box = svg.find("path")
    assert box is not None
    assert box.get("fill") == "url(#p-fade)"
    assert box.get("style") == "stroke: url(#p-fade)"
    assert svg.find("use").get("href") == "#p-box"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("<title>A box</title>", "", "has no <title>"),
        ("One box with an arrow.", " ", "has no <desc>"),
        (' viewBox="0 0 10 10"', "", "has no viewBox"),
        ("viewBox", 'width="10" viewBox', "has a fixed width"),
        ("<defs>", "<script/><defs>", "holds a <script>"),
        ("<defs>", "<style>text { fill: red }</style><defs>", "holds a <style>"),
        ('href="#box"', 'href="https://example.org/#box"', "outside of itself"),
        ("</svg>", "", "not well-formed"),
        ("http://www.w3.org/2000/svg", "http://example.org/", "is not an SVG"),
    ],
)
def test_an_unfit_figure_is_refused(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    path = tmp_path / "box.svg"
    path.write_text(FIGURE.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=complaint):
        render_figure(path, "p-")


def test_a_chapter_splits_into_text_and_code() -> None:
    markdown = "a\n```sh\nb\n```\n  - c\n\n    ~~~text\n    ```\n      d\n    ~~~\ne"
    assert list(split_chapter(markdown)) == [
        Text(1, "a"),
        Fence(2, "", "```", "sh", ("b",)),
        Text(5, "  - c\n"),
        Fence(7, "    ", "~~~", "text", ("```", "  d")),
        Text(11, "e"),
    ]


EXAMPLES = """# Chapter

```python example
from tiny_llm.basics import softmax
import mlx.core as mx
print(softmax(mx.array([1.0, 1.0]), axis=0).tolist())
print("two")
```

```text output
[0.5, 0.5]
two
```

```python example
print("mx" in dir())
```

```text output
False
```
"""


def check(folder: Path, markdown: str, fix: bool = False) -> tuple[list[str], str]:
    """Check the examples of a chapter; returns the problems and what the file holds then."""
    path = folder / "x.md"
    path.write_text(markdown, encoding="utf-8")
    problems = check_examples(path, "book/src/x.md", "tiny_llm_ref", fix)
    return list(map(str, problems)), path.read_text(encoding="utf-8")


def test_examples_run_on_the_reference_and_do_not_see_each_other(tmp_path: Path) -> None:
    assert check(tmp_path, EXAMPLES) == ([], EXAMPLES)
    assert check(tmp_path, "No examples.\n") == ([], "No examples.\n")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("\ntwo\n", "\n2\n", 'x.md:12: the example above prints "two" where the chapter shows "2"'),
        ("\ntwo\n", "\n", "x.md:12: the example above prints "
         '"two" where the chapter shows nothing more'),
        ("\nFalse\n", "\nFalse\nmore\n", "prints nothing more where the chapter shows"),
        ('print("two")', "1 / 0", "x.md:7: this example fails: ZeroDivisionError"),
        ('print("two")', "print(", "x.md:7: this example fails: SyntaxError"),
        ('print("two")', "exit()", "x.md:7: this example fails: SystemExit"),
    ],
)  # fmt: skip
def test_a_wrong_example_is_reported_with_its_line(
    tmp_path: Path, old: str, new: str, complaint: str
) -> None:
    wrong = EXAMPLES.replace(old, new, 1)
    problems, after = check(tmp_path, wrong)
    assert len(problems) == 1
    assert complaint in problems[0]
    assert after == wrong


def test_fix_writes_what_the_examples_print(tmp_path: Path) -> None:
    wrong = EXAMPLES.replace("[0.5, 0.5]\ntwo", "[1, 2]").replace("\nFalse\n", "\nx\ny\n")
    assert check(tmp_path, wrong, fix=True) == ([], EXAMPLES)
