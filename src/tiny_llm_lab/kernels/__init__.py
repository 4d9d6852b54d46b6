"""Kernels of a solution: Metal's run on Apple's GPU, or in the simulator where there is none."""

from .metal import metal_kernel, uses_simulator

__all__ = ["metal_kernel", "uses_simulator"]
