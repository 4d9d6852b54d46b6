"""Week 1, day 7: sampling."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np

from inputs import cases, float64, half_precision, normal
from oracles import softmax
from solution import sampler
from tiny_llm_lab.course.checks import (
    CheckFailure,
    arguments_unchanged,
    assert_distribution,
    assert_raises_clearly,
    assert_tokens_equal,
    check,
    dtype_name,
)

# Not in any order, no two alike, and no sum of the largest is near the top_p of a test.
SHARES = np.array([0.06, 0.38, 0.11, 0.02, 0.24, 0.03, 0.16])
DRAWS = 1000


def logprobs_of(*rows: np.ndarray, dtype: mx.Dtype = mx.float32) -> mx.array:
    """Log-probabilities, `B x vocab_size`, from one row of probabilities for each row."""
    with np.errstate(divide="ignore"):
        return mx.array(np.log(np.stack(rows)).astype(np.float32)).astype(dtype)


def at_temperature(shares: np.ndarray, temp: float) -> np.ndarray:
    """The distribution that a temperature makes of probabilities: `p ** (1 / temp)`, normalized."""
    scores = shares ** (1 / temp)
    return scores / scores.sum()


def most_probable(shares: np.ndarray, count: int) -> np.ndarray:
    """The `count` largest probabilities, the others 0, normalized."""
    kept = np.zeros_like(shares)
    for token in sorted(range(len(shares)), key=lambda token: -shares[token])[:count]:
        kept[token] = shares[token]
    return kept / kept.sum()


def nucleus(shares: np.ndarray, top_p: float) -> np.ndarray:
    """The fewest largest probabilities that sum to `top_p`, the others 0, normalized."""
    count = 1
    while np.sort(shares)[::-1][:count].sum() < top_p:
        count += 1
    return most_probable(shares, count)


def draw(
    sample: Callable[[mx.array], mx.array], shares: np.ndarray, dtype: mx.Dtype = mx.float32
) -> mx.array:
    """Many draws from one distribution, as the rows of one call."""
    return sample(logprobs_of(*[shares] * DRAWS, dtype=dtype))


def assert_drawn(
    tokens: mx.array, expected: np.ndarray, mistakes: list[tuple[np.ndarray, str]], *, what: str
) -> None:
    """Check the distribution; if it is that of a known mistake, name the one that fits best.

    Args:
        mistakes: distributions that come out by mistake, each with what to say about it.
    """

    def drawn_from(distribution: np.ndarray) -> bool:
        try:
            assert_distribution(tokens, distribution, what=what)
        except CheckFailure:
            return False
        return True

    try:
        assert_distribution(tokens, expected, what=what)
    except CheckFailure as failure:
        fitting = [mistake for mistake in mistakes if drawn_from(mistake[0])]
        if not fitting:
            raise
        counts = np.bincount(np.array(tokens).reshape(-1), minlength=len(expected))
        _, best = max(fitting, key=lambda m: np.sum(counts * np.log(np.maximum(m[0], 1e-9))))
        raise CheckFailure(f"{failure}\n  {best}") from None


def not_mapped_back(kept: np.ndarray) -> list[tuple[np.ndarray, str]]:
    """What comes out if the places in sorted order are taken for tokens, for `assert_drawn`."""
    mistake = "Right ranks, wrong tokens: are the places in sorted order mapped back to token ids?"
    return [(np.sort(kept), mistake), (np.sort(kept)[::-1], mistake)]


def assert_rows_apart(
    make: Callable[[], Callable[[mx.array], mx.array]],
    rows: list[np.ndarray],
    expected: list[np.ndarray],
    what: str,
) -> None:
    """Check each row's distribution in a batch of different rows, in their order, many times."""
    repeats = 500
    tokens = make()(logprobs_of(*rows * repeats))
    tokens = tokens.reshape(repeats, len(rows))
    for row, shares in enumerate(expected):
        assert_distribution(
            tokens[:, row], shares, what=f"{what}, row {row} of a batch of different rows"
        )


