"""Week 2, day 1: the KV cache, the model with it, and generating with it."""

from collections.abc import Callable, Sequence
from itertools import chain, combinations, pairwise, repeat
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

from caches import (
    NotedCache,
    assert_kept,
    keys_and_values,
    memory_in_use,
    still_in_use,
)
from inputs import float64, half_precision, normal
from oracle_models import chat, continue_greedily, ledger_question, random_model, tiny
from scripted import (
    END_OF_CALL,
    END_OF_TEXT,
    END_OF_TURN,
    ScriptedModel,
    byte_tokenizer,
    ids_of,
    one_by_one,
)
from solution import generate, kv_cache, qwen3
from tiny_llm_lab.course.checks import (
    arguments_unchanged,
    assert_close,
    assert_raises_clearly,
    assert_text_equal,
    assert_tokens_equal,
    check,
    dtype_name,
)

# --- Task 1: append and fetch ----------------------------------------------------------------


def append(cache: Any, keys: mx.array, values: mx.array, sizes: Sequence[int]) -> None:
    """Append the first `sum(sizes)` tokens in pieces of these sizes to an empty cache.

    After every piece all tokens so far have to come back, keys and values, and their number.
    """
    end = 0
    for piece, size in enumerate(sizes):
        start, end = end, end + size
        fetched = cache.update_and_fetch(keys[:, :, start:end], values[:, :, start:end])
        what = f"after pieces of {', '.join(map(str, sizes[: piece + 1]))} tokens"
        assert_fetched(fetched, keys[:, :, :end], values[:, :, :end], what=what)


def assert_fetched(fetched: Any, keys: mx.array, values: mx.array, *, what: str) -> None:
    """Check keys, values and `seq_len` of what `update_and_fetch` returned."""
    check(
        isinstance(fetched, tuple) and len(fetched) == 4,
        "update_and_fetch(key, value) must return a tuple (keys, values, seq_len, mask).",
    )
    assert_kept(fetched[0], keys, what=f"the keys {what}")
    assert_kept(fetched[1], values, what=f"the values {what}")
    assert_seq_len(fetched[2], keys.shape[2], what=what)


def assert_seq_len(actual: Any, expected: int, *, what: str) -> None:
    """Check the number of tokens that `update_and_fetch` returned."""
    check(
        isinstance(actual, int) and actual == expected,
        f"The seq_len that update_and_fetch returns {what} is wrong.\n"
        f"  expected   {expected}\n"
        f"  got        {actual!r}",
    )


@pytest.mark.parametrize("B, H, L", [(1, 1, 1), (1, 3, 5), (2, 3, 1), (4, 2, 6)])
def test_task_1_the_first_tokens_come_back(B: int, H: int, L: int) -> None:
    """An empty cache takes the shape of what comes first, and gives it back."""
    keys, values = keys_and_values(L, B=B, H=H, seed=1)
    append(kv_cache.TinyKvFullCache(), keys, values, [L])


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param([1] * 40, id="one-by-one"),
        pytest.param([7, *[1] * 30], id="a-prompt-and-then-one-by-one"),
        pytest.param([8] * 6, id="equal-pieces"),
        pytest.param([1, 2, 4, 8, 16, 32], id="doubling-pieces"),
        pytest.param([1, 29, 1, 2, 300, 1], id="a-piece-larger-than-all-before"),
        pytest.param([255, 1, 1, 300, 256, 1], id="around-256"),
    ],
)
def test_task_1_all_tokens_in_the_order_they_came(sizes: list[int]) -> None:
    """After every piece, of whatever size, all tokens so far come back, oldest first."""
    keys, values = keys_and_values(sum(sizes), seed=10)
    append(kv_cache.TinyKvFullCache(), keys, values, sizes)


def test_task_1_pieces_of_random_sizes() -> None:
    """Twenty ways to cut a sequence into pieces give the same tokens."""
    random = np.random.default_rng(20)
    for _ in range(20):
        sizes = random.integers(1, 20, size=6).tolist()
        keys, values = keys_and_values(sum(sizes), B=1, H=2, seed=21)
        append(kv_cache.TinyKvFullCache(), keys, values, sizes)


@pytest.mark.parametrize(
    "dtype, scale",
    [(mx.float32, 1e30), (mx.float16, 1e4), (mx.bfloat16, 1e30)],
    ids=["float32", "float16", "bfloat16"],
)
def test_task_1_keeps_the_dtype(dtype: mx.Dtype, scale: float) -> None:
    """Numbers come back bit by bit: large ones too, and in the dtype that they came in."""
    keys, values = keys_and_values(12, seed=30, dtype=dtype, scale=scale)
    append(kv_cache.TinyKvFullCache(), keys, values, [5, 1, 1, 5])


def test_task_1_the_mask_comes_back_as_it_came() -> None:
    """This cache has nothing to say about masks; `mask_length` may be given and is not needed."""
    keys, values = keys_and_values(6, seed=40)
    masks: list[Any] = [None, "causal", normal(3, 6, seed=42), mx.zeros((2, 1, 3, 6), mx.float16)]
    for given in masks:
        cache = kv_cache.TinyKvFullCache()
        first = cache.update_and_fetch(keys[:, :, :3], values[:, :, :3], 3, given)
        assert_fetched(first, keys[:, :, :3], values[:, :, :3], what="with mask_length and mask")
        second = cache.update_and_fetch(keys[:, :, 3:], values[:, :, 3:], mask_length=3, mask=given)
        assert_fetched(second, keys, values, what="with mask_length and mask")
        for fetched in (first[3], second[3]):
            if isinstance(given, mx.array):
                assert_close(
                    fetched, given, what="the mask that update_and_fetch returns", dtype=given.dtype
                )
            else:
                check(
                    type(fetched) is type(given) and fetched == given,
                    "update_and_fetch must return the mask as it came.\n"
                    f"  expected   {given!r}\n"
                    f"  got        {fetched!r}",
                )


