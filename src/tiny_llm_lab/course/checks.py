"""What graded tests call to compare a student's result with an oracle.

The point of these functions, against a bare `assert`, is the message: it says what was expected
and what was returned, where the worst difference is, and how it stands to the tolerance.
"""

from typing import Any

import mlx.core as mx
import numpy as np

# The unit roundoff of each float dtype: half the distance between 1 and the next number.
UNIT_ROUNDOFF = {mx.float32: 2.0**-24, mx.float16: 2.0**-11, mx.bfloat16: 2.0**-8}


class CheckFailure(AssertionError):
    """A student's result is wrong; the message is meant to be read by the student."""


def assert_close(
    actual: Any,
    expected: Any,
    *,
    what: str,
    dtype: mx.Dtype = mx.float32,
    reduction: int = 1,
    magnitude: Any = None,
) -> None:
    """Compare an array with its oracle: type, dtype, shape, then every element.

    Args:
        actual: what the solution returned.
        expected: the oracle, anything `np.asarray` takes, in float64 where possible.
        what: names the result for the student, such as `softmax(x, axis=1)`.
        dtype: the dtype `actual` must have; its unit roundoff sets the tolerance.
        reduction: length of the longest sum behind an element (1 for elementwise functions).
            The tolerance grows with its square root.
        magnitude: the size of the terms that are summed, broadcastable to `expected`;
            `abs(expected)` (and at least its mean) if None.

    Raises:
        CheckFailure: with a message that locates and sizes the difference.
    """
    raise NotImplementedError
