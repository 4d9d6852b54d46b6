"""Compiles kernels, once each: libraries lie in a cache on disk, named by all that goes into them.

Built once per machine: the runtime, the Metal headers of MLX as C++, and the language header in its
precompiled form, for checked and unchecked kernels. The cache is `~/.cache/metal-simulator`, or the
folder that METAL_SIMULATOR_CACHE names. The compiler is `CXX`, else g++ (clang++ on macOS).
"""

import ctypes
import functools
import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx

from .compiler_messages import first_error, uninitialized_warnings
from .findings import CompileError
from .rewriter import RewriteError, rewrite
from .sources import lines_by_file, locate
from .swizzles import swizzle_members

HERE = Path(__file__).parent
MLX_INCLUDE = Path(mx.__file__).parent / "include"
MLX_KERNELS = "mlx/backend/metal/kernels"
IS_MACOS = sys.platform == "darwin"
# The first with _Float16 in C++.
OLDEST_GCC = 13 if platform.machine() in ("aarch64", "arm64") else 12

_BASE_FLAGS = (
    "-std=c++17",
    "-fPIC",
    "-fno-strict-aliasing",
    "-fno-math-errno",
    "-fwrapv",
    "-ffp-contract=off",
    "-fno-finite-loops",
    # Large private arrays reach the guard page of the fiber's stack, and are reported.
    *(() if IS_MACOS else ("-fstack-clash-protection",)),
    "-fsigned-char",  # as in Metal; on arm64 Linux a char is unsigned
    "-fdiagnostics-color=never",
    "-Wno-attributes",
    "-Wno-literal-suffix",
    "-Wno-unknown-pragmas",
    "-Wno-ignored-attributes",
)
# In Metal 1.0 is a float.
# Half arithmetic rounds every result.
_GCC_FLAGS = ("-fsingle-precision-constant", "-fexcess-precision=16", "-fmax-errors=1")
_CLANG_FLAGS = ("-Xclang", "-cl-single-precision-constant", "-ferror-limit=1")
# The sanitizers' calls go to our runtime; theirs are not linked.
_CHECK_FLAGS = (
    "-O1",
    "-g1",
    "-fsanitize=thread",
    "-ftrivial-auto-var-init=pattern",
)
_GCC_CHECK_FLAGS = (
    "-fsanitize=bounds-strict,alignment,shift,integer-divide-by-zero",
    "--param",
    "tsan-instrument-func-entry-exit=0",
    "-Wuninitialized",
    "-Wmaybe-uninitialized",
)
_CLANG_CHECK_FLAGS = (
    "-fsanitize=array-bounds,alignment,shift,integer-divide-by-zero",
    "-mllvm",
    "-tsan-instrument-func-entry-exit=0",
    "-mllvm",
    "-tsan-instrument-read-before-write=1",  # else `x += 1` counts as a write only
    "-Wuninitialized",
    "-Wconditional-uninitialized",
)
_UNCHECKED_FLAGS = ("-O2", "-g1")
MATH_MODES = {
    "safe": (),
    "relaxed": ("-fno-signed-zeros", "-freciprocal-math"),
    "fast": ("-ffast-math",),
}

# The Metal standard library's headers, which `language/metal.h` replaces.
_METAL_HEADERS = (
    "array",
    "atomic",
    "common",
    "compute",
    "geometric",
    "integer",
    "limits",
    "logging",
    "math",
    "matrix",
    "numeric",
    "pack",
    "quadgroup",
    "relational",
    "simdgroup",
    "simdgroup_matrix",
    "stdlib",
    "texture",
    "tuple",
    "type_traits",
    "types",
    "utility",
)
_PRELUDE = f"""#include "metal.h"
namespace msl {{
using namespace metal;
typedef half float16_t;
#include "{MLX_KERNELS}/utils.h"
}}
#include "entry.h"
"""


@dataclass(frozen=True)
class CompiledKernel:
    """A loaded library with one kernel function.

    Attributes:
        text: the Metal source; reports quote it.
        warnings: (file, line, message) that the compiler gave about uninitialized variables.
    """

    path: Path
    entry: int
    text: str
    warnings: list[tuple[str, int, str]] = field(default_factory=list)

    @functools.cached_property
    def lines(self) -> dict[str, list[str]]:
        """The source's lines by file."""
        return lines_by_file(self.text)


def compiler() -> str:
    """The C++ compiler's command."""
    return os.environ.get("CXX") or ("clang++" if IS_MACOS else "g++")


