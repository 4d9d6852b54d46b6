"""Week 2, day 8: chunk policies, the cost model, the prefill manager, and the chunked model."""

import functools
import io
import json
import math
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import accumulate, pairwise
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from batch_models import BatchModel, run_to_end
from inputs import cases
from oracle_models import random_model
from scripted import START, ScriptedModel, byte_tokenizer, ids_of
from solution import batch, chunked_prefill, generate, qwen3
from tiny_llm_lab.course.checks import (
    assert_close,
    assert_raises_clearly,
    assert_text_equal,
    assert_tokens_equal,
    check,
)
from tiny_llm_lab.models import ByteTokenizer

MEMORY = chunked_prefill.PrefillMemory(cache_bytes=100, activation_bytes=70, score_bytes=3)

# --- Task 1: one interface for every policy ---------------------------------------------------


def request(length: int, *, offset: int = 0, priority: str = "interactive") -> Any:
    """A request with a prompt of so many tokens, `offset` of which are done."""
    made = batch.Request(None, ByteTokenizer(), "a" * length)
    made.offset, made.priority = offset, priority
    return made


def load(decodes: int = 0, *, slots: int = 8, waiting: int = 1, cached: int = 0) -> Any:
    """How busy a scheduler is."""
    return batch.Load(
        active_decodes=decodes, batch_size=slots, waiting=waiting, cached_tokens=cached
    )


def next_size(policy: Any, of: Any, beside: Any, *, what: str) -> int:
    """What a policy says about the next chunk of a request: an int, at least 1."""
    size = policy.next_chunk_size(of, beside)
    check(
        isinstance(size, int) and not isinstance(size, bool) and size >= 1,
        f"{what}: next_chunk_size must return an int of at least 1, not {size!r}.",
    )
    return size


def assert_size(policy: Any, of: Any, beside: Any, expected: int, *, what: str) -> None:
    """Check a policy's answer exactly."""
    size = next_size(policy, of, beside, what=what)
    check(
        size == expected,
        f"{what} gives the wrong size to a request at {of.offset} of {len(of.prefill_tokens)} "
        f"tokens, beside {beside.active_decodes} decodes in {beside.batch_size} slots.\n"
        f"  expected   {expected}\n"
        f"  got        {size}",
    )


def policies() -> dict[str, Callable[[], Any]]:
    """One policy of each kind, by the words for it."""
    model = chunked_prefill.ChunkCostModel(0.002, 1e-4, 1e-8, 1e-7, 5e-4)
    return {
        "fixed": lambda: chunked_prefill.FixedChunks(7),
        "by length": lambda: chunked_prefill.ChunksByPromptLength(9, 4),
        "by priority": lambda: chunked_prefill.ChunksByPriority({"interactive": 5, "batch": 3}),
        "by load": lambda: chunked_prefill.ChunksByLoad(2, 16, 1.0),
        "by memory": lambda: chunked_prefill.ChunksByMemory(MEMORY, lambda: 5000, 16),
        "by deadline": lambda: chunked_prefill.ChunksByDeadline(model, 0.004, 16),
    }


def serve(policy: Any, prompts: Sequence[str], *, slots: int = 2) -> tuple[Any, list[Any]]:
    """Serve prompts with a policy; the results and the output of every step."""
    tokenizer = byte_tokenizer()
    model = BatchModel(tokenizer, {prompt: f"{prompt[:3]} said{'<|turn|>'}" for prompt in prompts})
    scheduler = batch.BatchScheduler(model, tokenizer, 200, slots, 32, chunk_sizer=policy)
    for prompt in prompts:
        scheduler.submit(prompt)
    outputs = run_to_end(scheduler, model)
    return sorted(scheduler.collect_results()), outputs


@cases("size", 1, 128, 5000)
def test_task_1_fixed_chunks(size: int) -> None:
    """One size, whatever the request and the load."""
    policy = chunked_prefill.FixedChunks(size)
    check(
        isinstance(policy, chunked_prefill.ChunkPolicy),
        "FixedChunks must be a ChunkPolicy, as it is in the skeleton.",
    )
    for of in (request(1), request(1000, offset=900), request(50, priority="batch")):
        for beside in (load(), load(8), load(3, cached=100000)):
            assert_size(policy, of, beside, size, what=f"FixedChunks({size})")
            policy.observe(of.offset, size, beside.active_decodes, 10.0)


@cases(
    "length offset expected",
    (1, 0, None),
    (299, 0, None),
    (300, 0, None),
    (300, 120, None),
    (301, 0, 64),
    (301, 300, 64),
    (1000, 0, 64),
    (1000, 900, 64),
    (1000, 701, 64),
)
def test_task_1_by_prompt_length(length: int, offset: int, expected: int | None) -> None:
    """Up to the threshold the whole rest in one chunk; beyond it chunks of one size."""
    policy = chunked_prefill.ChunksByPromptLength(threshold=300, chunk_size=64)
    for beside in (load(), load(8)):
        of = request(length, offset=offset)
        what = "ChunksByPromptLength(300, 64)"
        if expected is not None:
            assert_size(policy, of, beside, expected, what=what)
            continue
        size = next_size(policy, of, beside, what=what)
        check(
            size >= length - offset,
            f"{what} cuts a prompt of {length} tokens, which is not longer than the threshold.\n"
            f"  expected   at least {length - offset}, so that the rest is one chunk\n"
            f"  got        {size}",
        )


def test_task_1_a_threshold_below_the_chunk_size() -> None:
    """The two numbers are independent of each other."""
    policy = chunked_prefill.ChunksByPromptLength(10, 64)
    assert_size(policy, request(40), load(), 64, what="ChunksByPromptLength(10, 64)")


def test_task_1_by_priority() -> None:
    """Each class has its size."""
    sizes = {"interactive": 512, "batch": 96}
    policy = chunked_prefill.ChunksByPriority(sizes)
    for priority, size in sizes.items():
        for of in (request(50, priority=priority), request(3000, offset=7, priority=priority)):
            assert_size(policy, of, load(2), size, what=f"ChunksByPriority, class {priority!r}")


def test_task_1_by_priority_in_a_scheduler_with_classes() -> None:
    """A `PriorityScheduler` notes the class of a request, and the policy reads it."""
    tokenizer = byte_tokenizer()
    prompts = {"interactive": "x" * 11, "batch": "y" * 11}
    model = BatchModel(tokenizer, dict.fromkeys(prompts.values(), "ok<|turn|>"))
    scheduler = chunked_prefill.PriorityScheduler(
        model,
        tokenizer,
        100,
        2,
        32,
        chunk_sizer=chunked_prefill.ChunksByPriority({"interactive": 8, "batch": 3}),
    )
    names = {
        scheduler.submit(prompt, priority=priority): priority
        for priority, prompt in prompts.items()
    }
    chunks: dict[str, list[int]] = {"interactive": [], "batch": []}
    for output in run_to_end(scheduler, model):
        for prompt_idx, size in output.chunks:
            chunks[names[prompt_idx]].append(size)
    check(
        chunks == {"interactive": [8, 3], "batch": [3, 3, 3, 2]},
        "Prompts of 11 tokens, with chunks of 8 for the interactive and 3 for the batch class, are "
        f"cut into the wrong chunks.\n  got        {chunks}",
    )


@cases(
    "sizes",
    {},
    {"interactive": 5},
    {"batch": 5},
    {"interactive": 5, "batch": 5, "urgent": 5},
    {"interactive": 5, "bulk": 5},
    {"interactive": 5, "batch": 0},
    {"interactive": -3, "batch": 7},
)
def test_task_1_every_class_needs_a_size(sizes: dict[str, int]) -> None:
    """A class without a size is found before the first request of that class comes."""
    assert_raises_clearly(
        ValueError,
        lambda: chunked_prefill.ChunksByPriority(sizes),
        what=f"ChunksByPriority({sizes})",
    )


@cases("size", 0, -1)
def test_task_1_sizes_below_1(size: int) -> None:
    """A chunk of no tokens would never end."""
    for what, call in (
        (f"FixedChunks({size})", lambda: chunked_prefill.FixedChunks(size)),
        (
            f"ChunksByPromptLength({size}, 8)",
            lambda: chunked_prefill.ChunksByPromptLength(size, 8),
        ),
        (
            f"ChunksByPromptLength(8, {size})",
            lambda: chunked_prefill.ChunksByPromptLength(8, size),
        ),
    ):
        assert_raises_clearly(ValueError, call, what=what)


@cases("workload", "interactive", "long_context", "batch")
def test_task_1_the_policy_of_a_configuration(workload: str) -> None:
    """What the configuration says is what the policy does."""
    config = getattr(chunked_prefill.ChunkedPrefillConfig, workload)()
    for chosen in (config, chunked_prefill.ChunkedPrefillConfig(threshold=10, chunk_size=3)):
        policy = chosen.policy()
        what = f"{chosen}.policy()"
        check(isinstance(policy, chunked_prefill.ChunkPolicy), f"{what} must be a ChunkPolicy.")
        size = next_size(policy, request(chosen.threshold), load(1), what=what)
        check(size >= chosen.threshold, f"{what} cuts a prompt that is as long as the threshold.")
        longer = request(chosen.threshold + 1)
        assert_size(policy, longer, load(1), chosen.chunk_size, what=what)


@pytest.mark.parametrize("name", list(policies()))
def test_task_1_a_policy_changes_no_token(name: str) -> None:
    """A scheduler with any of the policies serves what it serves without one."""
    prompts = ["a" * 3, "b" * 9, "c" * 10, "d" * 33]
    policy = policies()[name]()
    results, outputs = serve(policy, prompts)
    expected = [(index, f"{prompt[:3]} said") for index, prompt in enumerate(prompts)]
    check(
        results == expected,
        f"A scheduler with the policy {name!r} gives wrong texts.\n"
        f"  expected   {expected}\n"
        f"  got        {results}",
    )
    for index, prompt in enumerate(prompts):
        sizes = [size for output in outputs for of, size in output.chunks if of == index]
        check(
            sum(sizes) == len(prompt),
            f"With the policy {name!r} the chunks of a prompt of {len(prompt)} tokens are {sizes}.",
        )


# --- Task 2: by load and by memory ------------------------------------------------------------


@cases("low high", (32, 2048), (1, 1), (16, 17), (5, 500))
def test_task_2_by_load_from_nobody_to_all_slots(low: int, high: int) -> None:
    """The largest size while nobody waits, the smallest with all slots taken."""
    policy = chunked_prefill.ChunksByLoad(low, high, target_seconds=0.1)
    what = f"ChunksByLoad({low}, {high}, 0.1)"
    for slots in (1, 4, 64):
        assert_size(policy, request(900), load(0, slots=slots), high, what=what)
        assert_size(policy, request(900), load(slots, slots=slots), low, what=what)
        sizes = [
            next_size(policy, request(900), load(decodes, slots=slots), what=what)
            for decodes in range(slots + 1)
        ]
        check(
            all(after <= before for before, after in pairwise(sizes)),
            f"{what}: with more decodes the chunks become larger.\n"
            f"  got        {sizes} for 0 to {slots} decodes",
        )


def test_task_2_by_load_in_equal_ratios() -> None:
    """`max_chunk * (min_chunk / max_chunk) ** (active_decodes / batch_size)`, rounded down."""
    policy = chunked_prefill.ChunksByLoad(32, 2048, target_seconds=0.1)
    for decodes, slots, expected in (
        (2, 4, 256),
        (1, 4, 724),
        (3, 4, 90),
        (1, 3, 512),
        (1, 64, 1919),
    ):
        size = next_size(policy, request(9), load(decodes, slots=slots), what="ChunksByLoad")
        check(
            abs(size - expected) <= 1,
            f"ChunksByLoad(32, 2048, 0.1) gives {size} with {decodes} of {slots} slots taken.\n"
            f"  expected   {expected}",
        )


