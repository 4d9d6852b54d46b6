"""Week 1, day 5: embedding, attention with QK-norm, transformer block, and the Qwen3 model."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_map

from inputs import cases, float64, half_precision, normal
from oracle_models import MISTAKES, chat, ledger_question, mistaken_attention, random_model, tiny
from solution import embedding, qwen3
from tiny_llm_lab.course.checks import (
    CheckFailure,
    arguments_unchanged,
    assert_close,
    assert_raises_clearly,
    assert_tokens_equal,
    check,
    dtype_name,
)

# --- Task 1: embedding and output head -------------------------------------------------------


@cases("shape", (), (5,), (2, 3), (2, 1, 4))
def test_task_1_lookup_at_any_shape(shape: tuple[int, ...]) -> None:
    """Ids of any shape get one more axis, which holds each id's row of the table."""
    table = normal(11, 6, seed=1)
    ids = np.random.default_rng(2).integers(0, 11, shape)
    expected = float64(table)[ids]
    assert_close(
        embedding.Embedding(11, 6, table)(mx.array(ids, mx.int32)),
        expected,
        what=f"Embedding(11, 6, weight)(x), x of shape {shape}",
    )


def test_task_1_lookup_reaches_both_ends_of_the_table() -> None:
    """The first id is the first row, the last id the last row, and an id may come twice."""
    table = normal(11, 6, seed=3)
    expected = float64(table)[[0, 10, 10, 1, 0]]
    assert_close(
        embedding.Embedding(11, 6, table)(mx.array([0, 10, 10, 1, 0])),
        expected,
        what="Embedding(11, 6, weight)([0, 10, 10, 1, 0])",
    )


@half_precision
def test_task_1_lookup_has_the_dtype_of_the_table(dtype: mx.Dtype) -> None:
    """Looking up copies rows: nothing is rounded or widened."""
    table = normal(11, 6, seed=4, dtype=dtype)
    expected = float64(table)[[[7, 2, 9]]]
    assert_close(
        embedding.Embedding(11, 6, table)(mx.array([[7, 2, 9]])),
        expected,
        what=f"Embedding(11, 6, weight)([[7, 2, 9]]) with a table in {dtype_name(dtype)}",
        dtype=dtype,
    )


@cases("shape", (6,), (4, 6), (2, 3, 6), (2, 1, 3, 6))
def test_task_1_as_linear_scores_every_row(shape: tuple[int, ...]) -> None:
    """A logit is the dot product of a vector with one row of the table."""
    table, x = normal(11, 6, seed=5), normal(*shape, seed=6)
    expected = float64(x) @ float64(table).T
    assert_close(
        embedding.Embedding(11, 6, table).as_linear(x),
        expected,
        what=f"Embedding(11, 6, weight).as_linear(x), x of shape {shape}",
        reduction=6,
        magnitude=np.abs(float64(x)) @ np.abs(float64(table)).T,
    )


def test_task_1_as_linear_of_a_square_table() -> None:
    """With as many tokens as features no shape tells the rows from the columns."""
    table, x = normal(7, 7, seed=7), normal(2, 3, 7, seed=8)
    expected = float64(x) @ float64(table).T
    assert_close(
        embedding.Embedding(7, 7, table).as_linear(x),
        expected,
        what="Embedding(7, 7, weight).as_linear(x)",
        reduction=7,
        magnitude=np.abs(float64(x)) @ np.abs(float64(table)).T,
    )


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
def test_task_1_as_linear_has_the_dtype_of_its_input(dtype: mx.Dtype) -> None:
    """The logits have the dtype of `x`, here with a table in float32."""
    table, x = normal(11, 6, seed=9), normal(2, 3, 6, seed=10, dtype=dtype)
    expected = float64(x) @ float64(table).T
    assert_close(
        embedding.Embedding(11, 6, table).as_linear(x),
        expected,
        what=f"Embedding(11, 6, weight).as_linear(x), x in {dtype_name(dtype)}",
        dtype=dtype,
        reduction=6,
        magnitude=np.abs(float64(x)) @ np.abs(float64(table)).T,
    )


