"""What graded tests call to compare a student's result with an oracle.

The point of these functions, against a bare `assert`, is the message: it says what was expected
and what was returned, where the worst difference is, and how it stands to the tolerance.

Tolerance of `assert_close`. An element that is a sum of `n` terms, computed in a float format with
unit roundoff `u`, is off by at most about `n * u` times the size of its partial sums; roundings
are as often up as down, so in practice by a small multiple of `sqrt(n) * u` (Higham and Mary,
"A New Approach to Probabilistic Rounding Error Analysis",
https://nla-group.org/2018/11/22/a-new-approach-to-probabilistic-rounding-error-analysis/).
Inputs, the terms and the result are rounded too, which does not grow with `n`. So

    tolerance = c * u * (1 + sqrt(n)) * magnitude

per element, where `c` covers the largest of thousands of random errors, and some intermediate
results rounded to the same format: 4 in float16 and bfloat16. In float32 it is 16, as a GPU's
`exp`, `sin` or `pow` may itself be off by 4 to 16 units in the last place (Metal Shading Language
Specification, chapter "Numerical Compliance"), which narrower formats hide.

What the tolerance must not cover are mistakes, and they are far larger: a missing scale, a wrong
index or a wrong epsilon changes results by percents, while the tolerance for `n = 64` in float32
is 9 parts in a million, and a detour through float16 costs 500. In float16 and bfloat16 it is 2
and 14 percent; where the docstring promises sums in float32, say `reduction=1` for these, which
leaves 0.4 and 3 percent.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

# The unit roundoff of each float dtype: half the distance between 1 and the next number.
UNIT_ROUNDOFF = {mx.float32: 2.0**-24, mx.float16: 2.0**-11, mx.bfloat16: 2.0**-8}

# Added to every tolerance: results this small may be flushed to zero by correct code.
SMALLEST = {mx.float32: 2.0**-126, mx.float16: 2.0**-24, mx.bfloat16: 2.0**-126}

# Results beyond this are infinite in the dtype.
LARGEST = {
    mx.float32: (2 - 2.0**-23) * 2.0**127,
    mx.float16: 65504.0,
    mx.bfloat16: (2 - 2.0**-7) * 2.0**127,
}

SAFETY_FACTOR = {mx.float32: 16.0, mx.float16: 4.0, mx.bfloat16: 4.0}

# The chance that `assert_distribution` fails a correct sampler.
FALSE_ALARM = 1e-9

# The most elements, ids or categories that a message shows side by side.
SHOWN = 8


# Steps in half precision instead of float32 make errors of up to this many times the tolerance.
MOST_BY_ROUNDING = 20

NAN_HINT = (
    "  NaN comes from inf - inf, inf / inf or 0 * inf: look for an exp or a mask that is infinite."
)


class CheckFailure(AssertionError):
    """A student's result is wrong; the message is meant to be read by the student."""


def check(condition: Any, message: str) -> None:
    """Fail with `message` unless `condition` holds. The message says what was expected and got."""
    if not condition:
        raise CheckFailure(message)


