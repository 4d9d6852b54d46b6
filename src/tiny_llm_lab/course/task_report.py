"""Prints what a student reads after a run of graded tests: the failures, and a table by task."""

import pytest

from . import solution
from .manifest import Course, Task
from .task_results import GradedTest, Status, TaskResults

# Of the failing tests of a task, this many are explained in full, the others in a line or two.
MOST_EXPLAINED = 3

# What a failing test printed is shown from its end.
MOST_PRINTED_LINES = 20

# The parameters with which the same test also fails, named after the first.
MOST_PARAMETERS = 6

COLORS: dict[Status, dict[str, bool]] = {
    Status.PASSED: {"green": True},
    Status.FAILED: {"red": True},
    Status.NOT_STARTED: {},
    Status.NOT_VERIFIED: {"yellow": True},
}


def print_failures(out: pytest.TerminalReporter, results: TaskResults) -> None:
    """Print the failing tests task by task, each task with its chapter and the next command."""
    for lines, days in results.broken_days.items():
        names = ", ".join(day.name for day in days)
        out.write_sep("=", f"{names} cannot be tested", red=True)
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
        for number, tests in enumerate(failed.values()):
            _print_failed_test(out, tests, in_full=number < MOST_EXPLAINED)
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
        out.write(f"{status:<12}", **COLORS[status])
        out.write(f"  {passed:>3} of {len(tests):>3} tests  ")
        if results.is_complete(task):
            out.write_line(f"{results.points_of(task):>3} of {task.points:>3} points")
        else:
            out.write_line("(not all run)")
        for note in results.notes_on(task):
            out.write_line(f"  {'':<7}{note}")
    earned = sum(results.points_of(task) for task in tasks)
    out.write_line(f"{earned} of {sum(task.points for task in tasks)} points.")
    for task in tasks:
        if results.status_of(task) in (Status.FAILED, Status.NOT_STARTED):
            out.write_line(f"Next: task {task.id}, {task.title}: {_chapter(results.course, task)}")
            break


def _print_failed_test(
    out: pytest.TerminalReporter, tests: list[GradedTest], *, in_full: bool
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
    if others and in_full:
        shown = ", ".join(test.parameters for test in others[:MOST_PARAMETERS])
        more = len(others) - MOST_PARAMETERS
        out.write_line(f"    it fails for {shown}{f' and {more} more' if more > 0 else ''} as well")
    printed = first.printed.splitlines()[-MOST_PRINTED_LINES:]
    if printed and in_full:
        out.write_line("    it printed")
        for line in printed:
            out.write_line(f"      {line}")
    out.write_line("")


def _print_next_steps(out: pytest.TerminalReporter, course: Course, task: Task) -> None:
    command = "test" if solution.package_name() == solution.STUDENT else "test-refsol"
    out.write_line(f"read        {_chapter(course, task)}")
    out.write_line(f"run again   pdm run {command} {task.test_options}")
    out.write_line(f"a hint      pdm run hint {task.id}")
    out.write_line("")


def _chapter(course: Course, task: Task) -> str:
    book = course.book.relative_to(course.root).as_posix()
    return f"{book}/{course.day(task.week, task.day).chapter}#task-{task.number}"
