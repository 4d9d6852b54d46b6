"""The pytest plugin that grades: it turns test results into task results.

It concerns the graded tests only: functions `test_task_<n>_...` of the test files that course.toml
names. Of these it shows, instead of pytest's tracebacks, what a student needs to go on; and a
table by task at the end. A test that raises the stub's NotImplementedError is "not started", a
skipped one "not verified"; neither counts as passed. Other tests are left alone.
"""

import random
import signal
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from . import failure, solution
from .checks import dtype_name
from .graded_tests import task_number
from .manifest import Course, CourseError, Day, Task, load_course

# Far above what any graded test needs, on any machine: only a loop that never ends reaches it.
TIME_LIMIT_SECONDS = 60

# Of the failing tests of a task, this many are explained in full, the others in a line or two.
MOST_EXPLAINED = 3

# What a failing test printed is shown from its end.
MOST_PRINTED_LINES = 20

# The parameters with which the same test also fails, named after the first.
MOST_PARAMETERS = 6


class Outcome(StrEnum):
    """What became of a test or a task."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_STARTED = "not started"
    NOT_VERIFIED = "not verified"


_COLORS: dict[Outcome, dict[str, bool]] = {
    Outcome.PASSED: {"green": True},
    Outcome.FAILED: {"red": True},
    Outcome.NOT_STARTED: {},
    Outcome.NOT_VERIFIED: {"yellow": True},
}


@dataclass
class GradedTest:
    """One graded test, and what became of it.

    Attributes:
        name: the test function's name.
        place: the test's file and line.
        purpose: the first paragraph of its docstring.
        parameters: what a parametrized test is run with, such as `float16-3`; else empty.
        note: the reason of a test that is not verified; the other task's stub that stopped one
            that is not started.
        message: the lines that explain a failure.
    """

    task: Task
    name: str
    parameters: str
    place: str
    purpose: str
    outcome: Outcome | None = None
    note: str = ""
    message: list[str] = field(default_factory=list)
    printed: str = ""


class Grading:
    """The plugin. `tests/conftest.py` registers it with `register`."""

    def __init__(self, course: Course, config: pytest.Config) -> None:
        """Read nothing yet; the tests come with the collection."""
        self.course = course
        self.config = config
        self.day_of_file = {(course.root / day.tests).resolve(): day for day in course.days}
        self.tests: dict[str, GradedTest] = {}
        self.incomplete: set[str] = set()
        self.broken_days: dict[tuple[str, ...], list[Day]] = {}
        self.unverified_days: dict[str, str] = {}
        self.device = mx.default_device()
        arguments = config.invocation_params.args
        self.explains = not any(str(argument).startswith("--tb") for argument in arguments)
        # Chosen by name, or with --lf, the other tests of a task are not even collected.
        self.partial = any("::" in str(argument) for argument in arguments) or config.getoption(
            "lf", False
        )

    # --- collection -------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Note a test file that cannot be imported because the solution cannot."""
        report = yield
        day = self._day_of(collector)
        if day is None:
            return report
        if report.skipped and isinstance(report.longrepr, tuple):
            self.unverified_days[day.id] = report.longrepr[2].removeprefix("Skipped: ")
        call: pytest.CallInfo[Any] | None = getattr(report, "call", None)
        if report.failed and call is not None and call.excinfo is not None:
            error = call.excinfo.value
            if isinstance(error, collector.CollectError) and error.__cause__ is not None:
                error = error.__cause__
            if self._is_about_the_solution(error):
                lines = tuple(failure.describe(error, None, solution.package_folder()))
                self.broken_days.setdefault(lines, []).append(day)
        return report

    def pytest_make_parametrize_id(self, val: object) -> str | None:
        """Call the parameters of a test `float16`, not `dtype0`."""
        return dtype_name(val) if isinstance(val, mx.Dtype) else None

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Find the graded tests, before any are deselected."""
        for item in items:
            task = self._task_of(item)
            if task is None or not isinstance(item, pytest.Function):
                continue
            name, _, parameters = item.name.partition("[")
            file, line, _ = item.location
            purpose = (item.function.__doc__ or "").strip().split("\n\n")[0]
            self.tests[item.nodeid] = GradedTest(
                task=task,
                name=name,
                parameters=parameters.removesuffix("]"),
                place=f"{file}:{(line or 0) + 1}",
                purpose=" ".join(purpose.split()),
            )

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        """Forget what is not run, but remember that its task is not complete."""
        for item in items:
            test = self.tests.pop(item.nodeid, None)
            if test is not None:
                self.incomplete.add(test.task.id)

    # --- running ----------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Start every graded test from the same seeds and device, and show which task it is."""
        test = self.tests.get(item.nodeid)
        if test is None:
            return (yield)
        self._show_progress(test)
        random.seed(0)
        np.random.seed(0)
        mx.random.seed(0)
        mx.set_default_device(self.device)
        try:
            return (yield)
        finally:
            mx.set_default_device(self.device)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None]:
        """Limit the time of the fixtures."""
        with self._time_limit(item):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None]:
        """Limit the time of the test."""
        with self._time_limit(item):
            return (yield)

    def pytest_enter_pdb(self) -> None:
        """A student who debugs has all the time in the world."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Note what became of a graded test."""
        report = yield
        test = self.tests.get(item.nodeid)
        if test is None:
            return report
        if report.failed and call.excinfo is not None:
            error = call.excinfo.value
            if isinstance(error, NotImplementedError):
                test.outcome = Outcome.NOT_STARTED
                test.note = failure.missing_work(error, test.task, self.course) or ""
            else:
                test.outcome = Outcome.FAILED
                test.message = failure.describe(error, test.task, solution.package_folder())
                test.printed = report.capstdout
        elif report.skipped:
            test.outcome = Outcome.NOT_VERIFIED
            test.note = _skip_reason(report)
        elif report.when == "call":
            test.outcome = Outcome.PASSED
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(
        self, report: pytest.CollectReport | pytest.TestReport
    ) -> tuple[str, str, str] | None:
        """With -q, print no letter for a graded test: the table says it better."""
        if self.config.option.verbose >= 0 or report.nodeid not in self.tests:
            return None
        if report.when == "call" or not report.passed:
            category = "error" if report.failed and report.when != "call" else report.outcome
            return category, "", ""
        return None

    # --- the report -------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Generator[None]:
        """Print the failures and the table; pytest's own sections show the other tests only."""
        self._clear_progress()
        # A run that was stopped, as with -x, leaves tests without an outcome.
        self.incomplete |= {test.task.id for test in self.tests.values() if test.outcome is None}
        if not self.explains:
            yield
        else:
            stats = terminalreporter.stats
            everything = {key: stats.get(key, []) for key in ("failed", "error", "skipped")}
            for key, reports in everything.items():
                stats[key] = [report for report in reports if not self._is_explained(report)]
            yield
            stats.update(everything)
            self._print_failures(terminalreporter)
        self._print_table(terminalreporter)

    def _is_explained(self, report: Any) -> bool:
        """Whether this plugin reports a test's or a file's result in its own way."""
        if report.nodeid in self.tests:
            return True
        days = {day.tests for group in self.broken_days.values() for day in group}
        days |= {day.tests for day in self.course.days if day.id in self.unverified_days}
        return report.nodeid in days

    def _print_failures(self, out: pytest.TerminalReporter) -> None:
        for lines, days in self.broken_days.items():
            names = ", ".join(day.name for day in days)
            out.write_sep("=", f"{names} cannot be tested", red=True)
            for line in lines:
                out.write_line(line)
            out.write_line("")
        for task in self.course.tasks:
            failed = [x for x in self._run_tests(task) if x.outcome is Outcome.FAILED]
            if failed:
                out.write_sep("=", f"Task {task.id}: {task.title}", red=True)
                self._print_failed_tests(out, failed)
                self._print_next_steps(out, task)

    def _print_failed_tests(self, out: pytest.TerminalReporter, failed: list[GradedTest]) -> None:
        """The failing tests of a task; of a parametrized one the first, then the parameters."""
        by_name: dict[str, list[GradedTest]] = {}
        for test in failed:
            by_name.setdefault(test.name, []).append(test)
        for number, (name, (first, *others)) in enumerate(by_name.items()):
            out.write(name + (f" [{first.parameters}]" if first.parameters else ""), bold=True)
            out.write_line(f"  ({first.place})")
            if first.purpose:
                out.write_line(first.purpose)
            out.write_line("")
            if number >= MOST_EXPLAINED:
                out.write_line(f"  {first.message[0]}")
                out.write_line("")
                continue
            for line in first.message:
                out.write_line(f"  {line}")
            if others:
                parameters = ", ".join(test.parameters for test in others[:MOST_PARAMETERS])
                more = f" and {len(others) - MOST_PARAMETERS} more"
                out.write_line(
                    f"    it fails for {parameters}{more if len(others) > MOST_PARAMETERS else ''}"
                    " as well"
                )
            self._print_printed(out, first.printed)
            out.write_line("")

    def _print_printed(self, out: pytest.TerminalReporter, printed: str) -> None:
        lines = printed.splitlines()
        if lines:
            out.write_line("    it printed")
        for line in lines[-MOST_PRINTED_LINES:]:
            out.write_line(f"      {line}")

    def _print_next_steps(self, out: pytest.TerminalReporter, task: Task) -> None:
        command = "test" if solution.package_name() == solution.STUDENT else "test-refsol"
        out.write_line(f"read        {self._chapter(task)}")
        out.write_line(
            f"run again   pdm run {command} --week {task.week} --day {task.day} -- "
            f"-k task_{task.number}"
        )
        out.write_line(f"a hint      pdm run hint {task.id}")
        out.write_line("")

    def _print_table(self, out: pytest.TerminalReporter) -> None:
        tasks = [task for task in self.course.tasks if self._concerns(task)]
        if not tasks:
            return
        earned = 0
        width = max(len(task.title) for task in tasks)
        day = ""
        for task in tasks:
            if day != f"{task.week}.{task.day}":
                day = f"{task.week}.{task.day}"
                title = self.course.day(task.week, task.day).title
                out.write_line(f"Week {task.week} Day {task.day}: {title}", bold=True)
            outcome, notes = self._judge(task)
            tests = self._run_tests(task)
            passed = sum(test.outcome is Outcome.PASSED for test in tests)
            complete = not self.partial and task.id not in self.incomplete
            points = task.points if outcome is Outcome.PASSED and complete else 0
            earned += points
            out.write(f"  {task.id:<7}{task.title:<{width}}  ")
            out.write(f"{outcome:<12}", **_COLORS[outcome])
            out.write_line(
                f"  {passed:>3} of {len(tests):>3} tests"
                + (f"  {points:>3} of {task.points:>3} points" if complete else "  (not all run)")
            )
            for note in notes:
                out.write_line(f"  {'':<7}{note}")
        total = sum(task.points for task in tasks)
        out.write_line(f"{earned} of {total} points.")
        unfinished = [task for task in tasks if self._judge(task)[0] is not Outcome.PASSED]
        open_tasks = [
            task for task in unfinished if self._judge(task)[0] is not Outcome.NOT_VERIFIED
        ]
        if open_tasks:
            task = open_tasks[0]
            out.write_line(f"Next: task {task.id}, {task.title}: {self._chapter(task)}")

    def _concerns(self, task: Task) -> bool:
        """Whether a task belongs into the table of this run."""
        day = f"{task.week}.{task.day}"
        return (
            bool(self._run_tests(task))
            or day in self.unverified_days
            or any(day == broken.id for group in self.broken_days.values() for broken in group)
        )

    def _judge(self, task: Task) -> tuple[Outcome, list[str]]:
        """What became of a task, and why it is not started or not verified."""
        day = f"{task.week}.{task.day}"
        if any(day == broken.id for group in self.broken_days.values() for broken in group):
            return Outcome.FAILED, []
        if day in self.unverified_days:
            return Outcome.NOT_VERIFIED, [f"not verified: {self.unverified_days[day]}"]
        tests = self._run_tests(task)
        outcomes = {test.outcome for test in tests}
        reasons = Counter(
            f"needs {test.note}"
            if test.outcome is Outcome.NOT_STARTED
            else f"not verified: {test.note}"
            for test in tests
            if test.note
        )
        notes = [
            f"{reason} ({count} test{'s' if count > 1 else ''})"
            for reason, count in reasons.items()
        ]
        if Outcome.FAILED in outcomes:
            return Outcome.FAILED, notes
        if Outcome.NOT_STARTED in outcomes:
            started = Outcome.PASSED in outcomes
            return (Outcome.FAILED if started else Outcome.NOT_STARTED), notes
        if outcomes == {Outcome.PASSED}:
            return Outcome.PASSED, notes
        return Outcome.NOT_VERIFIED, notes

    def _run_tests(self, task: Task) -> list[GradedTest]:
        """The tests of a task that have an outcome."""
        tests = self.tests.values()
        return [test for test in tests if test.task is task and test.outcome is not None]

    # --- helpers ----------------------------------------------------------------------------

    def _day_of(self, node: pytest.Collector | pytest.Item) -> Day | None:
        path: Path | None = getattr(node, "path", None)
        return self.day_of_file.get(path.resolve()) if path is not None else None

    def _task_of(self, item: pytest.Item) -> Task | None:
        day, number = self._day_of(item), task_number(item.name)
        return next((task for task in day.tasks if task.number == number), None) if day else None

    def _is_about_the_solution(self, error: BaseException) -> bool:
        package = solution.package_folder()
        if isinstance(error, SyntaxError):
            return Path(error.filename or "").resolve().is_relative_to(package)
        if failure.deepest_location(error.__traceback__, package) is not None:
            return True
        name = (error.name or "") if isinstance(error, ImportError) else ""
        return name.split(".")[0] in (solution.package_name(), solution.ALIAS)

    def _chapter(self, task: Task) -> str:
        day = self.course.day(task.week, task.day)
        book = self.course.book.relative_to(self.course.root).as_posix()
        return f"{book}/{day.chapter}#task-{task.number}"

    @contextmanager
    def _time_limit(self, item: pytest.Item) -> Iterator[None]:
        """Raise TimeLimitExceeded in a graded test, every second from the limit on.

        Once is not enough: the solution may hold an `except:` without a type.
        """
        if item.nodeid not in self.tests or self.config.option.usepdb:
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            raise failure.TimeLimitExceeded(
                f"The test was stopped after {TIME_LIMIT_SECONDS} seconds: does a loop never end?"
            )

        previous = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT_SECONDS, 1)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)

    def _show_progress(self, test: GradedTest) -> None:
        """On a terminal, with -q, one line says what is running."""
        out = self._terminal()
        if out is not None and out.isatty and self.config.option.verbose < 0:
            done = sum(other.outcome is not None for other in self.tests.values())
            line = f"{done + 1} of {len(self.tests)}: task {test.task.id}, {test.task.title}"
            out.rewrite(line, erase=True)

    def _clear_progress(self) -> None:
        out = self._terminal()
        if out is not None and out.isatty and self.config.option.verbose < 0 and self.tests:
            out.rewrite("", erase=True)
            out.write("\r")

    def _terminal(self) -> pytest.TerminalReporter | None:
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        return reporter if isinstance(reporter, pytest.TerminalReporter) else None


def _count(tests: int) -> str:
    return "1 test" if tests == 1 else f"{tests} tests"


def _skip_reason(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return "skipped"


def register(config: pytest.Config, root: Path) -> None:
    """Grade the tests of the course that lies in `root`.

    Raises:
        pytest.UsageError: course.toml or the solution package is missing or broken.
    """
    try:
        solution.package_folder()
        course = load_course(root)
    except (CourseError, solution.SolutionMissing) as error:
        raise pytest.UsageError(str(error)) from error
    config.pluginmanager.register(Grading(course, config), "tiny-llm-grading")
