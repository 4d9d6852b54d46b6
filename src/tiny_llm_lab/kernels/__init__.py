"""Kernels of a solution: C++ built on first use; Metal on Apple's GPU, or else in the simulator."""

from .extension import BuildError, load_extension
from .metal import (
    load_metal_kernel,
    metal_kernel,
    prepare_simulator,
    uses_metal,
    uses_simulator,
)

__all__ = [
    "BuildError",
    "load_extension",
    "load_metal_kernel",
    "metal_kernel",
    "prepare_simulator",
    "uses_metal",
    "uses_simulator",
]