@cases("seconds_per_token expected", (1e-5, 256), (1 / 1024, 102), (1 / 512, 51), (0.1, 32))
def test_task_2_by_load_keeps_to_the_latency(seconds_per_token: float, expected: int) -> None:
    """A chunk may take the target while somebody decodes, as far as the smallest size allows."""
    policy = chunked_prefill.ChunksByLoad(32, 2048, target_seconds=0.1)
    for chunk_size in (64, 500, 32):
        policy.observe(0, chunk_size, 2, chunk_size * seconds_per_token)
        size = next_size(policy, request(9), load(2, slots=4), what="ChunksByLoad")
        check(
            abs(size - expected) <= 1,
            f"ChunksByLoad(32, 2048, 0.1) gives {size} with 2 of 4 slots taken, after chunks that "
            f"took {seconds_per_token:g} s per token.\n"
            f"  expected   {expected}: at most 256 by load, at most 0.1 s, at least 32",
        )
    assert_size(
        policy, request(9), load(0, slots=4), 2048, what="ChunksByLoad with nobody decoding"
    )


def test_task_2_by_load_averages() -> None:
    """The first measurement is the average; every later one counts one half."""
    policy = chunked_prefill.ChunksByLoad(1, 10**6, target_seconds=1.0)
    average = None
    for seconds in (0.25, 0.125, 0.5, 0.03125, 0.03125):
        policy.observe(0, 100, 1, 100 * seconds)
        average = seconds if average is None else average + (seconds - average) / 2
        size = next_size(policy, request(9), load(1, slots=64), what="ChunksByLoad")
        check(
            abs(size - 1 / average) <= 1,
            f"ChunksByLoad(1, 1000000, 1.0) gives {size} when the average is {average} s per "
            f"token.\n  expected   {math.floor(1 / average)}",
        )


@cases(
    "chunk_size seconds",
    (31, 5.0),
    (1, 1e-6),
    (64, 0.0),
    (64, -1.0),
    (64, math.nan),
    (64, math.inf),
)
def test_task_2_by_load_passes_over_what_says_nothing(chunk_size: int, seconds: float) -> None:
    """The short end of a prompt, and a clock that stood still or ran backwards."""
    policy = chunked_prefill.ChunksByLoad(32, 2048, target_seconds=0.1)
    for before in (256, 100):
        if before == 100:
            policy.observe(0, 100, 2, 0.1)
        policy.observe(0, chunk_size, 2, seconds)
        size = next_size(policy, request(9), load(2, slots=4), what="ChunksByLoad")
        check(
            abs(size - before) <= 1,
            f"ChunksByLoad(32, 2048, 0.1) learns from a chunk of {chunk_size} tokens that took "
            f"{seconds} s.\n  expected   the size stays {before}\n  got        {size}",
        )


@cases(
    "low high target",
    (0, 8, 0.1),
    (9, 8, 0.1),
    (8, 0, 0.1),
    (1, 8, 0.0),
    (1, 8, -1.0),
    (1, 8, math.nan),
)
def test_task_2_by_load_needs_bounds_and_a_target(low: int, high: int, target: float) -> None:
    """What cannot be kept is refused when the policy is made."""
    assert_raises_clearly(
        ValueError,
        lambda: chunked_prefill.ChunksByLoad(low, high, target),
        what=f"ChunksByLoad({low}, {high}, {target})",
    )


def bytes_of(chunk: int, offset: int) -> int:
    """The bytes that a chunk behind `offset` tokens adds, by `MEMORY`."""
    return int(MEMORY.of_chunk(chunk, offset + chunk) - MEMORY.of_chunk(0, offset))


def test_task_2_by_memory_the_largest_that_fits() -> None:
    """The chunk fits, and with one more token it would not."""
    numbers = random.Random(200)
    for _ in range(200):
        offset, free = numbers.randrange(3000), numbers.randrange(1, 10**7)
        policy = chunked_prefill.ChunksByMemory(MEMORY, lambda free=free: free, max_chunk=700)
        of = request(3001, offset=offset)
        what = f"ChunksByMemory with {free} bytes free"
        size = next_size(policy, of, load(numbers.randrange(8)), what=what)
        check(
            size <= 700 and (bytes_of(size, offset) <= free or size == 1),
            f"{what} gives a chunk of {size} tokens at offset {offset}, which adds "
            f"{bytes_of(size, offset)} bytes (max_chunk is 700).",
        )
        check(
            size == 700 or bytes_of(size + 1, offset) > free,
            f"{what} gives a chunk of {size} tokens at offset {offset}, but one of {size + 1} adds "
            f"only {bytes_of(size + 1, offset)} bytes.",
        )


@cases("chunk", 1, 2, 33, 512)
def test_task_2_by_memory_at_the_edge(chunk: int) -> None:
    """To the byte: exactly enough is enough."""
    for offset in (0, 1, 1000):
        for free, expected in (
            (bytes_of(chunk, offset), chunk),
            (bytes_of(chunk + 1, offset) - 1, chunk),
        ):
            policy = chunked_prefill.ChunksByMemory(MEMORY, lambda free=free: free)
            of = request(2000, offset=offset)
            assert_size(policy, of, load(), expected, what=f"ChunksByMemory, {free} bytes free")


def test_task_2_by_memory_asks_before_every_chunk() -> None:
    """Memory is what others leave, so it changes."""
    free = iter([bytes_of(40, 0), 0, bytes_of(7, 0), 10**12, -500])
    policy = chunked_prefill.ChunksByMemory(MEMORY, lambda: next(free), max_chunk=600)
    for expected in (40, 1, 7, 600, 1):
        assert_size(policy, request(900), load(), expected, what="ChunksByMemory, call by call")


def test_task_2_by_memory_needs_a_size() -> None:
    """`max_chunk` is at least 1."""
    assert_raises_clearly(
        ValueError,
        lambda: chunked_prefill.ChunksByMemory(MEMORY, lambda: 1, max_chunk=0),
        what="ChunksByMemory(..., max_chunk=0)",
    )


# --- Task 3: a cost model ---------------------------------------------------------------------

NAMES = ("fixed", "per_token", "per_pair", "per_cached", "per_decode")
TRUE = (0.004, 9e-5, 3e-8, 6e-7, 8e-4)


def cost_model(coefficients: Sequence[float] = TRUE) -> Any:
    """A cost model with these five coefficients."""
    return chunked_prefill.ChunkCostModel(**dict(zip(NAMES, coefficients, strict=True)))


def terms(L: int, x: int, D: int) -> np.ndarray:
    """What the five coefficients are multiplied with."""
    return np.array([1, x, 2 * L * x + x * x, L, D], dtype=float)


def measured(
    coefficients: Sequence[float], *, noise: float = 0.0, seed: int = 0, count: int = 40
) -> list[Any]:
    """Samples of passes with chunks and of passes with decodes, with relative noise."""
    draw = np.random.default_rng(seed)
    samples = []
    for index in range(count):
        L, x, D = int(draw.integers(0, 6000)), int(draw.integers(1, 1500)), 0
        if index % 3 == 0:
            x, D = 0, int(draw.integers(1, 17))
        if index % 7 == 0:
            L, D = 0, int(draw.integers(1, 17))
        seconds = float(terms(L, x, D) @ np.array(coefficients))
        samples.append(
            chunked_prefill.StepSample(L, x, D, seconds * float(1 + noise * draw.normal()))
        )
    return samples


def coefficients_of(model: Any) -> np.ndarray:
    """The five numbers of a fitted model: plain floats."""
    found = [getattr(model, name) for name in NAMES]
    check(
        all(isinstance(number, float) for number in found),
        f"The coefficients of a ChunkCostModel must be floats, not {found}.",
    )
    return np.array(found)


@cases("L x D", (0, 0, 0), (0, 10, 0), (7, 1, 0), (7, 10, 0), (500, 0, 3), (20, 30, 4))
def test_task_3_the_terms(L: int, x: int, D: int) -> None:
    """1, x, 2 L x + x^2, L, D."""
    got = list(chunked_prefill.cost_terms(L, x, D))
    check(
        got == terms(L, x, D).tolist(),
        f"cost_terms({L}, {x}, {D}) is wrong.\n"
        f"  expected   {terms(L, x, D).astype(int).tolist()}\n"
        f"  got        {got}",
    )


def test_task_3_chunks_have_the_pairs_of_the_whole() -> None:
    """Cut anywhere, the third term of the chunks adds up to that of the whole prompt."""
    for sizes in ([100], [30, 70], [1, 99], [25] * 4, [64, 32, 4]):
        starts = [0, *accumulate(sizes)][:-1]
        total = sum(
            chunked_prefill.cost_terms(start, size, 0)[2]
            for start, size in zip(starts, sizes, strict=True)
        )
        check(total == 100**2, f"Chunks of {sizes} have {total} in place of 100^2 = 10000.")


def test_task_3_predictions() -> None:
    """Each coefficient times its term."""
    for index in range(5):
        alone = [0.0] * 5
        alone[index] = 0.25
        for coefficients in (alone, TRUE):
            model = cost_model(coefficients)
            for L, x, D in ((0, 1, 0), (3, 0, 5), (40, 70, 2), (5000, 128, 0)):
                expected = float(terms(L, x, D) @ np.array(coefficients))
                got = model.predict(L, x, D)
                check(
                    isinstance(got, float) and math.isclose(got, expected, rel_tol=1e-9),
                    f"predict(offset={L}, chunk_size={x}, active_decodes={D}) with the "
                    f"coefficients {coefficients} is wrong.\n"
                    f"  expected   {expected} (a float)\n"
                    f"  got        {got!r}",
                )


@cases(
    "coefficients",
    TRUE,
    (0.1, 1e-3, 1e-6, 1e-5, 1e-2),
    (1e-5, 1e-7, 1e-11, 1e-9, 1e-6),
    (0.004, 9e-5, 0.0, 6e-7, 8e-4),
    (0.0, 9e-5, 3e-8, 0.0, 8e-4),
    (0.004, 0.0, 0.0, 0.0, 0.0),
    (0.0, 0.0, 3e-8, 0.0, 8e-4),
)
def test_task_3_exact_samples_give_the_coefficients(coefficients: tuple[float, ...]) -> None:
    """Without noise the formula is found again, also where some of its parts are missing."""
    samples = measured([max(number, 0.0) for number in coefficients], seed=300)
    usable = [sample for sample in samples if sample.seconds > 0]
    got = coefficients_of(chunked_prefill.ChunkCostModel.fit(usable))
    largest = max(float(terms(*sample[:3]) @ np.array(coefficients)) for sample in usable)
    for name, expected, number, most in zip(
        NAMES, coefficients, got, [1, 1500, 6000 * 1500, 6000, 16], strict=True
    ):
        tolerance = 1e-6 * max(expected, largest * 1e-3 / most)
        check(
            abs(number - expected) <= tolerance,
            f"Exact samples of the coefficients {coefficients} give the wrong {name}.\n"
            f"  expected   {expected}\n"
            f"  got        {number}",
        )


def test_task_3_five_samples_are_enough() -> None:
    """As many as coefficients, in any order, as plain tuples, from a generator."""
    steps = [(0, 10, 0), (0, 100, 0), (1000, 10, 0), (1000, 0, 1), (10, 0, 8)]
    samples = [(*step, float(terms(*step) @ np.array(TRUE))) for step in steps]
    for given in (samples, samples[::-1], (sample for sample in samples)):
        got = coefficients_of(chunked_prefill.ChunkCostModel.fit(given))
        check(
            np.allclose(got, TRUE, rtol=1e-6, atol=0),
            f"Five exact samples do not give the coefficients.\n"
            f"  expected   {list(TRUE)}\n"
            f"  got        {got.tolist()}",
        )