@pytest.mark.parametrize("sizes", [[1] * 20, [4, 1, 1, 1, 1, 4, 4], [6, 6, 12]], ids=str)
def test_task_1_what_was_fetched_stays_as_it_is(sizes: list[int]) -> None:
    """Keys and values of an earlier step may still be in use when more tokens are appended."""
    keys, values = keys_and_values(sum(sizes), seed=50)
    cache = kv_cache.TinyKvFullCache()
    fetched, end = [], 0
    for size in sizes:
        start, end = end, end + size
        fetched.append(cache.update_and_fetch(keys[:, :, start:end], values[:, :, start:end]))
    for earlier, length in zip(fetched, np.cumsum(sizes).tolist(), strict=True):
        assert_fetched(
            earlier,
            keys[:, :, :length],
            values[:, :, :length],
            what=f"that were fetched when there were {length} of {end} tokens, at the end",
        )


def test_task_1_the_arguments_stay_as_they_are() -> None:
    """The caller's keys and values are not written to, now or by later calls."""
    cache = kv_cache.TinyKvFullCache()
    pieces = [keys_and_values(L, seed=60 + L) for L in (4, 1, 2, 9, 1)]
    names = {
        f"{name} of call {call}": array
        for call, piece in enumerate(pieces)
        for name, array in zip(("key", "value"), piece, strict=True)
    }
    with arguments_unchanged("update_and_fetch(key, value)", **names):
        for key, value in pieces:
            mx.eval(cache.update_and_fetch(key, value)[:2])


def test_task_1_caches_share_nothing() -> None:
    """Every cache has tokens of its own, also when two are filled in turns."""
    caches = [kv_cache.TinyKvFullCache() for _ in range(2)]
    inputs = [keys_and_values(6, seed=70 + 10 * index) for index in range(2)]
    for start, end in ((0, 3), (3, 4), (4, 6)):
        for cache, (keys, values) in zip(caches, inputs, strict=True):
            fetched = cache.update_and_fetch(keys[:, :, start:end], values[:, :, start:end])
            assert_fetched(
                fetched,
                keys[:, :, :end],
                values[:, :, :end],
                what=f"of one of two caches with {end} tokens each",
            )


def test_task_1_an_append_does_not_copy_everything() -> None:
    """Copies need memory, so the memory that all appends ask for shows how much they copy.

    If every append copies the cache, 128 of them copy 64 times the final size. Buffers that grow
    by a factor, or by a few hundred tokens, ask for a few times the final size.
    """
    appends, size = 128, 8
    key, value = normal(2, 2, size, 16, seed=80), normal(2, 2, size, 24, seed=81)
    cache = kv_cache.TinyKvFullCache()
    allocated = 0
    for _ in range(appends):
        before = memory_in_use()
        mx.reset_peak_memory()
        mx.eval(cache.update_and_fetch(key, value)[:2])
        allocated += max(0, mx.get_peak_memory() - before)
    times = allocated / (appends * (key.nbytes + value.nbytes))
    check(
        times < 16,
        f"{appends} appends of {size} tokens ask for {times:.0f} times the memory that the cache "
        "has in the end.\n"
        "  expected   a few times: buffers with room to spare, which double when they are full\n"
        "  got        nearly all tokens copied by every append",
    )


# --- Task 2: rewind, materialize, release ----------------------------------------------------


@pytest.mark.parametrize(
    "sizes, n",
    [
        pytest.param([6], 1, id="a-part-of-the-only-piece"),
        pytest.param([4, 3], 3, id="the-last-piece"),
        pytest.param([4, 3], 5, id="a-piece-and-a-part"),
        pytest.param([1] * 9, 4, id="several-pieces"),
        pytest.param([5, 2], 7, id="everything"),
        pytest.param([5, 2], 0, id="nothing"),
        pytest.param([100, *[1] * 30], 125, id="back-to-a-small-cache"),
    ],
)
@pytest.mark.parametrize("L", [1, 3, 40])
def test_task_2_rewind_and_append(sizes: list[int], n: int, L: int) -> None:
    """The last `n` tokens are gone, and what comes next stands in their place."""
    keys, values = keys_and_values(sum(sizes), seed=100)
    new_key, new_value = keys_and_values(L, seed=110)
    cache = kv_cache.TinyKvFullCache()
    append(cache, keys, values, sizes)
    check(cache.rewind(n) is None, f"rewind({n}) must return nothing.")
    left = sum(sizes) - n
    assert_fetched(
        cache.update_and_fetch(new_key, new_value),
        mx.concatenate([keys[:, :, :left], new_key], axis=2),
        mx.concatenate([values[:, :, :left], new_value], axis=2),
        what=f"of {sum(sizes)} tokens, after rewind({n}) and {L} new ones",
    )


def test_task_2_rewind_again_and_again() -> None:
    """Random appends and rewinds, against a list of tokens."""
    random = np.random.default_rng(120)
    cache = kv_cache.TinyKvFullCache()
    keys, values = keys_and_values(0, seed=121)
    for step in range(40):
        L = int(random.integers(1, 9))
        key, value = keys_and_values(L, seed=130 + 2 * step)
        keys = mx.concatenate([keys, key], axis=2)
        values = mx.concatenate([values, value], axis=2)
        assert_fetched(
            cache.update_and_fetch(key, value), keys, values, what=f"after {step} rewinds"
        )
        left = keys.shape[2] - int(random.integers(0, keys.shape[2] + 1) * random.integers(0, 2))
        cache.rewind(keys.shape[2] - left)
        keys, values = keys[:, :, :left], values[:, :, :left]


