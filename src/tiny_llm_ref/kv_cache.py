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
        self.offset = 0  # the number of tokens held
        self._buffers: list[mx.array] = []  # keys, values: B x H_kv x capacity x D

    def update_and_fetch(
        self,
        key: mx.array,
        value: mx.array,
        mask_length: int | None = None,
        mask: mx.array | str | None = None,
    ) -> tuple[mx.array, mx.array, int, mx.array | str | None]:
        """As in `TinyKvCache`; the mask is returned as it came."""
        start, end = self.offset, self.offset + key.shape[2]
        if not self._buffers:
            self._buffers = [mx.zeros_like(new) for new in (key, value)]
        room = self._buffers[0].shape[2]
        if end > room:
            self._buffers = [
                mx.pad(old, [(0, 0), (0, 0), (0, max(end, 2 * room) - room), (0, 0)])
                for old in self._buffers
            ]
        for buffer, new in zip(self._buffers, (key, value), strict=True):
            buffer[:, :, start:end] = new
        self.offset = end
        keys, values = (buffer[:, :, :end] for buffer in self._buffers)
        return keys, values, end, mask

    def fetch(self) -> tuple[mx.array, mx.array]:
        """The keys and values of all tokens held, `B x H_kv x offset x D`, without new ones.

        Raises:
            ValueError: the cache is empty, so that it has no shapes either.
        """
        if not self._buffers:
            raise ValueError("there is nothing to fetch: the cache is empty")
        keys, values = (buffer[:, :, : self.offset] for buffer in self._buffers)
        return keys, values

    def rewind(self, n: int) -> None:
        """As in `TinyKvCache`."""
        if not 0 <= n <= self.offset:
            raise ValueError(f"cannot rewind {n} tokens: the cache holds {self.offset}")
        self.offset -= n

    def materialize(self) -> None:
        """As in `TinyKvCache`."""
        mx.eval(self._buffers)

    def release(self) -> None:
        """As in `TinyKvCache`."""
        self.offset = 0
        self._buffers = []


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
        if max_active_requests < 1 or max_seq_len < 1:
            raise ValueError(
                "max_active_requests and max_seq_len must be at least 1, "
                f"but are {max_active_requests} and {max_seq_len}"
            )
        self.max_seq_len = max_seq_len
        self.lengths = [None] * max_active_requests
        self._buffers: list[mx.array] = []  # keys, values: B x H_kv x capacity x D
        self._end = 0  # the column behind the newest token of every slot

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
        self._check_slot(id)
        if self.lengths[id] is not None:
            raise ValueError(f"slot {id} is taken: remove its request first")
        new = prefilled.fetch()
        batch, _, length, _ = new[0].shape
        if batch != 1 or not 1 <= length <= self.max_seq_len:
            raise ValueError(
                f"a slot takes one request of 1 to {self.max_seq_len} tokens, "
                f"not {batch} of {length}"
            )
        if not self._buffers:
            rows = len(self.lengths)
            self._buffers = [mx.zeros((rows, *a.shape[1:]), a.dtype) for a in new]
            self._end = length
        elif length > self._end:
            self._move(end=length)
        for buffer, tokens in zip(self._buffers, new, strict=True):
            buffer[id : id + 1, :, self._end - length : self._end] = tokens
        self.lengths[id] = length

    def remove_request(self, id: int) -> None:
        """Empty a slot. Memory that the other requests do not need is freed.

        Raises:
            ValueError: there is no such slot, or it is empty.
        """
        self._check_taken(id)
        self.lengths[id] = None
        if all(length is None for length in self.lengths):
            self.release()
            return
        for buffer in self._buffers:
            buffer[id] = 0  # whoever gets the slot must not meet a NaN behind its mask
        held = self._longest()
        if self._buffers[0].shape[2] > 4 * held:
            self._move(end=held)

    def extract_request(self, id: int, length: int) -> TinyKvFullCache:
        """A copy of the first `length` tokens of a slot, as a cache of their own.

        Raises:
            ValueError: there is no such slot, or it is empty, or holds fewer tokens.
        """
        held = self._check_taken(id)
        if not 1 <= length <= held:
            raise ValueError(f"slot {id} holds {held} tokens: cannot extract {length}")
        start = self._end - held
        alone = TinyKvFullCache()
        keys, values = (b[id : id + 1, :, start : start + length] for b in self._buffers)
        alone.update_and_fetch(keys, values)
        return alone

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
        rows, _, L, _ = key.shape
        if rows > len(self.lengths) or any(held is not None for held in self.lengths[rows:]):
            raise ValueError(
                f"keys of {rows} rows do not go with {len(self.lengths)} slots that hold "
                f"{self.lengths} tokens"
            )
        if mask is not None and (not isinstance(mask, str) or mask != "causal"):
            raise ValueError(f'mask must be "causal" or None, not {mask!r}')
        longest = self._longest()
        if longest + L > self.max_seq_len:
            raise ValueError(
                f"slot {self.lengths.index(longest)} holds {longest} tokens: {L} more do not fit "
                f"into max_seq_len {self.max_seq_len}"
            )
        if not self._buffers:
            slots = len(self.lengths)
            self._buffers = [mx.zeros((slots, *a.shape[1:]), a.dtype) for a in (key, value)]
        if self._end + L > self._buffers[0].shape[2]:
            self._move(end=longest, room=longest + L)
        start, self._end = self._end, self._end + L
        taken = mx.array([held is not None for held in self.lengths[:rows]]).reshape(-1, 1, 1, 1)
        for buffer, new in zip(self._buffers, (key, value), strict=True):
            kept = mx.where(taken, new, 0) if None in self.lengths[:rows] else new
            buffer[:rows, :, start : self._end] = kept
        self.lengths = [None if held is None else held + L for held in self.lengths]
        S = self._longest() or L
        keys, values = (buffer[:rows, :, self._end - S : self._end] for buffer in self._buffers)
        queries = L if mask_length is None else mask_length
        lengths = tuple(self.lengths[:rows])
        return keys, values, S, slots_mask(lengths, queries, S, mask, key.dtype)

    def rewind(self, n: int) -> None:
        """Forget the last `n` tokens of every slot that is taken.

        Raises:
            ValueError: `n` is negative, or one of these slots holds fewer; the cache is as it was.
        """
        shortest = min((length for length in self.lengths if length is not None), default=0)
        if not 0 <= n <= shortest:
            raise ValueError(f"cannot rewind {n} tokens: the shortest slot holds {shortest}")
        self.lengths = [None if length is None else length - n for length in self.lengths]
        self._end -= n

    def materialize(self) -> None:
        """As in `TinyKvCache`."""
        mx.eval(self._buffers)

    def release(self) -> None:
        """As in `TinyKvCache`; all slots are empty then."""
        self.lengths = [None] * len(self.lengths)
        self._buffers = []
        self._end = 0

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
        held = self._longest()
        capacity = min(2 * max(end, room), max(2 * self.max_seq_len, end, room))
        moved = []
        for old in self._buffers:
            columns = old[:, :, self._end - held : self._end]
            moved.append(mx.pad(columns, [(0, 0), (0, 0), (end - held, capacity - end), (0, 0)]))
        self._buffers = moved
        self._end = end


@functools.lru_cache(maxsize=1)  # the layers of a model ask for the same mask, one after the other
def slots_mask(
    lengths: tuple[int | None, ...], L: int, S: int, mask: str | None, dtype: mx.Dtype
) -> mx.array:
    """The mask `B x 1 x L x S` of slots that hold so many tokens, the `L` newest included."""
    starts = mx.array([S if held is None else S - held for held in lengths]).reshape(-1, 1, 1, 1)
    columns = mx.arange(S)
    allowed = columns >= starts
    if mask == "causal":
        allowed = allowed & (columns <= mx.arange(S - L, S)[:, None])
    empty = mx.array([held is None for held in lengths]).reshape(-1, 1, 1, 1)
    hidden = mx.where(empty, mx.finfo(dtype).min, -mx.inf)
    return mx.broadcast_to(mx.where(allowed, 0, hidden).astype(dtype), (len(lengths), 1, L, S))