def optimality(samples: Sequence[Any], coefficients: np.ndarray) -> tuple[float, float]:
    """How far coefficients are from the best ones that are not negative.

    The squared relative errors are least where their slope is 0 in the direction of every positive
    coefficient, and not negative in the direction of every one that is 0 (the conditions of Karush,
    Kuhn and Tucker). The slopes are divided by the size of what they are made of.
    """
    rows = np.array([terms(*sample[:3]) / sample[3] for sample in samples])
    residuals = rows @ coefficients - 1
    sizes = np.sqrt((rows**2).sum(axis=0) * max(float((residuals**2).sum()), 1e-30))
    slopes = rows.T @ residuals / sizes
    positive = coefficients > 0
    return (
        float(np.abs(slopes[positive]).max(initial=0.0)),
        float((-slopes[~positive]).max(initial=0.0)),
    )


@pytest.mark.parametrize("seed", range(5))
@cases(
    "coefficients",
    TRUE,
    (0.004, 9e-5, 3e-8, -3e-7, 8e-4),
    (-0.003, 9e-5, 3e-8, 9e-7, 3e-3),
    (0.02, 9e-5, -1e-9, 4e-7, 8e-4),
    (0.02, 1e-4, -2e-9, -5e-8, 8e-4),
)
def test_task_3_the_best_without_negative_numbers(
    coefficients: tuple[float, ...], seed: int
) -> None:
    """With noise, and where plain least squares would go below zero."""
    noisy = measured(coefficients, noise=0.05, seed=310 + seed)
    samples = [sample for sample in noisy if sample.seconds > 0]
    got = coefficients_of(chunked_prefill.ChunkCostModel.fit(samples))
    check((got >= 0).all(), f"fit gives negative coefficients: {got.tolist()}.")
    slope, descent = optimality(samples, got)
    check(
        slope < 1e-6 and descent < 1e-6,
        "fit does not give the smallest squared relative errors that are possible without negative "
        "coefficients.\n"
        f"  got        {got.tolist()}\n"
        "  Divide each row by its seconds; and if a coefficient is to be 0, solve again for the "
        "others.",
    )


def test_task_3_noise_stays_noise() -> None:
    """From samples that are off by 3%, predictions are off by about as much, or less."""
    model = chunked_prefill.ChunkCostModel.fit(measured(TRUE, noise=0.03, seed=320, count=200))
    for sample in measured(TRUE, seed=321, count=50):
        predicted = model.predict(*sample[:3])
        check(
            abs(predicted / sample.seconds - 1) < 0.05,
            f"A model fitted to 200 samples with 3% of noise predicts {predicted} s for {sample}.",
        )


def same_offset() -> list[Any]:
    return [(100, x, D, 1.0 + x + D) for x in (1, 5, 9) for D in (0, 1, 2)]


def no_decodes() -> list[Any]:
    return [(L, x, 0, 1.0 + x + L) for x in (1, 5, 9) for L in (0, 10, 20)]


def no_chunks() -> list[Any]:
    return [(L, 0, D, 1.0 + D + L) for D in (1, 2, 3) for L in (0, 10, 20)]


def decodes_follow_chunks() -> list[Any]:
    return [(L, x, 2 * x, 1.0 + x + L) for x in (1, 5, 9) for L in (0, 10, 20)]


@pytest.mark.parametrize(
    "make",
    [
        list,
        lambda: measured(TRUE)[:4],
        same_offset,
        no_decodes,
        no_chunks,
        decodes_follow_chunks,
        lambda: [measured(TRUE)[0]] * 9,
    ],
    ids=[
        "no-sample",
        "four-samples",
        "one-offset",
        "no-decodes",
        "no-chunks",
        "decodes-follow-chunks",
        "one-step-nine-times",
    ],
)
def test_task_3_samples_that_cannot_tell(make: Callable[[], list[Any]]) -> None:
    """Not enough to tell five coefficients apart: an error is better than a guess."""
    samples = make()
    assert_raises_clearly(
        ValueError,
        lambda: chunked_prefill.ChunkCostModel.fit(samples),
        what=f"fit of {len(samples)} samples that do not tell the coefficients apart",
    )


@cases("seconds", 0.0, -0.1, math.nan, math.inf)
def test_task_3_times_that_cannot_be(seconds: float) -> None:
    """A relative error needs a time above 0."""
    samples = [*measured(TRUE), (10, 20, 0, seconds)]
    assert_raises_clearly(
        ValueError,
        lambda: chunked_prefill.ChunkCostModel.fit(samples),
        what=f"fit with a sample of {seconds} s",
    )


def test_task_3_the_error() -> None:
    """Median and maximum of the relative errors, on either side."""
    model = cost_model()
    steps = [(0, 10, 0), (0, 100, 0), (1000, 10, 0), (1000, 0, 1), (10, 0, 8)]
    factors = [0.8, 1.0, 1.25, 2.0, 0.625]  # of the predicted time
    samples = [
        (*step, float(terms(*step) @ np.array(TRUE)) * factor)
        for step, factor in zip(steps, factors, strict=True)
    ]
    for count, expected in ((5, (0.25, 0.6)), (4, (0.225, 0.5)), (1, (0.25, 0.25))):
        got = tuple(model.error(iter(samples[:count])))
        check(
            len(got) == 2 and np.allclose(got, expected, atol=1e-9),
            f"The error of {count} samples that took {factors[:count]} times as long as predicted "
            "is wrong.\n"
            f"  expected   {expected}: the median and the maximum of |predicted / measured - 1|\n"
            f"  got        {got}",
        )
    assert_raises_clearly(ValueError, lambda: model.error([]), what="error([])")


# --- Task 4: chunks by deadline ---------------------------------------------------------------


def random_cost_models() -> Iterator[tuple[Any, random.Random]]:
    """Cost models of many shapes, some of whose coefficients are 0."""
    numbers = random.Random(400)
    for _ in range(60):
        coefficients = [
            number * numbers.choice([0.0, 1.0, 1.0]) * 10 ** numbers.uniform(-1, 1)
            for number in TRUE
        ]
        yield cost_model(coefficients), numbers


def test_task_4_the_largest_chunk() -> None:
    """It is fast enough, and one more token would not be."""
    for model, numbers in random_cost_models():
        for _ in range(5):
            L, D = numbers.randrange(8000), numbers.randrange(9)
            seconds, most = 10 ** numbers.uniform(-4, 1), numbers.randrange(1, 4000)
            size = model.largest_chunk(L, D, seconds, most)
            where = (
                f"largest_chunk(offset={L}, active_decodes={D}, seconds={seconds:.6f}, "
                f"most={most}) of {model} is {size}"
            )
            check(isinstance(size, int) and 0 <= size <= most, f"{where}: not between 0 and most.")
            if size > 0:
                check(
                    model.predict(L, size, D) <= seconds,
                    f"{where}, which takes {model.predict(L, size, D)} s.",
                )
            if size < most:
                check(
                    model.predict(L, size + 1, D) > seconds,
                    f"{where}, but one more token takes {model.predict(L, size + 1, D)} s only.",
                )


def test_task_4_exactly_as_long_as_allowed() -> None:
    """At most, not less than."""
    model = cost_model((0.5, 0.25, 0.0, 0.0, 0.125))
    for seconds, expected in ((1.5, 4), (1.499, 3), (0.75, 1), (0.7499, 0), (0.0, 0), (-1.0, 0)):
        got = model.largest_chunk(0, 0, seconds, 100)
        check(got == expected, f"0.5 + 0.25 x <= {seconds} s: x is {expected}, not {got}.")


def test_task_4_further_in_the_prompt_chunks_are_smaller() -> None:
    """Attention looks at more keys, for the same number of new tokens."""
    model = cost_model()
    sizes = [model.largest_chunk(L, 0, 0.05, 4000) for L in range(0, 20000, 1000)]
    check(
        all(after <= before for before, after in pairwise(sizes)) and sizes[-1] < sizes[0] / 2,
        f"The largest chunks that take 0.05 s, every 1,000 tokens, are {sizes}.",
    )


@cases("length size", (1, 1), (100, 100), (100, 250), (100, 99), (1000, 128), (4096, 32), (777, 1))
def test_task_4_the_overhead(length: int, size: int) -> None:
    """The predicted time of all chunks against that of one pass."""
    for model in (cost_model(), cost_model((0.004, 9e-5, 0.0, 0.0, 0.0))):
        total, start = 0.0, 0
        while start < length:
            total += model.predict(start, min(size, length - start), 0)
            start += size
        expected = total / model.predict(0, length, 0) - 1
        got = model.overhead(length, size)
        check(
            math.isclose(got, expected, rel_tol=1e-9, abs_tol=1e-12),
            f"overhead(prompt_length={length}, chunk_size={size}) is wrong.\n"
            f"  expected   {expected}\n"
            f"  got        {got}",
        )


def test_task_4_only_two_parts_make_the_overhead() -> None:
    """What a token and a pair cost is the same however the prompt is cut."""
    for size in (1, 7, 64, 300):
        got = cost_model((0.0, 9e-5, 3e-8, 0.0, 8e-4)).overhead(300, size)
        check(
            abs(got) < 1e-9,
            f"Without a cost per pass and per cached token, chunks of {size} cost {got} more.",
        )
    got = cost_model((0.01, 0.0, 0.0, 0.0, 0.0)).overhead(300, 64)
    check(abs(got - 4) < 1e-9, f"Five passes in place of one cost {got} more, not 4.")


def test_task_4_the_memory_saved() -> None:
    """What the whole prompt needs at once, less what its last chunk needs."""
    model = cost_model()
    for length, size, expected in (
        (100, 10, (70 + 300) * 90),
        (1000, 1, (70 + 3000) * 999),
        (100, 100, 0),
        (100, 5000, 0),
        (1, 1, 0),
    ):
        got = model.memory_saved(length, size, MEMORY)
        check(
            got == expected,
            f"memory_saved(prompt_length={length}, chunk_size={size}) with {MEMORY} is wrong.\n"
            f"  expected   {expected}\n"
            f"  got        {got}",
        )


@cases("length size", (0, 4), (-1, 4), (4, 0), (4, -2))
def test_task_4_lengths_below_1(length: int, size: int) -> None:
    """There is nothing to cut, or nothing comes of it."""
    model = cost_model()
    what = f"(prompt_length={length}, chunk_size={size})"
    assert_raises_clearly(ValueError, lambda: model.overhead(length, size), what=f"overhead{what}")
    assert_raises_clearly(
        ValueError,
        lambda: model.memory_saved(length, size, MEMORY),
        what=f"memory_saved{what}",
    )


def test_task_4_the_gap_is_a_chunk_and_a_step() -> None:
    """Both together are within the target, and with one more token they are not."""
    for model, numbers in random_cost_models():
        gap, most = 10 ** numbers.uniform(-2.5, 0), numbers.randrange(1, 3000)
        policy = chunked_prefill.ChunksByDeadline(model, gap, most)
        for _ in range(5):
            of = request(5000, offset=numbers.randrange(5000))
            beside = load(numbers.randrange(1, 9), cached=numbers.randrange(20000))
            what = f"ChunksByDeadline({model}, {gap:.4f}, {most}) beside {beside}"
            size = next_size(policy, of, beside, what=what)
            step = model.predict(beside.cached_tokens, 0, beside.active_decodes)

            def gap_with(chunk: int, of: Any = of, step: float = step, model: Any = model) -> float:
                return float(model.predict(of.offset, chunk, 0) + step)

            check(size <= most, f"{what} gives a chunk of {size}.")
            check(
                size == 1 or gap_with(size) <= gap * (1 + 1e-9),
                f"{what} gives a chunk of {size} at offset {of.offset}: chunk and decode step "
                f"take {gap_with(size):.5f} s.",
            )
            check(
                size == most or gap_with(size + 1) > gap * (1 - 1e-9),
                f"{what} gives a chunk of {size} at offset {of.offset}, but with {size + 1} chunk "
                f"and decode step take {gap_with(size + 1):.5f} s only.",
            )


