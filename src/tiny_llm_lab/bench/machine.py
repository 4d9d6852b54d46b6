"""What measured numbers depend on: the machine and the versions."""

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, device, versions, and BLAS."""
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        cpu = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    else:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
        cpu = next(names, platform.machine())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": cpu,
        "cores": cores,
        "os": f"{platform.system()} {platform.machine()}",
        "device": mx.default_device().type.name,
        "versions": {name: version(name) for name in ("mlx", "mlx-lm")},
        "blas": blas(),
    }


def blas() -> str:
    """The library behind MLX's matrix products on a CPU, as this process has loaded it.

    A wheel brings copies of its libraries with a hash in their names; NumPy's is not MLX's.
    """
    if platform.system() == "Darwin":
        return "Accelerate"
    maps = Path("/proc/self/maps")
    paths = {line.split()[-1] for line in maps.read_text().splitlines()} if maps.exists() else set()
    loaded = {
        re.sub(r"-[0-9a-f]{8}(?=\.so)", "", Path(path).name)
        for path in paths
        if re.search(r"blas|mkl|armpl|nvpl", Path(path).name.lower()) and "/numpy" not in path
    }
    return ", ".join(sorted(loaded)) or "unknown"


def describe_machine(where: dict[str, Any]) -> str:
    """Processor, cores, system, device and versions in one line; the BLAS if it was noted."""
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    cores = "one core" if where["cores"] == 1 else f"{where['cores']} cores"
    blas = f", BLAS {where['blas']}" if "blas" in where else ""
    return f"{where['cpu']} ({cores}, {where['os']}, {where['device'].upper()}{blas}), {versions}"
