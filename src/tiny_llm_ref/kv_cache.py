"""KV caches: the keys and values of the tokens so far, so that no token is computed twice.

A cache belongs to one layer.
"""

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
