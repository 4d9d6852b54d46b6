"""`pdm run check-course`: the skeleton, the manifest, the tests and the chapters agree."""

import typer

from tiny_llm_lab.cli import fail
from tiny_llm_lab.course.consistency import check_consistency
from tiny_llm_lab.course.manifest import CourseError, load_course
from tiny_llm_lab.course.skeleton import differences, written


def main() -> None:
    """Check what an author of the course may have left out of step."""
    try:
        course = load_course()
        problems = check_consistency(course)
        if not problems:
            if work := written(course):
                print(
                    f"src/tiny_llm holds a student's work ({len(work)} functions), as it is meant "
                    "to, so it is not compared with the generated skeleton."
                )
            elif different := differences(course):
                problems = [f"src/tiny_llm: {problem}" for problem in different]
                problems.append("Authors of the course: run `pdm run skeleton --write`.")
    except CourseError as error:
        fail(str(error), exit_code=1)
    if problems:
        fail("\n".join(problems), exit_code=1)
    print(f"{len(course.days)} days, {len(course.tasks)} tasks: all parts of the course agree.")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
