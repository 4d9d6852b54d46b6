"""`pdm run progress`: every task of the course, and where it stands."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tiny_llm_lab.cli import fail, run
from tiny_llm_lab.course.manifest import Course, CourseError, Day, Task, load_course
from tiny_llm_lab.course.progress import (
    TaskProgress,
    as_json,
    earned_points,
    measure_progress,
)
from tiny_llm_lab.course.task_results import Status, cannot_be_tested

STYLES = {
    Status.PASSED: "green",
    Status.FAILED: "red",
    Status.NOT_STARTED: "dim",
    Status.NOT_VERIFIED: "yellow",
    Status.CANNOT_BE_TESTED: "red",
}


def main(
    as_machine_text: Annotated[
        bool, typer.Option("--json", help="Print one JSON object for machines.")
    ] = False,
) -> None:
    """Show every task: passed, failed or not started, and the points."""
    console = Console(stderr=True)
    try:
        course = load_course()
        with console.status("Looking at src/tiny_llm ...") as status:

            def report(task: Task) -> None:
                status.update(f"Testing {task.id} {task.title} ...")

            progress = measure_progress(course, report)
    except CourseError as error:
        fail(str(error), exit_code=1)
    if as_machine_text:
        print(json.dumps(as_json(progress)))
    else:
        print_broken_days(course, progress)
        print_table(course, progress)


def print_broken_days(course: Course, progress: list[TaskProgress]) -> None:
    """Say which days cannot be tested, and why: the same words as those of `pdm run test`."""
    console = Console(highlight=False, soft_wrap=True)
    days: dict[str, list[Day]] = {}
    for item in progress:
        if item.status is Status.CANNOT_BE_TESTED:
            days.setdefault(item.broken, []).append(course.day(item.task.week, item.task.day))
    for reason, broken in days.items():
        console.print(f"[red]{cannot_be_tested(broken)}.")
        for line in reason.splitlines():
            console.print(f"  {escape(line)}")
        console.print()


def print_table(course: Course, progress: list[TaskProgress]) -> None:
    """Print one row per task, grouped by day, and the totals."""
    table = Table(box=None, pad_edge=False)
    for name in ("Task", "", "Status", "Tests", "Points"):
        table.add_column(name, justify="right" if name in ("Tests", "Points") else "left")
    for day in course.days:
        table.add_row(f"[bold]{day.id}", f"[bold]{escape(day.title)}")
        for item in progress:
            task = item.task
            if (task.week, task.day) != (day.week, day.number):
                continue
            earned = task.points if item.status is Status.PASSED else 0
            needs = f" [dim](needs {escape(item.needs)})" if item.needs else ""
            table.add_row(
                task.id,
                escape(task.title) + needs,
                f"[{STYLES[item.status]}]{item.status}",
                f"{item.passed}/{item.tests}" if item.tests else "",
                f"{earned}/{task.points}",
            )
    console = Console()
    console.print(table)
    passed = sum(item.status is Status.PASSED for item in progress)
    total = sum(item.task.points for item in progress)
    console.print(
        f"\n{passed} of {len(progress)} tasks, {earned_points(progress)} of {total} points."
    )
    broken = [item for item in progress if item.status is Status.CANNOT_BE_TESTED]
    if broken:
        place = next((item.to_repair for item in broken if item.to_repair), "the import")
        console.print(f"Next: repair {place}, then run again.")
        return
    for item in progress:
        if item.status in (Status.FAILED, Status.NOT_STARTED):
            task = item.task
            console.print(
                f"Next: task {task.id}, {escape(task.title)}: pdm run test {task.test_options}"
            )
            break


if __name__ == "__main__":
    run(main)
