"""Look at launches: their findings and counts, and other settings for all of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

from .findings import KINDS, WARNING_KINDS, Finding


@dataclass(frozen=True)
class Settings:
    """How a launch is run.

    Attributes:
        check: look for mistakes; off, a kernel is about ten times faster.
        order: of the threads: 0 ascending, 1 descending, else the seed of a random interleaving.
        timeout: seconds after which a launch is stopped.
        allow: kinds of findings that neither raise nor warn.
    """

    check: bool = True
    order: int = 0
    timeout: float = 20.0
    allow: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Refuse settings that would silently do nothing."""
        if not isinstance(self.order, int) or self.order < 0:
            raise ValueError(f"order is {self.order}: it must be 0, 1 or a positive seed.")
        if not self.timeout > 0:
            raise ValueError(f"timeout is {self.timeout}: it must be a positive number of seconds.")
        unknown = sorted(self.allow - set(KINDS) - WARNING_KINDS)
        if unknown:
            known = ", ".join(sorted({*KINDS, *WARNING_KINDS}))
            raise ValueError(f"allow has {unknown[0]!r}, which is no kind of finding: {known}.")


@dataclass(frozen=True)
class Counts:
    """What the threads of a launch did.

    Attributes:
        barriers: threadgroup barriers, once for each threadgroup that passed one.
        simd_operations: SIMD-group operations, once for each SIMD group.
        accesses: reads and writes of memory; counted in checked launches only.
        switches: from one simulated thread to another.
        threadgroup_bytes: of the threadgroup variables of one threadgroup.
    """

    barriers: int
    simd_operations: int
    accesses: int
    switches: int
    threadgroup_bytes: int


@dataclass(frozen=True)
class Launch:
    """One run of a kernel. `seconds` says nothing about the speed on a GPU."""

    kernel: str
    findings: list[Finding]
    counts: Counts
    seconds: float


@dataclass
class _Watcher:
    changes: dict[str, object] = field(default_factory=dict)
    launches: list[Launch] = field(default_factory=list)


_watchers: ContextVar[tuple[_Watcher, ...]] = ContextVar("watchers", default=())


@contextmanager
def watch(
    *,
    check: bool | None = None,
    order: int | None = None,
    timeout: float | None = None,
    allow: tuple[str, ...] | None = None,
) -> Iterator[list[Launch]]:
    """Collect the launches made inside, with these settings in place of the kernels' own.

    Example:
        `with watch(order=3) as launches: ...`
    """
    given = {
        "check": check,
        "order": order,
        "timeout": timeout,
        "allow": None if allow is None else frozenset(allow),
    }
    watcher = _Watcher({name: value for name, value in given.items() if value is not None})
    token = _watchers.set((*_watchers.get(), watcher))
    try:
        yield watcher.launches
    finally:
        _watchers.reset(token)


def current_settings(settings: Settings) -> Settings:
    """A kernel's settings as changed by the watchers, the innermost last."""
    for watcher in _watchers.get():
        settings = replace(settings, **watcher.changes)  # type: ignore[arg-type]
    return settings


def record(launch: Launch) -> None:
    """Give a launch to all watchers."""
    for watcher in _watchers.get():
        watcher.launches.append(launch)
