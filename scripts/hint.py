"""`pdm run hint 1.3.2`: show the next of a task's three hints."""

from typing import Annotated

import typer

from tiny_llm_lab.cli import fail, run
from tiny_llm_lab.course.hints import next_hint, show_hint
from tiny_llm_lab.course.manifest import CourseError, load_course


def main(
    task: Annotated[str, typer.Argument(help="The task as week.day.task, such as 1.3.2.")],
    level: Annotated[int | None, typer.Option(help="Show this level, from 1 to 3.")] = None,
) -> None:
    """Show the next hint of a task: first a question, then the invariant, then pseudocode."""
    try:
        course = load_course()
        hint = next_hint(course, task) if level is None else show_hint(course, task, level)
        number_of_hints = len(course.task(task).hints)
    except CourseError as error:
        fail(str(error))
    if hint is None:
        print(
            f"You have seen all {number_of_hints} hints of task {task}. "
            f"To see one again: pdm run hint {task} --level {number_of_hints}"
        )
        return
    print(f"Task {task}: {hint.task.title}. Hint {hint.level} of {number_of_hints}:\n")
    print(hint.text.strip())
    if hint.level < number_of_hints:
        print(f"\nThe next hint says more: pdm run hint {task}")


if __name__ == "__main__":
    run(main)
