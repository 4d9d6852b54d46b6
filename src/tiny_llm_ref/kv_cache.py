"""KV caches: the keys and values of the tokens so far, so that no token is computed twice.

A cache belongs to one layer. `TinyKvFullCache` holds one request, `BatchingKvCache` the requests
that decode together.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache

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

        Args:
            key: the new tokens' keys, `B x H_kv x L x D`.
            value: the new tokens' values, `B x H_kv x L x D`.
            mask_length: the number of queries that the mask is for; `L` if None.
            mask: the mask that the caller would use without a cache.

        Returns:
            Keys and values `B x H_kv x S x D`, `S`, and the mask to attend with.
        """

    @abstractmethod
    def rewind(self, n: int) -> None:
        """Forget the last `n` tokens.

        Raises:
            ValueError: `n` is negative, or larger than the number of tokens.
        """

    @abstractmethod
    def materialize(self) -> None:
        """Compute what is still pending, so that the graph behind the cache can be freed."""

    @abstractmethod
    def release(self) -> None:
        """Forget all tokens and free their memory. The cache is empty then, and can be reused."""


class TinyKvFullCache(TinyKvCache):
    """The keys and values of one request, or of several of the same length.

    They lie in buffers with room to spare, which double when they are full: all doublings
    together copy less than twice the final size.
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
            self._buffers = [_empty(new, new.shape[0], end) for new in (key, value)]
        elif end > self._buffers[0].shape[2]:
            for i, old in enumerate(self._buffers):
                grown = _empty(old, old.shape[0], max(end, 2 * old.shape[2]))
                grown[:, :, :start] = old[:, :, :start]
                self._buffers[i] = grown
        for buffer, new in zip(self._buffers, (key, value), strict=True):
            buffer[:, :, start:end] = new
        self.offset = end
        keys, values = (buffer[:, :, :end] for buffer in self._buffers)
        return keys, values, end, mask

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

    @property
    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """All keys and all values, `B x H_kv x S x D` each.

        Raises:
            ValueError: the cache is empty.
        """
        if not self.offset:
            raise ValueError("the cache is empty: it holds no keys and values yet")
        keys, values = (buffer[:, :, : self.offset] for buffer in self._buffers)
        return keys, values


class BatchingKvCache(TinyKvCache):
    """The keys and values of several requests of different lengths, for one decode step for all.

    Slot `i` is row `i` of the batch. The rows are right-aligned: every request's newest token
    stands in the same column, so that a step writes one column for all of them. What lies to the
    left of a shorter request is masked.
    """

    def __init__(self, max_active_requests: int, max_seq_len: int) -> None:
        """Start with every slot empty.

        Args:
            max_active_requests: the number of slots.
            max_seq_len: the most tokens that a request may come to.

        Raises:
            ValueError: one of the two is below 1.
        """
        if max_active_requests < 1 or max_seq_len < 1:
            raise ValueError(
                "max_active_requests and max_seq_len must be at least 1, "
                f"but are {max_active_requests} and {max_seq_len}"
            )
        self.max_active_requests = max_active_requests
        self.max_seq_len = max_seq_len
        self.lengths = [0] * max_active_requests  # the tokens in each slot; 0: the slot is empty
        self._buffers: list[mx.array] = []  # keys, values: rows x H_kv x columns x D
        self._end = 0  # the column behind every request's newest token

    def add_request(self, prefilled: TinyKvFullCache, id: int) -> None:
        """Copy the cache of a prefilled request into an empty slot.

        Args:
            prefilled: the request's cache of this layer, with batch 1 and at least one token.
            id: the slot, 0 to `max_active_requests - 1`.

        Raises:
            ValueError: there is no such slot, it is taken, or the request does not fit.
        """
        self._check_slot(id)
        if self.lengths[id]:
            raise ValueError(f"slot {id} is taken: remove its request first")
        key, value = prefilled.keys_and_values
        batch, _, length, _ = key.shape
        if batch != 1:
            raise ValueError(f"a slot holds one request, but the cache holds a batch of {batch}")
        if length > self.max_seq_len:
            raise ValueError(f"{length} tokens do not fit into max_seq_len {self.max_seq_len}")
        self.lengths[id] = length
        self._reserve((key, value), rows=id + 1, new_columns=0)
        start = self._end - length
        for buffer, row in zip(self._buffers, (key, value), strict=True):
            # Zeros to the left: a former request's NaN there would survive a weight of 0.
            buffer[id] = 0
            buffer[id, :, start : self._end] = row[0]

    def remove_request(self, id: int) -> None:
        """Empty a slot; the memory is freed as soon as half of the buffers is unused.

        Raises:
            ValueError: there is no such slot, or it is empty already.
        """
        self._check_slot(id)
        if not self.lengths[id]:
            raise ValueError(f"slot {id} is empty: there is no request to remove")
        self.lengths[id] = 0
        if not any(self.lengths):
            self.release()
            return
        rows, _, columns, _ = self._buffers[0].shape
        if 2 * self._rows * self._longest <= rows * columns:
            self._relocate(self._rows, self._longest)

    def extract(self, id: int, length: int) -> TinyKvFullCache:
        """A copy of the first `length` tokens of a slot, as a cache of its own."""
        self._check_slot(id)
        start = self._end - self.lengths[id]
        keys, values = (b[id : id + 1, :, start : start + length] for b in self._buffers)
        cache = TinyKvFullCache()
        cache.update_and_fetch(keys, values)
        return cache

    def move_request(self, source: int, target: int) -> None:
        """Move a request to another, empty slot, to keep the taken slots together.

        Raises:
            ValueError: there is no such slot, the source is empty, or the target is taken.
        """
        self._check_slot(source)
        self._check_slot(target)
        if not self.lengths[source] or self.lengths[target]:
            raise ValueError(f"cannot move a request from slot {source} to slot {target}")
        self._reserve(self._buffers, rows=target + 1, new_columns=0)
        for buffer in self._buffers:
            buffer[target] = buffer[source]
        self.lengths[source], self.lengths[target] = 0, self.lengths[source]

    def update_and_fetch(
        self,
        key: mx.array,
        value: mx.array,
        mask_length: int | None = None,
        mask: mx.array | str | None = None,
    ) -> tuple[mx.array, mx.array, int, mx.array | str | None]:
        """Append `L` tokens to every request, and return the rows of the first `B` slots.

        Args:
            key: `B x H_kv x L x D`: a row for each slot from 0 on, at least up to the last taken
                one. Rows of empty slots may hold anything finite; they are not kept.
            value: `B x H_kv x L x D`.
            mask_length: the number of queries that the mask is for; `L` if None.
            mask: ignored: what may be attended to follows from the lengths.

        Returns:
            Keys and values `B x H_kv x S x D`, where `S` is the length of the longest request;
            `S`; and the mask `B x 1 x L x S`, causal and closed to the left of each request. A
            row of an empty slot is closed throughout, with the lowest finite number instead of
            `-inf`, so that a softmax over it is not NaN.

        Raises:
            ValueError: `B` misses a taken slot or exceeds the slots, or a request would exceed
                `max_seq_len`.
        """
        B, _, L, _ = key.shape
        if not self._rows <= B <= self.max_active_requests:
            raise ValueError(
                f"{B} rows for {self.max_active_requests} slots, of which the first {self._rows} "
                "are in use: give a row to each of these, and to no more slots than there are"
            )
        if self._longest + L > self.max_seq_len:
            raise ValueError(f"a request would exceed max_seq_len {self.max_seq_len}")
        self._reserve((key, value), rows=B, new_columns=L)
        start, self._end = self._end, self._end + L
        for buffer, new in zip(self._buffers, (key, value), strict=True):
            buffer[:B, :, start : self._end] = new
        self.lengths = [length + L if length else 0 for length in self.lengths]
        S = max(self._longest, L)
        keys, values = (buffer[:B, :, self._end - S : self._end] for buffer in self._buffers)
        return keys, values, S, _slot_mask(tuple(self.lengths[:B]), mask_length or L, S, key.dtype)

    def rewind(self, n: int) -> None:
        """As in `TinyKvCache`, for every request."""
        shortest = min((length for length in self.lengths if length), default=0)
        if not 0 <= n < max(shortest, 1):
            raise ValueError(f"cannot rewind {n} tokens: the shortest request has {shortest}")
        self._end -= n
        self.lengths = [length - n if length else 0 for length in self.lengths]

    def materialize(self) -> None:
        """As in `TinyKvCache`."""
        mx.eval(self._buffers)

    def release(self) -> None:
        """As in `TinyKvCache`: every slot is empty."""
        self.lengths = [0] * self.max_active_requests
        self._buffers = []
        self._end = 0

    @property
    def _rows(self) -> int:
        """The number of slots up to the last taken one."""
        return max((id + 1 for id, length in enumerate(self.lengths) if length), default=0)

    @property
    def _longest(self) -> int:
        return max(self.lengths)

    def _reserve(self, like: Sequence[mx.array], rows: int, new_columns: int) -> None:
        """Make room for so many rows, for the longest request, and for new columns behind it."""
        if not self._buffers:
            self._buffers = [_empty(new, 1, 0) for new in like]
        have_rows, _, have_columns, _ = self._buffers[0].shape
        end = max(self._end, self._longest)
        if rows > have_rows or end > self._end or end + new_columns > have_columns:
            # Half as much again as is needed now, so that growing is rare.
            columns = self._longest + new_columns
            self._relocate(max(rows, have_rows), columns + columns // 2)

    def _relocate(self, rows: int, columns: int) -> None:
        """Move the requests to new buffers, the longest one to the left edge."""
        end = self._longest
        kept = min(self._end, end)
        for i, old in enumerate(self._buffers):
            new = _empty(old, rows, columns)
            same = min(rows, old.shape[0])
            new[:same, :, end - kept : end] = old[:same, :, self._end - kept : self._end]
            self._buffers[i] = new
        self._end = end

    def _check_slot(self, id: int) -> None:
        if not 0 <= id < self.max_active_requests:
            raise ValueError(f"there is no slot {id}: slots are 0 to {self.max_active_requests - 1}")


def _empty(like: mx.array, rows: int, columns: int) -> mx.array:
    """A buffer of zeros, `rows x H_kv x columns x D`, with the heads and dtype of another."""
    _, H_kv, _, D = like.shape
    return mx.zeros((rows, H_kv, columns, D), dtype=like.dtype)


@lru_cache(maxsize=1)  # all layers of a step ask for the same mask
def _slot_mask(lengths: tuple[int, ...], L: int, S: int, dtype: mx.Dtype) -> mx.array:
    """The mask of `L` queries at the end of right-aligned rows, `B x 1 x L x S`."""
    length = mx.array(lengths)[:, None, None, None]
    column = mx.arange(S)
    last = mx.arange(S - L, S)[:, None]  # the column that each query itself stands in
    allowed = (column >= S - length) & (column <= last)
    closed = mx.where(length > 0, mx.array(-mx.inf, dtype), mx.array(mx.finfo(dtype).min, dtype))
    return mx.where(allowed, mx.array(0, dtype), closed)
