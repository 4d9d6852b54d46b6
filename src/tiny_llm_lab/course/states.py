"""The states of a student on the way through the course, and the gates on the graded tests.

The state "student of day N" is the package `tiny_llm` with the reference's bodies for the tasks of
all days up to N and stubs after that. A body that a later day extends is the earlier one until that
day. State 0 is the untouched skeleton.

On each state N the gates run two days:

- day N passes, and if it extends a symbol, so does every day from the one that wrote it;
- day N+1 fails, test by test: a test that passes without the work of its day tests nothing.

That other earlier days pass on state N too needs no run of its own. But for what day N extends,
state N differs from state d < N only in stubs that have become real. A test that passed on state d
met none of these stubs, since a stub raises (and no test has reason to swallow that), so it does
the same on state N. The last state is checked to be the reference itself, on which
`pdm run test-refsol` runs all tests. So the gates cost about one run of every day, where running
days 1 to N on each state would cost a square number of them.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

from .graded_tests import Outcome, run_tests
from .manifest import Course, CourseError, Day
from .packages import read_package, write_package
from .skeleton import build_package, differences, leaked_lines
from .student_work import written_symbols

# What a test of unwritten work may raise, if not a stub's own error: a check's message.
CHECK_FAILURE = "CheckFailure"


def write_state(course: Course, through: Day | None, folder: Path) -> None:
    """Write the package `tiny_llm` of a student who has done all days up to `through`.

    Args:
        course: the course.
        through: the last day that is done; None for the untouched skeleton.
        folder: where the folder `tiny_llm` is made; to be put on PYTHONPATH.
    """
    write_package(build_package(course, through), folder / "tiny_llm")


def check_skeleton(course: Course) -> list[str]:
    """Check that the generated skeleton gives no solution away, and is the one in the project.

    The latter only while the project's is untouched: a student's work is not compared.
    """
    problems = [
        f"The skeleton holds a line of the solution, in {line}"
        for line in leaked_lines(course, build_package(course))
    ]
    if not written_symbols(course):
        problems += differences(course)
    return problems


def check_last_state(course: Course) -> list[str]:
    """Check that the state after the last day is the reference, but for its `__init__.py`."""
    last = build_package(course, course.days[-1])
    reference = read_package(course.reference)
    return [
        f"The state after the last day differs from the reference in {file}."
        for file in sorted({*last, *reference} - {"__init__.py"})
        if last.get(file) != reference.get(file)
    ]


def check_state(
    course: Course, through: Day | None, report: Callable[[Outcome], None] = lambda outcome: None
) -> list[str]:
    """Run the graded tests that decide about one state.

    Args:
        course: the course.
        through: the last day that is done: its tests must pass, and those of the days from the
            first of which it extends a symbol; the next day's must fail. None for the untouched
            skeleton, on which the tests of all days must fail.
        report: called with the outcome of each test as soon as it is known.

    Returns:
        What is wrong, in sentences.
    """
    days = list(course.days)
    passing: list[Day] = []
    failing = days
    if through is not None:
        following = days.index(through) + 1
        passing = days[_first_to_pass(course, through) : following]
        failing = days[following : following + 1]
    state = state_name(through)
    with tempfile.TemporaryDirectory(prefix="tiny-llm-state-") as folder:
        write_state(course, through, Path(folder))
        tests = [day.tests for day in (*passing, *failing)]
        try:
            outcomes = run_tests(course, tests, Path(folder), report)
        except CourseError as error:
            return [f"On the {state}: {error}"]
    problems = []
    for outcome in outcomes:
        if outcome.file in [day.tests for day in passing]:
            if outcome.result != "passed":
                problems.append(f"{outcome.test} {_how(outcome)} on the {state}.")
        elif not _fails_as_expected(outcome):
            problems.append(
                f"{outcome.test} {_how(outcome)} on the {state}, "
                f"but should fail by a stub's error or by {CHECK_FAILURE}."
            )
    ran = {(outcome.file, outcome.task_number) for outcome in outcomes}
    for day in (*passing, *failing):
        if (day.tests, None) not in ran:  # the whole file could not be collected, as said above
            problems += [
                f"No test of task {task.id} ran on the {state}."
                for task in day.tasks
                if (day.tests, task.number) not in ran
            ]
    return problems


def state_name(through: Day | None) -> str:
    """`untouched skeleton`, or `state after Week 1 Day 3`."""
    return f"state after {through.name}" if through else "untouched skeleton"


def _first_to_pass(course: Course, through: Day) -> int:
    """The index of the first day of which `through` extends a symbol; its own if there is none."""
    owners = [course.owners(symbol)[0] for task in through.tasks for symbol in task.extends]
    days = [through, *(course.day(owner.week, owner.day) for owner in owners)]
    return min(map(course.days.index, days))


def _fails_as_expected(outcome: Outcome) -> bool:
    return outcome.result == "failed" and (outcome.stub or outcome.error == CHECK_FAILURE)


def _how(outcome: Outcome) -> str:
    first_line = outcome.message.strip().partition("\n")[0]
    detail = ": ".join(filter(None, (outcome.error, first_line)))
    ended = {
        "passed": "passes",
        "failed": "fails",
        "skipped": "is skipped",
        "error": "ends in an error",
    }
    return f"{ended[outcome.result]} ({detail})" if detail else ended[outcome.result]
