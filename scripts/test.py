"""`pdm run test`: run the graded tests of the course, of a week or of a day."""

import os
import sys
from enum import StrEnum
from typing import Annotated

import typer

from tiny_llm_lab.cli import fail, run
from tiny_llm_lab.course.graded_tests import PYTEST_OPTIONS
from tiny_llm_lab.course.manifest import CourseError, load_course
from tiny_llm_lab.course.solution import ENVIRONMENT_VARIABLE, REFERENCE, STUDENT


class Solution(StrEnum):
    """Whose code is tested."""

    student = "student"
    ref = "ref"


PACKAGES = {Solution.student: STUDENT, Solution.ref: REFERENCE}


def main(
    pytest_arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- PYTEST OPTIONS]", help="Goes to pytest, as in -- -k task_2."),
    ] = None,
    week: Annotated[int | None, typer.Option(help="Only this week.")] = None,
    day: Annotated[int | None, typer.Option(help="Only this day of the week.")] = None,
    solution: Annotated[
        Solution, typer.Option(help="Your package src/tiny_llm, or the reference.")
    ] = Solution.student,
) -> None:
    """Run the graded tests, and show what is done task by task."""
    try:
        course = load_course()
        if day is not None and week is None:
            fail(f"--day {day} needs its week, as in --week 1 --day {day}.")
        if week is None:
            days = course.days
        elif day is None:
            days = course.week(week).days
        else:
            days = (course.day(week, day),)
    except CourseError as error:
        fail(str(error))

    os.environ[ENVIRONMENT_VARIABLE] = PACKAGES[solution]
    os.chdir(course.root)
    # Not above: --help and a wrong day need not wait for it.
    import pytest

    files = [day.tests for day in days]
    sys.exit(pytest.main([*files, *PYTEST_OPTIONS, *(pytest_arguments or [])]))


if __name__ == "__main__":
    run(main)