@pytest.mark.parametrize("held, n", [(0, 1), (5, 6), (5, 100), (5, -1), (0, -1)])
def test_task_2_rewind_by_more_than_there_is_or_less_than_0_is_an_error(held: int, n: int) -> None:
    """The error leaves the cache as it was."""
    keys, values = keys_and_values(held + 2, seed=140)
    cache = kv_cache.TinyKvFullCache()
    append(cache, keys, values, [held] if held else [])
    assert_raises_clearly(
        ValueError, lambda: cache.rewind(n), what=f"rewind({n}) of a cache of {held} tokens"
    )
    assert_fetched(
        cache.update_and_fetch(keys[:, :, held:], values[:, :, held:]),
        keys,
        values,
        what=f"of {held} tokens, after a rewind({n}) that failed and 2 new ones",
    )


def test_task_2_tokens_that_are_gone_do_not_count() -> None:
    """Rewinding by 4 and then by 3 is rewinding by 7: too much for 6 tokens."""
    keys, values = keys_and_values(6, seed=150)
    cache = kv_cache.TinyKvFullCache()
    append(cache, keys, values, [6])
    cache.rewind(4)
    assert_raises_clearly(
        ValueError, lambda: cache.rewind(3), what="rewind(3) after rewind(4) of 6 tokens"
    )
    cache.rewind(2)
    cache.rewind(0)


@pytest.mark.parametrize("sizes", [[4], [2, 2], [1] * 4, [3, 1, 12]], ids=str)
def test_task_2_what_was_fetched_before_a_rewind_stays_as_it_is(sizes: list[int]) -> None:
    """New tokens in the place of old ones change neither the caller's arrays nor fetched ones."""
    keys, values = keys_and_values(sum(sizes), seed=160)
    cut = [0, *np.cumsum(sizes).tolist()]
    given = [
        (mx.array(keys[:, :, start:end]), mx.array(values[:, :, start:end]))
        for start, end in pairwise(cut)
    ]
    names = {f"key of call {call}": key for call, (key, _) in enumerate(given)}
    names |= {f"value of call {call}": value for call, (_, value) in enumerate(given)}
    cache = kv_cache.TinyKvFullCache()
    with arguments_unchanged("update_and_fetch after a rewind", **names):
        fetched = [cache.update_and_fetch(key, value) for key, value in given]
        mx.eval([earlier[:2] for earlier in fetched])
        for n in (1, 2, 3):
            cache.rewind(n)
            mx.eval(cache.update_and_fetch(*keys_and_values(n, seed=170 + 2 * n))[:2])
    for earlier, end in zip(fetched, cut[1:], strict=True):
        assert_fetched(
            earlier,
            keys[:, :, :end],
            values[:, :, :end],
            what=f"that were fetched when there were {end} tokens, after rewinds and new tokens",
        )


def test_task_2_materialize_and_release_an_empty_cache() -> None:
    """There is nothing to compute or to free: not an error, whyever the cache is empty."""
    keys, values = keys_and_values(3, seed=180)
    cache = kv_cache.TinyKvFullCache()
    cache.materialize()
    cache.release()
    cache.release()
    cache.materialize()
    append(cache, keys, values, [2, 1])
    cache.rewind(3)
    cache.materialize()
    append(cache, keys, values, [1, 2])
    cache.release()
    cache.materialize()


def test_task_2_materialize_keeps_the_tokens() -> None:
    """Between any two steps it changes nothing that one can see."""
    keys, values = keys_and_values(30, seed=190)
    cache = kv_cache.TinyKvFullCache()
    for start, end in ((0, 3), (3, 4), (4, 20), (20, 30)):
        fetched = cache.update_and_fetch(keys[:, :, start:end], values[:, :, start:end])
        cache.materialize()
        cache.materialize()
        assert_fetched(
            fetched, keys[:, :, :end], values[:, :, :end], what=f"of {end} tokens, materialized"
        )
    cache.rewind(12)
    cache.materialize()
    assert_fetched(
        cache.update_and_fetch(keys[:, :, 18:], values[:, :, 18:]),
        keys,
        values,
        what="after rewind(12), materialize() and 12 new tokens",
    )


@pytest.mark.parametrize("which", ["keys", "values"])
@pytest.mark.parametrize("calls", [1, 3])
def test_task_2_materialize_frees_what_the_tokens_were_computed_from(
    which: str, calls: int
) -> None:
    """A pending array keeps alive all that it is computed from: here 4 MiB for a few numbers."""
    cache = kv_cache.TinyKvFullCache()
    before = memory_in_use()
    for call in range(calls):
        big = mx.ones((1024, 1024)) + call
        mx.eval(big)
        pending = mx.broadcast_to(mx.sum(big, axis=0)[:8].reshape(1, 1, 2, 4), (1, 3, 2, 4))
        ready = normal(1, 3, 2, 4, seed=200 + call)
        # What is fetched is let go at once, so that the cache alone holds on to the graph.
        cache.update_and_fetch(*((pending, ready) if which == "keys" else (ready, pending)))
        del big, pending, ready
    cache.materialize()
    still = still_in_use(before)
    check(
        still < 2**20,
        f"After materialize(), the graph behind the {which} is still there.\n"
        "  expected   all keys and values computed, what they were computed from freed\n"
        f"  got        {still / 2**20:.0f} MiB still in use",
    )


def test_task_2_release_empties_the_cache() -> None:
    """A released cache is as good as new: also for another batch, other heads, another dtype."""
    keys, values = keys_and_values(9, seed=210)
    cache = kv_cache.TinyKvFullCache()
    append(cache, keys, values, [4, 5])
    cache.release()
    assert_raises_clearly(
        ValueError, lambda: cache.rewind(1), what="rewind(1) of a cache that was released"
    )
    append(cache, keys[:, :, 5:], values[:, :, 5:], [1, 3])
    cache.release()
    keys, values = keys_and_values(7, B=1, H=2, seed=220, dtype=mx.bfloat16)
    append(cache, keys, values, [2, 5])


