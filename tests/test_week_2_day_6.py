"""Week 2, day 6: the batching KV cache, requests, the scheduler, and batch generation."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from batch_models import BatchModel, run_to_end
from caches import assert_kept, keys_and_values, memory_in_use, still_in_use
from inputs import cases, float64, half_precision, normal
from oracle_models import chat, continue_greedily, ledger_question, random_model, tiny
from oracles import attention
from scripted import (
    END_OF_CALL,
    END_OF_TEXT,
    END_OF_TURN,
    byte_tokenizer,
    ids_of,
    one_by_one,
)
from solution import batch, kv_cache, qwen3
from tiny_llm_lab.course.checks import (
    arguments_unchanged,
    assert_close,
    assert_raises_clearly,
    assert_text_equal,
    assert_tokens_equal,
    check,
    dtype_name,
)

# --- Task 1: slots ---------------------------------------------------------------------------

Pair = tuple[np.ndarray, np.ndarray]


@dataclass
class Slots:
    """What a batching cache has to hold: for each slot nothing, or its keys and values in float32.

    Keys and values are `H_kv x n x D`, `n` the number of tokens.
    """

    rows: list[Pair | None]
    dtype: mx.Dtype = mx.float32

    def held(self, slot: int) -> int:
        """The number of tokens in a slot."""
        row = self.rows[slot]
        return 0 if row is None else row[0].shape[1]

    def longest(self) -> int:
        """The number of tokens in the longest slot."""
        return max(map(self.held, range(len(self.rows))))

    def shortest(self) -> int:
        """The number of tokens in the shortest slot that is taken; 0 if none is."""
        return min((row[0].shape[1] for row in self.rows if row is not None), default=0)

    def append(self, keys: mx.array, values: mx.array) -> None:
        """Append to every slot that is taken its row of the new tokens."""
        for slot, row in enumerate(self.rows):
            if row is not None:
                new = (in_float32(keys)[slot], in_float32(values)[slot])
                joined = [np.concatenate(pair, axis=1) for pair in zip(row, new, strict=True)]
                self.rows[slot] = (joined[0], joined[1])

    def rewind(self, n: int) -> None:
        """Drop the last `n` tokens of every slot that is taken."""
        for slot, row in enumerate(self.rows):
            if row is not None:
                left = self.held(slot) - n
                self.rows[slot] = (row[0][:, :left], row[1][:, :left])

    def aligned(self, which: int, L: int) -> np.ndarray:
        """Keys (0) or values (1) as they are to be fetched, `B x H_kv x S x D`: right-aligned."""
        S = max(self.longest(), L)
        shape = next(row[which].shape for row in self.rows if row is not None)
        fetched = np.zeros((len(self.rows), shape[0], S, shape[2]), np.float32)
        for slot, row in enumerate(self.rows):
            if row is not None and self.held(slot):
                fetched[slot, :, -self.held(slot) :] = row[which]
        return fetched

    def mask(self, L: int, mask: str | None, dtype: mx.Dtype) -> np.ndarray:
        """The mask `B x 1 x L x S` for the `L` newest tokens as queries, one element at a time."""
        S = self.longest()
        lowest = {mx.float32: -(2 - 2.0**-23) * 2.0**127, mx.float16: -65504.0}.get(
            dtype, -(2 - 2.0**-7) * 2.0**127
        )
        expected = np.zeros((len(self.rows), 1, L, S))
        for slot, _, query, column in np.ndindex(*expected.shape):
            position = column - (S - self.held(slot))  # of the key, within its request
            own = query + self.held(slot) - L  # of the query
            if self.rows[slot] is None:
                expected[slot, 0, query, column] = lowest
            elif position < 0 or (mask == "causal" and position > own):
                expected[slot, 0, query, column] = -np.inf
        return expected


def in_float32(x: mx.array) -> np.ndarray:
    """The values of an array, in a dtype that NumPy knows."""
    return np.array(x.astype(mx.float32))


def own_cache(keys: mx.array, values: mx.array) -> Any:
    """The cache of one request that holds these tokens, `1 x H_kv x n x D`."""
    cache = kv_cache.TinyKvFullCache()
    cache.update_and_fetch(keys, values)
    return cache


def add(cache: Any, slots: Slots, slot: int, n: int, *, seed: int, spoiled: bool = False) -> None:
    """Add a request of `n` tokens to a slot of both.

    Args:
        cache: the solution's.
        slots: the oracle.
        slot: the slot.
        n: the number of tokens.
        seed: of the tokens.
        spoiled: put a NaN and an infinity among them.
    """
    keys, values = keys_and_values(n, B=1, seed=seed, dtype=slots.dtype)
    if spoiled:
        keys[:, 1, 0, 2], values[:, 0, -1, 3] = mx.nan, mx.inf
    own = own_cache(keys, values)
    cache.add_request(own, slot)
    own.release()
    slots.rows[slot] = (in_float32(keys)[0], in_float32(values)[0])


def filled(
    held: Sequence[int | None], *, seed: int, max_seq_len: int = 64, dtype: mx.Dtype = mx.float32
) -> tuple[Any, Slots]:
    """A cache whose slots hold so many tokens (None: empty), and the oracle of it."""
    cache = kv_cache.BatchingKvCache(len(held), max_seq_len)
    slots = Slots([None] * len(held), dtype)
    for slot, n in enumerate(held):
        if n is not None:
            add(cache, slots, slot, n, seed=seed + 2 * slot)
    return cache, slots


def assert_equal(actual: Any, expected: np.ndarray, *, dtype: mx.Dtype, what: str) -> None:
    """Compare what a cache gives back: bit by bit, NaN where there is one."""
    assert_close(actual, expected, what=what, dtype=dtype, axes="B H S D")
    check(
        np.array_equal(in_float32(actual), expected, equal_nan=True),
        f"{what}: the numbers are rounded on their way through the cache.\n"
        "  expected   exactly what was added, in its own dtype",
    )


def assert_holds(cache: Any, slots: Slots, *, when: str) -> None:
    """Compare every slot with the oracle, by what `extract_request` gives of it."""
    for slot, row in enumerate(slots.rows):
        n = slots.held(slot)
        assert_raises_clearly(
            ValueError,
            lambda slot=slot, n=n: cache.extract_request(slot, n + 1),
            what=f"extract_request({slot}, {n + 1}) of "
            + ("an empty slot" if row is None else f"a slot of {n} tokens")
            + f", {when}",
        )
        if row is None or n == 0:
            continue
        for length in {n, (n + 1) // 2}:
            alone = cache.extract_request(slot, length)
            check(
                isinstance(alone, kv_cache.TinyKvFullCache),
                "extract_request(id, length) must return a TinyKvFullCache, "
                f"but returns {type(alone).__name__}.",
            )
            for name, got, expected in zip(("keys", "values"), alone.fetch(), row, strict=True):
                assert_equal(
                    got,
                    expected[None, :, :length],
                    dtype=slots.dtype,
                    what=f"the {name} of extract_request({slot}, {length}), of {n} tokens, {when}",
                )


@pytest.mark.parametrize("sizes", [[1], [5], [5, 1, 1], [2, 30, 1]], ids=str)
@pytest.mark.parametrize("B", [1, 2])
def test_task_1_fetch_gives_all_tokens_without_new_ones(B: int, sizes: list[int]) -> None:
    """What a request's own cache holds can be read, again and again, without an append."""
    keys, values = keys_and_values(sum(sizes), B=B, seed=10)
    cache = kv_cache.TinyKvFullCache()
    end = 0
    for size in sizes:
        cache.update_and_fetch(keys[:, :, end : end + size], values[:, :, end : end + size])
        end += size
        for _ in range(2):
            fetched = cache.fetch()
            check(
                isinstance(fetched, tuple) and len(fetched) == 2,
                "fetch() must return a tuple (keys, values).",
            )
            assert_kept(fetched[0], keys[:, :, :end], what=f"the keys of fetch(), of {end} tokens")
            assert_kept(
                fetched[1], values[:, :, :end], what=f"the values of fetch(), of {end} tokens"
            )


def test_task_1_fetch_knows_nothing_of_tokens_that_are_gone() -> None:
    """After a rewind there are fewer; what was fetched before stays as it is."""
    keys, values = keys_and_values(9, seed=20)
    cache = own_cache(keys[:, :, :7], values[:, :, :7])
    earlier = cache.fetch()
    cache.rewind(3)
    assert_kept(cache.fetch()[0], keys[:, :, :4], what="the keys of fetch() after rewind(3) of 7")
    cache.update_and_fetch(keys[:, :, 7:], values[:, :, 7:])
    expected = mx.concatenate([values[:, :, :4], values[:, :, 7:]], axis=2)
    assert_kept(cache.fetch()[1], expected, what="the values of fetch() after rewind and 2 more")
    assert_kept(earlier[0], keys[:, :, :7], what="the keys fetched before a rewind")


def test_task_1_fetch_of_an_empty_cache_is_an_error() -> None:
    """It has no shapes: nothing was ever appended, or it was released."""
    cache = kv_cache.TinyKvFullCache()
    assert_raises_clearly(ValueError, cache.fetch, what="fetch() of an empty cache")
    cache.update_and_fetch(*keys_and_values(3, seed=30))
    cache.release()
    assert_raises_clearly(ValueError, cache.fetch, what="fetch() of a cache that was released")


@pytest.mark.parametrize(
    "held",
    [[4], [3, 3], [5, 2, 9], [2, 5, 9], [9, 5, 2], [None, 4, None], [7, None, 1, 30]],
    ids=str,
)
def test_task_1_every_slot_holds_its_request(held: list[int | None]) -> None:
    """Requests of any lengths, in any order; a slot nobody was added to is empty."""
    cache, slots = filled(held, seed=40)
    assert_holds(cache, slots, when=f"with {held} tokens in the slots")


def test_task_1_slots_are_taken_in_any_order() -> None:
    """The slot is what `id` says, not the next one."""
    cache, slots = kv_cache.BatchingKvCache(4, 50), Slots([None] * 4)
    for slot, n in ((2, 3), (0, 6), (3, 1)):
        add(cache, slots, slot, n, seed=50 + 2 * slot)
        assert_holds(cache, slots, when=f"after slot {slot} got {n} tokens")


@half_precision
def test_task_1_keeps_the_dtype(dtype: mx.Dtype) -> None:
    """A cache in half precision stays in it, and no number is rounded."""
    cache, slots = filled([3, None, 5], seed=60, dtype=dtype)
    assert_holds(cache, slots, when=f"with requests in {dtype_name(dtype)}")


def test_task_1_the_prefilled_cache_stays_as_it_is_and_may_go() -> None:
    """The slot has a copy: what happens to the request's own cache afterwards does not matter."""
    keys, values = keys_and_values(6, B=1, seed=70)
    own = own_cache(keys[:, :, :4], values[:, :, :4])
    cache, slots = filled([3, None, 8], seed=71)
    cache.add_request(own, 1)
    slots.rows[1] = (in_float32(keys)[0, :, :4], in_float32(values)[0, :, :4])
    assert_kept(own.fetch()[0], keys[:, :, :4], what="the keys of a prefilled cache, once added")
    assert_kept(
        own.fetch()[1], values[:, :, :4], what="the values of a prefilled cache, once added"
    )
    own.update_and_fetch(keys[:, :, 4:], values[:, :, 4:])
    assert_holds(cache, slots, when="after 2 more tokens for the request's own cache")
    own.rewind(5)
    own.update_and_fetch(keys[:, :, 3:], values[:, :, 3:])
    assert_holds(cache, slots, when="after a rewind of the request's own cache")
    own.release()
    assert_holds(cache, slots, when="after release() of the request's own cache")


