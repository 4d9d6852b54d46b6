"""Kernels of a solution: its C++ is built on first use."""

from .extension import BuildError, load_extension

__all__ = ["BuildError", "load_extension"]
