"""Week 2, day 6: the batching KV cache, requests, the scheduler, and batch generation."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
    """Short requests do not keep the room of a long one: it is 100 times theirs."""
    cache = kv_cache.BatchingKvCache(4, 4096)
    before = memory_in_use()
    for slot, n in ((0, 20), (1, 2000), (2, 10)):
        own = wide_request(n, seed=260 + slot)
        cache.add_request(own, slot)
        own.release()
    cache.remove_request(1)
    cache.materialize()
    still = still_in_use(before)
    check(
        still < 2**20,
        "A request of 2,000 tokens (2 MiB) has left its slot, and 30 tokens of others are left.\n"
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
