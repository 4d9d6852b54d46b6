"""Builds a solution's C++ kernels, an MLX extension, on first use.

Needed are a C++ compiler and the headers of Python, MLX and nanobind, nothing else. The compiler is
called directly: for one library whose flags are known, CMake and ninja would be two more packages
and an answer to no question. Each source file is compiled once, as is nanobind's own part, which
takes longest; a change costs one compilation and the linking.

The environment variables CXX and CXXFLAGS name another compiler and more flags, such as
`-fsanitize=address,undefined`.
"""

import functools
import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

from tiny_llm_lab import PROJECT_ROOT
from tiny_llm_lab.doctor import check_compiler, check_nanobind

BUILD_FOLDER = PROJECT_ROOT / ".tiny-llm" / "build"
HEADERS = Path(__file__).parent / "include"
MODULE = "kernels"
"""The name that `NB_MODULE` gives the module."""

KEPT = 20
"""So many files of a name are kept in the build folder: those that were built last."""

_IS_MACOS = sys.platform == "darwin"
_FLAGS = (
    "-std=c++20",
    "-O3",
    # Apple's clang and GCC call the processor they run on differently on arm64 and x86-64.
    "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native",
    # `a * b + c` in one instruction. GCC takes the C++ standard for a reason not to.
    "-ffp-contract=fast",
    "-fPIC",
    "-pthread",
    # Two solutions in one process must not find each other's functions.
    "-fvisibility=hidden",
    "-fno-strict-aliasing",  # nanobind asks for it
    "-fdiagnostics-color=never",
    "-DNDEBUG",
    "-DNB_DOMAIN=mlx",  # where MLX has registered its array
)
_ERROR = re.compile(
    r"^(?P<file>[^\n:]+):(?P<line>\d+):(?:\d+:)? (?:fatal )?error: (?P<text>.*)$", re.M
)


class BuildError(Exception):
    """The C++ kernels cannot be built or loaded; the message is meant for the student.

    Attributes:
        path, line: where the compiler stumbled; None and 0 if that is not known.
    """

    def __init__(self, message: str, path: Path | None = None, line: int = 0) -> None:
        """Keep message and place."""
        super().__init__(message)
        self.path, self.line = path, line


_results: dict[str, ModuleType | BuildError] = {}


def load_extension(package: str) -> ModuleType:
    """The module of a solution's C++ kernels, built if its sources have changed.

    Args:
        package: the name of the solution package. Its folder `cpp` holds the sources, `*.cpp` and
            headers, one of which says `NB_MODULE(kernels, m)`.

    Returns:
        The module. Within a process it is built and loaded once.

    Raises:
        BuildError: there are no sources, or no compiler; the sources do not compile (with the
            compiler's first error, its file, line and source line); MLX and nanobind do not fit
            together; the module does not load.

    Source: https://ml-explore.github.io/mlx/build/html/dev/extensions.html
    """
    if package not in _results:
        try:
            _results[package] = _load(package, _build(package))
        except BuildError as error:  # another try would take as long, and find the same
            _results[package] = error
    result = _results[package]
    if isinstance(result, BuildError):
        raise BuildError(str(result), result.path, result.line)
    return result


def _build(package: str) -> Path:
    """The library of a package, built if it is not there."""
    folder = _package_folder(package) / "cpp"
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".cpp", ".h"))
    sources = [path for path in files if path.suffix == ".cpp"]
    headers = [path for path in files if path.suffix == ".h"]
    if not sources:
        raise BuildError(f"There are no C++ sources (*.cpp) in {_shown(folder)}.")
    shared = [_environment(), *map(_content, [*headers, *sorted(HEADERS.rglob("*.h"))])]
    objects = {
        source: BUILD_FOLDER / f"{package}-{source.stem}-{_hash(*shared, _content(source))}.o"
        for source in sources
    }
    nanobind = _nanobind_folder() / "src" / "nb_combined.cpp"
    objects[nanobind] = BUILD_FOLDER / f"nanobind-{_hash(_environment())}.o"
    library = BUILD_FOLDER / f"{package}-{_hash(*(path.name for path in objects.values()))}.so"
    if library.exists():
        return library
    _check_headers()
    missing = {source: path for source, path in objects.items() if not path.exists()}
    include = [folder, HEADERS, _mlx_folder() / "include", _nanobind_folder() / "include"]
    include += [_nanobind_folder() / "ext" / "robin_map" / "include", _python_headers()]
    flags = [*_FLAGS, *_own_flags(), *(f"-I{path}" for path in include)]

    def compile_one(source: Path) -> None:
        own = source != nanobind
        _say(f"Compiling {_shown(source)}" if own else "Compiling nanobind (once)")
        # Of what is not the student's, neither a warning nor the speed matters.
        _compile(
            [*flags, *([] if own else ["-Os", "-w"]), "-c", str(source)], missing[source], folder
        )

    with ThreadPoolExecutor(_cores()) as pool:
        # The longest first; the errors of the first file first.
        futures = {source: pool.submit(compile_one, source) for source in reversed(missing)}
        for source in missing:
            futures[source].result()
    lib = _mlx_folder() / "lib"
    link = ["-shared", *map(str, objects.values()), f"-L{lib}", "-lmlx", f"-Wl,-rpath,{lib}"]
    undefined = ["-undefined", "dynamic_lookup"] if _IS_MACOS else []
    _compile([*_FLAGS, *_own_flags(), *link, *undefined], library, folder)
    _tidy(package)
    return library


