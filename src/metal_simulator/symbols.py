"""From an instruction of a kernel's library to the line of Metal that it was made from."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

Place = tuple[str, int]

_LINE = re.compile(r"^(?P<file>.*):(?P<line>\d+)(?: .*)?$")
_ATOS = re.compile(r"\((?P<file>[^()]*):(?P<line>\d+)\)$")


def find_places(library: Path, offsets: Iterable[int]) -> dict[int, list[Place]]:
    """For each offset the lines that it stands for: the innermost inlined function's comes first.

    Without a symbolizer (addr2line comes with g++, atos with Xcode) there are no lines.
    """
    wanted = sorted({offset for offset in offsets if offset})
    if not wanted:
        return {}
    if sys.platform == "darwin":
        return _by_atos(library, wanted)
    tool = shutil.which("addr2line") or shutil.which("llvm-addr2line")
    if tool is None:
        return {}
    shown = subprocess.run(
        [tool, "--addresses", "--inlines", "--exe", str(library), *map(hex, wanted)],
        capture_output=True,
        text=True,
    ).stdout
    places: dict[int, list[Place]] = {}
    offset = 0
    for line in shown.split("\n"):
        if line.startswith("0x"):
            offset = int(line, 16)
            places[offset] = []
        elif found := _LINE.match(line):
            places[offset].append((found["file"], int(found["line"])))
    return places


def _by_atos(library: Path, offsets: list[int]) -> dict[int, list[Place]]:
    """The same on macOS; never run there yet."""
    places = {}
    for offset in offsets:
        shown = subprocess.run(
            ["atos", "-i", "-o", str(library), "-offset", hex(offset)],
            capture_output=True,
            text=True,
        ).stdout
        found = [_ATOS.search(line) for line in shown.split("\n")]
        places[offset] = [(m["file"], int(m["line"])) for m in found if m]
    return places