def test_task_1_the_arguments_stay_as_they_are() -> None:
    """Neither the ids nor the vectors of the caller are changed."""
    table, ids, x = normal(11, 6, seed=11), mx.array([[3, 0]]), normal(2, 6, seed=12)
    student = embedding.Embedding(11, 6, table)
    with arguments_unchanged("Embedding(11, 6, weight)(x)", x=ids, weight=table):
        mx.eval(student(ids))
    with arguments_unchanged("Embedding(11, 6, weight).as_linear(x)", x=x, weight=table):
        mx.eval(student.as_linear(x))


@cases("shape", (6, 11), (11, 5), (10, 6), (66,))
def test_task_1_a_table_of_another_shape_is_an_error(shape: tuple[int, ...]) -> None:
    """A table that is not `vocab_size x embedding_dim` raises ValueError in the constructor."""
    assert_raises_clearly(
        ValueError,
        lambda: embedding.Embedding(11, 6, mx.zeros(shape)),
        what=f"Embedding(11, 6, weight) with a weight of shape {shape}",
    )


# --- Task 2: attention with QK-norm ----------------------------------------------------------

HEADS = [
    pytest.param({"heads": 6, "kv_heads": 2, "head_dim": 8}, id="3-queries-per-key"),
    pytest.param({"heads": 3, "kv_heads": 1, "head_dim": 10}, id="one-key-head"),
    pytest.param({"heads": 5, "kv_heads": 5, "head_dim": 4}, id="a-key-per-query"),
    pytest.param({"heads": 4, "kv_heads": 2, "head_dim": 6}, id="H*D-equals-E"),
]


def attention_of(model: Any, **options: Any) -> Any:
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
        **options,
    )


def longest_sum(model: Any) -> int:
    """How many terms there are behind an element of the output, all layers taken together."""
    args = model.args
    joined = args.num_attention_heads * args.head_dim
    return args.num_hidden_layers * (2 * args.hidden_size + joined + args.intermediate_size)


def assert_matches(
    actual: Any, expected: mx.array, model: Any, *, what: str, dtype: mx.Dtype = mx.float32
) -> None:
    """Compare with mlx-lm's result, allowing for the rounding of so long a computation."""
    assert_close(
        actual,
        expected,
        what=what,
        dtype=dtype,
        reduction=longest_sum(model),
        axes="B L E" if expected.shape[-1] == model.args.hidden_size else "B L vocab",
    )


def assert_same(after: Any, before: Any, model: Any, *, what: str) -> None:
    """Compare two results of the student's that have to be equal, apart from rounding."""
    check(isinstance(before, mx.array), f"{what}: the result is not an mx.array")
    assert_close(after, before, what=what, dtype=before.dtype, reduction=longest_sum(model))


def assert_attention(
    model: Any, x: mx.array, mask: mx.array | str | None, *, what: str, **options: Any
) -> None:
    """Compare the student's attention with mlx-lm's; if it differs, say which mistake it is."""
    attend, reference = attention_of(model, **options), model.layers[0].self_attn

    def result_is(expected: mx.array, x: mx.array) -> bool:
        try:
            assert_matches(attend(x, mask=mask), expected, model, what=what, dtype=x.dtype)
        except CheckFailure:
            return False
        return True

    expected = reference(x.astype(mx.float32), mask)
    try:
        assert_matches(attend(x, mask=mask), expected, model, what=what, dtype=x.dtype)
    except CheckFailure as failure:
        for mistake in MISTAKES:
            if all(
                result_is(mistaken_attention(reference, y.astype(mx.float32), mask, mistake), y)
                for y in (x, x[::-1, ::-1])
            ):
                raise CheckFailure(f"{failure}\n  This is what comes out if {mistake}.") from None
        raise


def random_mask(*shape: int, seed: int) -> mx.array:
    """A mask with finite penalties and rewards, and `-inf` in places off the diagonal."""
    penalties = normal(*shape, seed=seed, scale=2.0)
    forbidden = normal(*shape, seed=seed + 1) > 0.8
    return mx.where(forbidden & ~mx.eye(shape[-1], dtype=mx.bool_), -mx.inf, penalties)


@pytest.mark.parametrize("sizes", HEADS)
def test_task_2_matches_mlx_lm(sizes: dict[str, int]) -> None:
    """The whole attention, as mlx-lm's Qwen3 computes it."""
    assert_attention(
        random_model(seed=100, **sizes),
        normal(2, 7, 24, seed=101),
        "causal",
        what='Qwen3MultiHeadAttention(...)(x, mask="causal")',
    )