# --- Task 1: greedy and temperature ----------------------------------------------------------


def test_task_1_temperature_0_picks_the_most_probable_token() -> None:
    """Greedy decoding: the argmax of every row, an integer for each."""
    logprobs = normal(5, 11, seed=1)
    expected = np.argmax(float64(logprobs), axis=-1)
    assert_tokens_equal(
        sampler.make_sampler(0)(logprobs),
        expected,
        what="make_sampler(temp=0)(logprobs)",
        place="row",
    )


def test_task_1_temperature_0_is_never_random() -> None:
    """Two tokens that are nearly as probable: the same one comes every time."""
    logprobs = logprobs_of(*[np.array([0.30, 0.34, 0.36])] * 200)
    assert_tokens_equal(
        sampler.make_sampler(0.0, top_p=0.9, top_k=2)(logprobs),
        np.full(200, 2),
        what="make_sampler(temp=0, top_p=0.9, top_k=2)(200 equal rows)",
        place="row",
    )


@cases("rows temp", (1, 0), (3, 0), (1, 1.0), (3, 1.0))
def test_task_1_one_token_per_row(rows: int, temp: float) -> None:
    """The result is one token id for each row, also if there is just one row."""
    # Each row leaves only one token that can be drawn.
    certain = [np.eye(6)[(2 * row + 3) % 6] for row in range(rows)]
    assert_tokens_equal(
        sampler.make_sampler(temp)(logprobs_of(*certain)),
        np.array([(2 * row + 3) % 6 for row in range(rows)]),
        what=f"make_sampler(temp={temp})(logprobs) of {rows} rows with one possible token each",
        place="row",
    )


def test_task_1_rows_are_drawn_independently() -> None:
    """Equal rows do not get equal tokens: all pairs of neighbours come as often as they should."""
    shares = np.array([0.5, 0.2, 0.3])
    tokens = draw(sampler.make_sampler(1.0), shares).astype(mx.int32)
    check(
        len(set(tokens.tolist())) > 1,
        f"make_sampler(temp=1) gives all of {DRAWS} equal rows the same token.\n"
        "  expected   a random draw for each row\n"
        f"  got        {DRAWS} times token {tokens[0].item()}, which has probability "
        f"{shares[tokens[0].item()]}",
    )
    pairs = tokens.reshape(-1, 2)
    assert_distribution(
        pairs[:, 0] * 3 + pairs[:, 1],
        np.outer(shares, shares).reshape(-1),
        what="make_sampler(temp=1), the tokens of neighbouring rows",
        names=[f"the pair ({a}, {b})" for a in range(3) for b in range(3)],
    )


@cases("temp", 0.4, 1.0, 1, 2.5, 20.0)
def test_task_1_temperature_shapes_the_distribution(temp: float) -> None:
    """Log-probabilities are divided by the temperature: less sharpens, more flattens."""
    inverse = (
        f"This is the distribution of temperature 1 / {temp} = {1 / temp:g}: "
        "are the log-probabilities multiplied instead of divided?"
    )
    assert_drawn(
        draw(sampler.make_sampler(temp), SHARES),
        at_temperature(SHARES, temp),
        [
            (at_temperature(SHARES, 1 / temp), inverse),
            (SHARES, "This is the distribution of temperature 1."),
            (
                softmax(SHARES / temp),
                "This is what comes out of probabilities in place of log-probabilities.",
            ),
        ],
        what=f"make_sampler(temp={temp})",
    )


def test_task_1_a_low_temperature_is_not_greedy() -> None:
    """Tokens that are nearly as probable are all drawn, though p ** 100 is 0 in float32."""
    shares = np.array([0.2, 0.198, 0.202, 0.199, 0.201])
    assert_distribution(
        draw(sampler.make_sampler(0.01), shares),
        at_temperature(shares, 0.01),
        what="make_sampler(temp=0.01) of probabilities [.2, .198, .202, .199, .201]",
    )


