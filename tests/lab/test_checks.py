"""The checks: right results pass in every sensible order of operations, wrong ones say why."""

import re
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from tiny_llm_lab.course.checks import (
    CheckFailure,
    arguments_unchanged,
    assert_close,
    assert_distribution,
    assert_raises_clearly,
    assert_text_equal,
    assert_tokens_equal,
    check,
)

FLOATS = [mx.float32, mx.float16, mx.bfloat16]


def message_of(call: Callable[[], Any]) -> str:
    with pytest.raises(CheckFailure) as caught:
        call()
    return str(caught.value)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def rounded(x: np.ndarray, dtype: mx.Dtype) -> tuple[mx.array, np.ndarray]:
    """`x` in a dtype, and what became of it in float64."""
    array = mx.array(x.astype(np.float32)).astype(dtype)
    return array, np.array(array.astype(mx.float32)).astype(np.float64)


# --- assert_close: what must pass -----------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", [1, 8, 64, 512])
def test_sums_of_products_pass_in_any_order(dtype: mx.Dtype, n: int) -> None:
    a, a64 = rounded(normal(16, n, seed=1), dtype)
    b, b64 = rounded(normal(n, 24, seed=2), dtype)
    expected = a64 @ b64
    one_by_one = mx.zeros((16, 24), dtype)
    for k in range(n):
        one_by_one = one_by_one + a[:, k, None] * b[k]
    in_float32 = (a.astype(mx.float32) @ b.astype(mx.float32)).astype(dtype)
    for name, actual in {
        "matmul": a @ b,
        "float32": in_float32,
        "sum": (a[:, :, None] * b).sum(axis=1),
        "one by one": one_by_one,
    }.items():
        assert_close(actual, expected, what=name, dtype=dtype, reduction=n)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", [8, 64, 512])
def test_sums_of_one_sign_pass_in_any_order(dtype: mx.Dtype, n: int) -> None:
    a, a64 = rounded(np.abs(normal(16, n, seed=1)), dtype)
    total = mx.zeros((16,), dtype)
    for k in range(n):
        total = total + a[:, k]
    assert_close(total, a64.sum(axis=1), what="one by one", dtype=dtype, reduction=n)
    assert_close(a.sum(axis=1), a64.sum(axis=1), what="sum", dtype=dtype, reduction=n)


@pytest.mark.parametrize("dtype", FLOATS)
def test_softmax_passes_in_any_order(dtype: mx.Dtype) -> None:
    x, x64 = rounded(3 * normal(8, 32), dtype)
    e64 = np.exp(x64 - x64.max(axis=-1, keepdims=True))
    expected = e64 / e64.sum(axis=-1, keepdims=True)
    shifted = mx.exp(x - x.max(axis=-1, keepdims=True))
    for name, actual in {
        "mx.softmax": mx.softmax(x, axis=-1),
        "precise": mx.softmax(x, axis=-1, precise=True),
        "shifted": shifted / shifted.sum(axis=-1, keepdims=True),
        "logsumexp": mx.exp(x - mx.logsumexp(x, axis=-1, keepdims=True)),
    }.items():
        assert_close(actual, expected, what=name, dtype=dtype, reduction=32)


@pytest.mark.parametrize("dtype", FLOATS)
def test_elementwise_function_passes_in_any_order(dtype: mx.Dtype) -> None:
    x, x64 = rounded(10 * normal(1000), dtype)
    expected = x64 / (1 + np.exp(-x64))
    one = mx.array(1, dtype)
    for name, actual in {
        "sigmoid": x * mx.sigmoid(x),
        "exp": x / (one + mx.exp(-x)),
        "float32": (x.astype(mx.float32) * mx.sigmoid(x.astype(mx.float32))).astype(dtype),
    }.items():
        assert_close(actual, expected, what=name, dtype=dtype)


def test_overflow_of_the_dtype_counts_as_infinite() -> None:
    actual = mx.array([70000.0, -70000.0, 1.0]).astype(mx.float16)
    assert_close(actual, [70000.0, -70000.0, 1.0], what="y", dtype=mx.float16)


def test_nan_and_infinities_in_their_places_pass() -> None:
    values = [np.nan, np.inf, -np.inf, 0.0, 1.5]
    assert_close(mx.array(values), values, what="y")