def test_task_4_no_decodes_no_deadline() -> None:
    """Nobody waits, so nothing is gained by a small chunk."""
    policy = chunked_prefill.ChunksByDeadline(cost_model(), 0.02, 900)
    for offset in (0, 4000):
        assert_size(policy, request(5000, offset=offset), load(0), 900, what="ChunksByDeadline")
    default = chunked_prefill.ChunksByDeadline(cost_model(), 0.02)
    assert_size(default, request(9), load(0), 2048, what="ChunksByDeadline without max_chunk")


def test_task_4_a_gap_that_cannot_be_kept() -> None:
    """The prefill goes on, one token at a time."""
    policy = chunked_prefill.ChunksByDeadline(cost_model(), 0.001)
    assert_size(policy, request(90), load(4, cached=300), 1, what="ChunksByDeadline(..., 0.001)")


@cases("gap most", (0.0, 8), (-1.0, 8), (math.nan, 8), (0.1, 0))
def test_task_4_a_deadline_needs_a_gap(gap: float, most: int) -> None:
    """What cannot be kept is refused when the policy is made."""
    model = cost_model()
    assert_raises_clearly(
        ValueError,
        lambda: chunked_prefill.ChunksByDeadline(model, gap, most),
        what=f"ChunksByDeadline(model, {gap}, {most})",
    )


@cases("gap", 0.012, 0.02, 0.03)
def test_task_4_the_gap_holds_in_a_scheduler(gap: float) -> None:
    """On a machine that is exactly as the model says, no stream waits longer than the target."""
    tokenizer = byte_tokenizer()
    model, now = cost_model(), 0.0

    def pass_time(kind: str, tokens: list[list[int]], offsets: list[int]) -> None:
        nonlocal now
        if kind == "prefill":
            now += model.predict(offsets[0], len(tokens[0]), 0)
        else:
            now += model.predict(sum(offsets), 0, sum(offset > 0 for offset in offsets))

    prompts = {"talk": "z" * 80 + "<|turn|>", "w" * 400: "ok<|turn|>"}
    scripted = BatchModel(tokenizer, prompts, on_call=pass_time)
    scheduler = batch.BatchScheduler(
        scripted,
        tokenizer,
        600,
        2,
        32,
        chunk_sizer=chunked_prefill.ChunksByDeadline(model, gap),
        clock=lambda: now,
    )
    scheduler.submit("talk")
    times = [event.time for event in scheduler.step().tokens]
    scheduler.submit("w" * 400)
    sizes: list[int] = []
    while sum(sizes) < 400:
        output = scheduler.step()
        scripted.raise_failure()
        times += [event.time for event in output.tokens if event.prompt_idx == 0]
        sizes += [size for _, size in output.chunks]
    gaps = [after - before for before, after in pairwise(times[:-1])]
    check(
        max(gaps) <= gap * (1 + 1e-9),
        f"With a target of {gap} s, chunks of {sizes} tokens make gaps of up to {max(gaps)} s.",
    )
    check(
        max(gaps) > 0.95 * gap,
        f"With a target of {gap} s, chunks of {sizes} tokens make gaps of at most {max(gaps)} s: "
        "they could be larger.",
    )


# --- Task 5: cutting prompts ------------------------------------------------------------------


def manager(threshold: int = 4, chunk_size: int = 4, **options: Any) -> Any:
    """A manager that cuts prompts of more than `threshold` tokens into chunks of `chunk_size`."""
    config = chunked_prefill.ChunkedPrefillConfig(threshold, chunk_size)
    return chunked_prefill.ChunkedPrefillManager(config, **options)


@cases("threshold", 1, 4, 100)
def test_task_5_should_chunk(threshold: int) -> None:
    """Only what is longer than the threshold, whatever the chunk size."""
    for chunk_size in (1, 50, 1000):
        for length in {1, threshold - 1, threshold, threshold + 1, 5 * threshold} - {0}:
            got = manager(threshold, chunk_size).should_chunk(length)
            check(
                got is (length > threshold),
                f"should_chunk({length}) with a threshold of {threshold} is {got!r}.",
            )


@cases("pressure", 0.0, 0.25, 0.5, 0.75, 1.0)
def test_task_5_boundaries_cover_everything_once(pressure: float) -> None:
    """For every length and size: in order, without a gap, no token twice; only the last shorter."""
    cutter = manager()
    for total in [*range(41), 100, 1000]:
        for size in [*range(1, 20), 40, 64, 2000]:
            got = cutter.compute_chunk_boundaries(total, size, pressure)
            expected_size = max(1, math.floor(size * (1 - pressure)))
            expected = [
                (start, min(start + expected_size, total))
                for start in range(0, total, expected_size)
            ]
            check(
                [tuple(pair) for pair in got] == expected,
                f"compute_chunk_boundaries({total}, {size}, {pressure}) is wrong.\n"
                f"  expected   {expected[:6]}{' ...' if len(expected) > 6 else ''}\n"
                f"  got        {list(got)[:6]}{' ...' if len(got) > 6 else ''}",
            )


def test_task_5_more_pressure_smaller_chunks() -> None:
    """From the whole size down to one token."""
    cutter = manager()
    sizes = [cutter.compute_chunk_boundaries(600, 512, step / 50)[0][1] for step in range(51)]
    check(
        all(after <= before for before, after in pairwise(sizes)) and sizes[0] == 512,
        f"With rising memory pressure, chunks of 512 tokens become {sizes}.",
    )
    check(sizes[-1] == 1, f"With all memory taken, chunks have {sizes[-1]} tokens, not 1.")


def test_task_5_the_size_of_the_configuration() -> None:
    """Without a size, the configuration's, also under pressure."""
    cutter = manager(threshold=2, chunk_size=6)
    for pressure, expected in (
        (0.0, [(0, 6), (6, 12), (12, 13)]),
        (0.5, [(0, 3), (3, 6), (6, 9), (9, 12), (12, 13)]),
    ):
        got = cutter.compute_chunk_boundaries(13, memory_pressure=pressure)
        check(
            [tuple(pair) for pair in got] == expected,
            f"compute_chunk_boundaries(13, memory_pressure={pressure}) of chunks of 6 is {got}.",
        )


@cases(
    "total size pressure",
    (-1, 4, 0.0),
    (9, 0, 0.0),
    (9, -4, 0.0),
    (9, 4, -0.1),
    (9, 4, 1.1),
    (9, 4, math.nan),
)
def test_task_5_boundaries_that_cannot_be(total: int, size: int, pressure: float) -> None:
    """An error in place of chunks that lose tokens or never end."""
    cutter = manager()
    assert_raises_clearly(
        ValueError,
        lambda: cutter.compute_chunk_boundaries(total, size, pressure),
        what=f"compute_chunk_boundaries({total}, {size}, {pressure})",
    )


def assert_chunks(
    chunks: Any, request_id: str, tokens: Sequence[int], bounds: Sequence[int], *, what: str
) -> None:
    """Check chunks against the tokens and the places where they start and end."""
    expected = [
        (request_id, start, end, tuple(tokens[start:end]), 0) for start, end in pairwise(bounds)
    ]
    got = [
        (chunk.request_id, chunk.start, chunk.end, tuple(chunk.tokens), chunk.attempt)
        for chunk in chunks
    ]
    check(got == expected, f"{what} is wrong.\n  expected   {expected}\n  got        {got}")


@cases(
    "length pressure bounds",
    (1, 0.0, (0, 1)),
    (5, 0.0, (0, 5)),
    (5, 0.5, (0, 5)),
    (6, 0.0, (0, 4, 6)),
    (8, 0.0, (0, 4, 8)),
    (9, 0.0, (0, 4, 8, 9)),
    (6, 0.5, (0, 2, 4, 6)),
    (6, 1.0, (0, 1, 2, 3, 4, 5, 6)),
)
def test_task_5_create_chunks(length: int, pressure: float, bounds: tuple[int, ...]) -> None:
    """The chunks of a prompt, or the whole; the request is pending."""
    for priority in chunked_prefill.PRIORITIES:
        keeper = manager(threshold=5, chunk_size=4)
        tokens = list(range(100, 100 + length))
        chunks = keeper.create_chunks("a", tokens, priority, pressure)
        assert_chunks(
            chunks,
            "a",
            tokens,
            bounds,
            what=f"create_chunks of {length} tokens, pressure {pressure}",
        )
        check(keeper.state("a") == "pending", f"A new request is {keeper.state('a')}, not pending.")
        check(keeper.offset("a") == 0, f"A new request has the offset {keeper.offset('a')}.")


def test_task_5_the_callers_list() -> None:
    """It is not changed, and what the caller does with it later changes nothing."""
    keeper = manager(threshold=5, chunk_size=4)
    tokens = list(range(9))
    chunks = keeper.create_chunks("a", tokens)
    check(tokens == list(range(9)), f"create_chunks changes the caller's list to {tokens}.")
    tokens[:] = [7] * 3
    assert_chunks(chunks, "a", range(9), (0, 4, 8, 9), what="create_chunks, after its list changed")


@cases(
    "arguments",
    ("b", []),
    ("b", [1, 2, 3], "urgent"),
    ("b", [1, 2, 3], "interactive", 1.5),
    ("b", [1, 2, 3], "interactive", -0.5),
    ("a", [1, 2, 3]),
)
def test_task_5_what_is_not_taken_on(arguments: tuple[Any, ...]) -> None:
    """The error leaves no trace: no request, no chunk."""
    keeper = manager(threshold=5, chunk_size=4)
    keeper.create_chunks("a", range(9))
    assert_raises_clearly(
        ValueError,
        lambda: keeper.create_chunks(*arguments),
        what=f"create_chunks{arguments}",
    )
    check(keeper.state("a") == "pending", "After an error of create_chunks, another one is gone.")
    assert_raises_clearly(ValueError, lambda: keeper.state("b"), what="state of an unknown request")
    assert_chunks(
        keeper.create_chunks("b", [1, 2, 3]),
        "b",
        [1, 2, 3],
        (0, 3),
        what="create_chunks of a request that was refused before",
    )


def test_task_5_from_a_prompt() -> None:
    """The text's own tokens: a chat template has added the special ones already."""
    tokenizer = byte_tokenizer(adds_start=True)
    text = f"{START}the one and only"
    tokens = ids_of(tokenizer, text)
    keeper = manager(threshold=5, chunk_size=4)
    chunks = keeper.create_chunks_from_prompt("a", text, tokenizer, "batch", 0.5)
    bounds = [*range(0, len(tokens), 2), len(tokens)]
    assert_chunks(chunks, "a", tokens, bounds, what="create_chunks_from_prompt under pressure 0.5")
    check(keeper.state("a") == "pending", f"A new request is {keeper.state('a')}, not pending.")


def test_task_5_merging_is_the_inverse_of_cutting() -> None:
    """All chunks give the prompt, some of them a piece; the manager is as before."""
    keeper = manager(threshold=1, chunk_size=3)
    chunks = keeper.create_chunks("a", range(20))
    shuffled = list(chunks)
    random.Random(500).shuffle(shuffled)
    for given, start, end in (
        (chunks, 0, 20),
        (shuffled, 0, 20),
        (iter(shuffled), 0, 20),
        (chunks[2:5], 6, 15),
        (chunks[6:], 18, 20),
        ([chunks[4], chunks[3]], 9, 15),
    ):
        merged = keeper.merge_chunks(given)
        check(
            (merged.request_id, merged.start, merged.end, tuple(merged.tokens))
            == ("a", start, end, tuple(range(start, end))),
            f"merge_chunks of the chunks from {start} to {end} is {merged}.",
        )
    check(keeper.state("a") == "pending", f"merge_chunks makes the request {keeper.state('a')}.")
    check(shuffled != chunks, "merge_chunks sorts the caller's list.")