def test_task_1_a_low_temperature_is_nearly_greedy() -> None:
    """Far below 1 only the most probable token is left, and nothing overflows."""
    logprobs = mx.broadcast_to(logprobs_of(SHARES), (100, len(SHARES)))
    assert_tokens_equal(
        sampler.make_sampler(0.01)(logprobs),
        np.full(100, np.argmax(SHARES)),
        what="make_sampler(temp=0.01)(100 equal rows)",
        place="row",
    )


def test_task_1_impossible_tokens_are_never_drawn() -> None:
    """A log-probability of -inf stays impossible at any temperature."""
    shares = np.array([0.0, 0.7, 0.0, 0.3, 0.0])
    assert_distribution(
        draw(sampler.make_sampler(5.0), shares),
        np.where(shares > 0, at_temperature(shares, 5.0), 0.0),
        what="make_sampler(temp=5) where tokens 0, 2 and 4 have log-probability -inf",
    )


def test_task_1_each_row_has_its_own_distribution() -> None:
    """What one row of the batch prefers is nothing to the others."""
    rows = [SHARES, SHARES[::-1], np.roll(SHARES, 3)]
    assert_rows_apart(
        lambda: sampler.make_sampler(0.8),
        rows,
        [at_temperature(row, 0.8) for row in rows],
        "make_sampler(temp=0.8)",
    )


def test_task_1_calls_are_drawn_independently() -> None:
    """Call after call with one row: pairs of successive tokens come as often as they should."""
    shares = np.array([0.5, 0.2, 0.3])
    sample = sampler.make_sampler(1.0)
    logprobs = logprobs_of(shares)
    tokens = mx.concatenate([sample(logprobs) for _ in range(800)]).astype(mx.int32)
    pairs = tokens.reshape(-1, 2)
    assert_distribution(
        pairs[:, 0] * 3 + pairs[:, 1],
        np.outer(shares, shares).reshape(-1),
        what="make_sampler(temp=1), the tokens of neighbouring calls",
        names=[f"the pair ({a}, {b})" for a in range(3) for b in range(3)],
    )


def test_task_1_the_seed_decides() -> None:
    """MLX's random state decides what is drawn: the same seed, the same tokens."""
    sample = sampler.make_sampler(1.0)
    logprobs = logprobs_of(*[SHARES] * 64)
    mx.random.seed(11)
    first = sample(logprobs)
    mx.eval(first)
    mx.random.seed(11)
    assert_tokens_equal(
        sample(logprobs),
        first,
        what="make_sampler(temp=1)(logprobs) after the same seed",
        place="row",
    )


def test_task_1_making_a_sampler_leaves_the_seed_alone() -> None:
    """The `mx.random.seed` of the caller counts, also before `make_sampler`."""
    logprobs = logprobs_of(*[SHARES] * 64)
    drawn = []
    for seed in (1, 2):
        mx.random.seed(seed)
        drawn.append(np.array(sampler.make_sampler(1.0, top_p=0.97, top_k=6)(logprobs)))
    check(
        bool(np.any(drawn[0] != drawn[1])),
        "Two different seeds before make_sampler give the same 64 tokens.\n"
        "  Does make_sampler set the seed? That is up to the caller.",
    )


@cases("top_p top_k", (None, None), (None, 2), (0.7, None))
def test_task_1_every_call_looks_at_its_own_input(top_p: float | None, top_k: int | None) -> None:
    """One sampler is used for all steps of a generation: nothing of an earlier call stays."""
    sample = sampler.make_sampler(1.0, top_p=top_p, top_k=top_k)
    for shares in (SHARES, SHARES[::-1]):
        expected = most_probable(shares, top_k) if top_k else nucleus(shares, top_p or 1.0)
        assert_distribution(
            draw(sample, shares),
            expected,
            what=f"make_sampler(temp=1, top_p={top_p}, top_k={top_k}), used for other input again",
        )


@half_precision
def test_task_1_half_precision(dtype: mx.Dtype) -> None:
    """Log-probabilities may come in half precision."""
    assert_distribution(
        draw(sampler.make_sampler(0.7), SHARES, dtype),
        at_temperature(SHARES, 0.7),
        what=f"make_sampler(temp=0.7) in {dtype_name(dtype)}",
    )


