"""What the command-line entry points share."""

from collections.abc import Callable
from typing import NoReturn

import typer


def fail(message: str, exit_code: int = 2) -> NoReturn:
    """Print one sentence on stderr and end the command."""
    typer.echo(message, err=True)
    raise typer.Exit(exit_code)


def run(main: Callable[..., None]) -> None:
    """Run a command whose parameters are its arguments and options; Ctrl-C ends it quietly."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