def test_empty_array_and_scalar_pass() -> None:
    assert_close(mx.zeros((0, 3)), np.zeros((0, 3)), what="y")
    assert_close(mx.array(2.5), 2.5, what="y")


def test_oracle_may_be_an_mx_array() -> None:
    x = mx.array([1.5, 2.5]).astype(mx.bfloat16)
    assert_close(x, x, what="y", dtype=mx.bfloat16)


# --- assert_close: what must fail -----------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", [4, 64])
def test_scale_that_is_off_by_a_few_percent_fails(dtype: mx.Dtype, n: int) -> None:
    a, a64 = rounded(normal(16, n, seed=1), dtype)
    b, b64 = rounded(normal(n, 24, seed=2), dtype)
    assert "wrong" in message_of(
        lambda: assert_close((a @ b) * 0.7, a64 @ b64, what="y", dtype=dtype, reduction=n)
    )


def test_float16_arithmetic_on_float32_inputs_fails() -> None:
    a, a64 = rounded(normal(16, 64, seed=1), mx.float32)
    b, b64 = rounded(normal(64, 24, seed=2), mx.float32)
    actual = (a.astype(mx.float16) @ b.astype(mx.float16)).astype(mx.float32)
    assert "wrong" in message_of(lambda: assert_close(actual, a64 @ b64, what="y", reduction=64))


def test_long_sum_in_float16_fails_where_float32_is_promised() -> None:
    a, a64 = rounded(np.abs(normal(16, 4096, seed=1)), mx.float16)
    total = mx.zeros((16,), mx.float16)
    for k in range(4096):
        total = total + a[:, k]
    mean, expected = total / 4096, a64.mean(axis=1)
    assert "wrong" in message_of(
        lambda: assert_close(mean, expected, what="mean", dtype=mx.float16, reduction=1)
    )


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 0.0])
def test_one_wrong_element_fails(wrong: float) -> None:
    expected = normal(3, 4)
    actual = expected.copy()
    actual[2, 1] = wrong
    result = mx.array(actual.astype(np.float32))
    message = message_of(lambda: assert_close(result, expected, what="y"))
    assert "1 of 12 elements is wrong" in message
    assert "index [2, 1]" in message


def test_finite_result_where_infinity_is_expected_fails() -> None:
    message = message_of(lambda: assert_close(mx.array([1e9]), [np.inf], what="y"))
    assert "expected   inf" in message


def test_integers_and_bools_are_compared_exactly() -> None:
    assert_close(mx.array([1, 2]), [1, 2], what="y", dtype=mx.int32)
    assert_close(mx.array([True, False]), [True, False], what="y", dtype=mx.bool_)
    with pytest.raises(CheckFailure):
        assert_close(mx.array([1, 3]), [1, 2], what="y", dtype=mx.int32)


# --- assert_close: messages -----------------------------------------------------------------


def test_message_for_wrong_elements() -> None:
    expected = np.arange(1.0, 61.0).reshape(2, 3, 10)
    actual = expected.copy()
    actual[1, 0, 2:4] = 40.0
    message = message_of(
        lambda: assert_close(
            mx.array(actual.astype(np.float32)),
            expected,
            what="softmax(x, axis=1)",
            magnitude=expected,
            axes="B H D",
        )
    )
    assert message == (
        "softmax(x, axis=1): 2 of 60 elements are wrong.\n"
        "  worst at   index [1, 0, 2]  (B = 1, H = 0, D = 2)\n"
        "  only where B = 1, H = 0, D = 2 to 3\n"
        "  expected   33\n"
        "  got        40\n"
        "  error      7, 111,000 times the tolerance of 6.3e-05\n"
        "  shape      2 x 3 x 10  (B x H x D)\n"
        "  around it  expected [31, 32, 33, 34, 35, 36, 37, 38, ...]\n"
        "             got      [31, 32, 40, 40, 35, 36, 37, 38, ...]"
    )