@functools.cache
def compiler_version() -> str:
    """What the compiler says of itself.

    Raises:
        CompileError: it is missing, or too old.
    """
    command = compiler()
    if shutil.which(command.split()[0]) is None:
        raise CompileError(
            f"There is no C++ compiler {command!r}, which the Metal simulator needs: install "
            f"{'the Xcode command line tools (`xcode-select --install`)' if IS_MACOS else 'g++'}."
        )
    version = _run_compiler(["--version"]).stdout.split("\n")[0]
    major = re.search(r"\)\s+(\d+)\.", version)
    if _is_gcc(version) and major and int(major.group(1)) < OLDEST_GCC:
        raise CompileError(
            f"The Metal simulator needs g++ {OLDEST_GCC} or later, and {command!r} is {version}: "
            "install a later one, and name it in CXX."
        )
    return version


def _is_gcc(version: str) -> bool:
    return "clang" not in version.lower()


@functools.cache
def _environment(sources: tuple[str, ...]) -> str:
    """All that changes what is built from these files of ours, beside a kernel's text and flags."""
    digest = hashlib.sha256(compiler_version().encode())
    for pattern in sources:
        for file in sorted(HERE.glob(pattern)):
            digest.update(file.read_bytes())
    digest.update(
        f"{MLX_INCLUDE} {importlib.metadata.version('mlx')} {platform.machine()}".encode()
    )
    cpu = Path("/proc/cpuinfo")  # a home folder may be shared by machines with different processors
    if cpu.is_file():
        flags = re.search(r"^(?:flags|Features)\s*:(.*)$", cpu.read_text(), re.M)
        digest.update(flags.group(1).encode() if flags else b"")
    return digest.hexdigest()


_RUNTIME_SOURCES = ("runtime/*", "build.py")
_KERNEL_SOURCES = (
    "runtime/abi.h",
    "language/*.h",
    "build.py",
    "rewriter.py",
    "swizzles.py",
    "tokens.py",
)


def _key(*parts: object, sources: tuple[str, ...] = _KERNEL_SOURCES) -> str:
    return hashlib.sha256(repr((_environment(sources), parts)).encode()).hexdigest()[:24]


@functools.cache
def cache_folder() -> Path:
    """Where libraries are kept; made if it is missing."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metal-simulator"
    folder = Path(os.environ.get("METAL_SIMULATOR_CACHE") or default)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise CompileError(
            f"The Metal simulator cannot write to its cache, {folder}: {error.strerror}. Name "
            "another folder in METAL_SIMULATOR_CACHE."
        ) from None
    return folder


def _flags(check: bool, math_mode: str) -> tuple[str, ...]:
    gcc = _is_gcc(compiler_version())
    mode: tuple[str, ...] = _UNCHECKED_FLAGS
    if check:
        mode = (*_CHECK_FLAGS, *(_GCC_CHECK_FLAGS if gcc else _CLANG_CHECK_FLAGS))
    # On Apple silicon the default is the machine's own; elsewhere half needs its instructions.
    native = () if IS_MACOS else ("-march=native",)
    language = _GCC_FLAGS if gcc else _CLANG_FLAGS
    return (*_BASE_FLAGS, *native, *language, *mode, *MATH_MODES[math_mode])


def _run_compiler(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run the compiler, which is to speak English in plain letters."""
    command = [*compiler().split(), *arguments]
    env = os.environ | {"LC_ALL": "C"}
    return subprocess.run(command, capture_output=True, text=True, env=env)


def _run(arguments: list[str], what: str) -> None:
    """Run the compiler on our own code: a failure is no mistake of the kernel's author."""
    done = _run_compiler(arguments)
    if done.returncode:
        raise CompileError(
            f"The Metal simulator could not build {what} with {compiler_version()!r}:\n"
            + "\n".join(done.stderr.split("\n")[:20])
        )


def _once(path: Path, make: Callable[[Path], None], what: str = "") -> Path:
    """Make a file or folder if it is missing; two processes at once do no harm."""
    if not path.exists():
        if what and sys.stderr.isatty():
            print(f"Metal simulator: building {what} (once on this machine)", file=sys.stderr)
        work = Path(tempfile.mkdtemp(dir=cache_folder()))
        try:
            made = work / path.name
            make(made)
            with suppress(OSError):  # a folder that another process has put there
                made.replace(path)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return path


def _link_flags() -> list[str]:
    return ["-shared", *(["-undefined", "dynamic_lookup"] if IS_MACOS else [])]


