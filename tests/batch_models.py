"""Scripted models that decode a batch, and what drives a scheduler on them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from caches import NotedCache
from scripted import ids_of
from solution import kv_cache
from tiny_llm_lab.course.checks import check

LAYERS = 3
LAYER_STEP = 1000  # keys of layer l are token ids + 1 + l * LAYER_STEP: no layer is like another
MOST_CALLS = 2000  # of one model: no test needs so many


@dataclass(frozen=True)
class Call:
    """One call of a `BatchModel`.

    Attributes:
        kind: `"prefill"` (with caches that `create_kv_cache` made), `"decode"` (with batching
            caches), or `"alone"` (with other caches of one request, as `extract_request` gives).
        tokens: the new tokens, `B x L`.
        offsets: the offset of each row.
        rows: what each row sees after the call, new tokens included: all its tokens as the caches
            have them. Empty for an empty slot.
    """

    kind: str
    tokens: list[list[int]]
    offsets: list[int]
    rows: list[list[int]]


class BatchModel:
    """A causal language model that continues each of several prompts with a script of its own.

    It remembers earlier tokens in its KV caches, and nowhere else: its keys are token ids, and what
    a row sees is what the mask that the cache returns shows of them. After a prompt, and any part
    of its script, it predicts the token that comes next there; after anything else, and after the
    end of the script, it predicts `?`.

    What is wrong with a call is a `CheckFailure`. A scheduler may catch it, as it may catch any
    exception of a model: the first one is kept in `failure`, for `raise_failure`.

    Attributes:
        calls: every call that went well, in order.
        caches: every request's own caches, as `create_kv_cache` made them: a list per request.
        batching: the batching caches that decode calls came with, one per layer: a list for each
            set of them (a scheduler needs only one).
        failure: the first exception of a call that was not asked for by `on_call`.
    """

    def __init__(
        self,
        tokenizer: Any,
        scripts: Mapping[str, str | Sequence[int]],
        *,
        on_call: Callable[[str, list[list[int]], list[int]], None] | None = None,
        dtype: mx.Dtype = mx.float32,
        width: int = 1,
    ) -> None:
        """Read the scripts.

        Args:
            tokenizer: as from `byte_tokenizer`.
            scripts: for each prompt its continuation, as text (special tokens as they stand in it)
                or as token ids.
            on_call: called at the start of every call with its kind, tokens and offsets, before
                the caches are touched. It may raise, or move a clock.
            dtype: the dtype of the logits; keys and values are float32.
            width: `D` of keys and values: the size of the caches.
        """
        self.scripts = {
            tuple(ids_of(tokenizer, prompt)): ids_of(tokenizer, script)
            if isinstance(script, str)
            else list(script)
            for prompt, script in scripts.items()
        }
        self.decoy = ids_of(tokenizer, "?")[0]
        self.vocab_size = len(tokenizer.get_vocab())
        self.on_call, self.dtype, self.width = on_call, dtype, width
        self.calls: list[Call] = []
        self.caches: list[list[NotedCache]] = []
        self.batching: list[list[Any]] = []
        self.failure: Exception | None = None
        self.slots = 0  # the largest number of rows of a decode call

    def create_kv_cache(self) -> list[NotedCache]:
        """One cache per layer."""
        self.caches.append([NotedCache() for _ in range(LAYERS)])
        return self.caches[-1]

    def __call__(self, inputs: mx.array, offset: Any = 0, cache: Any = None) -> mx.array:
        """Logits, `B x L x vocab_size`."""
        try:
            kind, tokens, offsets = self._checked(inputs, offset, cache)
        except Exception as error:
            self.failure = self.failure or error
            raise
        if self.on_call is not None:
            self.on_call(kind, tokens, offsets)
        try:
            rows = self._seen(kind, inputs, cache)
            self._check_offsets(kind, offsets, rows, len(tokens[0]))
        except Exception as error:
            self.failure = self.failure or error
            raise
        self.calls.append(Call(kind, tokens, offsets, rows))
        L = len(tokens[0])
        logits = [
            [self.logits(row[: len(row) - L + i + 1] if row else []) for i in range(L)]
            for row in rows
        ]
        return mx.array(np.array(logits, np.float32)).astype(self.dtype)

    def next_token(self, sequence: Sequence[int]) -> int:
        """The token that the model predicts after a sequence."""
        for prompt, script in self.scripts.items():
            whole = [*prompt, *script]
            known = len(prompt) <= len(sequence) < len(whole)
            if known and whole[: len(sequence)] == list(sequence):
                return whole[len(sequence)]
        return self.decoy

    def logits(self, sequence: Sequence[int]) -> np.ndarray:
        """The logits after a sequence, `vocab_size`. They are far from being log-probabilities."""
        noise = np.random.default_rng(len(sequence)).normal(-40.0, 1.0, self.vocab_size)
        noise[self.next_token(sequence)] += 12.0
        return noise

    def calls_of(self, kind: str) -> list[Call]:
        """The calls of one kind."""
        return [call for call in self.calls if call.kind == kind]

    def raise_failure(self) -> None:
        """Raise what was wrong with a call, though a scheduler has caught it."""
        if self.failure is not None:
            raise self.failure

    def check_released(self, *, when: str) -> None:
        """Every request's own caches have to be released, and every slot empty, in every layer."""
        for request, caches in enumerate(self.caches):
            held = [layer for layer, cache in enumerate(caches) if not cache.released]
            check(
                not held,
                f"The own caches of the request that was prefilled as number {request} are not "
                f"released {when}, in layer {', '.join(map(str, held))} of 0 to {LAYERS - 1}.\n"
                "  expected   release() of the cache of every layer, once its tokens are copied "
                "into a slot or the request has ended",
            )
        for caches in self.batching:
            for layer, cache in enumerate(caches):
                for slot in range(self.slots):
                    check(
                        _is_empty(cache, slot),
                        f"Slot {slot} still holds tokens {when}, in the batching cache of layer "
                        f"{layer} of 0 to {LAYERS - 1}.\n"
                        "  expected   remove_request(slot) in every layer when a request ends",
                    )

    def _checked(
        self, inputs: mx.array, offset: Any, cache: Any
    ) -> tuple[str, list[list[int]], list[int]]:
        """The kind, the tokens and the offsets of a call."""
        check(
            len(self.calls) < MOST_CALLS,
            f"The model is called more than {MOST_CALLS:,} times.\n"
            "  expected   every request to end: at its end-of-sequence token, or at a limit",
        )
        check(
            isinstance(inputs, mx.array) and mx.issubdtype(inputs.dtype, mx.integer),
            "The model is called with something that is not an mx.array of integer token ids.",
        )
        check(
            isinstance(cache, list | tuple) and len(cache) == LAYERS,
            "The model must be called with a list of caches, one for each of its "
            f"{LAYERS} layers.\n"
            f"  got        {len(cache) if isinstance(cache, list | tuple) else cache!r}",
        )
        check(
            len({id(layer_cache) for layer_cache in cache}) == LAYERS,
            "The model is called with the same cache for two of its layers.",
        )
        batching = [isinstance(layer, kv_cache.BatchingKvCache) for layer in cache]
        shape = " x ".join(map(str, inputs.shape)) or "a scalar"
        if all(batching):
            kind = "decode"
            if not any(cache[0] is known[0] for known in self.batching):
                self.batching.append(list(cache))
            self.slots = max(self.slots, inputs.shape[0] if inputs.ndim else 0)
            check(
                inputs.ndim == 2 and inputs.shape[1] == 1,
                "A decode step calls the model with tokens of the wrong shape.\n"
                "  expected   B x 1: one new token for every slot, up to the last one taken\n"
                f"  got        {shape}",
            )
            check(
                not isinstance(offset, int),
                "A decode step calls the model with one offset for all slots.\n"
                "  expected   a list, one offset for each slot: the requests differ in length\n"
                f"  got        {offset!r}",
            )
        else:
            check(
                all(isinstance(layer, kv_cache.TinyKvFullCache) for layer in cache),
                "The model is called with caches that are neither all of one request nor all "
                f"batching: {', '.join(type(layer).__name__ for layer in cache)}.",
            )
            made = [any(layer is c for c in caches) for caches in self.caches for layer in cache]
            kind = "prefill" if any(made) else "alone"
            check(
                not any(getattr(layer, "released", False) for layer in cache),
                "The model is called with caches that were released already.",
            )
            check(
                inputs.ndim == 2 and inputs.shape[0] == 1 and inputs.shape[1] > 0,
                "A prefill calls the model with tokens of the wrong shape.\n"
                "  expected   1 x L, L at least 1\n"
                f"  got        {shape}",
            )
        offsets = [int(start) for start in np.array(offset).reshape(-1)]
        check(
            len(offsets) == inputs.shape[0],
            "The model is called with another number of offsets than of rows.\n"
            f"  expected   {inputs.shape[0]}, one for each row of tokens\n"
            f"  got        {len(offsets)}",
        )
        tokens: list[list[int]] = np.array(inputs).tolist()
        return kind, tokens, offsets

    def _seen(self, kind: str, inputs: mx.array, cache: Any) -> list[list[int]]:
        """Append to the caches; what each row sees then."""
        B, L = inputs.shape
        found: list[list[list[int]]] = []
        for layer, layer_cache in enumerate(cache):
            first = inputs.astype(mx.float32) + (1 + layer * LAYER_STEP)
            keys = mx.broadcast_to(first[:, None, :, None], (B, 1, L, self.width))
            known, values, S, mask = layer_cache.update_and_fetch(keys, -keys, L, "causal")
            for name, array in (("keys", known), ("values", -values)):
                numbers = np.array(array)[:, 0, :, 0]
                shown = np.ones((B, S), bool)
                if kind == "decode":
                    shown = np.array(mask.astype(mx.float32))[:, 0, -1, :] == 0
                ids = [
                    (row[seen] - 1 - layer * LAYER_STEP).astype(int).tolist()
                    for row, seen in zip(numbers, shown, strict=True)
                ]
                found.append(ids)
                check(
                    ids == found[0],
                    f"The {name} that the cache of layer {layer} shows the model are of other "
                    "tokens than the keys of layer 0.\n"
                    "  expected   in every layer the request's own cache of that layer, in the "
                    "same slot",
                )
        return found[0]

    def _check_offsets(self, kind: str, offsets: list[int], rows: list[list[int]], L: int) -> None:
        """Positions come from the offsets: they have to be the numbers of tokens before."""
        for row, (start, sequence) in enumerate(zip(offsets, rows, strict=True)):
            where = f"slot {row}" if kind == "decode" else "its caches"
            check(
                not sequence or start == len(sequence) - L,
                f"The model is called with the wrong offset, in call {len(self.calls)} ({kind}).\n"
                f"  expected   {len(sequence) - L}: so many tokens are in {where} before the new "
                f"{'one' if L == 1 else 'ones'}\n"
                f"  got        {start}",
            )


def _is_empty(cache: Any, slot: int) -> bool:
    """Whether a slot of a batching cache is empty: there is nothing to extract."""
    try:
        cache.extract_request(slot, 1)
    except ValueError:
        return True
    return False


def run_to_end(scheduler: Any, model: BatchModel, *, most_steps: int = 300) -> list[Any]:
    """Step a scheduler until no request is left; what is wrong with a call is raised at once.

    Returns:
        The output of every step.
    """
    outputs: list[Any] = []
    while scheduler.has_work_remaining():
        check(
            len(outputs) < most_steps,
            f"After {most_steps} steps, has_work_remaining() is still True.\n"
            "  expected   every request to end: at its end-of-sequence token, or at a limit",
        )
        outputs.append(scheduler.step())
        model.raise_failure()
    return outputs