@pytest.mark.parametrize(
    ("wrong", "pattern"),
    [
        (np.s_[:, 0, :], "axis 1 = 0"),
        (np.s_[:, 1:3, 4], "axis 1 = 1 to 2, axis 2 = 4"),
        (np.s_[1, :, ::3], "axis 0 = 1, axis 2 = [0, 3, 6, 9]"),
    ],
)
def test_message_says_along_which_axes_elements_are_wrong(wrong: Any, pattern: str) -> None:
    actual = np.ones((2, 4, 10), np.float32)
    actual[wrong] = 2.0
    message = message_of(lambda: assert_close(mx.array(actual), np.ones((2, 4, 10)), what="y"))
    assert f"\n  only where {pattern}\n" in message


def test_message_names_no_axis_if_elements_are_wrong_everywhere() -> None:
    message = message_of(lambda: assert_close(mx.zeros((2, 3)), np.ones((2, 3)), what="y"))
    assert "only where" not in message


def test_message_for_a_scalar() -> None:
    assert message_of(lambda: assert_close(mx.array(3.0), 4.0, what="the loss")) == (
        "the loss is wrong.\n"
        "  expected   4\n"
        "  got        3\n"
        "  error      1, 131,000 times the tolerance of 7.6e-06"
    )


def test_message_for_nan_names_no_error() -> None:
    message = message_of(lambda: assert_close(mx.array([1.0, mx.nan]), [1.0, 2.0], what="y"))
    assert message == (
        "y: 1 of 2 elements is wrong.\n"
        "  worst at   index [1]\n"
        "  expected   2\n"
        "  got        nan\n"
        "  NaN comes from inf - inf, inf / inf or 0 * inf: "
        "look for an exp or a mask that is infinite.\n"
        "  shape      2\n"
        "  its row    expected [1, 2]\n"
        "             got      [1, nan]"
    )


def test_message_shows_what_is_expected_as_the_dtype_has_it() -> None:
    message = message_of(lambda: assert_close(mx.array([0.5, 1.0]), [1.38e-87, 1.0], what="y"))
    assert "\n  expected   0\n" in message


def test_message_for_a_zero_that_nothing_may_differ_from() -> None:
    message = message_of(
        lambda: assert_close(mx.array([0.5, 1.0]), [0.0, 1.0], what="y", magnitude=[0.0, 1.0])
    )
    assert "\n  error      0.5, where exactly 0 is expected\n" in message


def test_message_shows_as_many_digits_as_differ() -> None:
    message = message_of(lambda: assert_close(mx.array([2.5911, 1.0]), [2.5912, 1.0], what="y"))
    assert message.endswith("  its row    expected [2.5912, 1]\n             got      [2.5911, 1]")


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_message_for_errors_of_steps_in_half_precision(dtype: mx.Dtype) -> None:
    hint = "may come from steps in"
    x, x64 = rounded(np.abs(normal(4, 2000)), dtype)
    total = mx.zeros(4, dtype)
    for column in range(2000):
        total = total + x[:, column]
    message = message_of(lambda: assert_close(total, x64.sum(axis=1), what="y", dtype=dtype))
    assert hint in message
    tripled = mx.array(3 * x64.sum(axis=1)).astype(dtype)
    message = message_of(lambda: assert_close(tripled, x64.sum(axis=1), what="y", dtype=dtype))
    assert hint not in message
    x32 = x.astype(mx.float32)
    assert hint not in message_of(lambda: assert_close(x32, x64 * 1.00001, what="y"))


def test_message_for_wrong_shape() -> None:
    message = message_of(
        lambda: assert_close(mx.zeros((2, 4)), np.zeros((2, 3)), what="y", axes="B L")
    )
    assert message == "y has the wrong shape.\n  expected   2 x 3  (B x L)\n  got        2 x 4"


def test_message_for_swapped_axes() -> None:
    message = message_of(lambda: assert_close(mx.zeros((3, 2)), np.zeros((2, 3)), what="y"))
    assert message == (
        "y has the wrong shape.\n"
        "  expected   2 x 3\n"
        "  got        3 x 2\n"
        "  The sizes are right, but in another order: an axis is misplaced."
    )


def test_message_for_wrong_dtype() -> None:
    message = message_of(lambda: assert_close(mx.zeros(2), np.zeros(2), what="y", dtype=mx.float16))
    assert message == "y has the wrong dtype.\n  expected   float16\n  got        float32"


