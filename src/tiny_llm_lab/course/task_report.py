"""Prints what a student reads after a run of graded tests: the failures, and a table by task."""

import textwrap

import pytest

from . import solution
from .manifest import Course, Task
from .task_results import GradedTest, Status, TaskResults, cannot_be_tested

# Of the failing tests of a task, this many are explained in full, the others in a line or two.
MOST_EXPLAINED = 3

# What a failing test printed is shown from its end.
MOST_PRINTED_LINES = 20

# Of the parameters with which a test also fails or passes, and of tests that crash alike.
MOST_NAMES = 6

COLORS: dict[Status, dict[str, bool]] = {
    Status.PASSED: {"green": True},
    Status.FAILED: {"red": True},
    Status.NOT_STARTED: {},
    Status.NOT_VERIFIED: {"yellow": True},
    Status.CANNOT_BE_TESTED: {"red": True},
}


def print_failures(out: pytest.TerminalReporter, results: TaskResults) -> None:
    """Print the failing tests task by task, each task with its chapter and the next command."""
    for lines, days in results.broken_days.items():
        out.write_sep("=", cannot_be_tested(days), red=True)
        for line in lines:
            out.write_line(line)
        out.write_line("")
    for task in results.course.tasks:
        failed: dict[str, list[GradedTest]] = {}
        for test in results.tests_of(task):
            if test.status is Status.FAILED:
                failed.setdefault(test.name, []).append(test)
        if not failed:
            continue
        out.write_sep("=", f"Task {task.id}: {task.title}", red=True)
        _print_failed_tests(out, results, failed)
        _print_next_steps(out, results.course, task)


def print_table(out: pytest.TerminalReporter, results: TaskResults) -> None:
    """Print one line per task, the points, and the task to do next."""
    tasks = results.tasks
    if not tasks:
        return
    width = max(len(task.title) for task in tasks)
    day = None
    for task in tasks:
        if day != (task.week, task.day):
            day = task.week, task.day
            day_of_task = results.course.day(*day)
            out.write_line(f"{day_of_task.name}: {day_of_task.title}", bold=True)
        status = results.status_of(task)
        tests = results.tests_of(task)
        passed = sum(test.status is Status.PASSED for test in tests)
        out.write(f"  {task.id:<7}{task.title:<{width}}  ")
        counts = f"{passed:>3} of {len(tests):>3} tests" if tests else ""
        out.write(status, **COLORS[status])
        out.write(f"{counts:>{30 - len(status)}}  ")
        if results.is_complete(task):
            out.write_line(f"{results.points_of(task):>3} of {task.points:>3} points")
        else:
            out.write_line("(not all run)")
        for note in results.notes_on(task):
            out.write_line(f"  {'':<7}{note}")
    earned = sum(results.points_of(task) for task in tasks)
    out.write_line(f"{earned} of {sum(task.points for task in tasks)} points.")
    if results.broken_days:
        out.write_line(f"Next: repair {results.to_repair or 'the import'}, then run again.")
        return
    for task in tasks:
        status = results.status_of(task)
        if status is Status.FAILED:  # where to read is said above, below its failures
            out.write_line(f"Next: task {task.id}, {task.title}.")
            return
        if status is Status.NOT_STARTED:
            out.write_line(f"Next: task {task.id}, {task.title}: {_chapter(results.course, task)}")
            return


def print_no_match(out: pytest.TerminalReporter, results: TaskResults, keyword: str) -> None:
    """Say that `-k` leaves nothing to run, and what it could name."""
    days = {(task.week, task.day) for task in results.deselected}
    if len(days) != 1:
        out.write_line(f'No test matches "{keyword}".')
        return
    day = results.course.day(*days.pop())
    first, last = day.tasks[0].number, day.tasks[-1].number
    tasks = f"task_{first}" + (f" to task_{last}" if last > first else "")
    out.write_line(f'No test of {day.name} matches "{keyword}": it has {tasks}.')


def _print_failed_tests(
    out: pytest.TerminalReporter, results: TaskResults, failed: dict[str, list[GradedTest]]
) -> None:
    """Print why the tests of one task fail: the first in full, those that crash alike once."""
    crashes: dict[str, list[str]] = {}
    for name, tests in failed.items():
        crashes.setdefault(tests[0].crash or name, []).append(name)
    for number, names in enumerate(crashes.values()):
        tests, in_full = failed[names[0]], number < MOST_EXPLAINED
        _print_failed_test(out, tests, _passing(results, tests[0]), in_full=in_full)
        if len(names) > 1:
            count = "1 more test fails" if len(names) == 2 else f"{len(names) - 1} more tests fail"
            line = f"{count} in the same way: {_list(names[1:])}"
            out.write_line(textwrap.fill(line, 100, subsequent_indent="  "))
            out.write_line("")
    if len(crashes) > MOST_EXPLAINED:
        out.write_line(
            f"(details of the first {MOST_EXPLAINED} only; -- -k NAME shows one in full)"
        )
        out.write_line("")


def _passing(results: TaskResults, failing: GradedTest) -> list[GradedTest]:
    """The tests of the same function that pass."""
    tests = results.tests_of(failing.task)
    return [t for t in tests if t.name == failing.name and t.status is Status.PASSED]


def _print_failed_test(
    out: pytest.TerminalReporter,
    tests: list[GradedTest],
    passing: list[GradedTest],
    *,
    in_full: bool,
) -> None:
    """Print why a test fails; of a parametrized one the first failure and the other parameters."""
    first, *others = tests
    out.write(first.name + (f" [{first.parameters}]" if first.parameters else ""), bold=True)
    out.write_line(f"  ({first.place})")
    if first.purpose:
        out.write_line(first.purpose)
    out.write_line("")
    for line in first.message if in_full else first.message[:1]:
        out.write_line(f"  {line}")
    if in_full:
        if others:
            out.write_line(f"    it fails for {_parameters(others)} as well")
        if passing and len(passing) <= len(tests):  # otherwise what fails is the clue
            out.write_line(f"    it passes for {_parameters(passing)}")
    printed = first.printed.splitlines()[-MOST_PRINTED_LINES:]
    if printed and in_full:
        out.write_line("    it printed")
        for line in printed:
            out.write_line(f"      {line}")
    out.write_line("")


def _parameters(tests: list[GradedTest]) -> str:
    return _list([test.parameters for test in tests])


def _list(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _print_next_steps(out: pytest.TerminalReporter, course: Course, task: Task) -> None:
    command = "test" if solution.package_name() == solution.STUDENT else "test-refsol"
    out.write_line(f"read        {_chapter(course, task)}")
    out.write_line(f"run again   pdm run {command} {task.test_options}")
    out.write_line(f"a hint      pdm run hint {task.id}")
    out.write_line("")


def _chapter(course: Course, task: Task) -> str:
    chapter = course.book.relative_to(course.root) / course.day(task.week, task.day).chapter
    return f"Task {task.number} in {chapter.as_posix()} (pdm run book)"