def test_task_1_the_slot_does_not_change_the_prefilled_cache() -> None:
    """Rewinding and emptying the slot leaves the request's own cache alone."""
    keys, values = keys_and_values(4, B=1, seed=80)
    own = own_cache(keys, values)
    cache, _ = filled([3, None], seed=81)
    with arguments_unchanged("add_request(prefilled, id)", keys=keys, values=values):
        cache.add_request(own, 1)
        cache.rewind(2)
        cache.remove_request(1)
        cache.release()
    assert_kept(own.fetch()[0], keys, what="the keys of a prefilled cache whose slot was removed")
    assert_kept(own.fetch()[1], values, what="its values")


def test_task_1_a_cache_with_room_to_spare_or_rewound_is_added_as_it_stands() -> None:
    """Only the tokens that the request's own cache holds, wherever they lie in it."""
    keys, values = keys_and_values(9, B=1, seed=90)
    own = kv_cache.TinyKvFullCache()
    for end in range(1, 10):
        own.update_and_fetch(keys[:, :, end - 1 : end], values[:, :, end - 1 : end])
    own.rewind(4)
    cache, slots = filled([2, None], seed=91)
    cache.add_request(own, 1)
    slots.rows[1] = (in_float32(keys)[0, :, :5], in_float32(values)[0, :, :5])
    assert_holds(cache, slots, when="after a request of 9 tokens, rewound by 4")


@pytest.mark.parametrize("longest_first", [True, False])
def test_task_1_a_removed_request_leaves_an_empty_slot(longest_first: bool) -> None:
    """One after the other leaves; the others are as they were, and the slot can be taken again."""
    held = [9, 2, 5]
    cache, slots = filled(held, seed=100)
    order = sorted(range(3), key=lambda slot: held[slot], reverse=longest_first)
    for slot in order:
        cache.remove_request(slot)
        slots.rows[slot] = None
        assert_holds(cache, slots, when=f"after remove_request({slot})")
    for slot in order:
        add(cache, slots, slot, held[slot] + 1, seed=110 + 2 * slot)
        assert_holds(cache, slots, when=f"after slot {slot} was taken again")


def test_task_1_a_shorter_request_does_not_see_the_longer_one_before_it() -> None:
    """A slot that is used again holds the new request and nothing else."""
    cache, slots = filled([12, 3], seed=120)
    cache.remove_request(0)
    add(cache, slots, 0, 2, seed=121)
    assert_holds(cache, slots, when="after 2 tokens took the slot of 12")


def test_task_1_an_extracted_request_is_a_copy() -> None:
    """Neither changes with the other."""
    cache, slots = filled([6, 4], seed=130)
    alone = cache.extract_request(0, 5)
    more_keys, more_values = keys_and_values(3, B=1, seed=131)
    alone.update_and_fetch(more_keys, more_values)
    assert_holds(cache, slots, when="after 3 more tokens for an extracted request")
    expected = np.concatenate([slots.rows[0][0][:, :5], in_float32(more_keys)[0]], axis=1)
    cache.rewind(3)
    cache.remove_request(0)
    add(cache, Slots([None] * 2), 0, 9, seed=133)
    assert_equal(
        alone.fetch()[0],
        expected[None],
        dtype=mx.float32,
        what="the keys of an extracted request, after its slot was removed",
    )
    alone.release()
    slots.rows[0] = None
    cache.remove_request(0)
    slots.rewind(3)
    assert_holds(cache, slots, when="after release() of an extracted request")


def test_task_1_an_extracted_request_can_be_added_again() -> None:
    """To another slot, or to its own."""
    cache, slots = filled([6, None, 9], seed=140)
    cache.add_request(cache.extract_request(2, 4), 1)
    slots.rows[1] = (slots.rows[2][0][:, :4], slots.rows[2][1][:, :4])
    assert_holds(cache, slots, when="after 4 tokens of slot 2 were copied into slot 1")
    alone = cache.extract_request(2, 9)
    cache.remove_request(2)
    cache.add_request(alone, 2)
    assert_holds(cache, slots, when="after a request was extracted, removed and added again")


@pytest.mark.parametrize("n", [0, 1, 3])
def test_task_1_rewind_shortens_every_slot(n: int) -> None:
    """All requests lose their last `n` tokens; empty slots have none to lose."""
    cache, slots = filled([7, None, 3, 4], seed=150)
    check(cache.rewind(n) is None, f"rewind({n}) must return nothing.")
    slots.rewind(n)
    assert_holds(cache, slots, when=f"after rewind({n}) of 7, 3 and 4 tokens")


def test_task_1_rewind_all_tokens_of_a_slot_does_not_empty_it() -> None:
    """A request without tokens still has its slot, until it is removed."""
    cache, slots = filled([2, 2, None], seed=160)
    cache.rewind(2)
    slots.rewind(2)
    own = own_cache(*keys_and_values(3, B=1, seed=161))
    assert_raises_clearly(
        ValueError,
        lambda: cache.add_request(own, 1),
        what="add_request(prefilled, 1), where the request in slot 1 was rewound to 0 tokens",
    )
    cache.remove_request(0)
    slots.rows[0] = None
    assert_raises_clearly(
        ValueError,
        lambda: cache.add_request(own, 1),
        what="the same after remove_request(0), where the requests in slots 0 and 1 have 0 tokens",
    )
    cache.remove_request(1)
    slots.rows[1] = None
    add(cache, slots, 1, 4, seed=162)
    assert_holds(cache, slots, when="after slots with 0 tokens were removed")


WRONG_SLOTS = cases("slot", -1, 3, 100)


@WRONG_SLOTS
@pytest.mark.parametrize("call", ["add_request", "remove_request", "extract_request"])
def test_task_1_a_slot_that_is_not_there_is_an_error(call: str, slot: int) -> None:
    """They count from 0; -1 is not the last one. The cache is as it was."""
    cache, slots = filled([4, None, 2], seed=170)
    own = own_cache(*keys_and_values(3, B=1, seed=171))
    arguments: tuple[Any, ...] = {
        "add_request": (own, slot),
        "remove_request": (slot,),
        "extract_request": (slot, 1),
    }[call]
    assert_raises_clearly(
        ValueError,
        lambda: getattr(cache, call)(*arguments),
        what=f"{call} of slot {slot}, where there are slots 0 to 2",
    )
    assert_holds(cache, slots, when=f"after a {call} that failed")


def test_task_1_a_taken_slot_is_an_error() -> None:
    """Nobody loses a slot to somebody else."""
    cache, slots = filled([4, None, 2], seed=180)
    for n in (1, 4, 9):
        own = own_cache(*keys_and_values(n, B=1, seed=181))
        assert_raises_clearly(
            ValueError, lambda own=own: cache.add_request(own, 2), what="add_request(..., 2), taken"
        )
        assert_holds(cache, slots, when=f"after an add_request of {n} tokens to a taken slot")


def test_task_1_an_empty_slot_is_an_error() -> None:
    """There is nothing to remove or to extract, before and after a request was there."""
    cache, slots = filled([4, None, 2], seed=190)
    for turn in range(2):
        for call, arguments in (("remove_request", (1,)), ("extract_request", (1, 1))):
            assert_raises_clearly(
                ValueError,
                lambda call=call, arguments=arguments: getattr(cache, call)(*arguments),
                what=f"{call} of an empty slot",
            )
            assert_holds(cache, slots, when=f"after a {call} of an empty slot")
        if turn == 0:
            add(cache, slots, 1, 5, seed=191)
            cache.remove_request(1)
            slots.rows[1] = None


@pytest.mark.parametrize("bad", ["empty", "released", "rewound to 0", "a batch", "too long"])
def test_task_1_what_a_slot_cannot_take_is_an_error(bad: str) -> None:
    """Only one request, of 1 to `max_seq_len` tokens. The cache is as it was."""
    keys, values = keys_and_values(13 if bad == "too long" else 5, B=2, seed=200)
    own = own_cache(*((keys, values) if bad == "a batch" else (keys[:1], values[:1])))
    if bad == "empty":
        own = kv_cache.TinyKvFullCache()
    elif bad == "released":
        own.release()
    elif bad == "rewound to 0":
        own.rewind(5)
    for held in ([4, None, 2], [None, None]):
        cache, slots = filled(held, seed=201, max_seq_len=12)
        assert_raises_clearly(
            ValueError,
            lambda cache=cache: cache.add_request(own, 1),
            what=f"add_request of a prefilled cache that is {bad} (max_seq_len 12)",
        )
        assert_holds(cache, slots, when=f"after an add_request that failed ({bad})")
        add(cache, slots, 1, 12, seed=203)
        assert_holds(cache, slots, when="after a request of exactly max_seq_len tokens")


@cases("n", -1, 3, 100)
def test_task_1_rewind_by_more_than_the_shortest_slot_holds_is_an_error(n: int) -> None:
    """Either every slot is rewound or none."""
    cache, slots = filled([7, None, 2, 4], seed=210)
    assert_raises_clearly(
        ValueError, lambda: cache.rewind(n), what=f"rewind({n}) of slots of 7, 2 and 4 tokens"
    )
    assert_holds(cache, slots, when=f"after a rewind({n}) that failed")


@cases("B max_seq_len", (0, 5), (-1, 5), (3, 0), (3, -2))
def test_task_1_a_cache_without_room_is_an_error(B: int, max_seq_len: int) -> None:
    """At least one slot, for at least one token."""
    assert_raises_clearly(
        ValueError,
        lambda: kv_cache.BatchingKvCache(B, max_seq_len),
        what=f"BatchingKvCache({B}, {max_seq_len})",
    )


def test_task_1_materialize_and_release_with_nothing_in_it() -> None:
    """Not an error, whyever the cache is empty."""
    cache = kv_cache.BatchingKvCache(2, 20)
    cache.materialize()
    cache.release()
    cache.rewind(0)
    slots = Slots([None] * 2)
    add(cache, slots, 1, 3, seed=220)
    cache.remove_request(1)
    cache.materialize()
    cache.release()
    cache.release()
    slots.rows[1] = None
    assert_holds(cache, slots, when="after release()")


def test_task_1_release_empties_all_slots() -> None:
    """They can be taken again, also by requests of another dtype."""
    cache, slots = filled([4, None, 6], seed=230)
    cache.materialize()
    assert_holds(cache, slots, when="after materialize()")
    cache.release()
    slots = Slots([None] * 3, mx.bfloat16)
    assert_holds(cache, slots, when="after release()")
    for slot in range(3):
        add(cache, slots, slot, 2 + slot, seed=231 + 2 * slot)
    assert_holds(cache, slots, when="with requests in bfloat16 after release()")


def test_task_1_materialize_frees_what_the_tokens_were_computed_from() -> None:
    """A pending array keeps alive all that it is computed from: here 4 MiB for a few numbers."""
    cache, _ = filled([3, None], seed=240)
    cache.materialize()
    before = memory_in_use()
    big = mx.ones((1024, 1024)) * 2
    mx.eval(big)
    pending = mx.broadcast_to(mx.sum(big, axis=0)[:5].reshape(1, 1, 1, 5), (1, 3, 2, 5))
    cache.add_request(own_cache(pending[..., :4], pending), 1)
    del big, pending
    cache.materialize()
    still = still_in_use(before)
    check(
        still < 2**20,
        "After materialize(), the graph behind a request is still there.\n"
        "  expected   all keys and values computed, what they were computed from freed\n"
        f"  got        {still / 2**20:.0f} MiB still in use",
    )


