"""`pdm run skeleton`: for authors of the course, who keep src/tiny_llm as it is generated.

Compares src/tiny_llm with what src/tiny_llm_ref and course.toml give; `--write` generates it anew.
Students have no use for it: what they write in src/tiny_llm is a difference.
"""

from typing import Annotated

import typer

from tiny_llm_lab.cli import fail, run
from tiny_llm_lab.course.manifest import CourseError, load_course
from tiny_llm_lab.course.skeleton import differences
from tiny_llm_lab.course.student_work import write_skeleton, written_symbols


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
        problems = differences(course)
        work = written_symbols(course)
    except CourseError as error:
        fail(str(error), exit_code=1)
    if work:
        problems.append(f"src/tiny_llm holds work, which --write will not touch: {', '.join(work)}")
    elif problems:
        problems.append("pdm run skeleton --write generates it anew.")
    if problems:
        fail("\n".join(problems), exit_code=1)
    print("src/tiny_llm is what is generated from src/tiny_llm_ref.")


if __name__ == "__main__":
    run(main)