def _load(package: str, library: Path) -> ModuleType:
    import mlx.core  # noqa: F401  # whose array the module's functions take

    # Python finds the initialization function by the last part of the name.
    name = f"{package}.cpp.{MODULE}"
    loader = importlib.machinery.ExtensionFileLoader(name, str(library))
    spec = importlib.machinery.ModuleSpec(name, loader, origin=str(library))
    try:
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except ImportError as error:
        library.unlink()
        raise BuildError(f"The C++ kernels of {package} do not load: {error}") from error
    return module


def _compile(arguments: Sequence[str], output: Path, folder: Path) -> None:
    """Call the compiler; its output is at its place only when it is complete."""
    BUILD_FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD_FOLDER) as work:
        made = Path(work) / output.name
        command = [*shlex.split(_compiler()), *arguments, "-o", str(made)]
        english = os.environ | {"LC_ALL": "C"}
        done = subprocess.run(command, capture_output=True, text=True, env=english)
        if done.returncode:
            raise first_error(done.stderr, folder)
        made.replace(output)


def first_error(output: str, folder: Path) -> BuildError:
    """The first error of a compiler's output, at the line of a folder that it comes from.

    Args:
        output: what the compiler wrote.
        folder: the folder of the student's sources.

    Returns:
        An exception with `file:line: error: text` and the source line below it. If the compiler
        stumbles in a header that is not in the folder, the line that led there; if there is no
        error in the compiler's format, such as from the linker, the first lines of its output.
    """
    error = _ERROR.search(output)
    if error is None:
        lines = output.splitlines()[:8]
        return BuildError("\n".join(["The C++ kernels do not build:", *lines]))
    path, line = Path(error["file"]), int(error["line"])
    places = re.findall(rf"({re.escape(str(folder))}[^\n:]*):(\d+)", output)
    if not path.is_relative_to(folder) and places:
        path, line = Path(places[0][0]), int(places[0][1])
    message = f"{_shown(path)}:{line}: error: {error['text']}"
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    if line <= len(lines):
        message += f"\n    {lines[line - 1].strip()}"
    return BuildError(message, path, line)


@functools.cache
def _compiler() -> str:
    named = os.environ.get("CXX")
    if named:
        if shutil.which(shlex.split(named)[0]) is None:
            raise BuildError(f"The C++ compiler that CXX names, {named!r}, is not found.")
        return named
    found = shutil.which("c++") or shutil.which("clang++") or shutil.which("g++")
    if found is None:
        fix = check_compiler().fix
        raise BuildError(f"The kernels of week 2 need a C++ compiler, and there is none: {fix}.")
    return found


def _own_flags() -> list[str]:
    return shlex.split(os.environ.get("CXXFLAGS", ""))


def _check_headers() -> None:
    """Check what sources include before the compiler misses it in its own words."""
    if not (_python_headers() / "Python.h").is_file():
        raise BuildError(
            f"Python's headers are not at {_python_headers()}: install them (`sudo apt install "
            "python3-dev` on Debian and Ubuntu), or use a Python that brings them."
        )
    finding = check_nanobind()
    if finding.fix:
        raise BuildError(f"MLX and nanobind do not fit together: {finding.found}. {finding.fix}.")


@functools.cache
def _environment() -> str:
    """All that changes what is built, beside the sources."""
    version = subprocess.run(
        [*shlex.split(_compiler()), "--version"], capture_output=True, text=True
    ).stdout
    packages = [importlib.metadata.version(name) for name in ("mlx", "nanobind")]
    # A folder may be shared by machines with different processors.
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.is_file() else platform.processor()
    cpu = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.M)
    return _hash(
        *(_compiler(), version, *packages, sys.version, str(_mlx_folder())),
        *(*_FLAGS, *_own_flags(), cpu[1] if cpu else text),
    )


def _hash(*parts: str) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _content(path: Path) -> str:
    return f"{path.name}\n{path.read_text(encoding='utf-8', errors='replace')}"


def _tidy(package: str) -> None:
    """Delete what was built for sources of long ago."""
    built: dict[str, list[Path]] = {}
    for path in BUILD_FOLDER.glob(f"{package}-*"):
        built.setdefault(path.name.rpartition("-")[0], []).append(path)
    for paths in built.values():
        for path in sorted(paths, key=lambda path: path.stat().st_mtime)[:-KEPT]:
            path.unlink(missing_ok=True)


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise BuildError(f"There is no package named {package!r}.")
    return Path(next(iter(spec.submodule_search_locations))).resolve()


@functools.cache
def _nanobind_folder() -> Path:
    return _package_folder("nanobind")


@functools.cache
def _mlx_folder() -> Path:
    spec = importlib.util.find_spec("mlx.core")
    if spec is None or spec.origin is None:
        raise BuildError("MLX is not installed: run `pdm sync -G dev`.")
    return Path(spec.origin).parent


def _python_headers() -> Path:
    return Path(sysconfig.get_path("include"))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shown(path: Path) -> str:
    """A path as a student types it."""
    return os.path.relpath(path) if path.is_relative_to(PROJECT_ROOT) else str(path)


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(text, file=sys.stderr)