def wide_request(n: int, *, seed: int) -> Any:
    """A request's own cache of `n` KiB: so that its memory shows."""
    keys = normal(1, 2, n, 64, seed=seed)
    own = own_cache(keys, keys + 1)
    own.materialize()
    return own


@pytest.mark.parametrize("how", ["remove_request", "release"])
def test_task_1_the_memory_of_all_requests_is_freed(how: str) -> None:
    """Once the last request has gone, no memory is in use."""
    cache = kv_cache.BatchingKvCache(4, 4096)
    before = memory_in_use()
    for slot, n in ((0, 100), (1, 1000), (3, 400)):
        own = wide_request(n, seed=250 + slot)
        cache.add_request(own, slot)
        own.release()
    cache.materialize()
    if how == "release":
        cache.release()
    else:
        for slot in (1, 0, 3):
            cache.remove_request(slot)
            cache.materialize()
    still = still_in_use(before)
    check(
        still < 2**17,
        f"The slots are all empty after {how}, but keys or values are still in memory.\n"
        "  expected   nothing of the 1.5 MiB of three requests\n"
        f"  got        {still / 2**20:.1f} MiB still in use",
    )


def test_task_1_the_memory_of_a_long_request_is_freed_when_it_leaves() -> None:
    """Short requests do not keep the room of a long one: it is 250 times theirs."""
    cache = kv_cache.BatchingKvCache(4, 16384)
    before = memory_in_use()
    for slot, n in ((0, 20), (1, 8000), (2, 10)):
        own = wide_request(n, seed=260 + slot)
        cache.add_request(own, slot)
        own.release()
    cache.remove_request(1)
    cache.materialize()
    still = still_in_use(before)
    check(
        still < 3 * 2**20,
        "A request of 8,000 tokens (8 MiB) has left its slot, and 30 tokens of others are left.\n"
        "  expected   memory that the other requests do not need is freed\n"
        f"  got        {still / 2**20:.1f} MiB still in use",
    )
    cache.release()


@cases("seed", *range(4))
def test_task_1_random_requests_come_and_go(seed: int) -> None:
    """Whatever the order of calls, every slot holds what a list of tokens would hold."""
    random = np.random.default_rng(300 + seed)
    B, max_seq_len = int(random.integers(1, 6)), 24
    dtype = (mx.float32, mx.float16, mx.bfloat16, mx.float32)[seed]
    cache, slots = kv_cache.BatchingKvCache(B, max_seq_len), Slots([None] * B, dtype)
    for step in range(25):
        slot = int(random.integers(B))
        if slots.rows[slot] is None:
            n = int(random.integers(1, max_seq_len + 1))
            add(cache, slots, slot, n, seed=1000 * seed + 2 * step, spoiled=random.random() < 0.3)
            what = f"slot {slot} got {n} tokens"
        elif random.random() < 0.5:
            cache.remove_request(slot)
            slots.rows[slot] = None
            what = f"slot {slot} was emptied"
        else:
            n = int(random.integers(0, min(4, slots.shortest()) + 1))
            cache.rewind(n)
            slots.rewind(n)
            what = f"all slots were rewound by {n}"
        assert_holds(cache, slots, when=f"after random call {step}: {what}")


# --- Task 2: one step for all slots ----------------------------------------------------------


def step_slots(
    cache: Any,
    slots: Slots,
    L: int,
    mask: str | None,
    *,
    seed: int,
    when: str,
    spoiled: bool = False,
) -> tuple[mx.array, mx.array, mx.array]:
    """Append `L` tokens to every slot of both, and compare all that comes back.

    Args:
        cache: the solution's.
        slots: the oracle.
        L: the number of new tokens per slot.
        mask: "causal" or None.
        seed: of the new tokens.
        when: says in messages what came before.
        spoiled: give the empty slots NaN and infinite keys and values.

    Returns:
        Keys, values and mask as the solution gives them.
    """
    B = len(slots.rows)
    keys, values = keys_and_values(L, B=B, seed=seed, dtype=slots.dtype)
    if spoiled:
        empty = mx.array([row is None for row in slots.rows]).reshape(-1, 1, 1, 1)
        keys, values = mx.where(empty, mx.nan, keys), mx.where(empty, -mx.inf, values)
        keys, values = keys.astype(slots.dtype), values.astype(slots.dtype)
    with arguments_unchanged("update_and_fetch(key, value)", key=keys, value=values):
        fetched = cache.update_and_fetch(keys, values, mask=mask)
    slots.append(keys, values)
    assert_step(fetched, slots, L, mask, when=f"{L} new tokens per slot {when}")
    return fetched[0], fetched[1], fetched[3]


def assert_step(fetched: Any, slots: Slots, L: int, mask: str | None, *, when: str) -> None:
    """Compare what `update_and_fetch` returned with the oracle, its new tokens included."""
    check(
        isinstance(fetched, tuple) and len(fetched) == 4,
        "update_and_fetch(key, value) must return a tuple (keys, values, seq_len, mask).",
    )
    S = slots.longest()
    held = [None if row is None else slots.held(slot) for slot, row in enumerate(slots.rows)]
    check(
        isinstance(fetched[2], int) and fetched[2] == S,
        f"The seq_len that update_and_fetch returns is wrong, {when}.\n"
        f"  expected   {S}: the longest slot (they hold {held})\n"
        f"  got        {fetched[2]!r}",
    )
    for name, got, which in (("keys", fetched[0], 0), ("values", fetched[1], 1)):
        assert_equal(
            got,
            slots.aligned(which, L),
            dtype=slots.dtype,
            what=f"the {name} of all slots (right-aligned, zeros in front; they hold {held}), "
            f"{when}",
        )
    assert_close(
        fetched[3],
        slots.mask(L, mask, slots.dtype),
        what=f"the mask of all slots (0 or -inf; the lowest finite number for empty slots; they "
        f"hold {held}), {when}",
        dtype=slots.dtype,
        axes="B 1 L S",
    )


@pytest.mark.parametrize(
    "held",
    [[4], [3, 3], [5, 2, 9], [2, 9, 5], [None, 4, None], [7, None, 1, 30]],
    ids=str,
)
@pytest.mark.parametrize("mask", ["causal", None])
@cases("L", 1, 3)
def test_task_2_rows_end_at_the_same_column(
    held: list[int | None], mask: str | None, L: int
) -> None:
    """The newest token of every slot is in the last column, and zeros are in front."""
    cache, slots = filled(held, seed=400)
    step_slots(cache, slots, L, mask, seed=410, when="for the first time")
    step_slots(cache, slots, L, mask, seed=412, when="for the second time")
    step_slots(cache, slots, 1, mask, seed=414, when="after that")


@half_precision
@cases("L", 1, 2)
def test_task_2_keeps_the_dtype(dtype: mx.Dtype, L: int) -> None:
    """Keys, values and mask are in the dtype of the keys, also the lowest number of it."""
    cache, slots = filled([3, None, 5], seed=420, dtype=dtype)
    step_slots(cache, slots, L, "causal", seed=421, when=f"in {dtype_name(dtype)}")


@pytest.mark.parametrize("mask", ["causal", None])
def test_task_2_the_mask_is_for_mask_length_queries(mask: str | None) -> None:
    """The mask has one row for each query, and the queries are the newest tokens."""
    for queries in (1, 2, 3):
        cache, slots = filled([4, None, 2], seed=430)
        keys, values = keys_and_values(3, B=3, seed=431)
        fetched = cache.update_and_fetch(keys, values, queries, mask)
        slots.append(keys, values)
        assert_close(
            fetched[3],
            slots.mask(queries, mask, mx.float32),
            what=f"the mask of update_and_fetch(key, value, {queries}, {mask!r}) with 3 new tokens",
            axes="B 1 L S",
        )


def test_task_2_nothing_of_an_empty_slot_is_kept() -> None:
    """A model computes something for it too; that is dropped, however bad it is."""
    cache, slots = filled([4, None, 2, None], seed=440)
    for step in range(3):
        step_slots(
            cache,
            slots,
            1,
            "causal",
            seed=441 + 2 * step,
            when="(NaN and infinities in the rows of empty slots)",
            spoiled=True,
        )
    add(cache, slots, 1, 3, seed=450)
    step_slots(cache, slots, 1, "causal", seed=451, when="after an empty slot was taken")
    add(cache, slots, 3, 12, seed=453)
    step_slots(cache, slots, 1, "causal", seed=454, when="after the last one was taken, by 12")


@pytest.mark.parametrize("n", [1, 2, 20])
def test_task_2_nothing_of_a_removed_request_is_seen(n: int) -> None:
    """Not even if it ended in NaN: 0 times NaN is NaN, so a mask would not hide it."""
    cache, slots = filled([4, None, 3], seed=460)
    add(cache, slots, 1, 9, seed=461, spoiled=True)
    step_slots(cache, slots, 1, "causal", seed=462, when="with a NaN in slot 1")
    cache.remove_request(1)
    slots.rows[1] = None
    step_slots(cache, slots, 1, "causal", seed=464, when="after a request with a NaN was removed")
    add(cache, slots, 1, n, seed=466)
    step_slots(cache, slots, 1, "causal", seed=468, when=f"after {n} tokens took the slot of 9")


def test_task_2_nothing_of_rewound_tokens_is_seen() -> None:
    """New tokens stand in their place, and a new request beside them."""
    cache, slots = filled([4, None, 3], seed=470)
    step_slots(cache, slots, 2, "causal", seed=471, when="before a rewind")
    cache.rewind(3)
    slots.rewind(3)
    add(cache, slots, 1, 2, seed=473)
    step_slots(cache, slots, 1, "causal", seed=475, when="after rewind(3) and a new request")
    cache.rewind(1)
    slots.rewind(1)
    step_slots(cache, slots, 3, None, seed=477, when="after rewind(1)")


def test_task_2_rows_that_were_rewound_to_nothing() -> None:
    """A request without tokens keeps its slot, and its new tokens."""
    cache, slots = filled([2, 2, None], seed=480)
    cache.rewind(2)
    slots.rewind(2)
    cache.remove_request(0)
    slots.rows[0] = None
    step_slots(cache, slots, 2, "causal", seed=481, when="after all slots were rewound to 0 tokens")


def test_task_2_seq_len_is_that_of_the_longest_slot_that_is_left() -> None:
    """When the longest request leaves, nobody has to attend to its columns any more."""
    cache, slots = filled([3, 15, 6], seed=490)
    step_slots(cache, slots, 1, "causal", seed=491, when="with the longest request")
    cache.remove_request(1)
    slots.rows[1] = None
    step_slots(cache, slots, 1, "causal", seed=493, when="after the longest request left")
    cache.remove_request(2)
    slots.rows[2] = None
    step_slots(cache, slots, 1, "causal", seed=495, when="after the second longest left too")