def test_task_5_what_cannot_be_merged() -> None:
    """Gaps, overlaps, other requests, nothing."""
    keeper = manager(threshold=1, chunk_size=3)
    chunks = keeper.create_chunks("a", range(20))
    others = keeper.create_chunks("b", range(20))
    make = chunked_prefill.PrefillChunk
    for what, given in (
        ("no chunks", []),
        ("chunks with a gap", [chunks[0], chunks[2]]),
        ("a chunk twice", [chunks[0], chunks[1], chunks[1]]),
        ("overlapping chunks", [chunks[0], make("a", 2, (2, 3))]),
        ("chunks of two requests", [chunks[0], others[1]]),
        ("chunks of two attempts", [chunks[0], make("a", 3, (3, 4), attempt=1)]),
    ):
        assert_raises_clearly(
            ValueError, lambda given=given: keeper.merge_chunks(given), what=f"merge_chunks, {what}"
        )


@cases("workload", "interactive", "long_context", "batch")
def test_task_5_a_manager_for_a_workload(workload: str) -> None:
    """With the workload's threshold and size."""
    keeper = chunked_prefill.create_prefill_manager(workload)
    config = getattr(chunked_prefill.ChunkedPrefillConfig, workload)()
    for length in (config.threshold, config.threshold + 1):
        check(
            keeper.should_chunk(length) is (length > config.threshold),
            f"create_prefill_manager({workload!r}).should_chunk({length}) is not that of {config}.",
        )
    got = keeper.compute_chunk_boundaries(10**4)[0]
    check(tuple(got) == (0, config.chunk_size), f"Its first chunk is {got}, with {config}.")
    check(
        chunked_prefill.create_prefill_manager().config
        == chunked_prefill.ChunkedPrefillConfig.interactive(),
        "create_prefill_manager() must be for interactive work.",
    )


@cases("workload", "", "chat", "Batch")
def test_task_5_no_such_workload(workload: str) -> None:
    """There are three."""
    assert_raises_clearly(
        ValueError,
        lambda: chunked_prefill.create_prefill_manager(workload),
        what=f"create_prefill_manager({workload!r})",
    )


# --- Task 6: the life of a chunk --------------------------------------------------------------


def assert_next(keeper: Any, request_id: str, start: int, end: int, *, what: str) -> Any:
    """Schedule a chunk and check whose and which it is."""
    chunk = keeper.schedule_chunk()
    got = None if chunk is None else (chunk.request_id, chunk.start, chunk.end)
    check(
        got == (request_id, start, end),
        f"schedule_chunk gives the wrong chunk {what}.\n"
        f"  expected   {(request_id, start, end)}\n"
        f"  got        {got}",
    )
    return chunk


def assert_nothing(keeper: Any, *, what: str) -> None:
    """No chunk can be started."""
    chunk = keeper.schedule_chunk()
    check(chunk is None, f"schedule_chunk must give None {what}, but gives {chunk}.")


def assert_state(keeper: Any, request_id: str, state: str, offset: int, *, what: str) -> None:
    """Check where a request is."""
    got = (keeper.state(request_id), keeper.offset(request_id))
    check(
        got == (state, offset),
        f"{what}, request {request_id!r} is not where it should be.\n"
        f"  expected   {state} at offset {offset}\n"
        f"  got        {got[0]} at offset {got[1]}",
    )


def run_next(keeper: Any, *, what: str = "in order") -> Any:
    """Schedule, start and complete the next chunk."""
    chunk = keeper.schedule_chunk()
    check(chunk is not None, f"schedule_chunk gives None {what}, but there is work.")
    check(keeper.start_chunk(chunk) is True, f"start_chunk({chunk}) must return True.")
    keeper.complete_chunk(chunk)
    return chunk


def test_task_6_from_pending_to_done() -> None:
    """One chunk after the other; state and offset at every point."""
    keeper = manager()
    keeper.create_chunks("a", range(10, 20))
    for start, end in ((0, 4), (4, 8), (8, 10)):
        before = "pending" if start == 0 else "running"
        chunk = assert_next(keeper, "a", start, end, what="of a lone request")
        check(
            tuple(chunk.tokens) == tuple(range(10 + start, 10 + end)),
            f"The chunk from {start} to {end} has the tokens {chunk.tokens}.",
        )
        assert_state(keeper, "a", before, start, what="After schedule_chunk")
        assert_nothing(keeper, what="while the only request has a chunk scheduled")
        check(keeper.start_chunk(chunk) is True, "start_chunk must return True: it may run.")
        assert_state(keeper, "a", "running", start, what="After start_chunk")
        assert_nothing(keeper, what="while the only request has a chunk running")
        done = keeper.complete_chunk(chunk)
        check(
            done is (end == 10),
            f"complete_chunk of the chunk from {start} to {end} of 10 tokens returns {done!r}.",
        )
        assert_state(
            keeper, "a", "done" if end == 10 else "running", end, what="After complete_chunk"
        )
    assert_nothing(keeper, what="when everything is done")
    check(keeper.error("a") == "", "A request that is done has no error.")


def test_task_6_the_tokens_are_those_of_the_beginning() -> None:
    """What the caller does with its list later changes no chunk, in any attempt."""
    keeper = manager()
    tokens = list(range(10))
    keeper.create_chunks("a", tokens)
    tokens[:] = [7] * 20
    chunk = assert_next(keeper, "a", 0, 4, what="after the caller changed its list")
    got = list(chunk.tokens)
    check(got == [0, 1, 2, 3], f"After the caller changed its list, the first chunk is {got}.")
    tokens.clear()
    keeper.fail_chunk(chunk, "no")
    keeper.resume("a", 10)
    got = list(keeper.schedule_chunk().tokens)
    check(got == list(range(10)), f"After the caller changed its list, a new attempt is {got}.")


def test_task_6_a_prompt_in_one_chunk() -> None:
    """It is done after it."""
    keeper = manager()
    keeper.create_chunks("a", range(4))
    run_next(keeper)
    assert_state(keeper, "a", "done", 4, what="After its only chunk")


def test_task_6_nothing_to_do() -> None:
    """An empty manager has no chunk."""
    assert_nothing(manager(), what="without a request")


def test_task_6_first_come_first_served_within_a_class() -> None:
    """The more urgent class first; within it the oldest until it is done."""
    keeper = manager()
    for name, priority in (
        ("b1", "batch"),
        ("i1", "interactive"),
        ("b2", "batch"),
        ("i2", "interactive"),
    ):
        keeper.create_chunks(name, range(8), priority)
    order = [run_next(keeper).request_id for _ in range(3)]
    keeper.create_chunks("i3", range(5), "interactive")
    order += [run_next(keeper).request_id for _ in range(7)]
    expected = ["i1", "i1", "i2", "i2", "i3", "i3", "b1", "b1", "b2", "b2"]
    check(
        order == expected,
        "Chunks come in the wrong order.\n"
        f"  expected   {' '.join(expected)}\n"
        f"  got        {' '.join(order)}",
    )


def test_task_6_an_urgent_request_overtakes() -> None:
    """Between two chunks of a batch request, which then goes on where it was."""
    keeper = manager()
    keeper.create_chunks("slow", range(12), "batch")
    run_next(keeper)
    keeper.create_chunks("fast", range(3), "interactive")
    assert_state(keeper, "slow", "running", 4, what="While it waits for an urgent request")
    keeper.complete_chunk(
        start(keeper, assert_next(keeper, "fast", 0, 3, what="of the urgent one"))
    )
    keeper.complete_chunk(start(keeper, assert_next(keeper, "slow", 4, 8, what="after that")))


def start(keeper: Any, chunk: Any) -> Any:
    """Start a chunk; the same chunk."""
    keeper.start_chunk(chunk)
    return chunk


def test_task_6_several_workers() -> None:
    """Each gets a chunk of another request; a request has one chunk under way at most."""
    keeper = manager()
    keeper.create_chunks("a", range(8))
    keeper.create_chunks("b", range(8))
    first = assert_next(keeper, "a", 0, 4, what="for the first worker")
    second = assert_next(keeper, "b", 0, 4, what="for the second worker")
    assert_nothing(keeper, what="for the third worker: both requests have a chunk under way")
    start(keeper, second)
    keeper.complete_chunk(second)
    third = assert_next(keeper, "b", 4, 8, what="when the second worker is ready first")
    start(keeper, first)
    keeper.complete_chunk(first)
    fourth = assert_next(keeper, "a", 4, 8, what="when the first worker is ready")
    keeper.complete_chunk(start(keeper, fourth))
    keeper.complete_chunk(start(keeper, third))
    for name in ("a", "b"):
        assert_state(keeper, name, "done", 8, what="In the end")


def test_task_6_steps_out_of_order_are_errors() -> None:
    """They change nothing."""
    keeper = manager()
    chunks = keeper.create_chunks("a", range(8))
    unknown = chunked_prefill.PrefillChunk("nobody", 0, (1, 2))

    def refuse(name: str, chunk: Any, exception: type[Exception], when: str) -> None:
        before = (keeper.state("a"), keeper.offset("a"))
        assert_raises_clearly(
            exception, lambda: getattr(keeper, name)(chunk), what=f"{name} {when}"
        )
        assert_state(keeper, "a", *before, what=f"After an error of {name} {when}")

    for name in ("start_chunk", "complete_chunk", "fail_chunk"):
        refuse(name, chunks[0], RuntimeError, "of a chunk that was not scheduled")
        refuse(name, unknown, ValueError, "of an unknown request")
    chunk = keeper.schedule_chunk()
    refuse("complete_chunk", chunk, RuntimeError, "of a chunk that was not started")
    for name in ("start_chunk", "fail_chunk"):
        refuse(name, chunks[1], RuntimeError, "of the chunk after the scheduled one")
    start(keeper, chunk)
    refuse("start_chunk", chunk, RuntimeError, "of a chunk that runs already")
    refuse("complete_chunk", chunks[1], RuntimeError, "of another chunk than the one that runs")
    keeper.complete_chunk(chunk)
    for name in ("start_chunk", "complete_chunk", "fail_chunk"):
        refuse(name, chunk, RuntimeError, "of a chunk that was completed already")
    run_next(keeper)
    assert_state(keeper, "a", "done", 8, what="After all these errors")
    for name in ("start_chunk", "complete_chunk", "fail_chunk"):
        refuse(name, chunks[1], RuntimeError, "of a request that is done")


def test_task_6_unknown_requests() -> None:
    """A ValueError, whatever is asked."""
    keeper = manager()
    keeper.create_chunks("a", range(8))
    for name in ("resume", "cancel"):
        assert_raises_clearly(
            ValueError, lambda name=name: getattr(keeper, name)("b"), what=f"{name}('b')"
        )
    assert_raises_clearly(
        ValueError, lambda: list(keeper.iterate_chunks("b")), what="iterate_chunks('b')"
    )


