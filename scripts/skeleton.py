"""`pdm run skeleton`: for the course's authors, the student's package as the reference has it.

Compares src/tiny_llm with what is generated from src/tiny_llm_ref and course.toml; `--write`
generates it anew.
"""

from typing import Annotated

import typer

from tiny_llm_lab.cli import fail
from tiny_llm_lab.course.manifest import CourseError, load_course
from tiny_llm_lab.course.skeleton import differences, write_skeleton, written


def main(
    write: Annotated[
        bool,
        typer.Option("--write", help="Generate src/tiny_llm, unless it holds work."),
    ] = False,
) -> None:
    """Compare src/tiny_llm with the generated skeleton, or write it."""
    try:
        course = load_course()
        if write:
            write_skeleton(course)
            print("src/tiny_llm is generated from src/tiny_llm_ref.")
            return
        work, different = written(course), differences(course)
    except CourseError as error:
        fail(str(error), exit_code=1)
    if work:
        print(f"src/tiny_llm holds a student's work, in {', '.join(work)}; it is not compared.")
    elif different:
        fail(
            "\n".join(f"src/tiny_llm: {problem}" for problem in different)
            + "\nAuthors of the course: run `pdm run skeleton --write`.",
            exit_code=1,
        )
    else:
        print("src/tiny_llm is what is generated from src/tiny_llm_ref.")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
