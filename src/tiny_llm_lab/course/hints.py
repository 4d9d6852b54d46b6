"""Hands out the hints of a task one level at a time, and remembers which were shown.

The three levels are a question, the invariant, and pseudocode.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from .manifest import Course, CourseError, Task


@dataclass(frozen=True)
class Hint:
    """One hint of a task; `level` counts from 1."""

    task: Task
    level: int
    text: str


def next_hint(course: Course, task_id: str) -> Hint | None:
    """The first hint of a task that was not shown yet, or None after the last.

    Raises:
        CourseError: there is no such task.
    """
    task = course.task(task_id)
    level = _shown(course).get(task.id, 0) + 1
    return show_hint(course, task_id, level) if level <= len(task.hints) else None


def show_hint(course: Course, task_id: str, level: int) -> Hint:
    """The hint of one level, remembered as shown along with the levels below it.

    Raises:
        CourseError: there is no such task or level.
    """
    task = course.task(task_id)
    if not 1 <= level <= len(task.hints):
        raise CourseError(
            f"There is no hint {level} for task {task.id}: the levels are 1 to {len(task.hints)}."
        )
    shown = _shown(course)
    shown[task.id] = max(level, shown.get(task.id, 0))
    path = _path(course)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(shown, indent=2) + "\n", encoding="utf-8")
    return Hint(task, level, task.hints[level - 1])


def _path(course: Course) -> Path:
    return course.root / ".tiny-llm" / "hints.json"


def _shown(course: Course) -> dict[str, int]:
    """How many hints of each task were shown; nothing if the file is missing or damaged."""
    try:
        data = json.loads(_path(course).read_text(encoding="utf-8"))
        return {str(task_id): int(level) for task_id, level in data.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