@pytest.mark.parametrize(
    ("actual", "words"),
    [
        (None, "None: is a return statement missing?"),
        (np.zeros(2), "a numpy.ndarray"),
        ([0.0, 0.0], "a list"),
        (0.0, "a float"),
    ],
)
def test_message_for_wrong_type(actual: object, words: str) -> None:
    message = message_of(lambda: assert_close(actual, np.zeros(2), what="softmax(x, axis=0)"))
    assert message == f"softmax(x, axis=0) must be an mx.array, but is {words}"


def test_large_arrays_are_never_printed_whole() -> None:
    message = message_of(
        lambda: assert_close(mx.zeros((50, 60, 70)), np.ones((50, 60, 70)), what="y")
    )
    assert message.startswith("y: 210,000 of 210,000 elements are wrong.")
    assert len(message) < 500


def test_axes_must_fit_the_oracle() -> None:
    with pytest.raises(ValueError, match="do not name the 1 axes"):
        assert_close(mx.zeros(2), np.zeros(2), what="y", axes="B L")


# --- tokens, text, exceptions ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", [mx.int32, mx.uint32, mx.int64])
def test_equal_tokens_pass_in_any_integer_type(dtype: mx.Dtype) -> None:
    assert_tokens_equal(mx.array([3, 1, 2], dtype=dtype), [3, 1, 2], what="tokens")
    assert_tokens_equal([3, 1, 2], mx.array([3, 1, 2]), what="tokens")


def test_message_for_a_wrong_token() -> None:
    tokens = list(range(100, 120))
    message = message_of(
        lambda: assert_tokens_equal([*tokens[:9], 7, *tokens[10:]], tokens, what="the tokens")
    )
    assert message == (
        "the tokens: index 9 has token id 7, expected 109.\n"
        "  expected   [..., 105, 106, 107, 108, 109, 110, 111, 112, ...]\n"
        "  got        [..., 105, 106, 107, 108, 7, 110, 111, 112, ...]"
    )
    assert message_of(
        lambda: assert_tokens_equal(mx.array([5, 0]), [5, 4], what="the draws", place="row")
    ).startswith("the draws: row 1 has token id 0, expected 4.\n")


def test_message_for_missing_tokens() -> None:
    message = message_of(lambda: assert_tokens_equal([1, 2], [1, 2, 3], what="the tokens"))
    assert message == (
        "the tokens: 2 tokens, expected 3.\n  expected   [1, 2, 3]\n  got        [1, 2]"
    )


def test_token_per_row_needs_one_axis() -> None:
    message = message_of(
        lambda: assert_tokens_equal(mx.array([[1], [2]]), [1, 2], what="sampler(logprobs)")
    )
    assert message == "sampler(logprobs) has the wrong shape.\n  expected   2\n  got        2 x 1"


@pytest.mark.parametrize(
    ("actual", "words"),
    [
        (mx.array([1.0]), "have an integer dtype, but has float32"),
        ([1.0], "hold ints, but holds a float"),
        ("1", "be an mx.array or a list of ints, but is a str"),
    ],
)
def test_message_for_tokens_of_the_wrong_type(actual: object, words: str) -> None:
    assert (
        message_of(lambda: assert_tokens_equal(actual, [1], what="tokens"))
        == f"tokens must {words}"
    )


def test_messages_for_texts() -> None:
    assert_text_equal("one", "one", what="the answer")
    assert message_of(lambda: assert_text_equal("fox: 18", "fox: 17", what="the answer")) == (
        "the answer: the text differs from character 6 on.\n"
        "  expected   'fox: 17'\n"
        "  got        'fox: 18'"
    )
    assert message_of(lambda: assert_text_equal("fox", "fox: 17", what="the answer")).startswith(
        "the answer: the text ends after 3 of 7 characters."
    )
    assert message_of(lambda: assert_text_equal("fox: 17", "fox", what="the answer")).startswith(
        "the answer: the text goes on after 3 characters, where it should end."
    )
    assert message_of(lambda: assert_text_equal(7, "fox", what="the answer")) == (
        "the answer must be a str, but is an int"
    )


def test_documented_exception_with_a_message_passes() -> None:
    def call() -> None:
        raise ValueError("dims must be even, not 5")

    assert_raises_clearly(ValueError, call, what="RoPE(dims=5)")