def test_task_2_what_was_fetched_stays_as_it_is() -> None:
    """A step may still be computed when the slots change."""
    cache, slots = filled([3, None, 5], seed=500)
    fetched, expected = [], []
    for step in range(5):
        keys, values = keys_and_values(1, B=3, seed=501 + 2 * step)
        fetched.append(cache.update_and_fetch(keys, values, 1, "causal"))
        slots.append(keys, values)
        expected.append((slots.aligned(0, 1), slots.aligned(1, 1), slots.mask(1, None, mx.float32)))
        if step == 1:
            add(cache, slots, 1, 12, seed=520)
        elif step == 2:
            cache.rewind(2)
            slots.rewind(2)
        elif step == 3:
            cache.remove_request(2)
            slots.rows[2] = None
    cache.release()
    for step, (got, wanted) in enumerate(zip(fetched, expected, strict=True)):
        for name, which, numbers in (("keys", 0, wanted[0]), ("values", 1, wanted[1])):
            assert_equal(
                got[which],
                numbers,
                dtype=mx.float32,
                what=f"the {name} that were fetched in step {step}, after later steps",
            )
        assert_close(got[3], wanted[2], what=f"the mask of step {step}, after later steps")


@pytest.mark.parametrize("L", [1, 2, 5])
def test_task_2_more_than_max_seq_len_is_an_error(L: int) -> None:
    """The error changes nothing in any slot; up to the limit there is none."""
    held = [3, None, 12 - L]
    cache, slots = filled(held, seed=530, max_seq_len=12)
    step_slots(cache, slots, L, "causal", seed=531, when="up to max_seq_len 12")
    for more in (1, 12):
        assert_raises_clearly(
            ValueError,
            lambda more=more: cache.update_and_fetch(*keys_and_values(more, B=3, seed=533)),
            what=f"update_and_fetch of {more} tokens, where a slot has max_seq_len tokens",
        )
    assert_holds(cache, slots, when="after an update_and_fetch beyond max_seq_len")
    cache.rewind(1)
    slots.rewind(1)
    step_slots(cache, slots, 1, "causal", seed=535, when="after such an error and rewind(1)")
    cache.remove_request(2)
    slots.rows[2] = None
    step_slots(cache, slots, 1, "causal", seed=537, when="after the full slot was emptied")


@pytest.mark.parametrize("rows", [2, 3, 4])
def test_task_2_rows_of_empty_slots_at_the_end_may_be_missing(rows: int) -> None:
    """As many rows come back as went in; the slots behind them are still empty afterwards."""
    cache, slots = filled([3, 5, None, None], seed=550)
    for step in range(3):
        keys, values = keys_and_values(1, B=rows, seed=552 + 2 * step)
        fetched = cache.update_and_fetch(keys, values, 1, "causal")
        slots.append(keys, values)
        for which, name in enumerate(("keys", "values")):
            assert_equal(
                fetched[which],
                slots.aligned(which, 1)[:rows],
                dtype=mx.float32,
                what=f"the {name} for {rows} rows of 4 slots, of which the first two are taken",
            )
        assert_close(
            fetched[3],
            slots.mask(1, "causal", mx.float32)[:rows],
            what=f"the mask for {rows} rows of 4 slots",
            dtype=mx.float32,
        )
    add(cache, slots, 3, 4, seed=560)
    step_slots(cache, slots, 1, "causal", seed=561, when="after the last slot was taken")


@pytest.mark.parametrize(
    "rows, mask, why",
    [
        (2, "causal", "keys of 2 rows"),
        (1, "causal", "keys of 1 row"),
        (4, None, "keys of 4 rows"),
        (3, "full", 'the mask "full"'),
        (3, "array", "an array as mask"),
    ],
)
def test_task_2_arguments_that_do_not_fit_are_an_error(rows: int, mask: Any, why: str) -> None:
    """One row for each slot, and a mask that the cache can extend. The cache is as it was."""
    cache, slots = filled([3, None, 5], seed=540)
    keys, values = keys_and_values(1, B=rows, seed=541)
    given = mx.zeros((1, 6)) if mask == "array" else mask
    assert_raises_clearly(
        ValueError,
        lambda: cache.update_and_fetch(keys, values, 1, given),
        what=f"update_and_fetch with {why}, of a cache of 3 slots",
    )
    assert_holds(cache, slots, when=f"after an update_and_fetch that failed ({why})")
    step_slots(cache, slots, 1, "causal", seed=543, when=f"after an error ({why})")


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=dtype_name)
@cases("L", 1, 4)
def test_task_2_attention_is_that_of_each_request_alone(dtype: mx.Dtype, L: int) -> None:
    """What another slot holds, or that one is empty, makes no difference to a request."""
    cache, slots = filled([6, 1, None, 11], seed=550, dtype=dtype)
    query = normal(4, 6, L, 4, seed=551, dtype=dtype)
    keys, values, mask = step_slots(cache, slots, L, "causal", seed=552, when="before attention")
    output = mx.fast.scaled_dot_product_attention(query, keys, values, scale=0.5, mask=mask)
    check(
        not mx.isnan(output[2]).any().item(),
        "The attention of an empty slot is NaN, which a model would carry on.\n"
        "  expected   the lowest finite number in its mask: a softmax of nothing but -inf is NaN",
    )
    for slot, row in enumerate(slots.rows):
        if row is None:
            continue
        causal = np.triu(np.full((L, slots.held(slot)), -np.inf), slots.held(slot) - L + 1)
        expected, magnitude = attention(query[slot], row[0], row[1], 0.5, causal)
        assert_close(
            output[slot],
            expected,
            what=f"the attention of slot {slot}, beside others of other lengths",
            dtype=dtype,
            reduction=slots.held(slot),
            magnitude=magnitude,
            axes="H L D",
        )


def test_task_2_an_append_does_not_copy_everything() -> None:
    """Copies need memory, so the memory that all appends ask for shows how much they copy.

    If every append copies the slots, 512 of them copy 256 times the final size. Buffers that grow
    by a factor, or by a few hundred tokens, ask for a few times the final size.
    """
    appends = 512
    cache = kv_cache.BatchingKvCache(2, 4096)
    for slot in range(2):
        own = own_cache(normal(1, 2, 8, 48, seed=560), normal(1, 2, 8, 64, seed=561))
        cache.add_request(own, slot)
    key, value = normal(2, 2, 1, 48, seed=562), normal(2, 2, 1, 64, seed=563)
    allocated = 0
    for _ in range(appends):
        before = memory_in_use()
        mx.reset_peak_memory()
        mx.eval(cache.update_and_fetch(key, value, 1, "causal")[:2])
        allocated += max(0, mx.get_peak_memory() - before)
    times = allocated / (appends * (key.nbytes + value.nbytes))
    check(
        times < 40,
        f"{appends} appends of one token to two slots ask for {times:.0f} times the memory that "
        "the cache has in the end.\n"
        "  expected   a few times: buffers with room to spare, which double when they are full\n"
        "  got        nearly all tokens copied by every append",
    )
    cache.release()


def test_task_2_memory_does_not_grow_while_requests_come_and_go() -> None:
    """Slots are never all empty here, and yet the memory is that of the requests in them."""
    cache = kv_cache.BatchingKvCache(2, 4096)
    before = memory_in_use()
    most = 0
    key = normal(2, 2, 1, 64, seed=570)
    for turn in range(30):
        slot = turn % 2
        if turn >= 2:
            cache.remove_request(slot)
        own = wide_request(8, seed=571)
        cache.add_request(own, slot)
        own.release()
        for _ in range(20):
            mx.eval(cache.update_and_fetch(key, key, 1, "causal")[:2])
        cache.materialize()
        if turn >= 2:
            most = max(most, memory_in_use() - before)
    check(
        most < 20 * 2 * 48 * 1024,
        "Two slots with at most 48 tokens each (96 KiB) use more and more memory while requests "
        "come and go.\n"
        "  expected   columns that no request has tokens in any more are freed\n"
        f"  got        {most / 1024:.0f} KiB in use after 600 steps",
    )
    cache.release()