def test_task_1_a_negative_temperature_is_an_error() -> None:
    """It would prefer the least probable tokens."""
    assert_raises_clearly(
        ValueError, lambda: sampler.make_sampler(-0.5), what="make_sampler(temp=-0.5)"
    )


# --- Task 2: top-k ---------------------------------------------------------------------------


@cases("top_k", 1, 2, 3, 6)
def test_task_2_keeps_the_most_probable_tokens(top_k: int) -> None:
    """Exactly the `top_k` most probable tokens are drawn, in proportion."""
    expected = most_probable(SHARES, top_k)
    assert_drawn(
        draw(sampler.make_sampler(1.0, top_k=top_k), SHARES),
        expected,
        not_mapped_back(expected),
        what=f"make_sampler(temp=1, top_k={top_k})",
    )


@cases("top_k", None, 0, 7, 8, 1000)
def test_task_2_keeps_all(top_k: int | None) -> None:
    """None and 0 switch top-k off, and more tokens than there are keep all."""
    assert_distribution(
        draw(sampler.make_sampler(1.0, top_k=top_k), SHARES),
        SHARES,
        what=f"make_sampler(temp=1, top_k={top_k}) of {len(SHARES)} tokens",
    )


@cases("temp", 0.4, 2.5, 100.0, 10000.0)
def test_task_2_with_a_temperature(temp: float) -> None:
    """The temperature works on what top-k keeps, and brings nothing back, however high it is."""
    assert_distribution(
        draw(sampler.make_sampler(temp, top_k=3), SHARES),
        at_temperature(most_probable(SHARES, 3), temp),
        what=f"make_sampler(temp={temp}, top_k=3)",
    )


def test_task_2_each_row_keeps_its_own_tokens() -> None:
    """Every row of the batch keeps `top_k` tokens, and they are its own most probable ones."""
    flat = np.array([0.15, 0.12, 0.16, 0.145, 0.13, 0.17, 0.125])
    certain = np.array([0.01, 0.02, 0.005, 0.9, 0.025, 0.01, 0.03])
    rows = [SHARES, flat, certain]
    assert_rows_apart(
        lambda: sampler.make_sampler(1.0, top_k=3),
        rows,
        [most_probable(row, 3) for row in rows],
        "make_sampler(temp=1, top_k=3)",
    )


def test_task_2_a_single_row() -> None:
    """Call after call with one row."""
    sample = sampler.make_sampler(1.0, top_k=3)
    logprobs = logprobs_of(SHARES)
    tokens = mx.concatenate([sample(logprobs) for _ in range(500)])
    assert_distribution(
        tokens,
        most_probable(SHARES, 3),
        what="make_sampler(temp=1, top_k=3), called again and again",
    )


def test_task_2_a_large_vocabulary() -> None:
    """A thousand tokens in no order, of which five are kept."""
    shares = np.random.default_rng(21).permutation(0.99 ** np.arange(1000.0))
    shares /= shares.sum()
    assert_distribution(
        sampler.make_sampler(1.0, top_k=5)(mx.broadcast_to(logprobs_of(shares), (1000, 1000))),
        most_probable(shares, 5),
        what="make_sampler(temp=1, top_k=5) of 1000 tokens",
    )


def test_task_2_ties() -> None:
    """If equally probable tokens compete for the last place, it goes to one of them."""
    shares = np.array([0.05, 0.2, 0.1, 0.2, 0.25, 0.2])
    tokens = np.array(draw(sampler.make_sampler(1.0, top_k=2), shares))
    # Which of 1, 3 and 5 stays besides 4 is free, and even keeping all of them.
    assert_distribution(
        mx.array(np.isin(tokens, [0, 2]).astype(np.int32)),
        [1.0, 0.0],
        what="make_sampler(temp=1, top_k=2) of probabilities [.05, .2, .1, .2, .25, .2]",
        names=["tokens 1, 3, 4 or 5", "tokens 0 or 2"],
    )