@cases("projection heads", ("q_proj", 6), ("k_proj", 2))
def test_task_2_each_head_is_normalized_on_its_own(projection: str, heads: int) -> None:
    """A head that is projected several times as large comes out of QK-norm as before."""
    model = random_model(seed=105)
    x = normal(2, 7, 24, seed=106)
    before = attention_of(model, rms_norm_eps=1e-10)(x, mask="causal")
    layer = model.layers[0].self_attn[projection]
    layer.weight = layer.weight * mx.repeat(mx.arange(1.0, heads + 1), 8)[:, None]
    assert_same(
        attention_of(model, rms_norm_eps=1e-10)(x, mask="causal"),
        before,
        model,
        what=f"Qwen3MultiHeadAttention(...)(x) with head h of w{projection[0]} times h + 1, "
        "which has to change nothing",
    )


def test_task_2_one_token_per_row() -> None:
    """A single token attends to itself; every row of the batch on its own."""
    assert_attention(
        random_model(seed=110),
        normal(3, 1, 24, seed=111),
        "causal",
        what='Qwen3MultiHeadAttention(...)(x, mask="causal") of one token',
    )


def test_task_2_without_a_mask_every_token_is_seen() -> None:
    """`mask=None` lets every token attend to every other, and None is the default."""
    model = random_model(seed=120)
    x = normal(2, 7, 24, seed=121)
    assert_attention(model, x, None, what="Qwen3MultiHeadAttention(...)(x, mask=None)")
    attend = attention_of(model)
    assert_same(
        attend(x), attend(x, mask=None), model, what="Qwen3MultiHeadAttention(...)(x) without mask"
    )


@cases("shape", (7, 7), (2, 1, 7, 7), (2, 6, 7, 7))
def test_task_2_a_mask_array_is_added_to_the_scores(shape: tuple[int, ...]) -> None:
    """A mask may be an array, for all heads or one for each head of each row."""
    assert_attention(
        random_model(seed=130),
        normal(2, 7, 24, seed=131),
        random_mask(*shape, seed=132),
        what=f"Qwen3MultiHeadAttention(...)(x, mask=mask), mask of shape {shape}",
    )


def test_task_2_epsilon_of_the_head_norms() -> None:
    """`rms_norm_eps` is the epsilon of the norms of queries and keys."""
    assert_attention(
        random_model(seed=140, eps=0.7),
        normal(2, 5, 24, seed=141),
        "causal",
        what="Qwen3MultiHeadAttention(..., rms_norm_eps=0.7)(x)",
        rms_norm_eps=0.7,
    )


def test_task_2_base_of_rope() -> None:
    """`theta` is the base of RoPE's frequencies."""
    assert_attention(
        random_model(seed=150, theta=30.0),
        normal(2, 9, 24, seed=151),
        "causal",
        what="Qwen3MultiHeadAttention(..., theta=30)(x)",
        theta=30.0,
    )


def test_task_2_only_distances_count() -> None:
    """Queries and keys are rotated from the same offset, so that moving both changes nothing."""
    model = random_model(seed=160)
    # With these weights also the wrong order of RoPE and QK-norm keeps to distances.
    for norm in (model.layers[0].self_attn.q_norm, model.layers[0].self_attn.k_norm):
        norm.weight = mx.ones_like(norm.weight)
    x = normal(2, 6, 24, seed=161)
    attend = attention_of(model, theta=100.0)
    assert_same(
        attend(x, offset=9, mask="causal"),
        attend(x, mask="causal"),
        model,
        what="Qwen3MultiHeadAttention(...)(x, offset=9), which has to equal the one at offset 0",
    )


def test_task_2_offset_and_max_seq_len_reach_rope() -> None:
    """Tokens beyond position `max_seq_len - 1` are an error, and those before it are not."""
    attention = attention_of(random_model(seed=170), max_seq_len=12)
    x = normal(1, 5, 24, seed=171)
    mx.eval(attention(x, offset=7))
    assert_raises_clearly(
        ValueError,
        lambda: mx.eval(attention(x, offset=8)),
        what="Qwen3MultiHeadAttention(..., max_seq_len=12)(x, offset=8) of 5 tokens",
    )