def test_messages_for_exceptions() -> None:
    def empty() -> None:
        raise ValueError

    assert message_of(lambda: assert_raises_clearly(ValueError, lambda: 1, what="f(x)")) == (
        "f(x) must raise ValueError, but raises nothing"
    )
    assert message_of(lambda: assert_raises_clearly(ValueError, lambda: 1 / 0, what="f(x)")) == (
        "f(x) raises the wrong exception.\n"
        "  expected   ValueError\n"
        "  got        ZeroDivisionError: division by zero"
    )
    assert message_of(lambda: assert_raises_clearly(ValueError, empty, what="f(x)")) == (
        "f(x) raises ValueError without a message.\n"
        "  expected   one sentence: what is wrong with the input"
    )


@pytest.mark.parametrize("exception", [ValueError, RuntimeError])
def test_stub_does_not_pass_as_an_error_that_is_raised_clearly(exception: type[Exception]) -> None:
    def stub() -> None:
        raise NotImplementedError("Week 1 Day 3, Task 1: Causal mask")

    with pytest.raises(NotImplementedError):
        assert_raises_clearly(exception, stub, what="f(x)")


def test_check() -> None:
    check(True, "never shown")
    assert message_of(lambda: check([], "the list is empty")) == "the list is empty"


def test_call_that_changes_its_argument_fails() -> None:
    def softmax(x: mx.array) -> mx.array:
        x -= x.max()
        return mx.softmax(x)

    def call() -> None:
        x, w = mx.array([1.0, 2.0]), mx.array([3.0])
        with arguments_unchanged("softmax(x)", w=w, x=x):
            softmax(x)

    assert message_of(call) == (
        "softmax(x) changes the caller's x.\n"
        "  `x += y` changes the array itself; `x = x + y` makes a new one."
    )


def test_call_that_leaves_its_arguments_alone_passes() -> None:
    x, mask = mx.array([1.0, mx.nan]), mx.array([True, False])
    with arguments_unchanged("softmax(x)", x=x, mask=mask):
        mx.softmax(x + 1)


# --- distributions --------------------------------------------------------------------------

PROBABILITIES = np.array([0.5, 0.25, 0.15, 0.1, 0.0])


@pytest.mark.parametrize("seed", range(20))
def test_draws_from_the_distribution_pass(seed: int) -> None:
    draws = np.random.default_rng(seed).choice(5, size=4000, p=PROBABILITIES)
    assert_distribution(mx.array(draws), PROBABILITIES, what="the draws")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("move", [0.1, -0.1])
def test_draws_from_another_distribution_fail(seed: int, move: float) -> None:
    other = PROBABILITIES + np.array([move, -move, 0.0, 0.0, 0.0])
    draws = np.random.default_rng(seed).choice(5, size=4000, p=other)
    with pytest.raises(CheckFailure):
        assert_distribution(mx.array(draws), PROBABILITIES, what="the draws")


def test_messages_for_distributions() -> None:
    draws = [0] * 600 + [1] * 200 + [2] * 120 + [3] * 80
    assert_distribution(draws, [0.6, 0.2, 0.12, 0.08], what="the draws")
    assert message_of(lambda: assert_distribution(draws, [0.3, 0.4, 0.2, 0.1], what="draws")) == (
        "draws: token 0 is drawn too often.\n"
        "  expected   0.3000 of the draws\n"
        "  got        0.6000 of 1,000 draws"
    )
    assert (
        message_of(
            lambda: assert_distribution(
                draws, [0.6, 0.2, 0.2, 0.0], what="draws", names=list("abcd")
            )
        )
        == "draws: d is drawn, but has probability 0.\n"
        "  expected   only a, b, c\n"
        "  got        80 of 1,000 draws"
    )
    assert message_of(lambda: assert_distribution([0, 7], [0.5, 0.5], what="draws")) == (
        "draws: token 7 is drawn, but the ids are 0 to 1."
    )


def test_certain_token_passes() -> None:
    assert_distribution([2] * 100, [0.0, 0.0, 1.0], what="draws")


def test_no_message_of_a_check_ends_with_blank_space() -> None:
    message = message_of(lambda: assert_close(mx.zeros((2, 9)), np.ones((2, 9)), what="y"))
    assert not re.search(r"[ \t]+$", message, flags=re.MULTILINE)
