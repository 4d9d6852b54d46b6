"""KV caches: the keys and values of the tokens so far, so that no token is computed twice.

A cache belongs to one layer.
"""

import functools
from abc import ABC, abstractmethod

import mlx.core as mx


class TinyKvCache(ABC):
    """What a model asks of the KV cache of one layer."""

    @abstractmethod
    def update_and_fetch(
        self,
        key: mx.array,
        value: mx.array,
        mask_length: int | None = None,
        mask: mx.array | str | None = None,
    ) -> tuple[mx.array, mx.array, int, mx.array | str | None]:
        """Append the keys and values of `L` new tokens, and return all of them with a mask.

        Numbers and dtypes stay as they are. What was returned earlier, and the caller's arrays,
        are not changed by later calls, also after `rewind`.

        Args:
            key: the new tokens' keys, `B x H_kv x L x D`.
            value: the new tokens' values, `B x H_kv x L x D`; their `D` may be another.
            mask_length: the number of queries that the mask is for; `L` if None.
            mask: the mask that the caller would use without a cache.

        Returns:
            Keys and values `B x H_kv x S x D`, `S` (an int: the number of tokens now held), and
            the mask to attend with.
        """

    @abstractmethod
    def rewind(self, n: int) -> None:
        """Forget the last `n` tokens.

        Raises:
            ValueError: `n` is negative, or larger than the number of tokens; the cache is as it
                was.
        """

    @abstractmethod
    def materialize(self) -> None:
        """Compute what is still pending, so that the graph behind the cache can be freed.

        An empty cache is not an error, here and in `release`.
        """

    @abstractmethod
    def release(self) -> None:
        """Forget all tokens and free their memory.

        The cache is empty then and can be reused, also for another shape or dtype.
        """


class TinyKvFullCache(TinyKvCache):
    """The keys and values of one request, or of several of the same length.

    Appending `n` tokens, in whatever pieces, copies `O(n)` tokens in all: they lie in buffers with
    room to spare, which double when they are full.
    """

    def __init__(self) -> None:
        """Start empty. The shapes come with the first tokens."""
        raise NotImplementedError("Week 2 Day 1, Tasks 1 and 2")

    def update_and_fetch(
        self,
        key: mx.array,
        value: mx.array,
        mask_length: int | None = None,
        mask: mx.array | str | None = None,
    ) -> tuple[mx.array, mx.array, int, mx.array | str | None]:
        """As in `TinyKvCache`; the mask is returned as it came."""
        raise NotImplementedError("Week 2 Day 1, Tasks 1 and 2")

    def fetch(self) -> tuple[mx.array, mx.array]:
        """The keys and values of all tokens held, `B x H_kv x offset x D`, without new ones.

        Raises:
            ValueError: the cache is empty, so that it has no shapes either.
        """
        raise NotImplementedError("Week 2 Day 6, Task 1: Slots")

    def rewind(self, n: int) -> None:
        """As in `TinyKvCache`."""
        raise NotImplementedError("Week 2 Day 1, Tasks 1 and 2")

    def materialize(self) -> None:
        """As in `TinyKvCache`."""
        raise NotImplementedError("Week 2 Day 1, Tasks 1 and 2")

    def release(self) -> None:
        """As in `TinyKvCache`."""
        raise NotImplementedError("Week 2 Day 1, Tasks 1 and 2")