@half_precision
def test_task_2_half_precision(dtype: mx.Dtype) -> None:
    """Log-probabilities may come in half precision."""
    assert_distribution(
        draw(sampler.make_sampler(1.0, top_k=3), SHARES, dtype),
        most_probable(SHARES, 3),
        what=f"make_sampler(temp=1, top_k=3) in {dtype_name(dtype)}",
    )


def test_task_2_the_input_stays_as_it_is() -> None:
    """The caller's log-probabilities are not masked in place."""
    logprobs = logprobs_of(SHARES, SHARES[::-1])
    with arguments_unchanged("make_sampler(temp=0.7, top_k=2)(logprobs)", logprobs=logprobs):
        mx.eval(sampler.make_sampler(0.7, top_k=2)(logprobs))


def test_task_2_a_negative_number_of_tokens_is_an_error() -> None:
    """Refused when the sampler is made."""
    assert_raises_clearly(
        ValueError, lambda: sampler.make_sampler(1.0, top_k=-1), what="make_sampler(1, top_k=-1)"
    )


# --- Task 3: top-p ---------------------------------------------------------------------------


@cases("top_p", 0.5, 0.7, 0.9, 0.97)
def test_task_3_keeps_the_nucleus(top_p: float) -> None:
    """The fewest most probable tokens that reach `top_p`, with the one that crosses it."""
    # The sorted shares sum to .38, .62, .78, .89, .95, .98, 1.
    expected = nucleus(SHARES, top_p)
    too_small = most_probable(SHARES, np.count_nonzero(expected) - 1)
    assert_drawn(
        draw(sampler.make_sampler(1.0, top_p=top_p), SHARES),
        expected,
        [
            *not_mapped_back(expected),
            (too_small, "This is what comes out if the token that reaches top_p is left out."),
        ],
        what=f"make_sampler(temp=1, top_p={top_p})",
    )


@cases("top_p", 1e-6, 0.2, 0.37)
def test_task_3_the_most_probable_token_always_stays(top_p: float) -> None:
    """If one token alone reaches `top_p`, it is the only one that is drawn."""
    logprobs = logprobs_of(SHARES, np.roll(SHARES, 2), SHARES[::-1])
    assert_tokens_equal(
        sampler.make_sampler(1.0, top_p=top_p)(mx.tile(logprobs, (50, 1))),
        np.tile([1, 3, 5], 50),
        what=f"make_sampler(temp=1, top_p={top_p}) where one token has probability 0.38",
        place="row",
    )


@cases("top_p", None, 0, 0.0, 1, 1.0)
def test_task_3_keeps_all(top_p: float | None) -> None:
    """None, 0 and 1 switch top-p off."""
    assert_distribution(
        draw(sampler.make_sampler(1.0, top_p=top_p), SHARES),
        SHARES,
        what=f"make_sampler(temp=1, top_p={top_p})",
    )


@cases("temp", 0.4, 2.5, 100.0)
def test_task_3_by_the_probabilities_before_the_temperature(temp: float) -> None:
    """What is in the nucleus does not depend on the temperature; how often it is drawn does."""
    assert_drawn(
        draw(sampler.make_sampler(temp, top_p=0.7), SHARES),
        at_temperature(nucleus(SHARES, 0.7), temp),
        [
            (
                nucleus(at_temperature(SHARES, temp), 0.7),
                "This is the nucleus of the probabilities after the temperature.",
            )
        ],
        what=f"make_sampler(temp={temp}, top_p=0.7)",
    )


def test_task_3_each_row_keeps_its_own_nucleus() -> None:
    """The nucleus is larger where the model is less certain, and is found row by row."""
    flat = np.array([0.15, 0.12, 0.16, 0.145, 0.13, 0.17, 0.125])
    certain = np.array([0.01, 0.02, 0.01, 0.9, 0.02, 0.01, 0.03])
    rows = [SHARES, flat, certain, SHARES[::-1]]
    assert_rows_apart(
        lambda: sampler.make_sampler(1.0, top_p=0.7),
        rows,
        [nucleus(row, 0.7) for row in rows],
        "make_sampler(temp=1, top_p=0.7)",
    )


