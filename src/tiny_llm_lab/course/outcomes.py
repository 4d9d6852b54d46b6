"""A pytest plugin that reports every graded test to the process that started pytest.

`tiny_llm_lab.course.graded_tests` loads it (`pytest -p`) and reads what it writes: one JSON object
per line, on the file descriptor that the environment variable TINY_LLM_OUTCOMES names.
"""

import json
import os
from collections.abc import Generator

import pytest

from . import failure, solution
from .grading import collection_error

ENVIRONMENT_VARIABLE = "TINY_LLM_OUTCOMES"


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Report a file that cannot be imported, and the line of the solution if that is why."""
    report = yield
    error = collection_error(report)
    if error is not None:
        package = solution.package_folder()
        is_ours = failure.is_of_the_solution(error, package)
        lines = failure.describe(error, None, package) if is_ours else [str(error)]
        _send(
            test=report.nodeid,
            result="error",
            error=type(error).__name__,
            message="\n".join(lines),
            place=failure.place(error, package),
            stub=False,
        )
    return report


def pytest_collection_finish(session: pytest.Session) -> None:
    """Report which tests are going to run, so that a crash can be told from the end."""
    for item in session.items:
        _send(test=item.nodeid, result="collected", error="", message="", stub=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report the outcome of a test, and the type and message of what it raised."""
    report = yield
    if report.when == "call" or not report.passed:
        result = "error" if report.failed and report.when != "call" else report.outcome
        raised = call.excinfo
        _send(
            test=item.nodeid,
            result=result,
            error=raised.type.__name__ if raised else "",
            message=str(raised.value) if raised else "",
            stub=raised is not None and failure.is_stub(raised.value, solution.package_folder()),
        )
    return report


def _send(**fields: str | bool) -> None:
    os.write(int(os.environ[ENVIRONMENT_VARIABLE]), (json.dumps(fields) + "\n").encode())
