"""Checks that the manifest, the reference, the tests and the chapters speak of the same tasks."""

import re
from collections.abc import Iterator
from pathlib import Path

from .graded_tests import list_tests, task_number
from .manifest import HINT_LEVELS, Course, CourseError, Day
from .skeleton import build_package

_TASK_HEADER = re.compile(r"\{\{\s*#task\s*([^}]*?)\s*\}\}")
_LINK = re.compile(r"\]\(\s*(?:\./)?([^)\s#]+)")


def check_consistency(course: Course) -> list[str]:
    """Everything on which manifest, reference, tests and chapters disagree, in sentences."""
    return [
        *_check_symbols(course),
        *_check_hints(course),
        *_check_tests(course),
        *_check_book(course),
    ]


def _check_symbols(course: Course) -> Iterator[str]:
    try:
        build_package(course)
    except CourseError as error:
        yield str(error)


def _check_hints(course: Course) -> Iterator[str]:
    for task in course.tasks:
        if len(task.hints) != HINT_LEVELS or not all(hint.strip() for hint in task.hints):
            yield f"Task {task.id} needs {HINT_LEVELS} hints, none of them empty."


def _check_tests(course: Course) -> Iterator[str]:
    for day in course.days:
        try:
            names = list_tests(course, day)
        except CourseError as error:
            yield str(error)
            continue
        numbers = {task.number for task in day.tasks}
        for name in names:
            if task_number(name) not in numbers:
                yield (
                    f"{day.tests}: the test {name} belongs to no task of {day.name}; "
                    "its name must begin with test_task_ and the task's number."
                )
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"{day.tests} has two tests named {name}, of which Python keeps only the last."
        for task in day.tasks:
            if task.number not in map(task_number, names):
                yield f"{day.tests} has no test of task {task.id}."
    known = {day.tests for day in course.days}
    for path in sorted((course.root / "tests").glob("test_week_*_day_*.py")):
        name = path.relative_to(course.root).as_posix()
        if name not in known:
            yield f"{name} belongs to no day of course.toml."


def _check_book(course: Course) -> Iterator[str]:
    summary = course.book / "SUMMARY.md"
    listed = set(_LINK.findall(summary.read_text(encoding="utf-8"))) if summary.is_file() else set()
    chapters = [(week.chapter, f"Week {week.number}: {week.title}") for week in course.weeks]
    chapters += [
        (day.chapter, f"Week {day.week}, Day {day.number}: {day.title}") for day in course.days
    ]
    for chapter, heading in chapters:
        path = course.book / chapter
        if not path.is_file():
            yield f"The chapter book/src/{chapter} is missing."
            continue
        if chapter not in listed:
            yield f"book/src/SUMMARY.md does not list {chapter}."
        if path.read_text(encoding="utf-8").partition("\n")[0] != f"# {heading}":
            yield f"book/src/{chapter} must begin with the line `# {heading}`, as in course.toml."
    day_of = {course.book / day.chapter: day for day in course.days}
    for path in sorted(course.book.rglob("*.md")):
        yield from _check_headers(path.relative_to(course.root), path, day_of.get(path))


def _check_headers(name: Path, path: Path, day: Day | None) -> Iterator[str]:
    """Check that a chapter has the header of each task of its day exactly once, and no other."""
    headers = _TASK_HEADER.findall(path.read_text(encoding="utf-8"))
    tasks = [task.id for task in day.tasks] if day else []
    for task_id in tasks:
        if (count := headers.count(task_id)) != 1:
            yield f"{name.as_posix()} has {{{{#task {task_id}}}}} {count} times instead of once."
    for header in headers:
        if header not in tasks:
            yield f"{name.as_posix()} has {{{{#task {header}}}}}, which is no task of this chapter."