def test_task_2_release_frees_the_memory() -> None:
    """Nothing holds on to keys or values any more: room for the next request."""
    cache = kv_cache.TinyKvFullCache()
    before = memory_in_use()
    for call in range(5):
        key, value = (normal(1, 4, 512, 128, seed=230 + call) for _ in range(2))
        mx.eval(cache.update_and_fetch(key, value)[:2])
        del key, value
    cache.rewind(700)
    cache.release()
    still = still_in_use(before)
    check(
        still < 2**20,
        "After release(), keys or values are still in memory.\n"
        "  expected   nothing of the 10 MiB\n"
        f"  got        {still / 2**20:.0f} MiB still in use",
    )


# --- Task 3: a model with a cache ------------------------------------------------------------


def assert_matches(
    actual: Any, expected: mx.array, model: Any, *, what: str, dtype: mx.Dtype = mx.float32
) -> None:
    """Compare with mlx-lm's result, allowing for the rounding of so long a computation."""
    args = model.args
    joined = args.num_attention_heads * args.head_dim
    assert_close(
        actual,
        expected,
        what=what,
        dtype=dtype,
        reduction=args.num_hidden_layers * (2 * args.hidden_size + joined + args.intermediate_size),
        axes="B L E" if expected.shape[-1] == args.hidden_size else "B L vocab",
    )


def tokens(*shape: int, vocab_size: int = 37, seed: int) -> mx.array:
    """Random token ids."""
    return mx.array(np.random.default_rng(seed).integers(0, vocab_size, shape), mx.int32)


def in_pieces(student: Any, inputs: mx.array, sizes: Sequence[int], cache: Any) -> mx.array:
    """The logits of all positions, computed piece by piece with an empty cache."""
    logits, end = [], 0
    for size in sizes:
        start, end = end, end + size
        logits.append(student(inputs[:, start:end], offset=start, cache=cache))
    return mx.concatenate(logits, axis=1)


def splits(length: int) -> list[list[int]]:
    """All ways to cut a sequence into pieces: `2 ** (length - 1)` of them."""
    return [
        np.diff([0, *cuts, length]).tolist()
        for count in range(length)
        for cuts in combinations(range(1, length), count)
    ]


def named(sizes: Sequence[int]) -> str:
    """Name the pieces for a message."""
    return f"Qwen3Model(mlx_model) with a cache, pieces of {', '.join(map(str, sizes))} tokens"


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_task_3_one_empty_cache_for_each_layer(layers: int) -> None:
    """`create_kv_cache` gives as many caches as there are layers, and no two are the same."""
    student = qwen3.Qwen3Model(random_model(seed=300, layers=layers))
    requests = [student.create_kv_cache() for _ in range(2)]
    for cache in requests:
        check(
            len(cache) == layers,
            f"create_kv_cache() of a model of {layers} layers gives {len(cache)} caches.",
        )
    for index, layer_cache in enumerate([*requests[0], *requests[1]]):
        keys, values = keys_and_values(index + 1, seed=310)
        assert_fetched(
            layer_cache.update_and_fetch(keys, values),
            keys,
            values,
            what=f"of cache {index % layers} of create_kv_cache(), after its first tokens",
        )


def attention_of(model: Any) -> Any:
    """The student's attention, with the weights of the first layer of an mlx-lm model."""
    args, attention = model.args, model.layers[0].self_attn
    return qwen3.Qwen3MultiHeadAttention(
        hidden_size=args.hidden_size,
        num_heads=args.num_attention_heads,
        num_kv_heads=args.num_key_value_heads,
        head_dim=args.head_dim,
        wq=attention.q_proj.weight,
        wk=attention.k_proj.weight,
        wv=attention.v_proj.weight,
        wo=attention.o_proj.weight,
        q_norm=attention.q_norm.weight,
        k_norm=attention.k_norm.weight,
        theta=args.rope_theta,
    )


def test_task_3_the_attention_of_one_layer() -> None:
    """New tokens attend to themselves and to all tokens of earlier calls."""
    model = random_model(seed=320)
    attention = attention_of(model)
    oracle = model.layers[0].self_attn
    cache = kv_cache.TinyKvFullCache()
    x = normal(2, 9, 24, seed=321)
    expected = oracle(x, "causal")
    for start, end in ((0, 4), (4, 5), (5, 9)):
        assert_matches(
            attention(x[:, start:end], start, cache, "causal"),
            expected[:, start:end],
            model,
            what=f"Qwen3MultiHeadAttention(...)(x, {start}, cache, mask) of {end - start} tokens",
        )


def test_task_3_every_split_of_a_short_prompt() -> None:
    """The logits do not depend on how a prompt is cut into pieces: all 64 ways to cut 7 tokens."""
    model = random_model(seed=330, layers=2)
    student = qwen3.Qwen3Model(model)
    inputs = tokens(1, 7, seed=331)
    expected = model(inputs)
    for sizes in splits(7):
        logits = in_pieces(student, inputs, sizes, student.create_kv_cache())
        assert_matches(logits, expected, model, what=named(sizes))


MODELS = [
    pytest.param({"layers": 3, "tied": False}, id="head-of-its-own"),
    pytest.param({"layers": 2, "heads": 5, "kv_heads": 5, "head_dim": 4}, id="a-key-per-query"),
    pytest.param({"layers": 2, "heads": 3, "kv_heads": 1, "head_dim": 10}, id="one-key-head"),
    pytest.param({"layers": 2, "theta": 30.0, "eps": 0.7}, id="another-rope-and-epsilon"),
]