@half_precision
def test_task_2_half_precision(dtype: mx.Dtype) -> None:
    """In half precision the values are right to its accuracy, and the result has the dtype of x."""
    assert_attention(
        random_model(seed=180),
        normal(2, 5, 24, seed=181, dtype=dtype),
        "causal",
        what=f"Qwen3MultiHeadAttention(...)(x), x in {dtype_name(dtype)}, weights in float32",
    )


def test_task_2_the_arguments_stay_as_they_are() -> None:
    """Neither the input nor the mask of the caller is changed."""
    attention = attention_of(random_model(seed=190))
    x, mask = normal(2, 5, 24, seed=191), random_mask(5, 5, seed=192)
    with arguments_unchanged("Qwen3MultiHeadAttention(...)(x, mask=mask)", x=x, mask=mask):
        mx.eval(attention(x, mask=mask))


@cases("H_q H_kv", (6, 4), (3, 2), (2, 4))
def test_task_2_heads_that_cannot_be_shared_evenly_are_an_error(H_q: int, H_kv: int) -> None:
    """`num_heads` has to be a multiple of `num_kv_heads`, and the constructor says so."""
    assert_raises_clearly(
        ValueError,
        lambda: qwen3.Qwen3MultiHeadAttention(
            hidden_size=24,
            num_heads=H_q,
            num_kv_heads=H_kv,
            head_dim=8,
            wq=mx.zeros((H_q * 8, 24)),
            wk=mx.zeros((H_kv * 8, 24)),
            wv=mx.zeros((H_kv * 8, 24)),
            wo=mx.zeros((24, H_q * 8)),
            q_norm=mx.ones(8),
            k_norm=mx.ones(8),
        ),
        what=f"Qwen3MultiHeadAttention(num_heads={H_q}, num_kv_heads={H_kv}, ...)",
    )


# --- Task 3: the transformer block -----------------------------------------------------------


def block_of(model: Any, **options: Any) -> Any:
    """The student's block, with the weights of the first layer of an mlx-lm model."""
    args, layer = model.args, model.layers[0]
    return qwen3.Qwen3TransformerBlock(
        num_attention_heads=args.num_attention_heads,
        num_kv_heads=args.num_key_value_heads,
        hidden_size=args.hidden_size,
        head_dim=args.head_dim,
        intermediate_size=args.intermediate_size,
        rms_norm_eps=args.rms_norm_eps,
        wq=layer.self_attn.q_proj.weight,
        wk=layer.self_attn.k_proj.weight,
        wv=layer.self_attn.v_proj.weight,
        wo=layer.self_attn.o_proj.weight,
        q_norm=layer.self_attn.q_norm.weight,
        k_norm=layer.self_attn.k_norm.weight,
        w_gate=layer.mlp.gate_proj.weight,
        w_up=layer.mlp.up_proj.weight,
        w_down=layer.mlp.down_proj.weight,
        w_input_layernorm=layer.input_layernorm.weight,
        w_post_attention_layernorm=layer.post_attention_layernorm.weight,
        **options,
    )


def silence(layer: Any) -> None:
    """Make an mlx-lm layer give 0 whatever comes in."""
    layer.weight = mx.zeros_like(layer.weight)


def test_task_3_what_comes_in_goes_through() -> None:
    """If attention and MLP add nothing, the block hands on its input: the residual stream."""
    model = random_model(seed=200)
    silence(model.layers[0].self_attn.o_proj)
    silence(model.layers[0].mlp.down_proj)
    x = normal(2, 5, 24, seed=201, scale=3.0)
    assert_close(
        block_of(model)(x, mask="causal"),
        x,
        what="Qwen3TransformerBlock(...)(x) with wo and w_down zero, which has to equal x",
    )


def test_task_3_the_attention_half() -> None:
    """Without the MLP: `x + attention(input_layernorm(x))`."""
    model = random_model(seed=210)
    silence(model.layers[0].mlp.down_proj)
    x = normal(2, 5, 24, seed=211, scale=3.0)
    expected = model.layers[0](x, "causal")
    assert_matches(
        block_of(model)(x, mask="causal"),
        expected,
        model,
        what="Qwen3TransformerBlock(...)(x) with w_down zero: x + attention(input_layernorm(x))",
    )


