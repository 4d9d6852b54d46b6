"""`pdm run check-book`: the strict build of the book, with every example executed."""

import sys
from typing import Annotated

import typer

from tiny_llm_lab import PROJECT_ROOT
from tiny_llm_lab.book.examples import check_examples
from tiny_llm_lab.book.strict import build, chapters_of

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
    problems += build(BOOK, BOOK / "book")
    for problem in dict.fromkeys(problems):
        print(problem)
    if problems:
        print(f"{len(set(problems))} problems in the book.")
        raise typer.Exit(1)
    print(f"The book is sound: {len(chapters)} chapters, built into book/book.")


if __name__ == "__main__":
    # `pdm run check-book -- --fix` hands the -- on.
    sys.argv = [argument for argument in sys.argv if argument != "--"]
    try:
        typer.run(main)
    except FileNotFoundError as error:
        sys.exit(str(error))