@pytest.mark.parametrize("sizes", MODELS)
def test_task_3_random_splits_of_longer_prompts(sizes: dict[str, Any]) -> None:
    """Two rows of 40 tokens: in one piece, one by one, and cut at random."""
    model = random_model(seed=340, **sizes)
    student = qwen3.Qwen3Model(model)
    inputs = tokens(2, 40, seed=341)
    expected = model(inputs)
    random = np.random.default_rng(342)
    cuts = [sorted(random.choice(np.arange(1, 40), 4, replace=False).tolist()) for _ in range(3)]
    for pieces in ([40], [1] * 40, *(np.diff([0, *cut, 40]).tolist() for cut in cuts)):
        logits = in_pieces(student, inputs, pieces, student.create_kv_cache())
        assert_matches(logits, expected, model, what=named(pieces))


@pytest.mark.parametrize("offsets", [(9, 9), (3, 7)], ids=["one-int", "one-per-row"])
def test_task_3_the_offset_is_the_position(offsets: tuple[int, int]) -> None:
    """Positions come from `offset`, which may leave a gap, and may differ from row to row.

    The oracle sees the whole sequence, with the tokens in the gap hidden by its mask.
    """
    model = random_model(seed=350, theta=50.0)
    oracle = model.layers[0].self_attn
    attention = attention_of(model)
    x, new = normal(2, 3, 24, seed=351), normal(2, 2, 24, seed=352)
    cache = kv_cache.TinyKvFullCache()
    mx.eval(attention(x, 0, cache, "causal"))
    offset: Any = offsets[0] if offsets[0] == offsets[1] else mx.array(offsets)
    rows = []
    for row, start in enumerate(offsets):
        gap = normal(1, start - 3, 24, seed=353)
        sequence = mx.concatenate([x[row : row + 1], gap, new[row : row + 1]], axis=1)
        position = mx.arange(start + 2)
        seen = (position < 3) | (position >= start)
        seen = seen & (position[None] <= position[start:, None])
        mask = mx.zeros((start + 2, start + 2))
        mask[start:] = mx.where(seen, 0.0, -mx.inf)
        rows.append(oracle(sequence, mask)[:, start:])
    assert_matches(
        attention(new, offset, cache, "causal"),
        mx.concatenate(rows),
        model,
        what=f"Qwen3MultiHeadAttention(...)(x, offset, cache) at offset {offsets} after 3 tokens",
    )


class HidingCache(kv_cache.TinyKvFullCache):
    """A cache that replaces the mask: it hides the first token of row 1."""

    def update_and_fetch(self, *args: Any, **kwargs: Any) -> Any:
        """As the solution's own cache, but for the mask."""
        keys, values, S, _ = super().update_and_fetch(*args, **kwargs)
        hidden = mx.arange(2).reshape(2, 1, 1, 1) * (mx.arange(S) == 0)
        return keys, values, S, mx.where(hidden == 1, -mx.inf, mx.zeros((2, 1, 2, S)))


def test_task_3_attends_with_the_mask_that_the_cache_returns() -> None:
    """A cache may know better than the model which tokens are to be seen (it will on day 6)."""
    model = random_model(seed=360)
    attention = attention_of(model)
    x = normal(2, 4, 24, seed=361)
    cache = HidingCache()
    mx.eval(attention(x[:, :2], 0, cache, "causal"))
    hidden = mx.zeros((2, 1, 4, 4))
    hidden[1, :, :, 0] = -mx.inf
    expected = model.layers[0].self_attn(x, hidden)[:, 2:]
    assert_matches(
        attention(x[:, 2:], 2, cache, "causal"),
        expected,
        model,
        what="Qwen3MultiHeadAttention(...)(x, 2, cache) with a cache that returns another mask",
    )


def test_task_3_a_mask_array_reaches_the_attention() -> None:
    """The caller may give a mask `L x S` instead of "causal", or none at all."""
    model = random_model(seed=370)
    attention = attention_of(model)
    x = normal(2, 7, 24, seed=371)
    whole = mx.where(normal(7, 7, seed=372) > 0.8, -mx.inf, normal(7, 7, seed=373))
    for mask in (mx.where(mx.eye(7) == 1, 0.0, whole), mx.zeros((7, 7))):
        cache = kv_cache.TinyKvFullCache()
        mx.eval(attention(x[:, :4], 0, cache, mask[:4, :4]))
        given = mask[4:] if mask.any() else None
        name = "None" if given is None else "an array L x S"
        assert_matches(
            attention(x[:, 4:], 4, cache, given),
            model.layers[0].self_attn(x, mask)[:, 4:],
            model,
            what=f"Qwen3MultiHeadAttention(...)(x, 4, cache, mask={name})",
        )


def test_task_3_requests_do_not_mix() -> None:
    """One model serves two requests in turns, each with caches of its own."""
    model = random_model(seed=380, layers=2)
    student = qwen3.Qwen3Model(model)
    inputs = [tokens(1, 9, seed=381), tokens(2, 7, seed=382)]
    caches = [student.create_kv_cache() for _ in inputs]
    logits: list[list[mx.array]] = [[], []]
    for start, end in ((0, 4), (4, 5), (5, 7)):
        for request, cache, parts in zip(inputs, caches, logits, strict=True):
            parts.append(student(request[:, start:end], offset=start, cache=cache))
    for request, parts in zip(inputs, logits, strict=True):
        expected = model(request[:, :7])
        assert_matches(
            mx.concatenate(parts, axis=1),
            expected,
            model,
            what=f"the logits of one of two requests in turns, of shape {request.shape}",
        )


