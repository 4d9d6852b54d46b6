"""What became of the graded tests of a run, and what that says about each task."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from .manifest import Course, Day, Task


class Status(StrEnum):
    """Where a test or a task stands."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_STARTED = "not started"
    NOT_VERIFIED = "not verified"
    CANNOT_BE_TESTED = "cannot be tested"


def task_status(tests: Iterable[Status]) -> Status:
    """Where a task stands, by its tests that were run; not verified if none were."""
    statuses = set(tests)
    if Status.FAILED in statuses:
        return Status.FAILED
    if Status.NOT_STARTED in statuses:
        # A stub in one branch only: the task is begun.
        return Status.FAILED if Status.PASSED in statuses else Status.NOT_STARTED
    return Status.PASSED if statuses == {Status.PASSED} else Status.NOT_VERIFIED


def cannot_be_tested(days: Iterable[Day]) -> str:
    """`Days 1.1 and 1.3 cannot be tested`."""
    *others, last = dict.fromkeys(day.id for day in days)
    names = f"Days {', '.join(others)} and {last}" if others else f"Day {last}"
    return f"{names} {Status.CANNOT_BE_TESTED}"


@dataclass
class GradedTest:
    """One graded test, and what became of it.

    Attributes:
        name: the test function's name.
        parameters: what a parametrized test is run with, such as `float16-3`; else empty.
        place: the test's file and line.
        purpose: the first paragraph of its docstring.
        status: None as long as the test has not run.
        note: the reason of a test that is not verified; the other task's stub that stopped one
            that is not started.
        message: the lines that explain a failure.
        crash: the exception that ended a test and its line; empty if it was an assertion.
        printed: what a failing test wrote to stdout.
    """

    task: Task
    name: str
    parameters: str
    place: str
    purpose: str
    status: Status | None = None
    note: str = ""
    message: list[str] = field(default_factory=list)
    crash: str = ""
    printed: str = ""


@dataclass
class TaskResults:
    """The graded tests of one run.

    Attributes:
        tests: the tests that were collected and not deselected, by pytest's name of them.
        incomplete: the tasks of which some test is left out of this run.
        deselected: the tasks of which `-k` leaves out some test.
        broken_days: the days whose tests cannot be imported because the solution cannot, by the
            lines that explain why.
        to_repair: the first line of the solution that broke a day; empty if there is none.
        unverified_days: why all tests of a day are skipped.
    """

    course: Course
    tests: dict[str, GradedTest] = field(default_factory=dict)
    incomplete: set[Task] = field(default_factory=set)
    deselected: set[Task] = field(default_factory=set)
    broken_days: dict[tuple[str, ...], list[Day]] = field(default_factory=dict)
    to_repair: str = ""
    unverified_days: dict[Day, str] = field(default_factory=dict)

    @property
    def tasks(self) -> list[Task]:
        """The tasks that this run says something about, in the order of the course."""
        return [
            task
            for task in self.course.tasks
            if self.tests_of(task)
            or self._is_broken(task)
            or self._day(task) in self.unverified_days
        ]

    def tests_of(self, task: Task) -> list[GradedTest]:
        """The tests of a task that were run."""
        tests = self.tests.values()
        return [test for test in tests if test.task == task and test.status is not None]

    def is_complete(self, task: Task) -> bool:
        """Whether all tests of a task were run."""
        unfinished = (test.task for test in self.tests.values() if test.status is None)
        return task not in self.incomplete and task not in unfinished

    def status_of(self, task: Task) -> Status:
        """Where a task stands, by its tests that were run."""
        if self._is_broken(task):
            return Status.CANNOT_BE_TESTED
        return task_status(test.status for test in self.tests_of(task) if test.status is not None)

    def points_of(self, task: Task) -> int:
        """The points that this run earns for a task: all or none."""
        earned = self.status_of(task) is Status.PASSED and self.is_complete(task)
        return task.points if earned else 0

    def notes_on(self, task: Task) -> list[str]:
        """Why tests of a task are not verified, and which other tasks they wait for."""
        if self._day(task) in self.unverified_days:
            return [f"not verified: {self.unverified_days[self._day(task)]}"]
        reasons = Counter(
            f"{'not verified:' if test.status is Status.NOT_VERIFIED else 'needs'} {test.note}"
            for test in self.tests_of(task)
            if test.note
        )
        return [
            f"{reason} ({count} {'test' if count == 1 else 'tests'})"
            for reason, count in reasons.items()
        ]

    def _day(self, task: Task) -> Day:
        return self.course.day(task.week, task.day)

    def _is_broken(self, task: Task) -> bool:
        return any(self._day(task) in days for days in self.broken_days.values())
