"""`pdm run doctor`: check this machine, with one fix per line."""

import typer
from rich.console import Console
from rich.markup import escape

from tiny_llm_lab.cli import run
from tiny_llm_lab.doctor import examine


def main() -> None:
    """Check this machine, with one fix per line; exit code 1 if anything needs mending."""
    console = Console(highlight=False, soft_wrap=True)
    broken = 0
    for finding in examine():
        mark = "[red]fix[/]" if finding.fix else "[green]ok [/]"
        fix = f" -> {finding.fix}" if finding.fix else ""
        console.print(f"{mark} {escape(f'{finding.what}: {finding.found}{fix}')}")
        broken += bool(finding.fix)
    console.print("Nothing to mend." if not broken else f"{broken} to mend.")
    if broken:
        raise typer.Exit(1)


if __name__ == "__main__":
    run(main)