@cases("started", True, False)
def test_task_6_resume_from_the_last_good_offset(started: bool) -> None:
    """A failed chunk is done again, and nothing before it."""
    keeper = manager()
    keeper.create_chunks("a", range(10))
    run_next(keeper)
    chunk = keeper.schedule_chunk()
    if started:
        start(keeper, chunk)
    keeper.fail_chunk(chunk, "out of memory")
    assert_state(keeper, "a", "failed", 4, what="After fail_chunk")
    check(keeper.error("a") == "out of memory", f"Its error is {keeper.error('a')!r}.")
    assert_nothing(keeper, what="while the only request has failed")
    keeper.resume("a")
    assert_state(keeper, "a", "pending", 4, what="After resume")
    check(keeper.error("a") == "", f"A resumed request has the error {keeper.error('a')!r}.")
    again = assert_next(keeper, "a", 4, 8, what="after resume")
    check(tuple(again.tokens) == (4, 5, 6, 7), f"The chunk has the tokens {again.tokens}.")
    check(again.attempt == 1, f"After one resume, attempt is {again.attempt}.")
    for name in ("start_chunk", "complete_chunk", "fail_chunk"):
        assert_raises_clearly(
            RuntimeError,
            lambda name=name: getattr(keeper, name)(chunk),
            what=f"{name} of the chunk of the attempt before",
        )
    keeper.complete_chunk(start(keeper, again))
    run_next(keeper)
    assert_state(keeper, "a", "done", 10, what="In the end")


@cases("size bounds", (1, (4, 5, 6, 7, 8, 9, 10)), (3, (4, 7, 10)), (100, (4, 10)))
def test_task_6_resume_with_other_chunks(size: int, bounds: tuple[int, ...]) -> None:
    """The rest is cut anew, from the offset on."""
    keeper = manager()
    keeper.create_chunks("a", range(10))
    run_next(keeper)
    keeper.fail_chunk(keeper.schedule_chunk(), "out of memory")
    assert_raises_clearly(ValueError, lambda: keeper.resume("a", 0), what="resume('a', 0)")
    assert_state(keeper, "a", "failed", 4, what="After an error of resume")
    keeper.resume("a", size)
    for first, last in pairwise(bounds):
        chunk = assert_next(keeper, "a", first, last, what=f"after resume with chunks of {size}")
        check(
            tuple(chunk.tokens) == tuple(range(first, last)),
            f"The chunk from {first} to {last} has the tokens {chunk.tokens}.",
        )
        keeper.complete_chunk(start(keeper, chunk))
    assert_state(keeper, "a", "done", 10, what="In the end")


def test_task_6_a_failed_request_keeps_its_place() -> None:
    """Others go on meanwhile; resumed, it is the oldest again."""
    keeper = manager()
    for name in "abc":
        keeper.create_chunks(name, range(8))
    keeper.fail_chunk(assert_next(keeper, "a", 0, 4, what="at first"), "")
    keeper.complete_chunk(start(keeper, assert_next(keeper, "b", 0, 4, what="after a failure")))
    keeper.resume("a")
    keeper.complete_chunk(start(keeper, assert_next(keeper, "a", 0, 4, what="after the resume")))
    order = [run_next(keeper).request_id for _ in range(4)]
    check(order == ["a", "b", "c", "c"], f"After a failure and a resume the order is {order}.")


def test_task_6_only_failed_requests_are_resumed() -> None:
    """A RuntimeError in every other state."""
    keeper = manager()
    for name in "abcd":
        keeper.create_chunks(name, range(4))
    run_next(keeper)
    start(keeper, keeper.schedule_chunk())
    keeper.cancel("c")
    for name, state in (("a", "done"), ("b", "running"), ("c", "cancelled"), ("d", "pending")):
        assert_raises_clearly(
            RuntimeError,
            lambda name=name: keeper.resume(name),
            what=f"resume of a request that is {state}",
        )
        check(keeper.state(name) == state, f"An error of resume makes it {keeper.state(name)}.")


def test_task_6_cancel_before_a_chunk_runs() -> None:
    """No chunk is scheduled or started any more."""
    keeper = manager()
    for name in "abc":
        keeper.create_chunks(name, range(8))
    run_next(keeper)
    scheduled = keeper.schedule_chunk()
    for name, offset in (("a", 4), ("b", 0)):
        check(keeper.cancel(name) is True, f"cancel({name!r}) must return True.")
        assert_state(keeper, name, "cancelled", offset, what="After cancel")
        check(keeper.cancel(name) is False, "A second cancel must return False.")
    check(
        keeper.start_chunk(scheduled) is False,
        "start_chunk of a request that was cancelled must return False: the chunk must not run.",
    )
    run_next(keeper)
    run_next(keeper)
    assert_state(keeper, "c", "done", 8, what="After two others were cancelled")
    assert_nothing(keeper, what="when all others are cancelled")
    check(keeper.cancel("c") is False, "cancel of a request that is done must return False.")
    assert_state(keeper, "c", "done", 8, what="After a cancel that came too late")


@cases("name", "complete_chunk", "fail_chunk")
def test_task_6_cancel_while_a_chunk_runs(name: str) -> None:
    """What its worker reports then changes nothing."""
    keeper = manager()
    keeper.create_chunks("a", range(8))
    run_next(keeper)
    chunk = start(keeper, keeper.schedule_chunk())
    before = keeper.statistics()
    check(keeper.cancel("a") is True, "cancel of a running request must return True.")
    check(not getattr(keeper, name)(chunk), f"{name} after a cancel does not end the prefill.")
    assert_state(keeper, "a", "cancelled", 4, what=f"After a cancel and {name}")
    after = keeper.statistics()
    for key in ("chunks_completed", "chunks_failed", "tokens", "seconds"):
        check(
            after[key] == before[key],
            f"{name} after a cancel changes {key} from {before[key]} to {after[key]}.",
        )
    assert_nothing(keeper, what="after the cancel")
    assert_raises_clearly(
        RuntimeError, lambda: getattr(keeper, name)(chunk), what=f"a second {name} after a cancel"
    )


def test_task_6_cancel_what_has_failed() -> None:
    """It had not ended; now it has, and cannot be resumed."""
    keeper = manager()
    keeper.create_chunks("a", range(8))
    keeper.fail_chunk(keeper.schedule_chunk(), "no")
    check(keeper.cancel("a") is True, "cancel of a failed request must return True.")
    assert_state(keeper, "a", "cancelled", 0, what="After fail and cancel")
    check(keeper.error("a") == "", "A cancelled request has no error.")


@cases("end", "done", "cancelled")
def test_task_6_a_name_can_be_used_again(end: str) -> None:
    """When its request has ended, and no worker has a chunk of it any more."""
    keeper = manager()
    keeper.create_chunks("a", range(4))
    chunk = start(keeper, keeper.schedule_chunk())
    if end == "cancelled":
        keeper.cancel("a")
        assert_raises_clearly(
            ValueError,
            lambda: keeper.create_chunks("a", range(4)),
            what="create_chunks with the name of a cancelled request whose chunk still runs",
        )
    keeper.complete_chunk(chunk)
    check(keeper.state("a") == end, f"The first request is {keeper.state('a')}, not {end}.")
    keeper.create_chunks("a", range(50, 56))
    assert_state(keeper, "a", "pending", 0, what="Created again")
    chunk = assert_next(keeper, "a", 0, 4, what="of a name that is used again")
    check(tuple(chunk.tokens) == (50, 51, 52, 53), f"It has the old tokens {chunk.tokens}.")


@cases("state", "pending", "running", "failed")
def test_task_6_a_name_that_is_taken(state: str) -> None:
    """The request that has it is left as it was."""
    keeper = manager()
    keeper.create_chunks("a", range(8))
    if state != "pending":
        run_next(keeper)
    if state == "failed":
        keeper.fail_chunk(keeper.schedule_chunk(), "no")
    assert_raises_clearly(
        ValueError,
        lambda: keeper.create_chunks("a", range(4)),
        what=f"create_chunks with the name of a request that is {state}",
    )
    check(keeper.state("a") == state, f"The error makes the old request {keeper.state('a')}.")


def test_task_6_iterate() -> None:
    """A loop over the chunks runs them: started when they come, completed by the next one."""
    keeper = manager()
    keeper.create_chunks("a", range(10))
    seen = []
    for chunk in keeper.iterate_chunks("a"):
        assert_state(keeper, "a", "running", chunk.start, what="In the loop")
        seen.append((chunk.start, chunk.end, tuple(chunk.tokens)))
        assert_nothing(keeper, what="in the loop over the only request")
    expected = [(0, 4, (0, 1, 2, 3)), (4, 8, (4, 5, 6, 7)), (8, 10, (8, 9))]
    check(seen == expected, f"iterate_chunks gives\n  {seen}\n  expected {expected}")
    assert_state(keeper, "a", "done", 10, what="After the loop")
    check(list(keeper.iterate_chunks("a")) == [], "A request that is done has chunks left.")
    assert_nothing(keeper, what="after the loop")


def test_task_6_iterate_what_others_have_begun() -> None:
    """The loop takes the rest; the order of the others does not count for it."""
    keeper = manager()
    keeper.create_chunks("first", range(8))
    keeper.create_chunks("a", range(8), "batch")
    starts = [chunk.start for chunk in keeper.iterate_chunks("a")]
    check(starts == [0, 4], f"iterate_chunks('a') gives the chunks at {starts}.")
    run_next(keeper)
    starts = [chunk.start for chunk in keeper.iterate_chunks("first")]
    check(starts == [4], f"After a chunk was run elsewhere, the loop gives those at {starts}.")
    assert_nothing(keeper, what="when both loops have ended")


class ModelError(Exception):
    """What the model of a test raises."""


@cases("how", "exception", "break", "close", "throw")
def test_task_6_a_loop_that_ends_early(how: str) -> None:
    """The chunk it was at has failed, and those before it are good."""
    keeper = manager()
    keeper.create_chunks("a", range(12))
    seen: list[int] = []

    def loop() -> None:
        for chunk in keeper.iterate_chunks("a"):
            seen.append(chunk.start)
            if chunk.start == 4 and how == "exception":
                raise ModelError("out of memory")
            if chunk.start == 4:
                break

    if how in ("exception", "break"):
        try:
            loop()
        except ModelError as error:
            check(how == "exception", f"The loop raises {error!r}.")
        else:
            check(how == "break", "iterate_chunks swallows the exception of the loop.")
    else:
        with closing(keeper.iterate_chunks("a")) as chunks:
            seen += [next(chunks).start, next(chunks).start]
            if how == "throw":
                with pytest.raises(ModelError):
                    chunks.throw(ModelError("out of memory"))
    assert_state(keeper, "a", "failed", 4, what=f"After a loop that was left by {how}")
    check(keeper.error("a") != "", "A request whose loop ended early has no error.")
    assert_raises_clearly(
        RuntimeError,
        lambda: next(keeper.iterate_chunks("a")),
        what="iterate_chunks of a request that has failed",
    )
    keeper.resume("a")
    seen += [chunk.start for chunk in keeper.iterate_chunks("a")]
    check(
        seen == [0, 4, 4, 8],
        f"With a failure at 4 and a resume, the chunks at {seen} run, not at [0, 4, 4, 8].",
    )
    assert_state(keeper, "a", "done", 12, what="In the end")


def test_task_6_cancel_ends_a_loop() -> None:
    """At its next step."""
    keeper = manager()
    keeper.create_chunks("a", range(12))
    seen = []
    for chunk in keeper.iterate_chunks("a"):
        seen.append(chunk.start)
        if chunk.start == 4:
            keeper.cancel("a")
    check(seen == [0, 4], f"Cancelled at the chunk at 4, the loop goes through those at {seen}.")
    assert_state(keeper, "a", "cancelled", 4, what="After the loop")
    check(list(keeper.iterate_chunks("a")) == [], "A cancelled request has chunks left.")


