"""Checks of the machine and the installation: each says what it found, and how to mend it."""

import importlib.metadata
import importlib.util
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tiny_llm_lab import PROJECT_ROOT

FREE_DISK_GB = 2
REINSTALL = "run `pdm sync -G dev`"


@dataclass(frozen=True)
class Finding:
    """What one check found; `fix` is empty if nothing needs mending."""

    what: str
    found: str
    fix: str = ""


def check_python() -> Finding:
    """Python 3.11 to 3.13."""
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("Python", version)
    return Finding("Python", version, "run `pdm venv create --force 3.12`, then any command again")


def check_packages() -> Finding:
    """Everything that pyproject.toml pins is installed at its pin."""
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
    wrong = []
    for requirement in project["dependencies"]:
        pin, _, marker = requirement.partition(";")
        if marker and f"'{sys.platform}'" not in marker:
            continue
        name, version = re.split(r"(?:\[.*\])?==", pin.strip())
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed = "missing"
        if installed != version:
            wrong.append(f"{name} is {installed}, pinned is {version}")
    if wrong:
        return Finding("packages", "; ".join(wrong), REINSTALL)
    return Finding("packages", f"mlx {importlib.metadata.version('mlx')} and all others as pinned")


def check_nanobind() -> Finding:
    """MLX and nanobind agree on nanobind's internals, or extensions cannot take MLX arrays."""
    core = importlib.util.find_spec("mlx.core")
    nanobind = importlib.util.find_spec("nanobind")
    if core is None or core.origin is None or nanobind is None or nanobind.origin is None:
        return Finding("nanobind", "mlx or nanobind is not installed", REINSTALL)
    header = Path(nanobind.origin).parent / "src" / "nb_internals.h"
    ours = re.search(r"define NB_INTERNALS_VERSION (\d+)", header.read_text())
    # MLX's binary holds the tag it was built with, such as ..._libstdcpp_..._v22.
    theirs = re.search(rb"_lib(?:std)?cpp\w*_v(\d+)", Path(core.origin).read_bytes())
    if ours is None or theirs is None:
        return Finding("nanobind", "its internals version could not be read", REINSTALL)
    versions = f"internals v{ours[1]} (nanobind), v{theirs[1].decode()} (MLX)"
    if ours[1] != theirs[1].decode():
        return Finding("nanobind", f"{versions} differ: C++ kernels would not load", REINSTALL)
    return Finding("nanobind", versions)


def check_compiler() -> Finding:
    """A C++ compiler, for the kernels of week 2."""
    compiler = shutil.which("c++") or shutil.which("clang++") or shutil.which("g++")
    if compiler is None:
        mac = sys.platform == "darwin"
        install = "`xcode-select --install`" if mac else "`sudo apt install g++`, or your system's"
        return Finding("C++ compiler", "none found; week 2 needs one", f"run {install}")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    return Finding("C++ compiler", version.splitlines()[0] if version else compiler)


def check_metal() -> Finding:
    """Where MLX computes. No Metal GPU is no fault: the course runs without one."""
    import mlx.core as mx

    if mx.metal.is_available():
        return Finding("Metal", f"available: {mx.device_info()['device_name']}")
    return Finding("Metal", f"not available, and not needed: MLX computes on {mx.default_device()}")


def check_metal_simulator() -> Finding:
    """What runs Metal kernels where there is no Metal GPU."""
    from metal_simulator import CompileError
    from metal_simulator.address_spaces import available
    from metal_simulator.build import compiler_version

    try:
        version = compiler_version()
    except CompileError as error:
        return Finding("Metal simulator", str(error), "install a C++ compiler as above")
    if not available():
        return Finding("Metal simulator", "libclang does not load", REINSTALL)
    return Finding("Metal simulator", f"ready; it compiles kernels with {version}")


def check_mdbook() -> Finding:
    """The mdbook binary, for `pdm run book`."""
    binary = shutil.which("mdbook", path=str(Path(sys.executable).parent))
    if binary is None:
        return Finding("mdBook", "not found", REINSTALL)
    version = subprocess.run([binary, "--version"], capture_output=True, text=True).stdout.strip()
    return Finding("mdBook", version)


def check_disk() -> Finding:
    """Room for packages, builds and a small model."""
    free = shutil.disk_usage(PROJECT_ROOT).free / 1e9
    if free < FREE_DISK_GB:
        return Finding("disk", f"{free:.1f} GB free", f"free at least {FREE_DISK_GB} GB")
    return Finding("disk", f"{free:.0f} GB free")


def check_embedded_model() -> Finding:
    """The embedded model loads and is finite."""
    from .models import EMBEDDED_MODELS, ModelError, load_model

    folder = EMBEDDED_MODELS["tiny"].relative_to(PROJECT_ROOT)
    try:
        load_model("tiny")
    except ModelError as error:
        return Finding("embedded model", str(error), f"run `git checkout -- {folder}`")
    return Finding("embedded model", f"{folder} loads")


CHECKS: list[Callable[[], Finding]] = [
    check_python,
    check_packages,
    check_nanobind,
    check_compiler,
    check_metal,
    check_metal_simulator,
    check_mdbook,
    check_disk,
    check_embedded_model,
]


def examine() -> Iterator[Finding]:
    """What every check finds; a check that lacks a package, such as MLX, finds just that."""
    for check in CHECKS:
        try:
            yield check()
        except ImportError as error:
            what = check.__name__.removeprefix("check_").replace("_", " ")
            yield Finding(what, f"cannot be checked: {error}", REINSTALL)
