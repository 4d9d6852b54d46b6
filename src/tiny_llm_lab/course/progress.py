"""How far a student is: where every task stands, from the stubs that are left and the tests.

A task whose stubs are all untouched is not started, which takes no test run to know.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .graded_tests import Outcome, run_tests
from .manifest import Course, Task
from .skeleton import stub_of_another_task
from .student_work import is_begun
from .task_results import Status, task_status


@dataclass(frozen=True)
class TaskProgress:
    """Where one task stands.

    Attributes:
        passed: the number of tests that passed.
        tests: the number of tests that were run; 0 if the task's stubs are untouched.
        needs: the message of another task's stub that a test ran into, empty if there was none.
        broken: what keeps the task's tests from being imported, in lines; empty if nothing does.
        to_repair: the line of the package that does, such as `src/tiny_llm/attention.py:55`;
            empty if there is none.
    """

    task: Task
    status: Status
    passed: int = 0
    tests: int = 0
    needs: str = ""
    broken: str = ""
    to_repair: str = ""


def measure_progress(
    course: Course, report: Callable[[Task], None] = lambda task: None
) -> list[TaskProgress]:
    """Run the tests of the days that the student has begun, and say where every task stands.

    Args:
        course: the course.
        report: called with the task of each test that has run.

    Raises:
        CourseError: a test file is missing, or pytest could not run.
    """
    started = [task for task in course.tasks if is_begun(course, task)]
    file_of = {task: course.day(task.week, task.day).tests for task in started}

    def tasks_of(outcome: Outcome) -> list[Task]:
        # A test file that cannot be imported, which has no task's number, concerns all its tasks.
        return [
            task
            for task in started
            if file_of[task] == outcome.file and outcome.task_number in (task.number, None)
        ]

    def report_tasks(outcome: Outcome) -> None:
        for task in tasks_of(outcome):
            report(task)

    outcomes: dict[Task, list[Outcome]] = {task: [] for task in started}
    # Whole files: pytest runs nothing at all if it does not find a test that is asked for by name,
    # as in a file that it cannot import.
    files = list(dict.fromkeys(file_of.values()))
    if files:
        for outcome in run_tests(course, files, course.student.parent, report_tasks):
            for task in tasks_of(outcome):
                outcomes[task].append(outcome)
    return [
        _judge(course, task, outcomes[task])
        if task in outcomes
        else TaskProgress(task, Status.NOT_STARTED)
        for task in course.tasks
    ]


def earned_points(progress: list[TaskProgress]) -> int:
    """The points of the tasks that passed."""
    return sum(item.task.points for item in progress if item.status is Status.PASSED)


def as_json(progress: list[TaskProgress]) -> dict[str, Any]:
    """The progress as numbers and strings, for machines."""
    return {
        "tasks": [
            {
                "id": item.task.id,
                "title": item.task.title,
                "status": item.status,
                "points": item.task.points,
                "passed": item.passed,
                "tests": item.tests,
            }
            for item in progress
        ],
        "passed": sum(item.status is Status.PASSED for item in progress),
        "earned_points": earned_points(progress),
        "total_points": sum(item.task.points for item in progress),
    }


def _judge(course: Course, task: Task, outcomes: list[Outcome]) -> TaskProgress:
    for outcome in outcomes:
        if outcome.task_number is None:
            return TaskProgress(
                task, Status.CANNOT_BE_TESTED, broken=outcome.message, to_repair=outcome.place
            )
    statuses = [_status(outcome) for outcome in outcomes]
    needs = [
        stub_of_another_task(course, task, outcome.message) for outcome in outcomes if outcome.stub
    ]
    return TaskProgress(
        task,
        task_status(statuses),
        passed=statuses.count(Status.PASSED),
        tests=len(outcomes),
        needs=next(filter(None, needs), ""),
    )


def _status(outcome: Outcome) -> Status:
    if outcome.stub:
        return Status.NOT_STARTED
    by_result = {"passed": Status.PASSED, "skipped": Status.NOT_VERIFIED}
    return by_result.get(outcome.result, Status.FAILED)