def test_task_6_a_loop_and_a_worker() -> None:
    """Not both may have a chunk of one request."""
    keeper = manager()
    keeper.create_chunks("a", range(12))
    chunk = keeper.schedule_chunk()
    assert_raises_clearly(
        RuntimeError,
        lambda: next(keeper.iterate_chunks("a")),
        what="iterate_chunks of a request of which a worker has a chunk",
    )
    assert_state(keeper, "a", "pending", 0, what="After this error")
    keeper.complete_chunk(start(keeper, chunk))


def test_task_6_only_what_failed_is_computed_again() -> None:
    """With a real model: its calls, its caches, and the logits in the end."""
    model = reference_and_plain()[0]
    tokens = [5, 3, 8, 1, 30, 22, 9, 14, 2, 2, 31]
    expected = model(mx.array([tokens]), 0, model.create_kv_cache())[:, -1:]
    keeper = manager()
    keeper.create_chunks("a", tokens)
    cache = model.create_kv_cache()
    calls: list[tuple[int, int]] = []
    logits = None

    def run(fail_at: int | None) -> None:
        nonlocal logits
        for chunk in keeper.iterate_chunks("a"):
            calls.append((chunk.start, chunk.end))
            logits = model(mx.array([list(chunk.tokens)]), chunk.start, cache)
            mx.eval(logits)
            if chunk.start == fail_at:
                raise ModelError("after every layer has taken the chunk's keys")

    with pytest.raises(ModelError):
        run(fail_at=4)
    offset = keeper.offset("a")
    for layer in cache:
        layer.rewind(layer.fetch()[0].shape[2] - offset)
    keeper.resume("a")
    run(fail_at=None)
    check(
        calls == [(0, 4), (4, 8), (4, 8), (8, 11)],
        f"With a failure in the chunk at 4, the model runs on {calls}.",
    )
    assert_close(
        logits[:, -1:], expected, what="the last logits after a failure and a resume", reduction=200
    )


def test_task_6_statistics() -> None:
    """States, chunks, tokens and seconds."""
    now = 0.0
    keeper = manager(clock=lambda: now)
    zero = dict.fromkeys(chunked_prefill.PREFILL_STATES, 0)
    counts = {"chunks_completed": 0, "chunks_failed": 0, "tokens": 0, "seconds": 0.0}

    def assert_statistics(when: str, speed: float | None, **expected: Any) -> None:
        got = keeper.statistics()
        wanted = {**zero, **counts, "tokens_per_second": speed, **expected}
        check(
            got == wanted,
            f"The statistics are wrong {when}.\n  expected   {wanted}\n  got        {got}",
        )
        json.dumps(got)

    assert_statistics("at first", None)
    for name, length in (("a", 6), ("b", 3), ("c", 9), ("d", 2), ("e", 2)):
        keeper.create_chunks(name, range(length))
    assert_statistics("with five requests", None, pending=5)
    chunk = keeper.schedule_chunk()
    now += 100.0  # it waits for its worker: that is not the chunk's time
    start(keeper, chunk)
    now += 0.5
    keeper.complete_chunk(chunk)
    now += 100.0
    chunk = start(keeper, keeper.schedule_chunk())
    now += 0.25
    keeper.complete_chunk(chunk)
    done = {"chunks_completed": 2, "tokens": 6, "seconds": 0.75}
    assert_statistics("with one that is done", 8.0, done=1, pending=4, **done)
    chunk = start(keeper, keeper.schedule_chunk())
    now += 7.0
    keeper.fail_chunk(chunk, "no")
    start(keeper, keeper.schedule_chunk())
    keeper.cancel("d")
    states = {"done": 1, "failed": 1, "running": 1, "cancelled": 1, "pending": 1}
    assert_statistics("with one in every state", 8.0, chunks_failed=1, **states, **done)


def test_task_6_any_sequence_of_events() -> None:
    """Random events against a plain list of requests."""
    for seed in range(15):
        Walk(seed).run(120)


class Walk:
    """Random events for a manager, and what has to come of them."""

    def __init__(self, seed: int) -> None:
        self.numbers = random.Random(600 + seed)
        self.size = self.numbers.randrange(1, 5)
        self.keeper = manager(threshold=1, chunk_size=self.size)
        self.requests: list[dict[str, Any]] = []  # in the order in which they came
        self.under_way: list[tuple[dict[str, Any], Any]] = []

    def run(self, events: int) -> None:
        """So many events; every request is compared after each."""
        names = ["create", "schedule", "start", "complete", "fail", "resume", "cancel"]
        for _ in range(events):
            event = self.numbers.choices(names, [3, 5, 4, 5, 1, 2, 1])[0]
            getattr(self, event)()
            for known in self.requests:
                assert_state(
                    self.keeper,
                    known["name"],
                    known["state"],
                    known["offset"],
                    what=f"After {event}",
                )

    def create(self) -> None:
        length = self.numbers.randrange(1, 12)
        known = {
            "name": f"r{len(self.requests)}",
            "rank": self.numbers.randrange(2),
            "length": length,
            "offset": 0,
            "state": "pending",
            "size": self.size if length > 1 else 1,
        }
        self.requests.append(known)
        priority = chunked_prefill.PRIORITIES[known["rank"]]
        self.keeper.create_chunks(known["name"], range(length), priority)

    def schedule(self) -> None:
        ready = [
            known
            for known in self.requests
            if known["state"] in ("pending", "running")
            and not any(known is other for other, _ in self.under_way)
        ]
        if not ready:
            assert_nothing(self.keeper, what="when no request is ready")
            return
        known = min(ready, key=lambda known: known["rank"])  # the first of those
        end = min(known["offset"] + known["size"], known["length"])
        chunk = assert_next(
            self.keeper, known["name"], known["offset"], end, what="in a random sequence"
        )
        self.under_way.append((known, chunk))
        known["started"] = False

    def pick(self, started: bool) -> tuple[dict[str, Any], Any] | None:
        """One that is under way, started or not."""
        found = [pair for pair in self.under_way if pair[0]["started"] is started]
        return self.numbers.choice(found) if found else None

    def leave(self, known: dict[str, Any]) -> None:
        """It is not under way any more."""
        self.under_way = [pair for pair in self.under_way if pair[0] is not known]

    def start(self) -> None:
        if pair := self.pick(started=False):
            known, chunk = pair
            may_run = known["state"] != "cancelled"
            check(self.keeper.start_chunk(chunk) is may_run, f"start_chunk is not {may_run}.")
            if may_run:
                known["state"], known["started"] = "running", True
            else:
                self.leave(known)

    def complete(self) -> None:
        if pair := self.pick(started=True):
            known, chunk = pair
            self.leave(known)
            done = False
            if known["state"] != "cancelled":
                known["offset"] = chunk.end
                done = chunk.end == known["length"]
                known["state"] = "done" if done else "running"
            check(self.keeper.complete_chunk(chunk) is done, f"complete_chunk is not {done}.")

    def fail(self) -> None:
        if pair := self.pick(self.numbers.random() < 0.5):
            known, chunk = pair
            self.leave(known)
            if known["state"] != "cancelled":
                known["state"] = "failed"
            self.keeper.fail_chunk(chunk, "no")

    def resume(self) -> None:
        failed = [known for known in self.requests if known["state"] == "failed"]
        if failed:
            known = self.numbers.choice(failed)
            known["state"] = "pending"
            if self.numbers.random() < 0.5:
                known["size"] = self.numbers.randrange(1, 5)
                self.keeper.resume(known["name"], known["size"])
            else:
                self.keeper.resume(known["name"])

    def cancel(self) -> None:
        if self.requests:
            known = self.numbers.choice(self.requests)
            ended = known["state"] in ("done", "cancelled")
            if not ended:
                known["state"] = "cancelled"
            got = self.keeper.cancel(known["name"])
            check(got is not ended, f"cancel of a request that had ended ({ended}) is {got}.")


@contextmanager
def eager_switching() -> Iterator[None]:
    """Let Python switch between threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def in_threads(work: Callable[[int, threading.Event], None], count: int) -> None:
    """Run `work(0, stop)` to `work(count - 1, stop)` at once; raise the first exception here.

    `stop` is set when it takes so long that something must be wrong.
    """
    errors: list[BaseException] = []
    begin, stop = threading.Barrier(count), threading.Event()

    def guarded(index: int) -> None:
        begin.wait()
        try:
            work(index, stop)
        except BaseException as error:
            errors.append(error)
            stop.set()

    threads = [
        threading.Thread(target=guarded, args=(index,), daemon=True) for index in range(count)
    ]
    give_up = time.monotonic() + 60
    with eager_switching():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=max(0.0, give_up - time.monotonic()))
        too_long = not stop.is_set() and any(thread.is_alive() for thread in threads)
        stop.set()
        for thread in threads:
            thread.join(timeout=1)
    if errors:
        raise errors[0]
    check(
        not too_long,
        f"After a minute, {count} threads are not ready: a chunk is lost, or one of them waits "
        "forever for a lock.",
    )


def test_task_6_many_threads() -> None:
    """Every chunk runs once, those of a request in order and one at a time."""
    requests, length, size = 60, 17, 2
    keeper = manager(threshold=1, chunk_size=size)
    for index in range(requests):
        keeper.create_chunks(f"r{index}", range(length))
    per_request = math.ceil(length / size)
    busy: dict[str, int] = {}
    ran: list[tuple[str, int]] = []

    def work(index: int, stop: threading.Event) -> None:
        while len(ran) < requests * per_request and not stop.is_set():
            chunk = keeper.schedule_chunk()
            if chunk is None:
                if all(keeper.state(f"r{i}") == "done" for i in range(requests)):
                    return
                continue
            taken = busy.setdefault(chunk.request_id, index)
            check(taken == index, f"Two threads have a chunk of {chunk.request_id!r} at once.")
            check(keeper.start_chunk(chunk) is True, "start_chunk must return True.")
            ran.append((chunk.request_id, chunk.start))
            del busy[chunk.request_id]
            keeper.complete_chunk(chunk)

    in_threads(work, 8)
    check(
        sorted(ran)
        == sorted((f"r{i}", start) for i in range(requests) for start in range(0, length, size)),
        f"{requests} prompts of {per_request} chunks were run by 8 threads as {len(ran)} chunks, "
        f"{len(set(ran))} of them different.",
    )
    for index in range(requests):
        starts = [start for name, start in ran if name == f"r{index}"]
        check(starts == sorted(starts), f"The chunks of a request run in the order {starts}.")
    got = keeper.statistics()
    check(
        (got["done"], got["chunks_completed"], got["tokens"])
        == (requests, requests * per_request, requests * length),
        f"After {requests} prompts of {length} tokens the statistics are {got}.",
    )


def test_task_6_threads_that_fail_resume_and_cancel() -> None:
    """In the end every request is done or cancelled, and the counts agree with what was done."""
    keeper = manager(threshold=1, chunk_size=3)
    requests, length = 40, 20
    cancelled = [0] * 6

    def work(index: int, stop: threading.Event) -> None:
        numbers = random.Random(700 + index)
        for own in range(index, requests, 6):
            keeper.create_chunks(f"r{own}", range(length), numbers.choice(["interactive", "batch"]))
        ended = set()
        while len(ended) < requests and not stop.is_set():
            for other in set(range(requests)) - ended:
                try:
                    state = keeper.state(f"r{other}")
                except ValueError:
                    continue  # not created yet
                if state in ("done", "cancelled"):
                    ended.add(other)
            if numbers.random() < 0.02:
                name = f"r{numbers.randrange(index, requests, 6)}"
                cancelled[index] += keeper.cancel(name)
            chunk = keeper.schedule_chunk()
            if chunk is None or not keeper.start_chunk(chunk):
                continue
            if numbers.random() < 0.1:
                keeper.fail_chunk(chunk, "no")
                if keeper.state(chunk.request_id) == "failed":
                    try:
                        keeper.resume(chunk.request_id, numbers.randrange(1, 6))
                    except RuntimeError:
                        check(
                            keeper.state(chunk.request_id) == "cancelled",
                            "resume fails, though nobody has cancelled the request.",
                        )
            else:
                keeper.complete_chunk(chunk)

    in_threads(work, 6)
    got = keeper.statistics()
    check(
        got["done"] + got["cancelled"] == requests and got["cancelled"] == sum(cancelled),
        f"{requests} requests, {sum(cancelled)} of which were cancelled, end as {got}.",
    )
    offsets = sum(keeper.offset(f"r{index}") for index in range(requests))
    check(
        got["tokens"] == offsets,
        f"The requests' offsets add up to {offsets}, but {got['tokens']} tokens were counted.",
    )


@cases("name", "start_chunk", "complete_chunk")
def test_task_6_one_chunk_for_many_threads(name: str) -> None:
    """One of them may start it, and one may complete it; all others get an error.

    The clock is slow, so that everybody else has time to come in between.
    """

    def clock() -> float:
        time.sleep(0.002)
        return time.monotonic()

    for _ in range(5):
        keeper = manager(clock=clock)
        keeper.create_chunks("a", range(8))
        chunk = keeper.schedule_chunk()
        if name == "complete_chunk":
            start(keeper, chunk)
        call, done = getattr(keeper, name), list[int]()

        def work(
            index: int,
            stop: threading.Event,
            call: Callable[[Any], Any] = call,
            chunk: Any = chunk,
            done: list[int] = done,
        ) -> None:
            try:
                call(chunk)
            except RuntimeError:
                return
            done.append(index)

        in_threads(work, 4)
        check(len(done) == 1, f"{len(done)} of 4 threads succeed in {name} of the same chunk.")
        offset = 4 if name == "complete_chunk" else 0
        assert_state(keeper, "a", "running", offset, what=f"After {name} by 4 threads")


def test_task_6_one_name_for_many_threads() -> None:
    """One of them gets it, all others an error."""
    for _ in range(30):
        keeper = manager(threshold=1, chunk_size=1)
        won: list[int] = []

        def work(
            index: int, stop: threading.Event, keeper: Any = keeper, won: list[int] = won
        ) -> None:
            try:
                keeper.create_chunks("a", range(index + 1))
            except ValueError:
                return
            won.append(index)

        in_threads(work, 6)
        check(len(won) == 1, f"{len(won)} of 6 threads have created a request of the same name.")
        starts = []
        while chunk := keeper.schedule_chunk():
            keeper.complete_chunk(start(keeper, chunk))
            starts.append(chunk.start)
        check(
            starts == list(range(won[0] + 1)),
            f"A request of {won[0] + 1} chunks, which 6 threads tried to create, runs as {starts}.",
        )


# --- Task 7: a model that reads in chunks -----------------------------------------------------


@functools.cache
def reference_and_plain() -> tuple[Any, Any]:
    """A small random model of two layers: the solution's, and mlx-lm's own."""
    mlx_model = random_model(seed=8, layers=2)
    return qwen3.Qwen3Model(mlx_model), mlx_model


class NotedModel:
    """A model that notes the shapes and offsets that it is called with."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.calls: list[tuple[int, int, Any]] = []  # B, L, offset

    def create_kv_cache(self) -> Any:
        return self.model.create_kv_cache()

    def __call__(self, inputs: mx.array, offset: Any = 0, cache: Any = None) -> mx.array:
        noted = offset.tolist() if isinstance(offset, mx.array) else offset
        self.calls.append((*inputs.shape, noted))
        return self.model(inputs, offset, cache)


