"""Lists the graded tests by task, and runs them on a package `tiny_llm` in a process of their own.

A process of its own, because a state of the course has the same package name as the student's
work, and because a crash of the tested code must not take the caller down.
"""

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .manifest import Course, CourseError, Day

# How `pdm run test` and everything else here runs pytest: a file that cannot be imported must not
# keep the others from being tested, and plugins that happen to be installed only take time.
PYTEST_OPTIONS = ("-q", "--continue-on-collection-errors", "--disable-plugin-autoload")

_TEST_NAME = re.compile(r"test_task_(\d+)_")


@dataclass(frozen=True)
class Outcome:
    """How one test ended.

    Attributes:
        test: pytest's name of it, such as `tests/test_week_1_day_1.py::test_task_1_sum[3]`.
        result: `passed`, `failed`, `skipped` or `error` (in a fixture, while collecting, or
            because the process died).
        error: the type of the exception, such as `CheckFailure`; empty if none.
        message: the message of the exception; for a file that the solution keeps from being
            imported, the lines that explain why.
        stub: whether a function of the package raised it to say that it is not written yet.
        place: the file and line of the solution that keep a test file from being imported.
    """

    test: str
    result: str
    error: str
    message: str
    stub: bool
    place: str = ""

    @property
    def file(self) -> str:
        """The test file, as the manifest names it."""
        return self.test.partition("::")[0]

    @property
    def task_number(self) -> int | None:
        """The number of the task within its day; None if the test's name does not say."""
        return task_number(self.test.partition("::")[2])


def task_number(test_name: str) -> int | None:
    """2 for `test_task_2_shapes`; None for a name that is not of this form."""
    match = _TEST_NAME.match(test_name)
    return int(match[1]) if match else None


def list_tests(course: Course, day: Day) -> list[str]:
    """The names of what pytest runs in a day's test file, read without importing it.

    Raises:
        CourseError: the test file is missing or is not valid Python.
    """
    path = course.root / day.tests
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CourseError(f"{day.tests}, the test file of {day.name}, is missing.") from error
    except SyntaxError as error:
        raise CourseError(f"{day.tests}, line {error.lineno}, is not valid Python.") from error
    nodes = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [node.name for node in nodes if node.name.startswith(("test", "Test"))]


def run_tests(
    course: Course,
    tests: list[str],
    package_parent: Path,
    report: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Run graded tests on the package `tiny_llm` of a folder.

    Args:
        course: the course whose tests they are.
        tests: test files or pytest's names of tests, from the project's root.
        package_parent: the folder that holds `tiny_llm`.
        report: called with each outcome as soon as it is known.

    Returns:
        One outcome per test that pytest collected, and one per file it could not collect.

    Raises:
        CourseError: pytest did not run at all.
    """
    read_end, write_end = os.pipe()
    paths = [str(package_parent.resolve()), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "TINY_LLM_SOLUTION": "tiny_llm",
        "TINY_LLM_OUTCOMES": str(write_end),
        "PYTHONPATH": os.pathsep.join(paths),
    }
    options = ["--tb=no", "-p", "no:cacheprovider", "-p", "tiny_llm_lab.course.outcomes"]
    outcomes: dict[str, Outcome] = {}
    command = [sys.executable, "-m", "pytest", *PYTEST_OPTIONS, *options, *tests]
    with (
        tempfile.TemporaryFile("w+") as output,
        os.fdopen(read_end, encoding="utf-8") as reports,
        subprocess.Popen(
            command,
            cwd=course.root,
            env=environment,
            pass_fds=[write_end],
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        os.close(write_end)
        for line in reports:
            outcome = Outcome(**json.loads(line))
            outcomes[outcome.test] = outcome
            if outcome.result != "collected":
                report(outcome)
        exit_code = process.wait()
        output.seek(0)
        last_words = " ".join(output.read().split()[-40:])
    if not outcomes:
        raise CourseError(f"pytest ended with exit code {exit_code} before any test: {last_words}")
    died = f"the tests' process ended with exit code {exit_code} before this test was done"
    return [
        Outcome(outcome.test, "error", "", died, stub=False)
        if outcome.result == "collected"
        else outcome
        for outcome in outcomes.values()
    ]
