"""What the command-line entry points share."""

from typing import NoReturn

import typer


def fail(message: str, exit_code: int = 2) -> NoReturn:
    """Print one sentence on stderr and end the command."""
    typer.echo(message, err=True)
    raise typer.Exit(exit_code)