def test_task_3_the_mlp_half() -> None:
    """Without the attention: `x + mlp(post_attention_layernorm(x))`."""
    model = random_model(seed=220)
    silence(model.layers[0].self_attn.o_proj)
    x = normal(2, 5, 24, seed=221, scale=3.0)
    expected = model.layers[0](x, "causal")
    assert_matches(
        block_of(model)(x, mask="causal"),
        expected,
        model,
        what="Qwen3TransformerBlock(...)(x) with wo zero: x + mlp(post_attention_layernorm(x))",
    )


@pytest.mark.parametrize("sizes", HEADS)
def test_task_3_matches_mlx_lm(sizes: dict[str, int]) -> None:
    """The whole block, as mlx-lm's Qwen3 computes it: the MLP works on what attention added to."""
    model = random_model(seed=230, **sizes)
    x = normal(2, 7, 24, seed=231)
    expected = model.layers[0](x, "causal")
    assert_matches(
        block_of(model)(x, mask="causal"),
        expected,
        model,
        what='Qwen3TransformerBlock(...)(x, mask="causal")',
    )


def test_task_3_epsilon_of_all_norms() -> None:
    """`rms_norm_eps` is the epsilon of the block's norms and of those of queries and keys."""
    model = random_model(seed=240, eps=0.7)
    x = normal(2, 5, 24, seed=241)
    expected = model.layers[0](x, "causal")
    assert_matches(
        block_of(model)(x, mask="causal"),
        expected,
        model,
        what="Qwen3TransformerBlock(..., rms_norm_eps=0.7)(x)",
    )


def test_task_3_base_of_rope() -> None:
    """`theta` reaches the attention."""
    model = random_model(seed=250, theta=30.0)
    x = normal(2, 9, 24, seed=251)
    expected = model.layers[0](x, "causal")
    assert_matches(
        block_of(model, theta=30.0)(x, mask="causal"),
        expected,
        model,
        what="Qwen3TransformerBlock(..., theta=30)(x)",
    )


def test_task_3_the_mask_reaches_the_attention() -> None:
    """The block uses the mask it is given: an array, or none."""
    model = random_model(seed=260)
    x, mask = normal(2, 7, 24, seed=261), random_mask(7, 7, seed=262)
    for given in (mask, None):
        expected = model.layers[0](x, given)
        assert_matches(
            block_of(model)(x, mask=given),
            expected,
            model,
            what=f"Qwen3TransformerBlock(...)(x, mask={'None' if given is None else 'an array'})",
        )


def test_task_3_offset_and_max_seq_len_reach_the_attention() -> None:
    """Tokens beyond position `max_seq_len - 1` are an error, and those before it are not."""
    block = block_of(random_model(seed=270), max_seq_len=12)
    x = normal(1, 5, 24, seed=271)
    mx.eval(block(x, offset=7))
    assert_raises_clearly(
        ValueError,
        lambda: mx.eval(block(x, offset=8)),
        what="Qwen3TransformerBlock(..., max_seq_len=12)(x, offset=8) of 5 tokens",
    )


@half_precision
def test_task_3_half_precision(dtype: mx.Dtype) -> None:
    """In half precision the values are right to its accuracy, and the result has the dtype of x."""
    model = random_model(seed=280)
    x = normal(2, 5, 24, seed=281, dtype=dtype)
    expected = model.layers[0](x.astype(mx.float32), "causal")
    assert_matches(
        block_of(model)(x, mask="causal"),
        expected,
        model,
        what=f"Qwen3TransformerBlock(...)(x) in {dtype_name(dtype)}",
        dtype=dtype,
    )


def test_task_3_the_arguments_stay_as_they_are() -> None:
    """The sum of the residual stream is a new array: the caller's input is not added to."""
    block = block_of(random_model(seed=290))
    x, mask = normal(2, 5, 24, seed=291), random_mask(5, 5, seed=292)
    with arguments_unchanged("Qwen3TransformerBlock(...)(x, mask=mask)", x=x, mask=mask):
        mx.eval(block(x, mask=mask))


# --- Task 4: the whole model -----------------------------------------------------------------

MODELS = [
    pytest.param({"layers": 1}, id="one-layer"),
    pytest.param({"layers": 3}, id="tied-head"),
    pytest.param({"layers": 3, "tied": False}, id="head-of-its-own"),
    pytest.param({"layers": 2, "heads": 5, "kv_heads": 5, "head_dim": 4}, id="a-key-per-query"),
    pytest.param({"layers": 2, "heads": 3, "kv_heads": 1, "head_dim": 10}, id="one-key-head"),
]