def tokens_of(B: int, L: int, *, seed: int) -> mx.array:
    """Token ids for the small model."""
    return mx.array(np.random.default_rng(seed).integers(0, 37, (B, L)))


@cases("chunk_size", *range(1, 9), 12, 13, 14, 100)
def test_task_7_the_logits_of_the_plain_model(chunk_size: int) -> None:
    """All of them, for a prompt of 13 tokens; the cache is the same afterwards."""
    model, mlx_model = reference_and_plain()
    tokens = tokens_of(2, 13, seed=800)
    noted = NotedModel(model)
    chunked = chunked_prefill.ChunkedModel(noted, chunk_size)
    cache = chunked.create_kv_cache()
    what = f"ChunkedModel(model, {chunk_size})(tokens)"
    assert_close(
        chunked(tokens, 0, cache),
        mlx_model(tokens),
        what=what,
        reduction=400,
        axes="B L vocab",
    )
    expected = [(2, min(chunk_size, 13 - begin), begin) for begin in range(0, 13, chunk_size)]
    check(
        noted.calls == expected,
        f"{what} calls the model with the wrong pieces.\n"
        f"  expected   {expected} (B, L, offset)\n"
        f"  got        {noted.calls}",
    )
    following = tokens_of(2, 3, seed=801)
    assert_close(
        chunked(following, 13, cache),
        mlx_model(mx.concatenate([tokens, following], axis=1))[:, 13:],
        what=f"the next 3 tokens after {what}",
        reduction=400,
        axes="B L vocab",
    )


@cases("kind", "int", "list", "array")
def test_task_7_an_offset_per_row(kind: str) -> None:
    """The pieces start where the rows start, one int or one per row."""
    model, mlx_model = reference_and_plain()
    tokens = tokens_of(2, 15, seed=810)
    cache = model.create_kv_cache()
    mx.eval(model(tokens[:, :6], 0, cache))
    noted = NotedModel(model)
    offset: Any = {"int": 6, "list": [6, 6], "array": mx.array([6, 6])}[kind]
    got = chunked_prefill.ChunkedModel(noted, 4)(tokens[:, 6:], offset, cache)
    assert_close(
        got,
        mlx_model(tokens)[:, 6:],
        what=f"logits of 9 tokens at the offset {offset}, in chunks of 4",
        reduction=400,
        axes="B L vocab",
    )
    starts = [call[2] if isinstance(call[2], list) else [call[2]] * 2 for call in noted.calls]
    check(starts == [[6, 6], [10, 10], [14, 14]], f"The pieces begin at {starts}.")
    check(offset == [6, 6] if kind == "list" else True, f"The caller's offset is now {offset}.")


def test_task_7_rows_at_different_offsets() -> None:
    """Each row moves on from its own."""
    noted = NotedModel(lambda inputs, offset, cache: mx.zeros((*inputs.shape, 5)))
    for offset in ([3, 100], mx.array([3, 100])):
        noted.calls.clear()
        got = chunked_prefill.ChunkedModel(noted, 4)(tokens_of(2, 10, seed=820), offset, ["cache"])
        check(got.shape == (2, 10, 5), f"Logits of 2 x 10 tokens have the shape {got.shape}.")
        check(
            noted.calls == [(2, 4, [3, 100]), (2, 4, [7, 104]), (2, 2, [11, 108])],
            f"Rows at 3 and 100, in chunks of 4, are read as {noted.calls} (B, L, offset).",
        )


def test_task_7_without_a_cache_in_one_call() -> None:
    """There is nothing to carry over from one chunk to the next."""
    model, mlx_model = reference_and_plain()
    tokens = tokens_of(1, 9, seed=830)
    noted = NotedModel(model)
    chunked = chunked_prefill.ChunkedModel(noted, 2)
    for got in (chunked(tokens), chunked(tokens, 0), chunked(tokens, 0, None)):
        assert_close(
            got, mlx_model(tokens), what="logits without a cache", reduction=400, axes="B L vocab"
        )
    check(
        [call[:2] for call in noted.calls] == [(1, 9)] * 3,
        f"Three calls without a cache become the calls {noted.calls} (B, L, offset).",
    )


def test_task_7_a_decode_step_passes_through() -> None:
    """One token per row is one call, with the arguments as they came."""
    seen: list[Any] = []

    def model(inputs: mx.array, offset: Any, cache: Any) -> mx.array:
        seen.append((inputs, offset, cache))
        return mx.zeros((*inputs.shape, 5))

    inputs, offset, cache = tokens_of(3, 1, seed=840), [4, 0, 9], [object(), object()]
    chunked_prefill.ChunkedModel(model, 1)(inputs, offset, cache)
    check(len(seen) == 1, f"A decode step becomes {len(seen)} calls.")
    assert_tokens_equal(seen[0][0], inputs, what="the tokens of a decode step")
    check(seen[0][1] == [4, 0, 9], f"The offsets of a decode step become {seen[0][1]}.")
    check(seen[0][2] is cache, "A decode step does not get the caller's cache.")


@cases("size", 0, -1)
def test_task_7_a_chunk_of_no_tokens(size: int) -> None:
    """It would never end."""
    assert_raises_clearly(
        ValueError,
        lambda: chunked_prefill.ChunkedModel(None, size),
        what=f"ChunkedModel(model, {size})",
    )


def test_task_7_in_the_place_of_a_model() -> None:
    """A generation loop does not notice."""
    tokenizer = byte_tokenizer()
    prompt, answer = "the one that never ends", "none"
    for chunk_size in (1, 5, 500):
        scripted = ScriptedModel(
            ids_of(tokenizer, prompt),
            [*ids_of(tokenizer, answer), min(tokenizer.eos_token_ids)],
            decoy=ids_of(tokenizer, "?")[0],
            vocab_size=len(tokenizer.get_vocab()),
        )
        model = Remembering(scripted)
        got = generate.simple_generate_with_kv_cache(
            chunked_prefill.ChunkedModel(model, chunk_size), tokenizer, prompt
        )
        assert_text_equal(got, answer, what=f"the answer with chunks of {chunk_size}")
        check(
            max(model.lengths) <= chunk_size,
            f"With chunks of {chunk_size} the model gets {max(model.lengths)} tokens at once.",
        )


class Remembering:
    """A scripted model that keeps earlier tokens in its cache, here a list."""

    def __init__(self, scripted: ScriptedModel) -> None:
        self.scripted = scripted
        self.lengths: list[int] = []

    def create_kv_cache(self) -> Any:
        return [TokenList()]

    def __call__(self, inputs: mx.array, offset: int, cache: Any) -> mx.array:
        self.lengths.append(inputs.shape[1])
        check(
            offset == len(cache[0].tokens), f"The offset is {offset}, not {len(cache[0].tokens)}."
        )
        before = len(cache[0].tokens)
        cache[0].tokens += inputs[0].tolist()
        return self.scripted(mx.array([cache[0].tokens]))[:, before:]


class TokenList:
    """A cache that remembers token ids."""

    def __init__(self) -> None:
        self.tokens: list[int] = []

    def materialize(self) -> None:
        """Nothing is pending."""

    def release(self) -> None:
        """Forget them."""
        self.tokens = []


def pending(arrays: Any) -> int:
    """The number of operations that are not computed yet."""
    graph = io.StringIO()
    mx.export_to_dot(graph, *arrays)
    return graph.getvalue().count("label")


def test_task_7_no_graph_grows() -> None:
    """What is pending when the model is called does not depend on how many chunks came before."""
    model = reference_and_plain()[0]
    counts: list[int] = []

    def noting(inputs: mx.array, offset: Any, cache: Any) -> mx.array:
        logits = model(inputs, offset, cache)
        counts.append(pending([logits]))
        return logits

    tokens = tokens_of(1, 60, seed=850)
    mx.eval(model(tokens))
    got = chunked_prefill.ChunkedModel(noting, 5)(tokens, 0, model.create_kv_cache())
    mx.eval(got)
    check(
        len(counts) == 12 and max(counts[2:]) < 2 * max(counts[:2]),
        "The graph behind the logits grows from chunk to chunk.\n"
        "  expected   each chunk computed before, or while, the next one is prepared\n"
        f"  got        {counts} pending operations",
    )