def assert_close(
    actual: Any,
    expected: Any,
    *,
    what: str,
    dtype: mx.Dtype = mx.float32,
    reduction: int = 1,
    magnitude: npt.ArrayLike | None = None,
    axes: str | None = None,
) -> None:
    """Compare an array with its oracle: type, dtype, shape, then every element.

    NaN and infinities must be where the oracle has them. An oracle beyond the largest number of
    `dtype` counts as infinite. Integer and bool arrays are compared exactly.

    Args:
        actual: what the solution returned.
        expected: the oracle: an `mx.array`, or anything `np.asarray` takes, in float64 where
            possible, from the inputs as the solution gets them (already rounded to `dtype`).
        what: names the result for the student, such as `softmax(x, axis=1)`.
        dtype: the dtype `actual` must have; its unit roundoff sets the tolerance.
        reduction: length of the longest sum behind an element (1 for elementwise functions).
            The tolerance grows with its square root.
        magnitude: the size of the partial results behind an element, broadcastable to
            `expected`. If None, `abs(expected)`, but at least the mean of the finite ones, as
            an element that happens to be near 0 is the sum of terms that are not.
        axes: names of the axes for the message, such as `"B L H D"`.

    Raises:
        CheckFailure: with a message that locates and sizes the difference.
    """
    oracle = _to_numpy(expected)
    names = axes.split() if axes is not None else None
    if names is not None and len(names) != oracle.ndim:
        raise ValueError(f'axes "{axes}" do not name the {oracle.ndim} axes of the oracle')
    if not isinstance(actual, mx.array):
        raise CheckFailure(f"{what} must be an mx.array, but is {_describe_type(actual)}")
    if actual.dtype != dtype:
        raise CheckFailure(
            f"{what} has the wrong dtype.\n"
            f"  expected   {dtype_name(dtype)}\n"
            f"  got        {dtype_name(actual.dtype)}"
        )
    if actual.shape != oracle.shape:
        raise CheckFailure(_wrong_shape(what, actual.shape, oracle.shape, names))

    got = _to_numpy(actual)
    if dtype in UNIT_ROUNDOFF:
        oracle = oracle.astype(np.float64)
        overflown = np.abs(oracle) > LARGEST[dtype]
        oracle = np.where(overflown, np.copysign(np.inf, oracle), oracle)
        tolerance = _tolerance(oracle, dtype, reduction, magnitude)
    else:
        oracle = oracle.astype(np.int64)
        got = got.astype(np.int64)
        tolerance = np.zeros(oracle.shape)

    with np.errstate(invalid="ignore"):
        error = np.abs(got - oracle)
    # Equal infinities and two NaNs are right; any other NaN or infinity is as wrong as can be.
    same = (got == oracle) | (np.isnan(got) & np.isnan(oracle))
    error = np.where(same, 0.0, np.where(np.isfinite(error), error, np.inf))
    wrong = error > tolerance
    if wrong.any():
        # A float32 cannot be 1e-87: what is expected is shown as the dtype has it.
        shown = _rounded(oracle, dtype) if dtype in UNIT_ROUNDOFF else oracle
        message = _wrong_elements(what, got, shown, error, tolerance, wrong, names)
        raise CheckFailure(message + _about_half_precision(error, tolerance, dtype))


