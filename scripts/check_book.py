"""`pdm run check-book`: the strict build of the book, with every example executed."""

from typing import Annotated

import typer

from tiny_llm_lab import PROJECT_ROOT
from tiny_llm_lab.book.examples import check_examples
from tiny_llm_lab.book.strict import MdbookMissing, build, chapters_of
from tiny_llm_lab.cli import fail, run

BOOK = PROJECT_ROOT / "book"


def main(
    fix: Annotated[
        bool, typer.Option("--fix", help="Write what the examples print into the chapters.")
    ] = False,
) -> None:
    """Build the book into book/book; fail on anything broken, and on any wrong output."""
    chapters = chapters_of(BOOK / "src")
    problems = []
    for chapter in chapters:
        path = BOOK / "src" / chapter
        if path.is_file():  # The build reports a chapter that is missing.
            problems += check_examples(path, f"book/src/{chapter}", "tiny_llm_ref", fix)
    try:
        problems += build(BOOK, BOOK / "book")
    except MdbookMissing as error:
        fail(str(error), exit_code=1)
    if problems:
        lines = list(map(str, dict.fromkeys(problems)))
        fail("\n".join([*lines, f"{len(lines)} problems in the book."]), exit_code=1)
    print(f"The book is sound: {len(chapters)} chapters, built into book/book.")


if __name__ == "__main__":
    run(main)