class BatchingKvCache(TinyKvCache):
    """The keys and values of several requests of different lengths, one slot (row) for each.

    All rows end at the same column, so that one decode step writes one column for all slots:

        slot 0    . . a b c d    3 tokens and the new one
        slot 1    . . . . . .    empty
        slot 2    e f g h i j    5 tokens and the new one

    What is not a token is zero, and the mask hides it. Appending costs `O(1)` copies per token, as
    in `TinyKvFullCache`.

    Attributes:
        max_seq_len: the largest number of tokens in one slot.
        lengths: the number of tokens in each slot; None for an empty one.
    """

    max_seq_len: int
    lengths: list[int | None]

    def __init__(self, max_active_requests: int, max_seq_len: int) -> None:
        """Start with all slots empty. The shapes come with the first request.

        Args:
            max_active_requests: `B`, the number of slots.
            max_seq_len: the largest number of tokens in one slot.

        Raises:
            ValueError: one of them is below 1.
        """
        raise NotImplementedError("Week 2 Day 6, Task 1: Slots")

    def add_request(self, prefilled: TinyKvFullCache, id: int) -> None:
        """Copy a prefilled request into an empty slot.

        Args:
            prefilled: the request's own cache of this layer, with a batch of 1 and at least one
                token. It is left as it is, and may be released afterwards.
            id: the slot, from 0.

        Raises:
            ValueError: there is no such slot, or it is taken; `prefilled` is empty, holds a batch,
                or more than `max_seq_len` tokens. The cache is as it was.
        """
        raise NotImplementedError("Week 2 Day 6, Task 1: Slots")

    def remove_request(self, id: int) -> None:
        """Empty a slot. Memory that the other requests do not need is freed.

        Raises:
            ValueError: there is no such slot, or it is empty.
        """
        raise NotImplementedError("Week 2 Day 6, Task 1: Slots")

    def extract_request(self, id: int, length: int) -> TinyKvFullCache:
        """A copy of the first `length` tokens of a slot, as a cache of their own.

        Raises:
            ValueError: there is no such slot, or it is empty, or holds fewer tokens.
        """
        raise NotImplementedError("Week 2 Day 6, Task 1: Slots")

    def update_and_fetch(
        self,
        key: mx.array,
        value: mx.array,
        mask_length: int | None = None,
        mask: mx.array | str | None = None,
    ) -> tuple[mx.array, mx.array, int, mx.array | str | None]:
        """As in `TinyKvCache`, with `L` new tokens per slot; those of empty slots are dropped.

        Args:
            key: `B x H_kv x L x D`. `B` is the number of slots, or less if the slots behind the
                first `B` are all empty: then there is nothing to compute for them.
            value: `B x H_kv x L x D`.
            mask_length: the number of queries that the mask is for; `L` if None.
            mask: `"causal"`, or None if every query may look at all tokens of its slot.

        Returns:
            Keys and values `B x H_kv x S x D`, the tokens of each slot right-aligned and zeros in
            front of them; `S`, the length of the longest slot; and a mask `B x 1 x L x S` in the
            dtype of `key`: 0 where attention is allowed, `-inf` where it is not. An empty slot has
            the lowest finite number everywhere, since a softmax of nothing but `-inf` is NaN.

        Raises:
            ValueError: `key` has more rows than there are slots, or none for a slot that is
                taken; a slot would exceed `max_seq_len`; or `mask` is anything else. The cache is
                as it was.
        """
        raise NotImplementedError("Week 2 Day 6, Task 2: One step for all slots")

    def rewind(self, n: int) -> None:
        """Forget the last `n` tokens of every slot that is taken.

        Raises:
            ValueError: `n` is negative, or one of these slots holds fewer; the cache is as it was.
        """
        raise NotImplementedError("Week 2 Day 6, Task 1: Slots")

    def materialize(self) -> None:
        """As in `TinyKvCache`."""
        raise NotImplementedError("Week 2 Day 6, Task 1: Slots")

    def release(self) -> None:
        """As in `TinyKvCache`; all slots are empty then."""
        raise NotImplementedError("Week 2 Day 6, Task 1: Slots")

    def _longest(self) -> int:
        return max((length for length in self.lengths if length is not None), default=0)

    def _check_slot(self, id: int) -> None:
        if not 0 <= id < len(self.lengths):
            raise ValueError(f"there is no slot {id}: they are 0 to {len(self.lengths) - 1}")

    def _check_taken(self, id: int) -> int:
        self._check_slot(id)
        length = self.lengths[id]
        if length is None:
            raise ValueError(f"slot {id} is empty")
        return length

    def _move(self, end: int, room: int = 0) -> None:
        """Copy what is held into new buffers, so that it ends at column `end`.

        Args:
            end: at least the length of the longest slot.
            room: the number of columns needed; the buffers get twice as many, as far as there can
                be tokens for them.
        """
        raise NotImplementedError("Week 2 Day 6, Task 1: Slots")


@functools.lru_cache(maxsize=1)  # the layers of a model ask for the same mask, one after the other
def slots_mask(
    lengths: tuple[int | None, ...], L: int, S: int, mask: str | None, dtype: mx.Dtype
) -> mx.array:
    """The mask `B x 1 x L x S` of slots that hold so many tokens, the `L` newest included."""
    raise NotImplementedError("Week 2 Day 6, Task 2: One step for all slots")
