"""Installs what pdm.lock pins, if the environment does not hold it yet.

PDM runs this before every `pdm run` (the `pre_run` hook in pyproject.toml), with the interpreter
of the project's environment. It uses the standard library only: nothing else may be there yet.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAMP = Path(sys.prefix) / "tiny-llm-installed.txt"


def wanted_state() -> str:
    """A digest of everything that decides what is installed."""
    content = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "pdm.lock"))
    return hashlib.sha256(content + str(ROOT).encode()).hexdigest()


def main(pdm: list[str]) -> int:
    """Run `pdm sync` unless the stamp says that it was done; return the exit code."""
    state = wanted_state()
    if STAMP.is_file() and STAMP.read_text() == state:
        return 0
    print("Installing the packages that pdm.lock pins (only needed once) ...", file=sys.stderr)
    result = subprocess.run(
        [*pdm, "sync", "-G", "dev"],
        cwd=ROOT,
        env=os.environ | {"PDM_CHECK_UPDATE": "false"},
        stdout=sys.stderr,  # stdout belongs to the command that was asked for
    )
    if result.returncode != 0:
        print(
            "The packages could not be installed: see PDM's message above, mend that, and run the "
            "same command again. A first run needs a network connection.",
            file=sys.stderr,
        )
        return result.returncode
    STAMP.write_text(state)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