def test_task_3_without_a_cache_nothing_is_remembered() -> None:
    """`cache=None` is still the model of week 1, also between two calls with a cache."""
    model = random_model(seed=390, layers=2)
    student = qwen3.Qwen3Model(model)
    inputs = tokens(1, 6, seed=391)
    cache = student.create_kv_cache()
    first = student(inputs[:, :4], offset=0, cache=cache)
    assert_matches(
        student(inputs[:, 2:]), model(inputs[:, 2:]), model, what="Qwen3Model(mlx_model)(inputs)"
    )
    second = student(inputs[:, 4:], offset=4, cache=cache)
    assert_matches(
        mx.concatenate([first, second], axis=1), model(inputs), model, what=named([4, 2])
    )


def test_task_3_rewind_all_layers() -> None:
    """Tokens that were tried and rejected leave no trace in what comes after them."""
    model = random_model(seed=400, layers=3)
    student = qwen3.Qwen3Model(model)
    inputs, rejected = tokens(1, 10, seed=401), tokens(1, 4, seed=402)
    cache = student.create_kv_cache()
    first = student(inputs[:, :5], offset=0, cache=cache)
    mx.eval(student(rejected, offset=5, cache=cache))
    for layer_cache in cache:
        layer_cache.rewind(4)
    second = student(inputs[:, 5:], offset=5, cache=cache)
    assert_matches(
        mx.concatenate([first, second], axis=1),
        model(inputs),
        model,
        what="the logits of 5 tokens and 5 more, after rewind(4) of 4 others in between",
    )


@half_precision
def test_task_3_has_the_dtype_of_the_weights(dtype: mx.Dtype) -> None:
    """A checkpoint in half precision gives logits in half precision, with a cache too."""
    model = random_model(seed=410, layers=2, dtype=dtype)
    student = qwen3.Qwen3Model(model)
    inputs = tokens(2, 8, seed=411)
    logits = in_pieces(student, inputs, [4, 1, 3], student.create_kv_cache())
    model.set_dtype(mx.float32)
    assert_matches(
        logits,
        model(inputs),
        model,
        what=f"{named([4, 1, 3])}, with weights in {dtype_name(dtype)}",
        dtype=dtype,
    )


def test_task_3_the_embedded_model_as_mlx_lm_with_its_cache() -> None:
    """A trained, quantized model: in pieces and then token by token, as mlx-lm in the same way."""
    model, tokenizer = tiny()
    student = qwen3.Qwen3Model(model)
    prompt = ids_of(tokenizer, chat(tokenizer, ledger_question(12)))
    inputs = mx.array([prompt])
    half = len(prompt) // 2
    sizes = [half, len(prompt) - half - 5, 1, 1, 1, 1, 1]
    oracle_cache = make_prompt_cache(model)
    cuts = [0, *np.cumsum(sizes).tolist()]
    expected = [model(inputs[:, start:end], cache=oracle_cache) for start, end in pairwise(cuts)]
    assert_matches(
        in_pieces(student, inputs, sizes, student.create_kv_cache()),
        mx.concatenate(expected, axis=1),
        model,
        what=f"{named(sizes)} (the embedded model)",
    )


# --- Task 4: generating with a cache ---------------------------------------------------------

PROMPT = "Once upon a time"
LAYERS = 2