@cases("seed", *range(8))
def test_task_2_random_requests_and_steps(seed: int) -> None:
    """Whatever the order of calls, every step gives what lists of tokens would give."""
    random = np.random.default_rng(600 + seed)
    B, max_seq_len = int(random.integers(1, 6)), int(random.integers(20, 60))
    dtype = (mx.float32, mx.float16, mx.float32, mx.bfloat16)[seed % 4]
    cache, slots = kv_cache.BatchingKvCache(B, max_seq_len), Slots([None] * B, dtype)
    history: list[str] = []
    for step in range(60):
        number = 10_000 * (seed + 1) + 10 * step
        slot = int(random.integers(B))
        choice = random.random()
        L = 1 if random.random() < 0.7 else int(random.integers(2, 6))
        room = max_seq_len - slots.longest()
        taken = any(row is not None for row in slots.rows)
        if choice < 0.2 and slots.rows[slot] is None:
            n = int(random.integers(1, max_seq_len // int(random.integers(1, 5)) + 1))
            add(cache, slots, slot, n, seed=number, spoiled=random.random() < 0.2)
            history.append(f"add {n} to {slot}")
        elif choice < 0.32 and slots.rows[slot] is not None:
            cache.remove_request(slot)
            slots.rows[slot] = None
            history.append(f"remove {slot}")
        elif choice < 0.42:
            n = int(random.integers(0, slots.shortest() + 1))
            cache.rewind(n)
            slots.rewind(n)
            history.append(f"rewind {n}")
        elif choice < 0.47 and slots.rows[slot] is not None and slots.held(slot):
            n = int(random.integers(1, slots.held(slot) + 1))
            cache.extract_request(slot, n).update_and_fetch(
                *keys_and_values(1, B=1, seed=number, dtype=dtype)
            )
            history.append(f"extract {n} of {slot}")
        elif choice < 0.5:
            cache.materialize()
        elif taken and room >= L:
            when = "after random calls (" + ", ".join(history[-5:]) + ")"
            mask = "causal" if random.random() < 0.7 else None
            step_slots(cache, slots, L, mask, seed=number, when=when, spoiled=random.random() < 0.3)
            history.append(f"append {L}")
    assert_holds(cache, slots, when="after random calls (" + ", ".join(history[-5:]) + ")")


# --- Task 3: a request -----------------------------------------------------------------------

PROMPT = "Once upon a time"
WHOLE = 512  # tokens per prefill: more than any prompt here has


def request_saying(
    script: str | list[int], prompt: str = PROMPT, **options: Any
) -> tuple[BatchModel, Any, Any]:
    """A model that continues a prompt with a script, its tokenizer, and a request for it."""
    tokenizer = byte_tokenizer()
    model = BatchModel(tokenizer, {prompt: script})
    return model, tokenizer, batch.Request(model, tokenizer, prompt, WHOLE, 7, **options)


@pytest.mark.parametrize("prompt", ["a", PROMPT, PROMPT * 6])
def test_task_3_the_whole_prompt_in_one_call(prompt: str) -> None:
    """It goes through the model at offset 0, with caches that the model makes for it."""
    model, tokenizer, request = request_saying("one", prompt)
    ids = ids_of(tokenizer, prompt)
    check(not model.calls and not model.caches, "The model is asked before try_prefill is called.")
    processed = request.try_prefill()
    check(
        processed == len(ids),
        "try_prefill() must return the number of tokens processed.\n"
        f"  expected   {len(ids)}, the whole prompt\n"
        f"  got        {processed!r}",
    )
    check(len(model.calls) == 1, f"The model is called {len(model.calls)} times for one prefill.")
    assert_tokens_equal(model.calls[0].tokens[0], ids, what="the tokens of the prefill")
    assert_tokens_equal(model.calls[0].offsets, [0], what="the offset of the prefill")
    check(
        len(model.caches) == 1,
        f"create_kv_cache() is called {len(model.caches)} times for one request.",
    )


def test_task_3_after_the_prefill_the_first_token_is_there() -> None:
    """It is taken, but the model has not seen it: the caches hold the prompt."""
    model, tokenizer, request = request_saying("one")
    ids = ids_of(tokenizer, PROMPT)
    first = ids_of(tokenizer, "one")[0]
    request.try_prefill()
    for name, got, expected in (
        ("is_prefill_done", request.is_prefill_done, True),
        ("is_done", request.is_done, False),
        ("finish_reason", request.finish_reason, None),
        ("offset", request.offset, len(ids)),
        ("next_token", request.next_token, first),
        ("tokens", request.tokens, [first]),
        ("text", request.text, "one"),
    ):
        check(
            got == expected,
            f"request.{name} is wrong after the prefill.\n"
            f"  expected   {expected!r}\n"
            f"  got        {got!r}",
        )
    check(
        isinstance(request.next_token, int),
        f"request.next_token must be an int, but is {type(request.next_token).__name__}.",
    )
    check(
        request.kv_cache is not None
        and all(own is made for own, made in zip(request.kv_cache, model.caches[0], strict=True)),
        "request.kv_cache must be the caches that the model made, which hold the prompt now.",
    )
    check(
        not any(layer_cache.released for layer_cache in model.caches[0]),
        "The caches are released after the prefill, but the decode steps need them.",
    )


@pytest.mark.parametrize("end", [END_OF_TEXT, END_OF_TURN, END_OF_CALL])
def test_task_3_an_end_of_sequence_token_may_be_the_first(end: str) -> None:
    """Then the request has ended, with an empty answer, and its caches are released."""
    model, _, request = request_saying(f"{end}more")
    request.try_prefill()
    assert_ended(model, request, "stop", [], "", when=f"whose first token is {end}")


def assert_ended(
    model: BatchModel, request: Any, reason: str, tokens: list[int], text: str, *, when: str
) -> None:
    """Check a request that has ended."""
    check(
        request.is_done and request.finish_reason == reason,
        f"A request {when} must have ended.\n"
        f"  expected   finish_reason {reason!r}\n"
        f"  got        finish_reason {request.finish_reason!r}",
    )
    assert_tokens_equal(request.tokens, tokens, what=f"the tokens of a request {when}")
    assert_text_equal(request.text, text, what=f"the text of a request {when}")
    check(
        request.kv_cache is None,
        f"request.kv_cache of a request {when} must be None: it has no caches any more.",
    )
    model.check_released(when=f"at the end of a request {when}")


@pytest.mark.parametrize("limit", [{"max_tokens": 1}, {"max_seq_len": 5}])
def test_task_3_the_first_token_may_be_the_last(limit: dict[str, int]) -> None:
    """If no more are allowed, it is part of the answer, and ends it."""
    model, tokenizer, request = request_saying(one_by_one(byte_tokenizer(), "xyz"), "abcd", **limit)
    request.try_prefill()
    (name, number), *_ = limit.items()
    assert_ended(
        model,
        request,
        "length",
        ids_of(tokenizer, "x"),
        "x",
        when=f"with {name} {number}, after the prefill of 4 tokens",
    )


def test_task_3_an_end_of_sequence_token_in_the_place_of_the_last_is_a_stop() -> None:
    """Whoever ends on its own has not been cut off."""
    model, tokenizer, request = request_saying(f"ab{END_OF_TURN}", max_tokens=3)
    request.try_prefill()
    for text in ("b", END_OF_TURN):
        request.take_token(ids_of(tokenizer, text)[0])
    assert_ended(
        model,
        request,
        "stop",
        ids_of(tokenizer, "ab"),
        "ab",
        when="with max_tokens 3, after 2 tokens and an end-of-sequence token",
    )


@pytest.mark.parametrize("call", ["after the prefill", "after the end", "after finish"])
def test_task_3_nothing_is_left_to_prefill(call: str) -> None:
    """A second prefill is an error, and does not reach the model."""
    model, _, request = request_saying("one" if call == "after the prefill" else END_OF_TEXT)
    if call == "after finish":
        request.finish("abort")
    else:
        request.try_prefill()
    calls = len(model.calls)
    before = (request.offset, list(request.tokens), request.finish_reason)
    assert_raises_clearly(RuntimeError, request.try_prefill, what=f"try_prefill() {call}")
    check(len(model.calls) == calls, f"try_prefill() {call} calls the model, and raises then.")
    check(
        (request.offset, request.tokens, request.finish_reason) == before,
        f"try_prefill() {call} raises, as it should, but changes the request.",
    )


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=dtype_name)
def test_task_3_the_sampler_picks_the_first_token(dtype: mx.Dtype) -> None:
    """It gets the log-probabilities after the last token of the prompt, in float32."""
    tokenizer = byte_tokenizer()
    model = BatchModel(tokenizer, {PROMPT: "one"}, dtype=dtype)
    given: list[mx.array] = []
    chosen = ids_of(tokenizer, "Z")[0]

    def sampler(logprobs: mx.array) -> mx.array:
        given.append(logprobs)
        return mx.array([chosen])

    request = batch.Request(model, tokenizer, PROMPT, WHOLE, sampler=sampler)
    request.try_prefill()
    check(len(given) == 1, f"The sampler is called {len(given)} times for one token.")
    rounded = mx.array(model.logits(ids_of(tokenizer, PROMPT)).astype(np.float32)).astype(dtype)
    logits = float64(rounded)
    assert_close(
        given[0],
        (logits - np.log(np.sum(np.exp(logits))))[None],
        what="what the sampler gets for the first token (log-probabilities)",
        reduction=len(logits),
        magnitude=np.abs(logits).max(),
        axes="B vocab",
    )
    assert_tokens_equal(request.tokens, [chosen], what="the first token, which the sampler chose")
    check(
        request.next_token == chosen,
        f"request.next_token is {request.next_token!r}, but the sampler chose {chosen}.",
    )


@pytest.mark.parametrize(
    "story",
    ["there was one.", "a 🦊 in 日本!", "one: ", "日本"],
    ids=["plain", "fox", "space", "kanji"],
)
def test_task_3_the_pieces_of_text_add_up(story: str) -> None:
    """`take_token` gives what became readable; half a character waits for its other half."""
    tokenizer = byte_tokenizer()
    script = one_by_one(tokenizer, story)
    model, _, request = request_saying([*script, *ids_of(tokenizer, END_OF_TURN)])
    request.try_prefill()
    pieces = [request.text]
    for index, token in enumerate(script[1:], start=1):
        check(
            request.next_token == script[index - 1],
            f"request.next_token is {request.next_token!r} after {index} tokens.\n"
            f"  expected   {script[index - 1]}, the newest one",
        )
        pieces.append(request.take_token(token))
        readable = tokenizer.decode(script[: index + 1]).rstrip("\ufffd ")
        heard = "".join(map(str, pieces))
        check(
            heard.startswith(readable) and story.startswith(heard),
            "What take_token returns is not the text that became readable with the token.\n"
            f"  expected   {readable!r} so far\n"
            f"  got        {heard!r}",
        )
    pieces.append(request.take_token(ids_of(tokenizer, END_OF_TURN)[0]))
    assert_text_equal("".join(pieces), story, what="the pieces of take_token, in a row")
    assert_ended(model, request, "stop", script, story, when="that ended on its own")


def test_task_3_a_limit_ends_with_the_text_that_was_held_back() -> None:
    """The last of `max_tokens` tokens brings its own text, and the rest."""
    tokenizer = byte_tokenizer()
    fox = one_by_one(tokenizer, "a🦊")
    for count in range(2, len(fox) + 1):
        model, _, request = request_saying(fox, max_tokens=count)
        request.try_prefill()
        pieces = [request.text, *(request.take_token(token) for token in fox[1:count])]
        detokenizer = tokenizer.detokenizer
        detokenizer.reset()
        for token in fox[:count]:
            detokenizer.add_token(token)
        detokenizer.finalize()
        when = f"of {count} tokens, which is max_tokens"
        assert_text_equal(
            "".join(pieces), detokenizer.text, what=f"the pieces of take_token {when}"
        )
        assert_ended(model, request, "length", fox[:count], detokenizer.text, when=when)


def test_task_3_finish_returns_what_was_held_back_and_only_once() -> None:
    """A second call changes nothing, also not the reason."""
    tokenizer = byte_tokenizer()
    fox = one_by_one(tokenizer, "a🦊")[:3]
    model, _, request = request_saying(fox)
    request.try_prefill()
    pieces = [request.text, request.take_token(fox[1]), request.take_token(fox[2])]
    pieces.append(request.finish("error", "the reason why"))
    text = request.text
    assert_text_equal("".join(pieces), text, what="the pieces of take_token and finish")
    check(
        len(text) > 1 and text.startswith("a"),
        "finish must complete the text: what was held back until then is missing.\n"
        f"  got        {text!r}",
    )
    again = request.finish("abort", "another")
    check(again == "", f"A second finish must return no text, but returns {again!r}.")
    assert_ended(model, request, "error", fox, text, when="that finish() ended twice")
    check(
        request.error == "the reason why",
        f"request.error is {request.error!r} after a second finish.\n"
        "  expected   'the reason why', as in the first",
    )


def test_task_3_finish_before_the_prefill() -> None:
    """A request may end while it waits: there are no caches yet, and no text."""
    model, _, request = request_saying("one")
    check(request.finish("abort") == "", "finish() of a request without tokens has no text.")
    assert_ended(model, request, "abort", [], "", when="that ended before its prefill")
    check(not model.calls, "finish() calls the model.")


def test_task_3_requests_do_not_mix() -> None:
    """Two requests of one model and tokenizer, in turns: each has its own caches and text."""
    tokenizer = byte_tokenizer()
    scripts = {"aaa": one_by_one(tokenizer, "xyz"), "bbbbb": one_by_one(tokenizer, "uvw")}
    model = BatchModel(tokenizer, scripts)
    requests = [batch.Request(model, tokenizer, prompt, WHOLE) for prompt in scripts]
    for request in requests:
        request.try_prefill()
    for request, script in zip(requests, scripts.values(), strict=True):
        request.take_token(script[1])
    requests[0].finish("stop")
    check(
        not any(layer_cache.released for layer_cache in model.caches[1]),
        "The end of one request releases the caches of another.",
    )
    requests[1].take_token(ids_of(tokenizer, "w")[0])
    assert_text_equal(requests[0].text, "xy", what="the text of the first of two requests")
    assert_text_equal(requests[1].text, "uvw", what="the text of the second of two requests")


# --- Task 4: the scheduler -------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A request for a scheduler, and what has to come of it.

    Attributes:
        prompt: its prompt; no prompt of a test is the beginning of another.
        answer: the text that the model says.
        end: what it says then: an end-of-sequence token, or more text.
        max_tokens: as in `submit`.
    """

    prompt: str
    answer: str
    end: str = END_OF_TEXT
    max_tokens: int | None = None


def model_for(jobs: Sequence[Job], **options: Any) -> tuple[BatchModel, Any]:
    """A model that answers all of them, token by token as `one_by_one` cuts, and a tokenizer."""
    tokenizer = byte_tokenizer()
    scripts = {
        job.prompt: one_by_one(tokenizer, job.answer) + ids_of(tokenizer, job.end) for job in jobs
    }
    return BatchModel(tokenizer, scripts, **options), tokenizer


def scheduler_for(
    jobs: Sequence[Job], batch_size: int, *, max_seq_len: int = 200, **options: Any
) -> tuple[Any, BatchModel, Any]:
    """A scheduler with all jobs submitted, its model and its tokenizer."""
    model, tokenizer = model_for(jobs)
    scheduler = batch.BatchScheduler(model, tokenizer, max_seq_len, batch_size, WHOLE, **options)
    for index, job in enumerate(jobs):
        given = scheduler.submit(job.prompt, job.max_tokens)
        assert given == index, "submit counts the requests"
    return scheduler, model, tokenizer


def owners(model: BatchModel, tokenizer: Any, jobs: Sequence[Job], call: Any) -> list[int | None]:
    """For each row of a call the index of the job whose tokens it has; None for an empty row."""
    prompts = [ids_of(tokenizer, job.prompt) for job in jobs]
    found: list[int | None] = []
    for row in call.rows:
        of = [index for index, ids in enumerate(prompts) if row and row[: len(ids)] == ids]
        check(
            bool(of) or not row,
            f"In call {model.calls.index(call)} of the model, a row holds no prompt and what was "
            "generated for it, but something else.\n"
            f"  got        {tokenizer.decode(row)!r}",
        )
        found.append(of[0] if of else None)
    return found


def watch(
    scheduler: Any, model: BatchModel, tokenizer: Any, jobs: Sequence[Job]
) -> tuple[list[Any], list[tuple[int, str]]]:
    """Run a scheduler to its end, and check every step as far as all right schedulers agree.

    Returns:
        The outputs of all steps, and the results as they were collected after each.
    """
    B = len(scheduler.slots)
    outputs: list[Any] = []
    results: list[tuple[int, str]] = []
    slots: list[int | None] = [None] * B  # after the step before
    ended: set[int] = set()
    while scheduler.has_work_remaining():
        check(
            len(outputs) < 500,
            "After 500 steps, has_work_remaining() is still True.\n"
            f"  expected   an end: {len(jobs)} short requests were submitted",
        )
        calls = len(model.calls)
        output = scheduler.step()
        model.raise_failure()
        step = f"in step {len(outputs)}"
        check(
            isinstance(output, batch.StepOutput),
            f"step() must return a StepOutput, but returns {type(output).__name__}.",
        )
        outputs.append(output)
        results += scheduler.collect_results()
        made = model.calls[calls:]
        prefills = [call for call in made if call.kind == "prefill"]
        decodes = [call for call in made if call.kind == "decode"]
        check(
            len(prefills) + len(decodes) == len(made),
            f"A request is decoded alone, {step}.\n"
            "  expected   one forward pass for all slots, with one batching cache per layer",
        )
        check(
            len(decodes) <= 1,
            f"The model is called {len(decodes)} times to decode, {step}.\n"
            "  expected   one forward pass for all slots: one new token for each",
        )
        check(
            output.chunks
            == [(owners(model, tokenizer, jobs, c)[0], len(c.tokens[0])) for c in prefills],
            f"output.chunks does not say what was prefilled, {step}.\n  got        {output.chunks}",
        )
        at_once = {event.prompt_idx for event in output.finished} - set(output.decoded)
        left = [index for index in slots if index is not None and index not in ended]
        waiting = set(range(len(jobs))) - ended - set(left)
        ended |= {event.prompt_idx for event in output.finished}
        taken = [None] * B
        if decodes:
            check_decode(decodes[0], model, B, step=step)
            taken = owners(model, tokenizer, jobs, decodes[0])
        here = sorted(index for index in taken if index is not None)
        check(len(set(here)) == len(here), f"A request has two slots, {step}: {here}.")
        check(
            sorted(output.decoded) == here,
            f"output.decoded does not name the requests in the slots, {step}.\n"
            f"  expected   {here}\n"
            f"  got        {output.decoded}",
        )
        check(
            set(left) <= set(here),
            f"A request that has not ended is left out of the forward pass, {step}.\n"
            f"  expected   {left}, and whoever is new\n"
            f"  got        {here}",
        )
        check(
            len(left) == B or not waiting or len(here) > len(left) or at_once,
            f"A slot is free and somebody waits, but nobody new is decoded {step}.\n"
            f"  expected   one of the requests {sorted(waiting)} in the free slot, before the "
            f"forward pass\n"
            f"  got        {here}",
        )
        own = sum(not caches[0].released for caches in model.caches)
        check(
            own <= B,
            f"{own} requests have caches of their own at the end of a step, beside the {B} slots, "
            f"{step}.\n"
            "  expected   a prompt is prefilled when a slot is free or about to be, and its caches "
            "are released when it is in the slot",
        )
        slots = list(taken)
    return outputs, results


def check_decode(call: Any, model: BatchModel, B: int, *, step: str) -> None:
    """Check the shape of a decode call, and what it gives to empty slots."""
    check(
        len(call.tokens) <= B,
        f"A decode step has {len(call.tokens)} rows, {step}.\n"
        f"  expected   at most {B}, one for each slot up to the last one that is taken",
    )
    for slot, row in enumerate(call.rows):
        check(
            bool(row) or (call.tokens[slot] == [0] and call.offsets[slot] == 0),
            f"An empty slot must get token 0 at offset 0, {step}.\n"
            f"  got        token {call.tokens[slot][0]} at offset {call.offsets[slot]}",
        )


def assert_indices(actual: Sequence[int], expected: Sequence[int], *, what: str) -> None:
    """Compare prompt indices and their order."""
    check(
        list(actual) == list(expected),
        f"The prompt indices of {what} are wrong.\n"
        f"  expected   {list(expected)}\n"
        f"  got        {list(actual)}",
    )


def check_answers(
    jobs: Sequence[Job],
    tokenizer: Any,
    outputs: Sequence[Any],
    results: Sequence[tuple[int, str]],
    *,
    max_seq_len: int = 200,
) -> None:
    """Check results and events against what the model says to each job."""
    assert_indices(
        sorted(index for index, _ in results),
        range(len(jobs)),
        what="all results, sorted (each request once)",
    )
    finished = [event for output in outputs for event in output.finished]
    tokens = [event for output in outputs for event in output.tokens]
    assert_indices(
        [index for index, _ in results],
        [event.prompt_idx for event in finished],
        what="collect_results() (in the order in which the requests ended)",
    )
    started = [index for output in outputs for index, _ in output.chunks]
    assert_indices(
        started,
        range(len(jobs)),
        what="output.chunks of all steps (first come, first served, each once)",
    )
    texts = dict(results)
    for index, job in enumerate(jobs):
        name = f"request {index} ({job.prompt[:12]!r})"
        script = one_by_one(tokenizer, job.answer) + ids_of(tokenizer, job.end)
        room = max_seq_len - len(ids_of(tokenizer, job.prompt))
        limit = min(room, job.max_tokens or room)
        stops = [i for i, token in enumerate(script) if token in tokenizer.eos_token_ids]
        end = stops[0] if stops and stops[0] < limit else limit
        reason = "stop" if stops and stops[0] < limit else "length"
        script += ids_of(tokenizer, "?") * limit
        mine = [event for event in tokens if event.prompt_idx == index]
        assert_tokens_equal(
            [event.token for event in mine], script[:end], what=f"the token events of {name}"
        )
        last = [event for event in finished if event.prompt_idx == index]
        check(
            [event.reason for event in last] == [reason],
            f"The finish events of {name} are wrong.\n"
            f"  expected   one, with the reason {reason!r}\n"
            f"  got        {[event.reason for event in last]}",
        )
        expected = tokenizer.decode(script[:end])
        assert_text_equal(texts[index], expected, what=f"the text of {name}")
        assert_text_equal(
            "".join(event.text for event in mine) + last[0].text,
            expected,
            what=f"the texts of the events of {name}, in a row",
        )


def served(
    jobs: Sequence[Job], batch_size: int, *, max_seq_len: int = 200
) -> tuple[BatchModel, Any, list[Any]]:
    """Run all jobs on one scheduler and check everything; model, tokenizer, and outputs."""
    scheduler, model, tokenizer = scheduler_for(jobs, batch_size, max_seq_len=max_seq_len)
    outputs, results = watch(scheduler, model, tokenizer, jobs)
    check_answers(jobs, tokenizer, outputs, results, max_seq_len=max_seq_len)
    model.check_released(when="when all requests have ended")
    check(
        len(model.batching) <= 1,
        f"{len(model.batching)} sets of batching caches are made for one scheduler.\n"
        "  expected   one, when the first request comes",
    )
    return model, tokenizer, outputs


def test_task_4_one_request_alone() -> None:
    """Prefill, then one decode step after the other, to its end-of-sequence token."""
    jobs = [Job("Hello", "there")]
    model, tokenizer, _ = served(jobs, 1)
    expected = [ids_of(tokenizer, "Hello"), *([token] for token in one_by_one(tokenizer, "there"))]
    check(
        len(model.calls) == len(expected),
        f"The model is called {len(model.calls)} times for 5 tokens and an end-of-sequence token.\n"
        "  expected   6: every token but the last comes back into the model once",
    )
    for number, (call, tokens) in enumerate(zip(model.calls, expected, strict=True)):
        assert_tokens_equal(call.tokens[0], tokens, what=f"the tokens of call {number}")


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 7])
def test_task_4_every_request_gets_its_own_answer(batch_size: int) -> None:
    """Prompts and answers of other lengths, side by side in one batch, whatever its size."""
    jobs = [
        Job("a short one", "abcdefgh"),
        Job("b", "ijkl"),
        Job("c is quite a bit longer than all the other prompts", "mnopqrstuv"),
        Job("d, in between", "wxyz!"),
    ]
    served(jobs, batch_size)


def test_task_4_all_slots_in_one_forward_pass() -> None:
    """Once three requests are in three slots, one call gives all three their next token."""
    jobs = [Job(f"{letter} prompt", letter * 12) for letter in "abc"]
    model, _, outputs = served(jobs, 3)
    full = [call for call in model.calls_of("decode") if all(call.rows)]
    check(
        len(full) >= 8,
        f"Only {len(full)} forward passes decode for all three slots, of 12 tokens per request.",
    )
    for output in outputs:
        check(
            len(output.tokens) <= 3 + 2 * len(output.chunks),
            f"A step gives {len(output.tokens)} tokens for 3 slots.\n"
            "  expected   one decode step: one token for each slot",
        )


def test_task_4_a_slot_that_becomes_free_is_used_again() -> None:
    """Nobody waits while a slot is empty: continuous batching, not one batch after the other."""
    jobs = [
        Job("the long one", "z" * 60),
        *(Job(f"{letter}.", letter * (3 + index % 4)) for index, letter in enumerate("abcdefghi")),
    ]
    model, tokenizer, _ = served(jobs, 2)
    beside = {
        index
        for call in model.calls_of("decode")
        if 0 in (taken := owners(model, tokenizer, jobs, call))
        for index in taken
        if index
    }
    check(
        len(beside) >= 8,
        f"Only {len(beside)} short requests are decoded beside a long one.\n"
        "  expected   all nine: the slot of one that has ended goes to the next",
    )


@pytest.mark.parametrize("end", [END_OF_TEXT, END_OF_TURN, END_OF_CALL])
def test_task_4_a_request_may_end_with_its_first_token(end: str) -> None:
    """It never takes a slot; the others go on, and whoever waits behind it is next."""
    jobs = [
        Job("a stop", "", end),
        Job("b goes on", "abcdefgh"),
        Job("c stop", "", end),
        Job("d stop", "", end),
        Job("e is cut off", "xyz", max_tokens=1),
        Job("f goes on", "ijk"),
        Job("g stop", "", end),
    ]
    for batch_size in (1, 3):
        model, tokenizer, _ = served(jobs, batch_size)
        for call in model.calls_of("decode"):
            for index in owners(model, tokenizer, jobs, call):
                check(
                    index in (None, 1, 5),
                    f"Request {index} has ended with its first token, but is decoded.\n"
                    "  expected   no slot for it",
                )


def test_task_4_requests_are_cut_off_at_their_limits() -> None:
    """`max_tokens` of the request, and `max_seq_len` of the scheduler: prompt and answer."""
    jobs = [
        Job("a", "abcdefghijklmnopqrstuvwxyz", max_tokens=5),
        Job("b" * 30, "0123456789" * 3),
        Job("c" * 39, "0123456789" * 3),
        Job("d" * 20, "0123456789" * 3, max_tokens=20),
        Job("e" * 20, "0123456789" * 3, max_tokens=19),
        Job("f", "0123", max_tokens=4),
    ]
    for batch_size in (1, 4):
        served(jobs, batch_size, max_seq_len=40)


def test_task_4_characters_of_several_tokens() -> None:
    """Half a character waits for its other half, in every slot on its own."""
    jobs = [Job("a", "🦊🦊"), Job("b", "日本 x"), Job("c", "é: ü")]
    served(jobs, 2)


def test_task_4_results_come_in_the_order_of_their_ends() -> None:
    """Not in the order in which the requests came."""
    jobs = [Job("a", "a" * 30), Job("b", "b" * 12), Job("c", "c" * 20), Job("d", "d" * 3)]
    scheduler, model, tokenizer = scheduler_for(jobs, 4)
    outputs = run_to_end(scheduler, model)
    results = scheduler.collect_results()
    assert_indices(
        [index for index, _ in results],
        [3, 1, 2, 0],
        what="collect_results() (in the order in which the requests ended)",
    )
    check_answers(jobs, tokenizer, outputs, results)
    again = scheduler.collect_results()
    check(
        again == [],
        "collect_results() must give every result once.\n"
        f"  expected   nothing new\n  got        {again}",
    )


def test_task_4_work_remains_from_submit_to_the_last_token() -> None:
    """`has_work_remaining` is about requests that have not ended, wherever they are."""
    jobs = [Job("a", "abc"), Job("b", "abcdefgh"), Job("c", "")]
    model, tokenizer = model_for(jobs)
    scheduler = batch.BatchScheduler(model, tokenizer, 200, 1, WHOLE)
    check(scheduler.has_work_remaining() is False, "There is work before there is a request.")
    for turn in range(2):
        for job in jobs:
            scheduler.submit(job.prompt)
        ended = 0
        for _ in range(100):
            check(
                scheduler.has_work_remaining() is (ended < len(jobs)),
                f"has_work_remaining() is wrong when {ended} of {len(jobs)} requests have ended.\n"
                f"  expected   {ended < len(jobs)}\n"
                f"  got        {scheduler.has_work_remaining()!r}",
            )
            if ended == len(jobs):
                break
            ended += len(scheduler.step().finished)
            model.raise_failure()
        check(ended == len(jobs), "After 100 steps, not all requests have ended.")
        texts = dict(scheduler.collect_results())
        expected = {3 * turn: "abc", 3 * turn + 1: "abcdefgh", 3 * turn + 2: ""}
        check(
            texts == expected,
            f"The results are wrong (round {turn + 1} on the same scheduler).\n"
            f"  expected   {expected}\n"
            f"  got        {texts}",
        )


def test_task_4_a_step_without_requests_does_nothing() -> None:
    """The model is not called for empty slots only."""
    model, tokenizer = model_for([Job("a", "b")])
    scheduler = batch.BatchScheduler(model, tokenizer, 200, 3, WHOLE)
    scheduler.handle_decode_phase()
    for turn in range(2):
        output = scheduler.step()
        model.raise_failure()
        check(
            not (output.chunks or output.decoded or output.tokens or output.finished),
            f"A step without requests must have an empty output, but has {output}.",
        )
        check(len(model.calls) == 2 * turn, "The model is called though no slot is taken.")
        if turn == 0:
            scheduler.submit("a")
            run_to_end(scheduler, model)


def test_task_4_every_step_has_an_output_of_its_own() -> None:
    """What happened in an earlier step is neither told again nor changed."""
    jobs = [Job("a", "abcdef"), Job("b", "abc")]
    scheduler, model, _ = scheduler_for(jobs, 2)
    kept, copies = [], []
    while scheduler.has_work_remaining() and len(kept) < 50:
        kept.append(scheduler.step())
        model.raise_failure()
        copies.append((list(kept[-1].chunks), list(kept[-1].decoded), list(kept[-1].tokens)))
    for step, (output, copy) in enumerate(zip(kept, copies, strict=True)):
        check(
            (output.chunks, output.decoded, output.tokens) == copy,
            f"The output of step {step} changes in later steps.\n"
            "  expected   a new StepOutput for every step",
        )
    told = [(index, size) for output in kept for index, size in output.chunks]
    check(
        sorted(told) == [(0, 1), (1, 1)],
        f"Prefills are told more than once: {told}.\n  expected   each in its own step only",
    )


def test_task_4_a_prompt_that_cannot_be_served_is_in_the_next_output() -> None:
    """What happened between two steps (here in `submit`) is told by the second."""
    model, tokenizer = model_for([Job("a", "abcdef")])
    scheduler = batch.BatchScheduler(model, tokenizer, 20, 2, WHOLE)
    scheduler.submit("a")
    scheduler.submit("")
    first = scheduler.step()
    scheduler.submit("b" * 20)
    second = scheduler.step()
    for name, output, index in (("first", first, 1), ("second", second, 2)):
        errors = [event.prompt_idx for event in output.finished if event.reason == "error"]
        check(
            errors == [index],
            f"The output of the {name} step must have one error event: of request {index}.\n"
            f"  got        {output.finished}",
        )
    run_to_end(scheduler, model)
    texts = dict(scheduler.collect_results())
    check(
        texts == {0: "abcdef", 1: "", 2: ""},
        f"The results are wrong where two of three prompts cannot be served.\n  got        {texts}",
    )


def test_task_4_requests_may_come_while_others_are_decoded() -> None:
    """They join in the slots that are free, and change nothing for those who are there."""
    jobs = [Job(f"{letter}, number {index}", letter * 9) for index, letter in enumerate("abcdef")]
    model, tokenizer = model_for(jobs)
    scheduler = batch.BatchScheduler(model, tokenizer, 200, 3, WHOLE)
    outputs = []
    for job in jobs:
        scheduler.submit(job.prompt)
        for _ in range(2):
            outputs.append(scheduler.step())
            model.raise_failure()
    outputs += run_to_end(scheduler, model)
    check_answers(jobs, tokenizer, outputs, scheduler.collect_results())
    model.check_released(when="when all requests have ended")


@pytest.mark.parametrize("slot", [0, 1, 2])
def test_task_4_place_copies_a_request_into_its_slot(slot: int) -> None:
    """In every layer; its own caches are released, and its first token waits for the model."""
    jobs = [Job("Hello there", "abcdef")]
    model, tokenizer = model_for(jobs)
    scheduler = batch.BatchScheduler(model, tokenizer, 200, 3, WHOLE)
    request = batch.Request(model, tokenizer, "Hello there", WHOLE)
    request.try_prefill()
    scheduler.place(request, slot)
    check(
        request.kv_cache is None,
        "request.kv_cache must be None when the request is in a slot: the slot has its tokens.",
    )
    model.check_released(when="by place(request, slot)")
    check(
        [taken is request for taken in scheduler.slots] == [index == slot for index in range(3)],
        f"scheduler.slots is wrong after place(request, {slot}).\n"
        f"  expected   the request in slot {slot}, None in the others",
    )
    ids = ids_of(tokenizer, "Hello there")
    first = ids_of(tokenizer, "a")[0]
    for name, got, expected in (
        ("offset", request.offset, len(ids)),
        ("next_token", request.next_token, first),
        ("tokens", request.tokens, [first]),
    ):
        check(
            got == expected,
            f"request.{name} is wrong after place(request, {slot}): place does not change it.\n"
            f"  expected   {expected!r}\n"
            f"  got        {got!r}",
        )
    scheduler.handle_decode_phase()
    model.raise_failure()
    call = model.calls[-1]
    check_decode(call, model, 3, step="after place")
    expected_rows = [[*ids, first] if index == slot else [] for index in range(len(call.rows))]
    check(
        call.kind == "decode" and call.rows == expected_rows,
        f"After place(request, {slot}), a decode step does not see the prompt and the first token "
        f"in slot {slot} only.\n"
        f"  expected   {[tokenizer.decode(row) for row in expected_rows]}\n"
        f"  got        {[tokenizer.decode(row) for row in call.rows]}",
    )
    check(
        request.offset == len(ids) + 1,
        f"request.offset is {request.offset} after one decode step.\n"
        f"  expected   {len(ids) + 1}, the number of tokens in its slot",
    )
    assert_text_equal(request.text, "ab", what="the text after one decode step")
    scheduler.slots[slot] = None


def test_task_4_the_sampler_decides_for_every_row() -> None:
    """It gets the log-probabilities of all slots, in float32, and each row gets its own token."""
    jobs = [Job(f"{letter} prompt" + "." * index, f"{letter}x{letter}{letter}") for index, letter
            in enumerate("abc")]  # fmt: skip
    tokenizer = byte_tokenizer()
    x, y = (ids_of(tokenizer, letter)[0] for letter in "xy")
    given: list[mx.array] = []

    def sampler(logprobs: mx.array) -> mx.array:
        given.append(logprobs)
        best = mx.argmax(logprobs, axis=-1)
        return mx.where(best == x, y, best)

    scheduler, model, _ = scheduler_for(jobs, 3, sampler=sampler)
    for _ in range(6):
        scheduler.step()
        model.raise_failure()
    scheduler.release()
    for index, text in scheduler.collect_results():
        letter = "abc"[index]
        check(
            text.startswith(f"{letter}y?"),
            f"The text of request {index} is not what the sampler chose.\n"
            f"  expected   {letter + 'y??'!r}, as it replaces every x by a y\n"
            f"  got        {text!r}",
        )
    rows = [len(call.rows) for call in model.calls]
    check(
        [logprobs.shape for logprobs in given] == [(B, model.vocab_size) for B in rows],
        "The sampler does not get the log-probabilities of all rows in one call.\n"
        f"  expected   as many rows as the model had: {rows}\n"
        f"  got        {[logprobs.shape for logprobs in given]}",
    )
    calls = zip(given, model.calls, strict=True)
    decodes = [(logprobs, call) for logprobs, call in calls if call.kind == "decode"]
    for number, (logprobs, call) in enumerate(decodes):
        expected = np.stack([model.logits(row) for row in call.rows])
        expected = expected - np.log(np.sum(np.exp(expected), axis=-1, keepdims=True))
        taken = [slot for slot, row in enumerate(call.rows) if row]
        assert_close(
            logprobs[mx.array(taken)],
            expected[taken],
            what=f"what the sampler gets in decode step {number} (log-probabilities)",
            reduction=model.vocab_size,
            magnitude=60.0,
            axes="B vocab",
        )


@cases("seed", *range(5))
def test_task_4_random_traffic(seed: int) -> None:
    """Random prompts, answers, limits and numbers of slots: everybody gets what is theirs."""
    random = np.random.default_rng(700 + seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    jobs = []
    for index in range(10):
        length = int(random.choice([1, 2, 5, 9, 17])) * (index % 3 > 0)
        jobs.append(
            Job(
                f"{index:02d}" + "-" * int(random.integers(0, 30)),
                "".join(random.choice(list(letters), length)),
                str(random.choice([END_OF_TEXT, END_OF_TURN, END_OF_CALL, "go on"])),
                None if random.random() < 0.7 else int(random.integers(1, 12)),
            )
        )
    served(jobs, int(random.integers(1, 8)), max_seq_len=36)


# --- Task 5: batch generation ----------------------------------------------------------------


def generated(model: Any, tokenizer: Any, prompts: Sequence[str], **options: Any) -> list[Any]:
    """What `batch_generate` returns; an error where its scheduler goes on for ever."""
    step, count = batch.BatchScheduler.step, 0

    def counted(scheduler: Any) -> Any:
        nonlocal count
        count += 1
        check(count < 1000, "batch_generate does not end: step() is called again and again.")
        return step(scheduler)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch.BatchScheduler, "step", counted)
        results = batch.batch_generate(model, tokenizer, prompts, prefill_step=WHOLE, **options)
    if isinstance(model, BatchModel):
        model.raise_failure()
    return results


def assert_results(results: Any, expected: Sequence[str], *, what: str) -> None:
    """Check that there is a text for every prompt, in the order of the prompts."""
    check(
        isinstance(results, list)
        and all(isinstance(result, tuple) and len(result) == 2 for result in results),
        f"{what} must return a list of pairs (prompt_idx, text).",
    )
    assert_indices(
        [index for index, _ in results],
        range(len(expected)),
        what=f"{what} (in the order of the prompts)",
    )
    for (index, text), wanted in zip(results, expected, strict=True):
        assert_text_equal(text, wanted, what=f"the text for prompt {index} of {what}")


MANY = [
    Job(
        f"{index:02d}" + "." * (7 * index % 11), "abcdefghijklmnopq"[index % 5 : 5 + 3 * index % 13]
    )
    for index in range(9)
]


@pytest.mark.parametrize("batch_size, kind", [(1, list), (2, list), (5, tuple), (20, list)])
def test_task_5_a_text_for_every_prompt(batch_size: int, kind: Callable[..., Any]) -> None:
    """In the order of the prompts, with their indices, however many slots there are."""
    model, tokenizer = model_for(MANY)
    prompts = kind(job.prompt for job in MANY)
    results = generated(model, tokenizer, prompts, batch_size=batch_size)
    what = f"batch_generate(...) with {len(MANY)} prompts and batch_size {batch_size}"
    assert_results(results, [job.answer for job in MANY], what=what)
    check(
        list(prompts) == [job.prompt for job in MANY],
        f"{what} changes the caller's list of prompts.",
    )
    model.check_released(when=f"at the end of {what}")
    check(
        all(len(call.rows) <= batch_size for call in model.calls_of("decode")),
        f"{what} decodes with more than {batch_size} slots.",
    )


def test_task_5_the_defaults() -> None:
    """Five slots, and 512 tokens for prompt and answer."""
    jobs = [Job(f"{index}", "abcdefgh") for index in range(6)]
    jobs.append(Job("z" * 495, "abcdefghijklmnopqrstuvwxyz"))
    model, tokenizer = model_for(jobs)
    results = batch.batch_generate(model, tokenizer, [job.prompt for job in jobs])
    model.raise_failure()
    assert_results(
        results,
        [job.answer[: 512 - len(job.prompt)] for job in jobs],
        what="batch_generate(model, tokenizer, prompts)",
    )
    check(
        max(len(call.rows) for call in model.calls_of("decode")) == 5,
        "batch_generate(model, tokenizer, prompts) does not decode with 5 slots.",
    )


def test_task_5_no_prompts() -> None:
    """Nothing to do is not an error."""
    model, tokenizer = model_for([])
    assert_results(generated(model, tokenizer, []), [], what="batch_generate(...) without prompts")


def test_task_5_the_same_prompt_several_times() -> None:
    """Every copy has a result of its own."""
    model, tokenizer = model_for([Job("a", "abc"), Job("b", "de")])
    results = generated(model, tokenizer, ["a", "b", "a", "a", "b"], batch_size=2)
    assert_results(
        results, ["abc", "de", "abc", "abc", "de"], what="batch_generate(...) of equal prompts"
    )


def test_task_5_max_seq_len_counts_prompt_and_answer() -> None:
    """Every text ends there, also where the model would go on."""
    jobs = [Job("a" * n, "0123456789" * 2) for n in (1, 5, 11, 14)]
    model, tokenizer = model_for(jobs)
    results = generated(
        model, tokenizer, [job.prompt for job in jobs], max_seq_len=15, batch_size=2
    )
    assert_results(
        results,
        [job.answer[: 15 - len(job.prompt)] for job in jobs],
        what="batch_generate(..., max_seq_len=15)",
    )


@cases("option", "batch_size", "max_seq_len", "prefill_step")
@cases("number", 0, -1)
def test_task_5_a_number_below_1_is_an_error(option: str, number: int) -> None:
    """With prompts and without."""
    model, tokenizer = model_for([Job("a", "abc")])
    for prompts in (["a"], []):
        assert_raises_clearly(
            ValueError,
            lambda prompts=prompts: batch.batch_generate(
                model, tokenizer, prompts, **{option: number}
            ),
            what=f"batch_generate(..., {option}={number})",
        )
    check(not model.calls, "The model is called, though the arguments are bad.")


@pytest.mark.parametrize("good", [True, False], ids=["among-good-ones", "alone"])
def test_task_5_a_prompt_that_cannot_be_served_gets_an_empty_text_and_a_warning(good: bool) -> None:
    """The others are not affected, and nobody has to guess why a text is empty."""
    jobs = [Job("a", "abc"), Job("", ""), Job("b" * 12, ""), Job("c", "defghij")]
    if not good:
        jobs = jobs[1:3]
    model, tokenizer = model_for([job for job in jobs if job.answer])
    scheduler = batch.BatchScheduler(model, tokenizer, 12)
    reasons = []
    for job in jobs:
        scheduler.submit(job.prompt)
        reasons += [e.message for e in scheduler.step().finished if e.reason == "error"]
        scheduler.release()
    assert len(reasons) == 2 and all(reasons), "two of the prompts are bad"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = generated(
            model, tokenizer, [job.prompt for job in jobs], max_seq_len=12, batch_size=2
        )
    assert_results(
        results, [job.answer for job in jobs], what="batch_generate(...) of good and bad prompts"
    )
    told = [str(warning.message) for warning in caught]
    for reason in reasons:
        check(
            any(reason in message for message in told),
            "batch_generate does not warn of a prompt that cannot be served.\n"
            f"  expected   a warning with the message of its FinishEvent: {reason!r}\n"
            f"  got        {told}",
        )


@pytest.mark.parametrize(
    "kind, number", [("prefill", 0), ("prefill", 3), ("decode", 0), ("decode", 7)]
)
def test_task_5_an_interrupt_frees_all_caches(kind: str, number: int) -> None:
    """A Ctrl-C reaches the caller, and leaves no slot and no request's own cache behind."""
    seen = 0

    def on_call(of: str, tokens: list[list[int]], offsets: list[int]) -> None:
        nonlocal seen
        if of == kind:
            seen += 1
            if seen == number + 1:
                raise KeyboardInterrupt

    jobs = [Job(f"{index}.", "abcdefgh" * 2) for index in range(6)]
    model, tokenizer = model_for(jobs, on_call=on_call)
    try:
        generated(model, tokenizer, [job.prompt for job in jobs], batch_size=3)
    except KeyboardInterrupt:
        pass
    else:
        check(False, f"A KeyboardInterrupt in a {kind} does not reach the caller.")
    if kind == "prefill":
        model.caches.pop()  # of the request that was interrupted: it need not have them yet
    model.check_released(when=f"after a KeyboardInterrupt in a {kind}")


def test_task_5_the_sampler_is_asked_for_every_token() -> None:
    """The first one, and those of the decode steps."""
    jobs = [Job("a", "axb"), Job("b", "xab"), Job("c", "abx")]
    model, tokenizer = model_for(jobs)
    x, y = (ids_of(tokenizer, letter)[0] for letter in "xy")

    def sampler(logprobs: mx.array) -> mx.array:
        best = mx.argmax(logprobs, axis=-1)
        return mx.where(best == x, y, best)

    results = generated(
        model, tokenizer, [job.prompt for job in jobs], sampler=sampler, batch_size=2, max_seq_len=5
    )
    assert_results(
        results,
        ["ay??", "y???", "aby?"],
        what="batch_generate(..., sampler=one that replaces every x by a y)",
    )


def simple_answer(model: Any, tokenizer: Any, prompt: str, max_seq_len: int) -> tuple[str, float]:
    """The text that mlx-lm's model gives to a prompt alone, and its smallest lead."""
    ids = ids_of(tokenizer, prompt)
    tokens, leads = continue_greedily(model, ids, max_seq_len - len(ids))
    stops = [i for i, token in enumerate(tokens) if token in tokenizer.eos_token_ids]
    end = stops[0] if stops else len(tokens)
    detokenizer = tokenizer.detokenizer
    detokenizer.reset()
    for token in tokens[:end]:
        detokenizer.add_token(token)
    detokenizer.finalize()
    return detokenizer.text, min(leads[: end + 1])


@cases("batch_size sizes", (2, {"layers": 2}), (4, {"theta": 30.0}), (9, {"kv_heads": 3}))
def test_task_5_random_models_say_what_they_say_to_each_prompt_alone(
    batch_size: int, sizes: dict[str, Any]
) -> None:
    """Batching is only faster: for every prompt the text is the same."""
    tokenizer = byte_tokenizer()
    model = random_model(seed=800 + batch_size, vocab_size=len(tokenizer.get_vocab()), **sizes)
    prompts = ["a", "Hello", "the fox and one wolf", "x" * 11, "of", "3 and 5"]
    answers = [simple_answer(model, tokenizer, prompt, 24) for prompt in prompts]
    good = [index for index, (_, lead) in enumerate(answers) if lead > 0.003]
    assert len(good) >= 4, "the seed is a bad choice: the model hardly prefers any token"
    results = generated(
        qwen3.Qwen3Model(model), tokenizer, prompts, max_seq_len=24, batch_size=batch_size
    )
    assert_results(
        [results[index] if index in good else (index, "") for index in range(len(prompts))]
        if isinstance(results, list) and len(results) == len(prompts)
        else results,
        [answers[index][0] if index in good else "" for index in range(len(prompts))],
        what=f"batch_generate(...) with batch_size {batch_size} (a random model)",
    )


def test_task_5_the_embedded_model_answers_as_to_each_prompt_alone() -> None:
    """A trained, quantized model; prompts of 10 to 31 tokens share three slots."""
    model, tokenizer = tiny()
    messages = ["Hello!", "Count from 3 to 9.", *(ledger_question(lines) for lines in (1, 2))]
    prompts = [chat(tokenizer, message) for message in messages]
    answers = [simple_answer(model, tokenizer, prompt, 37) for prompt in prompts]
    good = [index for index, (_, lead) in enumerate(answers) if lead > 0.01]
    assert len(good) >= 4, "the prompts are a bad choice: the model hardly prefers any token"
    results = generated(qwen3.Qwen3Model(model), tokenizer, prompts, max_seq_len=37, batch_size=3)
    check(len(results) == len(prompts), f"There are {len(results)} results for 4 prompts.")
    for index in good:
        assert_text_equal(
            results[index][1],
            answers[index][0],
            what=f"the embedded model's answer to {messages[index][:30]!r}, in a batch",
        )