@functools.cache
def runtime() -> ctypes.CDLL:
    """The runtime, loaded so that kernels find its functions."""

    def make(path: Path) -> None:
        # As one translation unit, the standard headers are read once: half the time.
        unit = path.with_suffix(".cpp")
        files = sorted((HERE / "runtime").glob("*.cpp"))
        unit.write_text("".join(f'#include "{file}"\n' for file in files))
        flags = ["-std=c++17", "-O2", "-g1", "-fPIC", "-pthread"]
        _run([*flags, *_link_flags(), str(unit), "-o", str(path), "-ldl"], "its runtime")

    path = _once(
        cache_folder() / f"runtime-{_key(sources=_RUNTIME_SOURCES)}.so", make, "its runtime"
    )
    return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def _include_flags() -> list[str]:
    """The folders of headers: ours, and MLX's as C++."""

    def make(path: Path) -> None:
        for source in sorted((MLX_INCLUDE / MLX_KERNELS).rglob("*.h")):
            target = path / source.relative_to(MLX_INCLUDE)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(rewrite(source.read_text()))
        # Math on bfloat is in `language/math.h`.
        (path / MLX_KERNELS / "bf16_math.h").write_text("#pragma once\n")
        for name in _METAL_HEADERS:
            (path / f"metal_{name}").write_text("#pragma once\n")
        for size in (2, 3, 4):
            (path / f"swizzles{size}.h").write_text(swizzle_members(size))

    tree = _once(cache_folder() / f"headers-{_key('headers')}", make)
    return [f"-I{HERE / 'language'}", f"-I{tree}"]


def _prelude(flags: tuple[str, ...], check: bool) -> Path:
    """A folder with the precompiled header that every kernel begins with."""
    suffix = ".gch" if _is_gcc(compiler_version()) else ".pch"

    def make(path: Path) -> None:
        path.mkdir()
        (path / "prelude.h").write_text(_PRELUDE)
        output = ["-o", str(path / f"prelude.h{suffix}")]
        header = ["-x", "c++-header", str(path / "prelude.h")]
        _run([*flags, *header, *output, *_include_flags()], "its language header")

    what = f"its language header for {'checked' if check else 'unchecked'} kernels"
    return _once(cache_folder() / f"prelude-{_key('prelude', flags)}", make, what)


_loaded: dict[str, CompiledKernel] = {}


def compile_kernel(
    name: str,
    text: str,
    entry_text: str,
    *,
    check: bool,
    math_mode: str = "safe",
    function_constants: tuple[tuple[str, str], ...] = (),
    refuse: Callable[[], None] = lambda: None,
) -> CompiledKernel:
    """Compile and load a kernel, or take it from the cache.

    Args:
        name: for the file in the cache.
        text: Metal source of whole functions, with `#line` directives.
        entry_text: C++ of the entry point, see signature.entry_point.
        check: with the calls to the runtime's checks.
        math_mode: a key of MATH_MODES.
        function_constants: macros and their values.
        refuse: called before a compilation; raises if the source is not what Apple takes.

    Raises:
        CompileError: the source is not valid.
    """
    flags = _flags(check, math_mode)
    key = _key("kernel", text, entry_text, flags, function_constants)
    if key in _loaded:
        return _loaded[key]
    with ThreadPoolExecutor() as pool:  # on a new machine, both are built
        prelude_built = pool.submit(_prelude, flags, check)
        runtime()
        prelude = prelude_built.result()
    folder = cache_folder() / f"{name[:60]}-{key}"
    library, log = folder / "kernel.so", folder / "warnings"
    if not folder.exists():
        refuse()
        cpp = _translation_unit(text, entry_text)

        def make(path: Path) -> None:
            path.mkdir()
            (path / "kernel.cpp").write_text(cpp)
            macros = [f"-D{macro}={value}" for macro, value in function_constants]
            done = _run_compiler(
                [
                    *(*flags, *macros, *_include_flags(), "-include", str(prelude / "prelude.h")),
                    *("-c", str(path / "kernel.cpp"), "-o", str(path / "kernel.o")),
                ]
            )
            if done.returncode:
                raise CompileError(first_error(done.stderr, text))
            (path / "warnings").write_text(done.stderr)
            link = [*_link_flags(), str(path / "kernel.o"), "-o", str(path / "kernel.so"), "-lm"]
            _run(link, f"the kernel {name!r}")
            if IS_MACOS:  # the line numbers, which are not in the library there
                subprocess.run(["dsymutil", str(path / "kernel.so")], capture_output=True)
            (path / "kernel.o").unlink()

        _once(folder, make)
    try:
        loaded = ctypes.CDLL(str(library))
    except OSError:  # cut off when the disk was full, for example: the next call builds it again
        shutil.rmtree(folder)
        raise
    entry = ctypes.cast(loaded.sim_kernel, ctypes.c_void_p).value
    assert entry is not None
    _loaded[key] = CompiledKernel(
        library, entry, text, uninitialized_warnings(log.read_text(), text)
    )
    return _loaded[key]


def _translation_unit(text: str, entry_text: str) -> str:
    try:
        body = rewrite(text)
    except RewriteError as error:
        file, line = locate(text, error.line)
        raise CompileError(f"{file}:{line}: {error}") from None
    return f'namespace msl {{\n{body}\n}}\n#line 1 "entry"\n{entry_text}'