def tokens(*shape: int, vocab_size: int, seed: int) -> mx.array:
    """Random token ids."""
    return mx.array(np.random.default_rng(seed).integers(0, vocab_size, shape), mx.int32)


@pytest.mark.parametrize("sizes", MODELS)
def test_task_4_matches_mlx_lm(sizes: dict[str, int]) -> None:
    """The logits of every position are those of mlx-lm's Qwen3."""
    model = random_model(seed=300, **sizes)
    inputs = tokens(2, 9, vocab_size=37, seed=301)
    expected = model(inputs)
    assert_matches(
        qwen3.Qwen3Model(model)(inputs),
        expected,
        model,
        what="Qwen3Model(mlx_model)(inputs)",
    )


@cases("shape", (1, 1), (1, 6), (3, 1))
def test_task_4_any_batch_and_length(shape: tuple[int, ...]) -> None:
    """One row or many, one token or many: logits are `B x L x vocab_size`."""
    model = random_model(seed=310, layers=2)
    inputs = tokens(*shape, vocab_size=37, seed=311)
    expected = model(inputs)
    assert_matches(
        qwen3.Qwen3Model(model)(inputs),
        expected,
        model,
        what=f"Qwen3Model(mlx_model)(inputs), inputs of shape {shape}",
    )


@cases("bits tied", (4, True), (4, False), (8, True))
def test_task_4_takes_over_quantized_weights(bits: int, tied: bool) -> None:
    """A quantized checkpoint is dequantized as its own group size and bits say."""
    model = random_model(
        seed=320,
        bits=bits,
        tied=tied,
        layers=2,
        vocab_size=70,
        hidden_size=64,
        head_dim=16,
        intermediate_size=128,
    )
    inputs = tokens(2, 6, vocab_size=70, seed=321)
    expected = model(inputs)
    assert_matches(
        qwen3.Qwen3Model(model)(inputs),
        expected,
        model,
        what=f"Qwen3Model(mlx_model)(inputs) of a {bits}-bit checkpoint",
    )


def test_task_4_epsilon_of_the_config() -> None:
    """`args.rms_norm_eps` is the epsilon of every norm, the last one too."""
    model = random_model(seed=330, layers=2, eps=0.7)
    inputs = tokens(2, 6, vocab_size=37, seed=331)
    expected = model(inputs)
    assert_matches(
        qwen3.Qwen3Model(model)(inputs),
        expected,
        model,
        what="Qwen3Model(mlx_model)(inputs) with args.rms_norm_eps = 0.7",
    )


def test_task_4_base_of_rope_of_the_config() -> None:
    """`args.rope_theta` is the base of RoPE's frequencies in every layer."""
    model = random_model(seed=340, layers=2, theta=30.0)
    inputs = tokens(2, 9, vocab_size=37, seed=341)
    expected = model(inputs)
    assert_matches(
        qwen3.Qwen3Model(model)(inputs),
        expected,
        model,
        what="Qwen3Model(mlx_model)(inputs) with args.rope_theta = 30",
    )


def test_task_4_a_later_token_changes_nothing_before_it() -> None:
    """Causality: a prediction depends on the tokens up to its position, on no later one."""
    model = random_model(seed=350, layers=2)
    inputs = tokens(1, 8, vocab_size=37, seed=351)
    changed = mx.where(mx.arange(8) < 5, inputs, (inputs + 1) % 37)
    student = qwen3.Qwen3Model(model)
    assert_same(
        student(changed)[:, :5],
        student(inputs)[:, :5],
        model,
        what="the logits of positions 0 to 4 after another choice of tokens 5 to 7",
    )


def test_task_4_offset_and_positions_reach_rope() -> None:
    """Tokens beyond the config's positions are an error, and those before them are not."""
    model = random_model(seed=360, layers=2, positions=12)
    student = qwen3.Qwen3Model(model)
    inputs = tokens(1, 5, vocab_size=37, seed=361)
    assert_same(
        student(inputs, offset=7),
        student(inputs),
        model,
        what="Qwen3Model(mlx_model)(inputs, offset=7), which has to equal the one at offset 0",
    )
    assert_raises_clearly(
        ValueError,
        lambda: mx.eval(student(inputs, offset=8)),
        what="Qwen3Model(mlx_model)(inputs, offset=8) of 5 tokens, with 12 positions,",
    )


