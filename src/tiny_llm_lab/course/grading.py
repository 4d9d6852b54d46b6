"""The pytest plugin that grades: it turns test results into task results.

It concerns the graded tests only: functions `test_task_<n>_...` of the test files that course.toml
names. Of these it shows, instead of pytest's tracebacks, what a student needs to go on; and a
table by task at the end. A test that raises the stub's NotImplementedError is "not started", a
skipped one "not verified"; neither counts as passed. Other tests are left alone.
"""

import random
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from tiny_llm_lab.kernels import BuildError, load_extension, prepare_simulator

from . import failure, solution
from .checks import dtype_name
from .graded_tests import task_number
from .manifest import Course, CourseError, Day, Task, load_course
from .skeleton import stub_of_another_task
from .task_report import print_failures, print_no_match, print_table
from .task_results import GradedTest, Status, TaskResults

# Far above what any graded test needs, on any machine: only a loop that never ends reaches it.
TIME_LIMIT_SECONDS = 60


def _has_kernels(day: Day, folder: str) -> bool:
    """Whether C++ (`cpp`) or Metal (`metal`) is to be written on a day."""
    files = [symbol.file for task in day.tasks for symbol in task.symbols]
    return any(file.startswith(f"{folder}/") for file in files)


class Grading:
    """The plugin. `tests/conftest.py` registers it with `register`."""

    def __init__(self, course: Course, config: pytest.Config) -> None:
        """Read nothing yet; the tests come with the collection."""
        self.course = course
        self.config = config
        self.day_of_file = {(course.root / day.tests).resolve(): day for day in course.days}
        self.results = TaskResults(course)
        self.device = mx.default_device()
        arguments = config.invocation_params.args
        self.explains = not any(str(argument).startswith("--tb") for argument in arguments)
        # Of tests chosen by name, or with --lf, the task's others are not even collected.
        if any("::" in str(argument) for argument in arguments) or config.getoption("lf", False):
            self.results.incomplete.update(course.tasks)

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
            self.results.unverified_days[day] = report.longrepr[2].removeprefix("Skipped: ")
        error = collection_error(report)
        package = solution.package_folder()
        if error is not None and failure.is_of_the_solution(error, package):
            lines = tuple(failure.describe(error, None, package))
            self.results.broken_days.setdefault(lines, []).append(day)
            self.results.to_repair = self.results.to_repair or failure.place(error, package)
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
            self.results.tests[item.nodeid] = GradedTest(
                task=task,
                name=name,
                parameters=parameters.removesuffix("]"),
                place=f"{file}:{(line or 0) + 1}",
                purpose=" ".join(purpose.split()),
            )

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        """Forget what is not run, but remember that its task is not complete."""
        for item in items:
            test = self.results.tests.pop(item.nodeid, None)
            if test is not None:
                self.results.incomplete.add(test.task)
                self.results.deselected.add(test.task)

    def pytest_collection_finish(self) -> None:
        """Build the C++ kernels and the Metal simulator, if a test may need them.

        This is before a test's clock runs. What is wrong with them is for the tests to say.
        """
        tasks = {test.task for test in self.results.tests.values()}
        tested = {self.course.day(task.week, task.day) for task in tasks}
        # The C++ kernels are also run by the tests of later days, without being asked for.
        cpp = [day for day in self.course.days if _has_kernels(day, "cpp")]
        first = (cpp[0].week, cpp[0].number) if cpp else None
        capture = self.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            if first and any((day.week, day.number) >= first for day in tested):
                with suppress(BuildError):
                    load_extension(solution.package_name())
            if any(_has_kernels(day, "metal") for day in tested):
                with suppress(RuntimeError, OSError):
                    prepare_simulator()

    # --- running ----------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Start every graded test from the same seeds and device, and show which task it is."""
        test = self.results.tests.get(item.nodeid)
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
        test = self.results.tests.get(item.nodeid)
        if test is None:
            return report
        if report.failed and call.excinfo is not None:
            error = call.excinfo.value
            if failure.is_stub(error, solution.package_folder()):
                test.status = Status.NOT_STARTED
                test.note = stub_of_another_task(self.course, test.task, str(error))
            else:
                test.status = Status.FAILED
                package = solution.package_folder()
                test.message = failure.describe(error, test.task, package)
                if not isinstance(error, AssertionError):
                    place = failure.place(error, package) or test.message[0]
                    test.crash = f"{type(error).__name__} {place}"
                test.printed = report.capstdout
        elif report.skipped:
            test.status = Status.NOT_VERIFIED
            test.note = _skip_reason(report)
        elif report.when == "call":
            test.status = Status.PASSED
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(
        self, report: pytest.CollectReport | pytest.TestReport
    ) -> tuple[str, str, str] | None:
        """With -q, print no letter for a graded test: the table says it better."""
        if self.config.option.verbose >= 0 or report.nodeid not in self.results.tests:
            return None
        if report.when == "call" or not report.passed:
            category = "error" if report.failed and report.when != "call" else report.outcome
            return category, "", ""
        return None

    # --- the report -------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, exitstatus: pytest.ExitCode
    ) -> Generator[None]:
        """Print the failures and the table; pytest's own sections show the other tests only."""
        self._clear_progress()
        if not self.explains:
            yield
        else:
            stats = terminalreporter.stats
            everything = {key: stats.get(key, []) for key in ("failed", "error", "skipped")}
            for key, reports in everything.items():
                stats[key] = [report for report in reports if not self._is_explained(report)]
            yield
            stats.update(everything)
            print_failures(terminalreporter, self.results)
        print_table(terminalreporter, self.results)
        keyword = self.config.getoption("keyword")
        nothing_ran = exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED
        if keyword and nothing_ran and self.results.deselected:
            print_no_match(terminalreporter, self.results, keyword)

    def _is_explained(self, report: Any) -> bool:
        """Whether this plugin reports a test's or a file's result in its own way."""
        if report.nodeid in self.results.tests:
            return True
        explained = {*self.results.unverified_days}.union(*self.results.broken_days.values())
        return report.nodeid in [day.tests for day in explained]

    # --- helpers ----------------------------------------------------------------------------

    def _day_of(self, node: pytest.Collector | pytest.Item) -> Day | None:
        path: Path | None = getattr(node, "path", None)
        return self.day_of_file.get(path.resolve()) if path is not None else None

    def _task_of(self, item: pytest.Item) -> Task | None:
        day, number = self._day_of(item), task_number(item.name)
        return next((task for task in day.tasks if task.number == number), None) if day else None

    @contextmanager
    def _time_limit(self, item: pytest.Item) -> Iterator[None]:
        """Raise TimeLimitExceeded in a graded test, every second from the limit on.

        Once is not enough: the solution may hold an `except:` without a type.
        """
        if item.nodeid not in self.results.tests or self.config.option.usepdb:
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
            done = sum(other.status is not None for other in self.results.tests.values())
            line = (
                f"{done + 1} of {len(self.results.tests)}: task {test.task.id}, {test.task.title}"
            )
            out.rewrite(line, erase=True)

    def _clear_progress(self) -> None:
        out = self._terminal()
        if out is not None and out.isatty and self.config.option.verbose < 0 and self.results.tests:
            out.rewrite("", erase=True)
            out.write("\r")

    def _terminal(self) -> pytest.TerminalReporter | None:
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        return reporter if isinstance(reporter, pytest.TerminalReporter) else None


def collection_error(report: pytest.CollectReport) -> BaseException | None:
    """The exception that kept pytest from importing a test file; None if there was none."""
    call: pytest.CallInfo[Any] | None = getattr(report, "call", None)
    if call is None or call.excinfo is None or not report.failed:
        return None
    error = call.excinfo.value
    # pytest puts the exceptions of an import into its own.
    if isinstance(error, pytest.Collector.CollectError) and error.__cause__ is not None:
        return error.__cause__
    return error


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
