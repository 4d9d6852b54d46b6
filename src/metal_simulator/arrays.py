"""MLX arrays as NumPy arrays over the same memory, and back."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

# NumPy has no bfloat16: its bits are carried as uint16.
NUMPY_TYPES: dict[mx.Dtype, type[np.generic]] = {
    mx.bool_: np.bool_,
    mx.int8: np.int8,
    mx.int16: np.int16,
    mx.int32: np.int32,
    mx.int64: np.int64,
    mx.uint8: np.uint8,
    mx.uint16: np.uint16,
    mx.uint32: np.uint32,
    mx.uint64: np.uint64,
    mx.float16: np.float16,
    mx.bfloat16: np.uint16,
    mx.float32: np.float32,
    mx.complex64: np.complex64,
}


def to_numpy(array: mx.array) -> np.ndarray:
    """A view of an array's memory, with the array's strides.

    Raises:
        RuntimeError: the array has no values, because a transformation is tracing.
    """
    try:
        mx.eval(array)
    except (RuntimeError, ValueError) as error:
        raise RuntimeError(
            "The Metal simulator needs the values of its inputs: call the kernel outside of "
            "mx.compile and mx.vmap, and give it a gradient by mx.custom_function."
        ) from error
    bits = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
    return np.array(bits, copy=False)


def from_numpy(values: np.ndarray, dtype: mx.Dtype) -> mx.array:
    """An MLX array of that dtype."""
    array = mx.array(values)
    return array.view(mx.bfloat16) if dtype == mx.bfloat16 else array


def memory_of(values: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """The memory that an array's elements lie in, as one dimension, and the strides in elements.

    A negative stride would reach in front of the first element: such an array is copied.
    """
    if any(stride < 0 for stride in values.strides):
        values = np.ascontiguousarray(values)
    strides = [stride // values.itemsize for stride in values.strides]
    if values.flags.c_contiguous:
        return values, strides
    last = sum((n - 1) * stride for n, stride in zip(values.shape, strides, strict=True))
    flat = np.lib.stride_tricks.as_strided(values, (last + 1,), (values.itemsize,))
    return flat, strides


def make_output(shape: Sequence[int], dtype: mx.Dtype, init_value: float | None) -> np.ndarray:
    """An output's memory: with the initial value, else with bytes that are NaN in all floats."""
    values = np.empty(tuple(shape), NUMPY_TYPES[dtype])
    if init_value is not None:
        values[...] = to_numpy(mx.array(init_value).astype(dtype))
    elif values.size:
        values.reshape(-1).view(np.uint8)[...] = 0xFF
    return values