class CachingModel(ScriptedModel):
    """A scripted model that remembers earlier tokens in its KV caches, and nowhere else.

    Its keys are token ids, so that what a cache holds is the sequence as the model knows it. It
    notes the tokens and the offset of every call, and fails where the call number `fails_at` is.
    """

    def __init__(self, *args: Any, fails_at: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fails_at = fails_at
        self.offsets: list[int] = []
        self.caches: list[NotedCache] = []

    def create_kv_cache(self) -> list[NotedCache]:
        """One cache per layer."""
        made = [NotedCache() for _ in range(LAYERS)]
        self.caches += made
        return made

    def __call__(self, inputs: mx.array, offset: Any = 0, cache: Any = None) -> mx.array:
        """Logits, `1 x L x vocab_size`, after all tokens that the caches hold then."""
        new = self.note_call(inputs)
        check(
            cache is not None and len(cache) == LAYERS,
            "The model is called without the caches that its create_kv_cache() made.",
        )
        check(
            all(layer_cache in self.caches for layer_cache in cache),
            "The model is called with other caches than its create_kv_cache() made.",
        )
        check(
            not any(layer_cache.released for layer_cache in cache),
            "The model is called with caches that were released already.",
        )
        if len(self.calls) - 1 == self.fails_at:
            raise RuntimeError("the model fails, as it was told to")
        keys = inputs.astype(mx.float32).reshape(1, 1, -1, 1)
        for layer_cache in cache:
            known, _, length, _ = layer_cache.update_and_fetch(keys, -keys, len(new), "causal")
        positions = np.asarray(offset).reshape(-1).tolist()
        check(
            positions == [length - len(new)],
            f"The model is called with the wrong offset, in call {len(self.calls) - 1}.\n"
            f"  expected   {length - len(new)}, the number of tokens in its caches\n"
            f"  got        {offset}",
        )
        self.offsets += positions
        sequence = known.reshape(-1).astype(mx.int32).tolist()
        after = range(length - len(new) + 1, length + 1)
        return mx.stack([self.logits(sequence[:end]) for end in after])[None]


def model_saying(
    tokenizer: Any,
    script: str | list[int],
    prompt: str = PROMPT,
    fails_at: int | None = None,
) -> CachingModel:
    """A model that continues the prompt with a text, and then with question marks for ever."""
    return CachingModel(
        ids_of(tokenizer, prompt),
        ids_of(tokenizer, script) if isinstance(script, str) else script,
        decoy=ids_of(tokenizer, "?")[0],
        vocab_size=len(tokenizer.get_vocab()),
        fails_at=fails_at,
    )


def sampler_choosing(tokens: list[int]) -> Callable[[mx.array], mx.array]:
    """A sampler that picks these tokens, one at each call, whatever the log-probabilities are."""
    choices = chain(tokens, repeat(tokens[-1]))
    return lambda _: mx.array([next(choices)])


def assert_released(model: CachingModel, *, when: str) -> None:
    """Every cache that the model made has to be released."""
    held = sum(not layer_cache.released for layer_cache in model.caches)
    check(
        held == 0,
        f"{held} of {len(model.caches)} caches are not released {when}.\n"
        "  expected   release() of every layer's cache, whatever ends the generation",
    )


def test_task_4_gives_the_continuation() -> None:
    """The text of the most probable tokens, without the prompt, as from `simple_generate`."""
    tokenizer = byte_tokenizer()
    for script in ("there was one.", "a 🦊 in 日本", "one: "):
        model = model_saying(tokenizer, one_by_one(tokenizer, script))
        assert_text_equal(
            generate.simple_generate_with_kv_cache(
                model, tokenizer, PROMPT, max_tokens=len(model.script)
            ),
            script,
            what="simple_generate_with_kv_cache(model, tokenizer, prompt)",
        )


def test_task_4_no_token_goes_through_the_model_twice() -> None:
    """First the whole prompt at offset 0, then one new token at a time, each at its position."""
    tokenizer = byte_tokenizer()
    model = model_saying(tokenizer, one_by_one(tokenizer, "the one"))
    count = len(model.script)
    generate.simple_generate_with_kv_cache(model, tokenizer, PROMPT, max_tokens=count)
    check(
        count <= len(model.calls) <= count + 1,
        f"The model is called {len(model.calls)} times for {count} tokens.",
    )
    expected = [model.prompt, *([token] for token in model.script)]
    for call, (given, wanted) in enumerate(zip(model.calls, expected, strict=False)):
        assert_tokens_equal(
            given,
            wanted,
            what="the tokens of the first call (the whole prompt)"
            if call == 0
            else f"the tokens of call {call} (the token that was generated last)",
        )
    positions = [0, *range(len(model.prompt), len(model.prompt) + count)]
    assert_tokens_equal(
        model.offsets,
        positions[: len(model.calls)],
        what="the offsets that the model is called with",
    )


def test_task_4_a_prompt_of_one_token() -> None:
    """The shortest prompt: every call has one token."""
    tokenizer = byte_tokenizer()
    model = model_saying(tokenizer, "there", prompt="a")
    assert_text_equal(
        generate.simple_generate_with_kv_cache(model, tokenizer, "a", max_tokens=len(model.script)),
        "there",
        what="simple_generate_with_kv_cache(...) of a prompt of one token",
    )


def test_task_4_each_call_starts_afresh() -> None:
    """A second generation with the same model knows nothing of the first."""
    tokenizer = byte_tokenizer()
    model = model_saying(tokenizer, "there was")
    for turn in ("first", "second"):
        assert_text_equal(
            generate.simple_generate_with_kv_cache(
                model, tokenizer, PROMPT, max_tokens=len(model.script)
            ),
            "there was",
            what=f"the {turn} generation with a model",
        )


def test_task_4_the_sampler_gets_log_probabilities_and_decides() -> None:
    """It is asked for every token, and what it picks goes through the model next."""
    tokenizer = byte_tokenizer()
    model = model_saying(tokenizer, "there")
    chosen = one_by_one(tokenizer, "quite")
    picks = sampler_choosing(chosen)
    given: list[mx.array] = []

    def sampler(logprobs: mx.array) -> mx.array:
        given.append(mx.array(logprobs))
        return picks(logprobs)

    assert_text_equal(
        generate.simple_generate_with_kv_cache(
            model, tokenizer, PROMPT, sampler, max_tokens=len(chosen)
        ),
        "quite",
        what="simple_generate_with_kv_cache(...) with a sampler of its own mind",
    )
    for step, token in enumerate(chosen[:-1], start=1):
        assert_tokens_equal(model.calls[step], [token], what=f"the tokens of call {step}")
    check(
        len(given) >= len(chosen),
        f"The sampler is called {len(given)} times for {len(chosen)} tokens.",
    )
    for step, logprobs in enumerate(given[: len(chosen)]):
        logits = float64(model.logits(model.prompt + chosen[:step]))
        expected = logits - np.log(np.sum(np.exp(logits)))
        assert_close(
            logprobs,
            expected[None],
            what=f"what the sampler gets for new token {step} (log-probabilities)",
            reduction=len(expected),
            magnitude=np.abs(logits).max(),
            axes="B vocab",
        )


@pytest.mark.parametrize("end", [END_OF_TEXT, END_OF_TURN, END_OF_CALL])
@pytest.mark.parametrize("text", ["", "there was one"], ids=["at-once", "later"])
def test_task_4_stops_at_any_end_of_sequence_id(end: str, text: str) -> None:
    """Each of the tokenizer's end-of-sequence ids ends the text; one in the prompt does not."""
    tokenizer = byte_tokenizer()
    prompt = f"Hello{END_OF_TURN}\n{PROMPT}{end}"
    model = model_saying(tokenizer, f"{text}{end}more", prompt)
    assert_text_equal(
        generate.simple_generate_with_kv_cache(model, tokenizer, prompt, max_tokens=40),
        text,
        what=f"simple_generate_with_kv_cache(...) of a text that ends with {end}",
    )
    assert_released(model, when=f"at the end ({end})")


@pytest.mark.parametrize("max_tokens", [1, 2, 5])
def test_task_4_stops_after_max_tokens(max_tokens: int) -> None:
    """Not one token more and not one less."""
    tokenizer = byte_tokenizer()
    model = model_saying(tokenizer, one_by_one(tokenizer, "abcdefgh"))
    assert_text_equal(
        generate.simple_generate_with_kv_cache(model, tokenizer, PROMPT, max_tokens=max_tokens),
        "abcdefgh"[:max_tokens],
        what=f"simple_generate_with_kv_cache(..., max_tokens={max_tokens})",
    )
    assert_released(model, when=f"after {max_tokens} tokens")


@pytest.mark.parametrize("prompt, max_tokens", [("", 3), (PROMPT, 0), (PROMPT, -1)])
def test_task_4_bad_arguments_are_an_error(prompt: str, max_tokens: int) -> None:
    """As in `simple_generate`: an empty prompt, or a limit that allows nothing."""
    tokenizer = byte_tokenizer()
    model = model_saying(tokenizer, "there")
    assert_raises_clearly(
        ValueError,
        lambda: generate.simple_generate_with_kv_cache(
            model, tokenizer, prompt, max_tokens=max_tokens
        ),
        what=f"simple_generate_with_kv_cache(..., {prompt!r}, max_tokens={max_tokens})",
    )
    check(not model.calls, "The model is called, though the arguments are bad.")
    assert_released(model, when="after bad arguments")


def test_task_4_streams_each_piece_before_the_next_token_is_computed() -> None:
    """The pieces add up to the result, and none waits for the model."""
    tokenizer = byte_tokenizer()
    story = "one 🦊, in 日本: "
    model = model_saying(tokenizer, one_by_one(tokenizer, story))
    pieces: list[str] = []
    calls_before: list[int] = []

    def on_text(piece: str) -> None:
        pieces.append(piece)
        calls_before.append(len(model.calls))

    result = generate.simple_generate_with_kv_cache(
        model, tokenizer, PROMPT, max_tokens=len(model.script), on_text=on_text
    )
    assert_text_equal(result, story, what="simple_generate_with_kv_cache(..., on_text=on_text)")
    assert_text_equal("".join(pieces), story, what="the pieces that on_text gets")
    for token in range(1, len(model.script)):
        heard = "".join(p for p, calls in zip(pieces, calls_before, strict=True) if calls <= token)
        readable = tokenizer.decode(model.script[:token]).rstrip("\ufffd ")
        check(
            heard.startswith(readable),
            f"on_text is late: the model is called for token {token} before the text is out.\n"
            f"  expected   {readable!r} by then\n"
            f"  got        {heard!r}",
        )


@pytest.mark.parametrize("where", ["prefill", "decode", "sampler", "on_text"])
def test_task_4_an_exception_releases_the_caches(where: str) -> None:
    """Whatever goes wrong, also a Ctrl-C, reaches the caller, and leaves no cache behind."""
    tokenizer = byte_tokenizer()
    model = model_saying(
        tokenizer,
        one_by_one(tokenizer, "abcdef"),
        fails_at={"prefill": 0, "decode": 3}.get(where),
    )

    def interrupt(_: Any) -> Any:
        raise KeyboardInterrupt

    try:
        generate.simple_generate_with_kv_cache(
            model,
            tokenizer,
            PROMPT,
            sampler=interrupt if where == "sampler" else None,
            max_tokens=6,
            on_text=interrupt if where == "on_text" else None,
        )
    except (RuntimeError, KeyboardInterrupt) as error:
        if isinstance(error, NotImplementedError):
            raise
    else:
        check(False, f"The exception raised in {where} does not reach the caller.")
    assert_released(model, when=f"after an exception in {where}")


def test_task_4_a_released_cache_is_let_go() -> None:
    """A real model's keys and values are gone when the text is there."""
    mlx_model = random_model(seed=500, layers=2, vocab_size=300, positions=2048)
    tokenizer = byte_tokenizer()
    student = qwen3.Qwen3Model(mlx_model)
    prompt = "a" * 1024
    generate.simple_generate_with_kv_cache(student, tokenizer, "a", max_tokens=2)
    before = memory_in_use()
    generate.simple_generate_with_kv_cache(student, tokenizer, prompt, max_tokens=2)
    still = still_in_use(before)
    check(still < 2**17, f"{still / 2**10:.0f} KiB of keys and values are still in memory.")


def test_task_4_the_embedded_model_answers_as_without_a_cache_and_as_mlx_lm() -> None:
    """The same text from `simple_generate`, with the cache, and from mlx-lm."""
    model, tokenizer = tiny()
    student = qwen3.Qwen3Model(model)
    limit = 12
    compared = 0
    messages = [
        "Hello!",
        "Count from 3 to 9.",
        "Tell me a story.",
        *(ledger_question(lines) for lines in (1, 4, 9, 16)),
    ]
    for message in messages:
        prompt = chat(tokenizer, message)
        expected, leads = continue_greedily(model, ids_of(tokenizer, prompt), limit)
        ends = [i for i, token in enumerate(expected) if token in tokenizer.eos_token_ids]
        end = ends[0] if ends else limit
        if min(leads[: end + 1]) < 0.01:
            continue  # two tokens are as good as equal, and either text is right
        compared += 1
        with_cache = generate.simple_generate_with_kv_cache(
            student, tokenizer, prompt, max_tokens=limit
        )
        assert_text_equal(
            with_cache,
            tokenizer.decode(expected[:end]),
            what=f"the embedded model's answer to {message[:30]!r}, with a cache",
        )
        if len(prompt) < 75:  # without a cache, longer ones take long
            assert_text_equal(
                with_cache,
                generate.simple_generate(student, tokenizer, prompt, max_tokens=limit),
                what=f"the embedded model's answer to {message[:30]!r}, with and without a cache",
            )
    assert compared >= 3, "the prompts are a bad choice: the model hardly prefers any token"
