"""Runs Metal kernels on a CPU, and finds the mistakes that a GPU hides.

`metal_kernel` is called like `mx.fast.metal_kernel`. The Metal source is compiled as C++ against
the headers in `language/`; every thread of a threadgroup is a fiber; every access to memory passes
the checks in `runtime/`. What it cannot know is said in the book's appendix on debugging kernels.
"""

from .findings import CompileError, Finding, KernelError, KernelWarning
from .kernel import metal_kernel
from .library import Library, Output
from .sources import read_source
from .watch import Counts, Launch, watch

__all__ = [
    "CompileError",
    "Counts",
    "Finding",
    "KernelError",
    "KernelWarning",
    "Launch",
    "Library",
    "Output",
    "metal_kernel",
    "read_source",
    "watch",
]
