"""What the simulator found wrong in a kernel: as data, and as sentences."""

from dataclasses import dataclass

Position = tuple[int, int, int]

# In the order of `sim_kind` in runtime/abi.h.
KINDS = (
    "device-out-of-bounds",
    "threadgroup-out-of-bounds",
    "array-out-of-bounds",
    "invalid-address",
    "stack-overflow",
    "write-to-input",
    "threadgroup-race",
    "device-race",
    "redundant-write",
    "divergent-barrier",
    "divergent-simdgroup-barrier",
    "divergent-simd-operation",
    "inactive-lane",
    "threadgroup-uninitialized",
    "device-uninitialized",
    "output-not-written",
    "misaligned",
    "threadgroup-memory",
    "division-by-zero",
    "shift",
    "timeout",
)
# Legal Metal that is nearly always a mistake: reported as a warning.
WARNING_KINDS = frozenset(
    {
        "redundant-write",
        "divergent-simd-operation",
        "output-not-written",
        "uninitialized-local",
    }
)
# One mistake can be found in several ways. The one that explains the others comes first.
FIRST_KINDS = (
    "divergent-barrier",
    "threadgroup-memory",
    "device-out-of-bounds",
    "threadgroup-out-of-bounds",
    "array-out-of-bounds",
    "threadgroup-race",
    "device-race",
)


@dataclass(frozen=True)
class Finding:
    """One mistake at one place in the source. The thread is the first one that made it.

    Attributes:
        kind: one of `KINDS`, or "uninitialized-local" (from the compiler).
        message: what happened, in sentences, without the place.
        kernel: the kernel's name.
        file: the `.metal` file, or "<name> [source]" or "<name> [header]" for text in a string.
        line: 1-based line in that file.
        source: the text of that line.
        thread: position in the threadgroup, x, y, z.
        threadgroup: position in the grid of threadgroups.
        variable: the buffer, or the threadgroup variable.
        element: index into it.
        count: how often it happened at this line.
    """

    kind: str
    message: str
    kernel: str
    file: str | None = None
    line: int | None = None
    source: str = ""
    thread: Position | None = None
    threadgroup: Position | None = None
    variable: str | None = None
    element: int | None = None
    count: int = 1

    def __str__(self) -> str:
        """The report as a student sees it."""
        place = f"{self.file}:{self.line}: " if self.file else ""
        text = f"{place}[{self.kind}] {self.message}"
        if self.source:
            text += f"\n    {self.source}"
        if self.thread is not None and self.threadgroup is not None:
            text += f"\n    by thread {self.thread} of threadgroup {self.threadgroup}"
        if self.count > 1:
            text += f"\n    ({self.count} times; this was the first)"
        return text


class KernelError(RuntimeError):
    """A kernel did something that Metal does not define."""

    def __init__(self, kernel: str, findings: list[Finding]) -> None:
        """Keep the findings; the message lists them."""
        self.findings = findings
        reports = "\n".join(
            f"  {str(finding).replace(chr(10), chr(10) + '  ')}" for finding in findings
        )
        super().__init__(f"kernel {kernel!r}:\n{reports}")


class KernelWarning(UserWarning):
    """A kernel did something that Metal allows but that is nearly always a mistake."""

    def __init__(self, finding: Finding) -> None:
        """Keep the finding."""
        self.finding = finding
        super().__init__(f"kernel {finding.kernel!r}: {finding}")


class CompileError(RuntimeError):
    """The source is not Metal, or not such as Apple's compiler would take."""
