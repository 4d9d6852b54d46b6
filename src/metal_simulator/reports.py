"""From the runtime's structures to findings: the lines, and the sentences."""

from collections.abc import Sequence
from pathlib import Path

from .abi import FindingStruct, PlaceStruct
from .build import MLX_INCLUDE, MLX_KERNELS, CompiledKernel
from .findings import KINDS, Finding, Position
from .symbols import Place, find_places


def quote(kernel: CompiledKernel, file: str, line: int) -> str:
    """A line of the source, or of a header of MLX."""
    lines = kernel.lines.get(file)
    if lines is None and file.startswith("mlx/"):
        lines = (MLX_INCLUDE / file).read_text().split("\n")
    return lines[line - 1].strip() if lines and line <= len(lines) else ""


class Reporter:
    """Makes findings of the runtime's structures."""

    def __init__(self, kernel: CompiledKernel, name: str) -> None:
        """Report on one launch of the kernel."""
        self.kernel, self.name = kernel, name
        self.places: dict[int, list[Place]] = {}

    def report(self, found: Sequence[FindingStruct]) -> list[Finding]:
        """The findings in the order in which they were made."""
        offsets = [p.offset for f in found for p in (f.place, f.other_place)]
        self.places = find_places(self.kernel.path, offsets)
        return [self._finding(f) for f in found]

    def _finding(self, found: FindingStruct) -> Finding:
        place = self._place(found.place)
        variable = found.variable.decode()
        kind = KINDS[found.kind]
        has_element = kind == "array-out-of-bounds" or (
            variable and kind not in ("threadgroup-memory", "divergent-barrier")
        )
        return Finding(
            kind=kind,
            message=self._message(kind, found, variable),
            kernel=self.name,
            file=place[0] if place else None,
            line=place[1] if place else None,
            source=quote(self.kernel, *place) if place else "",
            thread=_position(found.who.thread) if found.who.known else None,
            threadgroup=_position(found.who.threadgroup) if found.who.known else None,
            variable=variable or None,
            element=found.element if has_element else None,
            count=found.count,
        )

    def _place(self, place: PlaceStruct) -> Place | None:
        """The innermost line that is the author's, else MLX's."""
        if place.file:
            return _short(place.file.decode(), self.kernel.lines), place.line
        known = [
            (_short(file, self.kernel.lines), line)
            for file, line in self.places.get(place.offset, [])
        ]
        own = [p for p in known if p[0] in self.kernel.lines]
        return next(iter(own or [p for p in known if p[0].startswith("mlx/")]), None)

    def _message(self, kind: str, f: FindingStruct, variable: str) -> str:
        act = "writes" if f.write else "reads"
        earlier = "written" if f.other_write else "read"
        element = f"element {f.element} of {variable!r}"
        other = self._other(f)
        if kind in ("device-out-of-bounds", "threadgroup-out-of-bounds"):
            what = "the threadgroup variable " if kind.startswith("threadgroup") else ""
            wrapped = " An unsigned index below zero wraps around." if f.element >= 2**31 else ""
            return (
                f"A thread {act} element {f.element} of {what}{variable!r}, which has "
                f"{f.elements} elements.{wrapped}"
            )
        if kind == "array-out-of-bounds":
            return f"Index {f.value} is outside of an array of type {f.detail.decode()}."
        if kind == "invalid-address":
            if f.detail:
                return f"A thread {act} memory through an invalid pointer ({f.detail.decode()})."
            return f"A thread {act} {f.bytes} bytes at an address outside of every buffer."
        if kind == "stack-overflow":
            return "A thread's stack overflowed. Metal has no recursion, and little private memory."
        if kind == "write-to-input":
            return f"A thread writes {element}, which is an input."
        if kind == "threadgroup-race":
            return (
                f"A thread {act} {element}, a threadgroup variable, which {other} has {earlier} "
                "with no barrier between the two that orders threadgroup memory "
                "(mem_flags::mem_threadgroup): on a GPU either may come first."
            )
        if kind == "device-race":
            orders = (
                "and no barrier between the two orders device memory (mem_flags::mem_device)"
                if _position(f.who.threadgroup) == _position(f.other_who.threadgroup)
                else "and nothing orders threadgroups of one launch"
            )
            return (
                f"A thread {act} {element}, which {other} has {earlier}, {orders}: on a GPU either "
                "may come first."
            )
        if kind == "redundant-write":
            return f"A thread writes {element}, which {other} has written with the same value."
        if kind == "divergent-barrier":
            if f.detail.decode() == "returned":
                return (
                    f"{f.value} of {f.elements} threads wait at this barrier, and the others have "
                    "finished the kernel without it: all threads of a threadgroup must reach a "
                    "barrier, or none."
                )
            return (
                f"Threads of one threadgroup wait at different barriers: here, and {other}. "
                "All threads must reach the same one."
            )
        if kind in ("divergent-simdgroup-barrier", "divergent-simd-operation"):
            what = variable or "this operation"
            absent = f.detail.decode().replace("returned", "has finished the kernel")
            return (
                f"Only {f.lanes.bit_count()} of {f.elements} lanes of a SIMD group take part in "
                f"{what}: {other} {absent}."
            )
        if kind == "inactive-lane":
            return (
                f"{variable} reads lane {f.value}, which does not take part: its value is "
                "undefined."
            )
        if kind == "threadgroup-uninitialized":
            return (
                f"A thread reads {element}, a threadgroup variable, before anything is written "
                "there."
            )
        if kind == "device-uninitialized":
            return f"A thread reads {element}, an output, before anything is written there."
        if kind == "output-not-written":
            return (
                f"{f.value} of {f.elements} elements of the output {variable!r} are never written; "
                f"the first is element {f.element}."
            )
        if kind == "misaligned":
            where = element if variable else "memory"
            return (
                f"A thread accesses {where} as something that must lie at a multiple of {f.value} "
                "bytes, which it does not. Packed vectors, such as packed_float4, may lie anywhere."
            )
        if kind == "threadgroup-memory":
            return (
                f"The threadgroup variables take {f.value} bytes with {variable!r}: Metal has "
                "32768 for a threadgroup."
            )
        if kind == "division-by-zero":
            return "A thread divides an integer by zero."
        if kind == "shift":
            return f"A thread shifts a value of type {f.detail.decode()} by {f.value} bits."
        return (
            f"The kernel ran longer than {f.value / 1000:g} s and was stopped; this is where it "
            "was."
        )

    def _other(self, f: FindingStruct) -> str:
        """The other thread of a conflict, and its line."""
        if not f.other_who.known:
            return "another thread"
        text = f"thread {_position(f.other_who.thread)}"
        if _position(f.other_who.threadgroup) != _position(f.who.threadgroup):
            text += f" of threadgroup {_position(f.other_who.threadgroup)}"
        place = self._place(f.other_place)
        return f"{text} at {place[0]}:{place[1]}" if place else text


def _position(values: Sequence[int]) -> Position:
    return values[0], values[1], values[2]


def _short(file: str, known: dict[str, list[str]]) -> str:
    """A file's name as reports show it: the author's name, or the path below MLX's headers."""
    name = Path(file).name
    if name in known:
        return name
    found = file.find(MLX_KERNELS)
    return file[found:] if found >= 0 else name
