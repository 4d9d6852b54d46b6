"""`pdm run doctor`: check this machine, with one fix per line."""

import sys

from rich.console import Console
from rich.markup import escape

from tiny_llm_lab.doctor import examine


def main() -> int:
    """Run every check; return the number that need mending, at most 1."""
    console = Console(highlight=False, soft_wrap=True)
    broken = 0
    for finding in examine():
        mark = "[red]fix[/]" if finding.fix else "[green]ok [/]"
        fix = f" -> {finding.fix}" if finding.fix else ""
        console.print(f"{mark} {escape(f'{finding.what}: {finding.found}{fix}')}")
        broken += bool(finding.fix)
    console.print("Nothing to mend." if not broken else f"{broken} to mend.")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