@half_precision
def test_task_4_half_precision(dtype: mx.Dtype) -> None:
    """With weights in half precision the logits are right to its accuracy, and have its dtype."""
    model = random_model(seed=370, layers=2, dtype=dtype)
    inputs = tokens(2, 6, vocab_size=37, seed=371)
    logits = qwen3.Qwen3Model(model)(inputs)
    model.set_dtype(mx.float32)
    expected = model(inputs)
    assert_matches(
        logits,
        expected,
        model,
        what=f"Qwen3Model(mlx_model)(inputs) with weights in {dtype_name(dtype)}",
        dtype=dtype,
    )


def test_task_4_takes_the_weights_over() -> None:
    """The weights are read in the constructor: what becomes of mlx-lm's model changes nothing."""
    model = random_model(seed=380, layers=2, tied=False)
    inputs = tokens(2, 6, vocab_size=37, seed=381)
    student = qwen3.Qwen3Model(model)
    before = student(inputs)
    model.update(tree_map(mx.zeros_like, model.parameters()))
    assert_same(
        student(inputs),
        before,
        model,
        what="Qwen3Model(mlx_model)(inputs) after all weights of mlx_model were set to 0",
    )


def test_task_4_two_models_at_once() -> None:
    """A model that is made later changes nothing about the first."""
    model = random_model(seed=390, layers=2)
    inputs = tokens(2, 6, vocab_size=37, seed=391)
    first = qwen3.Qwen3Model(model)
    qwen3.Qwen3Model(random_model(seed=395, layers=2))
    expected = model(inputs)
    assert_matches(
        first(inputs),
        expected,
        model,
        what="Qwen3Model(mlx_model)(inputs) of the first of two models",
    )


def prompts_of_many_lengths() -> list[list[int]]:
    """More than 20 prompts for the embedded model, from one token to over 200."""
    _, tokenizer = tiny()
    messages = [
        "Hello!",
        "Count from 3 to 9.",
        "Count from 17 to 21.",
        "What is 3 + 4?",
        "What is 12 - 5?",
        "Repeat: river stone bread",
        "Say backwards: fox oak lamp",
        "Tell me a story.",
        "What is the capital of France?",
        *(ledger_question(lines) for lines in (1, 2, 3, 4, 6, 8, 28)),
    ]
    prompts = [tokenizer.encode(chat(tokenizer, m), add_special_tokens=False) for m in messages]
    return [prompts[9][:n] for n in (1, 2, 5, 9, 14)] + prompts


def test_task_4_the_embedded_model_gives_the_logits_of_mlx_lm() -> None:
    """A trained, quantized model: logits of mlx-lm within the tolerance, at every position."""
    model, _ = tiny()
    prompts = prompts_of_many_lengths()
    student = qwen3.Qwen3Model(model)
    for prompt in (prompts[3], prompts[8], prompts[-2]):
        inputs = mx.array([prompt])
        expected = model(inputs)
        assert_matches(
            student(inputs),
            expected,
            model,
            what=f"Qwen3Model(embedded model)(a prompt of {len(prompt)} tokens)",
        )


def test_task_4_the_embedded_model_picks_the_tokens_of_mlx_lm() -> None:
    """The most probable next token is mlx-lm's, at all positions of prompts short and long."""
    model, _ = tiny()
    student = qwen3.Qwen3Model(model)
    compared = 0
    for prompt in prompts_of_many_lengths():
        inputs = mx.array([prompt])
        expected = float64(model(inputs)[0])
        picked = mx.argmax(student(inputs)[0], axis=-1)
        second, first = np.partition(expected, -2, axis=-1)[:, -2:].T
        # Where two tokens are as good as equal, either one is right.
        clear = first - second > 0.01
        compared += np.count_nonzero(clear)
        assert_tokens_equal(
            picked,
            np.where(clear, np.argmax(expected, axis=-1), np.array(picked)),
            what=f"the most probable next token, in a prompt of {len(prompt)} tokens",
            place="position",
        )
    assert compared >= 500, "the prompts are a bad choice: the model hardly prefers any token"