def assert_tokens_equal(actual: Any, expected: Any, *, what: str, place: str = "index") -> None:
    """Compare token ids exactly: an integer `mx.array` of any integer dtype, or a list of ints.

    Args:
        actual: what the solution returned.
        expected: an `mx.array` or anything `np.asarray` takes, of the shape that `actual` must
            have.
        what: names the result for the student.
        place: what the tokens are counted by: `row`, if there is one for each row.

    Raises:
        CheckFailure: naming the first token that differs, with its neighbours.
    """
    wanted = _to_numpy(expected).astype(np.int64)
    got = _to_token_ids(actual, what)
    if wanted.ndim != 1:
        if got.shape != wanted.shape:
            raise CheckFailure(_wrong_shape(what, got.shape, wanted.shape, None))
        got, wanted = got.reshape(-1), wanted.reshape(-1)
    elif got.ndim != 1:
        raise CheckFailure(_wrong_shape(what, got.shape, wanted.shape, None))
    common = min(len(got), len(wanted))
    differing = np.flatnonzero(got[:common] != wanted[:common])
    if not len(differing) and len(got) == len(wanted):
        return
    first = int(differing[0]) if len(differing) else common
    if first == common:
        headline = f"{what}: {len(got)} tokens, expected {len(wanted)}."
    else:
        headline = f"{what}: {place} {first} has token id {got[first]}, expected {wanted[first]}."
    start = max(0, first - SHOWN // 2)
    raise CheckFailure(
        f"{headline}\n  expected   {_excerpt(wanted, start)}\n  got        {_excerpt(got, start)}"
    )


def assert_text_equal(actual: Any, expected: str, *, what: str) -> None:
    """Compare texts exactly.

    Raises:
        CheckFailure: naming the first character that differs, with the text around it.
    """
    if not isinstance(actual, str):
        raise CheckFailure(f"{what} must be a str, but is {_describe_type(actual)}")
    if actual == expected:
        return
    common = min(len(actual), len(expected))
    first = next((i for i in range(common) if actual[i] != expected[i]), common)
    if first == len(actual):
        headline = f"{what}: the text ends after {first} of {len(expected)} characters."
    elif first == len(expected):
        headline = f"{what}: the text goes on after {first} characters, where it should end."
    else:
        headline = f"{what}: the text differs from character {first} on."

    def excerpt(text: str) -> str:
        start, end = max(0, first - 20), first + 40
        return ("..." if start else "") + repr(text[start:end]) + ("..." if end < len(text) else "")

    raise CheckFailure(
        f"{headline}\n  expected   {excerpt(expected)}\n  got        {excerpt(actual)}"
    )


def assert_raises_clearly(
    exception: type[Exception], call: Callable[[], Any], *, what: str
) -> None:
    """Bad input must raise `exception` with a message.

    `NotImplementedError` passes through: a stub has not answered the question yet.

    Args:
        exception: the documented type; subclasses count.
        call: makes the call, and evaluates its result if it returns arrays.
        what: names the call for the student, such as `RoPE(dims=5, seq_len=8)`.

    Raises:
        CheckFailure: nothing, or something else, was raised, or the message is empty.
    """
    try:
        call()
    except NotImplementedError:
        raise
    except exception as error:
        if not str(error).strip():
            raise CheckFailure(
                f"{what} raises {exception.__name__} without a message.\n"
                "  expected   one sentence: what is wrong with the input"
            ) from error
    except Exception as error:
        raise CheckFailure(
            f"{what} raises the wrong exception.\n"
            f"  expected   {exception.__name__}\n"
            f"  got        {type(error).__name__}: {_one_line(str(error))}"
        ) from error
    else:
        raise CheckFailure(f"{what} must raise {exception.__name__}, but raises nothing")


@contextmanager
def arguments_unchanged(what: str, **arguments: mx.array) -> Iterator[None]:
    """The calls in the `with` block must leave these arrays as they are.

    `x += y` and `x[0] = y` change the array of the caller, who may need it still.

    Args:
        what: names the call for the student.
        arguments: the arrays by the names of the parameters that they are handed in for.

    Raises:
        CheckFailure: naming the first array that is not what it was.
    """
    before = {name: _to_numpy(array) for name, array in arguments.items()}
    yield
    for name, array in arguments.items():
        if not np.array_equal(_to_numpy(array), before[name], equal_nan=True):
            raise CheckFailure(
                f"{what} changes the caller's {name}.\n"
                f"  `{name} += y` changes the array itself; `{name} = {name} + y` makes a new one."
            )


def assert_distribution(
    tokens: Any, probabilities: npt.ArrayLike, *, what: str, names: Sequence[str] | None = None
) -> None:
    """Compare how often each token was drawn with its probability.

    A token of probability 0 must never be drawn. For the others, Chernoff's bound says how
    unlikely a share at least this far from the probability is: at most `exp(-n * KL)` for `n`
    draws. The test fails if that is below 1e-9, divided by the number of tokens and sides, so a
    correct sampler fails once in a billion seeds. With 4,000 draws, a share that is wrong by 0.05
    is found.

    Args:
        tokens: the draws, token ids of any shape, each between 0 and `vocab_size - 1`.
        probabilities: `vocab_size`, summing to 1.
        what: names the draws for the student, such as `make_sampler(temp=1, top_k=3)`.
        names: what to call each token in the message; `token 0` and so on if None.

    Raises:
        CheckFailure: naming the token whose share is least likely.
    """
    expected = np.asarray(probabilities, dtype=np.float64)
    if expected.ndim != 1 or not np.isclose(expected.sum(), 1.0, atol=1e-6):
        raise ValueError("probabilities must be one axis that sums to 1")
    drawn = _to_token_ids(tokens, what).reshape(-1)
    outside = drawn[(drawn < 0) | (drawn >= len(expected))]
    if len(outside):
        raise CheckFailure(
            f"{what}: token {outside[0]} is drawn, but the ids are 0 to {len(expected) - 1}."
        )
    share = np.bincount(drawn, minlength=len(expected)) / len(drawn)

    def name(token: int) -> str:
        return f"token {token}" if names is None else names[token]

    impossible = np.flatnonzero((share > 0) & (expected <= 0))
    if len(impossible):
        token = int(impossible[0])
        possible = [name(int(index)) for index in np.flatnonzero(expected > 0)]
        more = ", ..." if len(possible) > SHOWN else ""
        raise CheckFailure(
            f"{what}: {name(token)} is drawn, but has probability 0.\n"
            f"  expected   only {', '.join(possible[:SHOWN])}{more}\n"
            f"  got        {np.count_nonzero(drawn == token):,} of {len(drawn):,} draws"
        )
    surprise = len(drawn) * _relative_entropy(share, expected)
    worst = int(np.argmax(surprise))
    if surprise[worst] > math.log(2 * len(expected) / FALSE_ALARM):
        direction = "often" if share[worst] > expected[worst] else "rarely"
        raise CheckFailure(
            f"{what}: {name(worst)} is drawn too {direction}.\n"
            f"  expected   {expected[worst]:.4f} of the draws\n"
            f"  got        {share[worst]:.4f} of {len(drawn):,} draws"
        )


def _relative_entropy(share: npt.NDArray[Any], expected: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """KL divergence of each pair of coins: heads with chance `share`, and with `expected`."""

    def term(p: npt.NDArray[Any], q: npt.NDArray[Any]) -> npt.NDArray[Any]:
        q = np.maximum(q, 1e-300)
        return np.where(p > 0, p * np.log(np.maximum(p, 1e-300) / q), 0.0)

    return term(share, expected) + term(1 - share, 1 - expected)


def _tolerance(
    oracle: npt.NDArray[Any], dtype: mx.Dtype, reduction: int, magnitude: npt.ArrayLike | None
) -> npt.NDArray[Any]:
    """The allowed error of every element; see the module's docstring."""
    if magnitude is None:
        size = np.where(np.isfinite(oracle), np.abs(oracle), 0.0)
        finite = np.isfinite(oracle)
        mean = float(size.sum() / finite.sum()) if finite.any() else 0.0
        size = np.maximum(size, mean)
    else:
        size = np.broadcast_to(np.abs(_to_numpy(magnitude).astype(np.float64)), oracle.shape)
    growth = SAFETY_FACTOR[dtype] * UNIT_ROUNDOFF[dtype] * (1 + math.sqrt(reduction))
    return growth * size + SMALLEST[dtype]


def _wrong_shape(
    what: str, got: Sequence[int], wanted: Sequence[int], names: Sequence[str] | None
) -> str:
    lines = [
        f"{what} has the wrong shape.",
        f"  expected   {_shape(wanted)}" + (f"  ({' x '.join(names)})" if names else ""),
        f"  got        {_shape(got)}",
    ]
    if sorted(got) == sorted(wanted):
        lines.append("  The sizes are right, but in another order: an axis is misplaced.")
    return "\n".join(lines)


def _wrong_elements(
    what: str,
    got: npt.NDArray[Any],
    oracle: npt.NDArray[Any],
    error: npt.NDArray[Any],
    tolerance: npt.NDArray[Any],
    wrong: npt.NDArray[np.bool_],
    names: Sequence[str] | None,
) -> str:
    """The message for an array of the right type, dtype and shape with wrong elements."""
    # Worst is measured against the tolerance of the element, not by the bare difference.
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(wrong, np.where(tolerance > 0, error / tolerance, np.inf), 0.0)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(ratio)), ratio.shape))
    count = int(wrong.sum())
    if not index:
        lines = [f"{what} is wrong."]
    else:
        verb = "is" if count == 1 else "are"
        share = f"{count:,} of {wrong.size:,} elements {verb}"
        lines = [f"{what}: {'its only element is' if wrong.size == 1 else share} wrong."]
        place = f"index [{', '.join(map(str, index))}]"
        if names:
            pairs = zip(names, index, strict=True)
            place += "  (" + ", ".join(f"{name} = {i}" for name, i in pairs) + ")"
        lines.append(f"  worst at   {place}")
        if count > 1 and (pattern := _pattern(wrong, names)):
            lines.append(f"  only where {pattern}")
    lines.append(f"  expected   {_number(oracle[index])}")
    lines.append(f"  got        {_number(got[index])}")
    if np.isnan(got[index]):
        lines.append(NAN_HINT)
    elif np.isfinite(error[index]) and tolerance[index] > 0:
        relation = f"{_times(ratio[index])} the tolerance of {tolerance[index]:.2g}"
        if oracle[index] == 0 and tolerance[index] <= max(SMALLEST.values()):
            relation = "where exactly 0 is expected"
        lines.append(f"  error      {error[index]:.3g}, {relation}")
    if got.size > 1:
        lines.append(
            f"  shape      {_shape(got.shape)}" + (f"  ({' x '.join(names)})" if names else "")
        )
        row = index[:-1]
        start = max(0, min(index[-1] - SHOWN // 2, got.shape[-1] - SHOWN))
        if got.shape[-1] > 1:
            title = "its row" if got.shape[-1] <= SHOWN else "around it"
            digits = _telling_digits(oracle[index], got[index])
            lines.append(f"  {title:<10} expected {_excerpt(oracle[row], start, digits)}")
            lines.append(f"  {'':<10} got      {_excerpt(got[row], start, digits)}")
    return "\n".join(lines)


def _about_half_precision(
    error: npt.NDArray[Any], tolerance: npt.NDArray[Any], dtype: mx.Dtype
) -> str:
    """One more line where all errors are as small as those of steps in half precision."""
    if dtype not in (mx.float16, mx.bfloat16) or np.any(error > MOST_BY_ROUNDING * tolerance):
        return ""
    return (
        f"\n  Errors of this size may come from steps in {dtype_name(dtype)}: "
        "compute in float32 and convert the result."
    )


def _pattern(wrong: npt.NDArray[np.bool_], names: Sequence[str] | None) -> str:
    """The axes along which the wrong elements are not everywhere: `B = 1, L = 3 to 6`."""
    parts = []
    for axis, size in enumerate(wrong.shape):
        others = tuple(other for other in range(wrong.ndim) if other != axis)
        places = np.flatnonzero(wrong.any(axis=others))
        first, last = int(places[0]), int(places[-1])
        if len(places) == size:
            continue
        if len(places) == 1:
            where = str(first)
        elif len(places) == last - first + 1:
            where = f"{first} to {last}"
        else:
            where = _excerpt(places, 0)
        parts.append(f"{names[axis] if names else f'axis {axis}'} = {where}")
    return ", ".join(parts)


def _rounded(x: npt.NDArray[Any], dtype: mx.Dtype) -> npt.NDArray[Any]:
    """`x` as an array of `dtype` holds it."""
    with np.errstate(under="ignore", over="ignore"):
        return _to_numpy(mx.array(x.astype(np.float32)).astype(dtype))


def _to_numpy(x: Any) -> npt.NDArray[Any]:
    """An array NumPy can compute with; floats of MLX become float64."""
    if isinstance(x, mx.array):
        if mx.issubdtype(x.dtype, mx.floating):
            return np.array(x.astype(mx.float32)).astype(np.float64)
        return np.array(x)
    return np.asarray(x)


def _to_token_ids(tokens: Any, what: str) -> npt.NDArray[np.int64]:
    if isinstance(tokens, mx.array):
        if not mx.issubdtype(tokens.dtype, mx.integer):
            raise CheckFailure(
                f"{what} must have an integer dtype, but has {dtype_name(tokens.dtype)}"
            )
        return np.array(tokens).astype(np.int64)
    if isinstance(tokens, list | tuple):
        for token in tokens:
            if isinstance(token, bool) or not isinstance(token, int):
                raise CheckFailure(f"{what} must hold ints, but holds {_describe_type(token)}")
        return np.array(tokens, dtype=np.int64)
    raise CheckFailure(
        f"{what} must be an mx.array or a list of ints, but is {_describe_type(tokens)}"
    )


def _describe_type(x: Any) -> str:
    if x is None:
        return "None: is a return statement missing?"
    module, name = type(x).__module__, type(x).__name__
    if module != "builtins":
        name = f"{module}.{name}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def dtype_name(dtype: mx.Dtype) -> str:
    """`float16` rather than `mlx.core.float16`."""
    return str(dtype).removeprefix("mlx.core.")


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) if len(shape) else "() (a scalar)"


def _number(x: Any) -> str:
    return str(int(x)) if isinstance(x, np.integer) else f"{float(x):.7g}"


def _times(ratio: float) -> str:
    if ratio < 100:
        return f"{ratio:.1f} times"
    # Three digits are enough: 445,000 times rather than 444,850 times.
    return f"{float(f'{ratio:.3g}'):,.0f} times" if ratio < 1e9 else f"{ratio:.0e} times"


def _telling_digits(a: Any, b: Any) -> int:
    """The digits that tell two floats apart: at least 4, and 9 are enough for any float32."""
    return next((digits for digits in range(4, 9) if f"{a:.{digits}g}" != f"{b:.{digits}g}"), 9)


def _excerpt(values: npt.NDArray[Any], start: int, digits: int = 4) -> str:
    """Up to `SHOWN` elements of one axis from `start` on, with dots where there are more."""
    end = start + SHOWN
    shown = [str(v) if isinstance(v, np.integer) else f"{v:.{digits}g}" for v in values[start:end]]
    if start > 0:
        shown.insert(0, "...")
    if end < len(values):
        shown.append("...")
    return f"[{', '.join(shown)}]"


def _one_line(text: str, limit: int = 160) -> str:
    first = text.strip().splitlines()[0] if text.strip() else "(no message)"
    return first if len(first) <= limit else first[: limit - 3] + "..."