def test_task_3_a_single_row() -> None:
    """Call after call with one row."""
    sample = sampler.make_sampler(1.0, top_p=0.7)
    logprobs = logprobs_of(SHARES)
    tokens = mx.concatenate([sample(logprobs) for _ in range(500)])
    assert_distribution(
        tokens, nucleus(SHARES, 0.7), what="make_sampler(temp=1, top_p=0.7), called again and again"
    )


def test_task_3_a_large_vocabulary() -> None:
    """A thousand tokens in no order, of which the nucleus keeps twelve."""
    shares = np.random.default_rng(31).permutation(0.9 ** np.arange(1000.0))
    shares /= shares.sum()
    top_p = 1 - 0.9**11.5  # in the middle of the twelfth token's share
    assert_distribution(
        sampler.make_sampler(1.0, top_p=top_p)(mx.broadcast_to(logprobs_of(shares), (1000, 1000))),
        most_probable(shares, 12),
        what=f"make_sampler(temp=1, top_p={top_p:.3f}) of 1000 tokens",
    )


@cases("top_k top_p kept", (2, 0.9, 2), (5, 0.5, 2), (1, 0.99, 1), (6, 0.1, 1), (3, None, 3))
def test_task_3_with_top_k(top_k: int, top_p: float | None, kept: int) -> None:
    """A token has to pass both filters, so that the stricter one decides."""
    # Here it makes no difference which filter comes first, and whether the second one counts by
    # the model's probabilities or by what the first one leaves, normalized again.
    assert_distribution(
        draw(sampler.make_sampler(1.0, top_p=top_p, top_k=top_k), SHARES),
        most_probable(SHARES, kept),
        what=f"make_sampler(temp=1, top_p={top_p}, top_k={top_k})",
    )


@half_precision
def test_task_3_half_precision(dtype: mx.Dtype) -> None:
    """Log-probabilities may come in half precision."""
    assert_distribution(
        draw(sampler.make_sampler(1.0, top_p=0.7), SHARES, dtype),
        nucleus(SHARES, 0.7),
        what=f"make_sampler(temp=1, top_p=0.7) in {dtype_name(dtype)}",
    )


def test_task_3_a_long_sum_in_half_precision() -> None:
    """Probabilities in bfloat16 are summed in float32: as a bfloat16 the sum stays at 1/2."""
    # 900 tokens with 0.001033 each, 0.93 together, and 200 others with 0.07 together.
    likely = np.arange(1100) % 11 < 9
    logprobs = mx.array(np.where(likely, -6.875, -8.0).astype(np.float32)).astype(mx.bfloat16)
    tokens = sampler.make_sampler(1.0, top_p=0.8)(mx.broadcast_to(logprobs, (500, 1100)))
    assert_distribution(
        mx.array(likely.astype(np.int32))[tokens],
        [0.0, 1.0],
        what="make_sampler(temp=1, top_p=0.8) of bfloat16 numbers",
        names=["one of 200 unlikely tokens", "900 tokens with probability 0.93 together"],
    )


def test_task_3_the_input_stays_as_it_is() -> None:
    """The caller's log-probabilities are not masked or sorted in place."""
    logprobs = logprobs_of(SHARES, SHARES[::-1])
    with arguments_unchanged("make_sampler(temp=0.7, top_p=0.5)(logprobs)", logprobs=logprobs):
        mx.eval(sampler.make_sampler(0.7, top_p=0.5)(logprobs))


@cases("top_p", -0.1, 1.5)
def test_task_3_a_mass_that_is_no_probability_is_an_error(top_p: float) -> None:
    """`top_p` is between 0 and 1; refused when the sampler is made."""
    assert_raises_clearly(
        ValueError,
        lambda: sampler.make_sampler(1.0, top_p=top_p),
        what=f"make_sampler(temp=1, top_p={top_p})",
    )
