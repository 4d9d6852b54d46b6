"""What the command-line entry points share."""

import os
from collections.abc import Callable
from typing import NoReturn

import typer

from tiny_llm_lab.course.solution import (
    ENVIRONMENT_VARIABLE,
    SolutionMissing,
    package_folder,
)


def fail(message: str, exit_code: int = 2) -> NoReturn:
    """Print one sentence on stderr and end the command."""
    typer.echo(message, err=True)
    raise typer.Exit(exit_code)


def run(main: Callable[..., None]) -> None:
    """Run a command whose parameters are its arguments and options; Ctrl-C ends it quietly."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()


def use_solution(package: str) -> None:
    """Choose the solution package that this command runs; end the command if it is not there."""
    os.environ[ENVIRONMENT_VARIABLE] = package
    try:
        package_folder()
    except SolutionMissing as error:
        fail(str(error), exit_code=1)


def fail_of_student(error: Exception) -> NoReturn:
    """End the command because the student's solution raised an exception; say where, or what."""
    from tiny_llm_lab.course import failure

    if failure.is_stub(error, package_folder()):
        fail(f"Your solution is not there yet: {error}", exit_code=1)
    lines = failure.describe(error, None, package_folder())
    fail("\n".join(["", "Your solution fails.", *lines]), exit_code=1)
