"""Keys and values for the tests of KV caches, and what compares and measures caches."""

import gc
from typing import Any

import mlx.core as mx
import numpy as np

from inputs import float64, normal
from solution import kv_cache
from tiny_llm_lab.course.checks import assert_close, check


def keys_and_values(
    L: int, *, seed: int, B: int = 2, H: int = 3, dtype: mx.Dtype = mx.float32, scale: float = 1.0
) -> tuple[mx.array, mx.array]:
    """Keys `B x H x L x 4` and values `B x H x L x 5`: the two are not told apart by luck."""
    keys = normal(B, H, L, 4, seed=seed, dtype=dtype, scale=scale)
    return keys, normal(B, H, L, 5, seed=seed + 1, dtype=dtype, scale=scale)


def assert_kept(actual: Any, expected: mx.array, *, what: str) -> None:
    """Compare what a cache gives back with what it got: a cache computes nothing."""
    assert_close(actual, expected, what=what, dtype=expected.dtype, axes="B H S D")
    check(
        np.array_equal(float64(actual), float64(expected)),
        f"{what}: the numbers are rounded on their way through the cache.\n"
        "  expected   exactly what was appended, in its own dtype",
    )


def memory_in_use() -> int:
    """Bytes of all arrays that are alive, once nothing is being computed."""
    mx.synchronize()
    return mx.get_active_memory()


def still_in_use(before: int) -> int:
    """Bytes in use beyond `before`, where there were so many, and are to be no more."""
    if memory_in_use() > before:
        gc.collect()  # what only a reference cycle keeps alive is free for the next request too
    return memory_in_use() - before


class NotedCache(kv_cache.TinyKvFullCache):
    """The solution's cache; it notes when it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = False

    def release(self) -> None:
        """As the solution's own, and note it."""
        super().release()
        self.released = True
