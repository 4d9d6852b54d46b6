"""Week 1, day 4: RMSNorm, SiLU, and the SwiGLU MLP."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models import qwen3 as mlx_qwen3

import oracles
from inputs import cases, float64, half_precision, normal
from solution import basics, layer_norm, qwen3
from tiny_llm_lab.course.checks import (
    arguments_unchanged,
    assert_close,
    assert_raises_clearly,
    check,
)

# --- Task 1: RMSNorm ------------------------------------------------------------------------

DIM = 7


def check_rms_norm(x: mx.array, weight: mx.array, eps: float, what: str) -> None:
    """Normalize `x` and compare with the oracle, in the dtype of `x`."""
    expected = oracles.rms_norm(x, weight, eps)
    assert_close(
        layer_norm.RMSNorm(x.shape[-1], weight, eps=eps)(x),
        expected,
        what=what,
        dtype=x.dtype,
        reduction=x.shape[-1] if x.dtype == mx.float32 else 1,
        magnitude=expected,
    )


@cases("leading", (), (3,), (2, 3), (2, 3, 4))
def test_task_1_rms_norm(leading: tuple[int, ...]) -> None:
    """Each vector is divided by its root mean square, then multiplied by the weight."""
    # Numbers so large that no mistake with the epsilon shows: its own tests are to tell of it.
    x = normal(*leading, DIM, seed=1, mean=10.0, scale=20.0)
    weight = normal(DIM, seed=2)
    check_rms_norm(x, weight, 1e-5, f"RMSNorm({DIM}, weight)(x), x {x.shape}")


def test_task_1_agrees_with_mlx() -> None:
    """MLX's own RMSNorm gives the same result."""
    x, weight = normal(2, 3, DIM, seed=1, mean=10.0, scale=20.0), normal(DIM, seed=2)
    expected = mx.fast.rms_norm(x, weight, 1e-5, stream=mx.cpu)
    assert_close(
        layer_norm.RMSNorm(DIM, weight)(x),
        expected,
        what="RMSNorm, compared with mx.fast.rms_norm",
        reduction=DIM,
        magnitude=expected,
    )


@cases("eps", 1e-6, 1e-2)
def test_task_1_epsilon_is_inside_the_root(eps: float) -> None:
    """For a vector as small as the root of epsilon, it matters where epsilon is added."""
    x, weight = normal(3, DIM, seed=1, scale=eps**0.5), normal(DIM, seed=2)
    check_rms_norm(x, weight, eps, f"RMSNorm({DIM}, weight, eps={eps})(x) with x about sqrt(eps)")


def test_task_1_default_epsilon() -> None:
    """Epsilon is 1e-5 unless another is given."""
    x, weight = normal(3, DIM, seed=1, scale=1e-3), normal(DIM, seed=2)
    expected = oracles.rms_norm(x, weight, 1e-5)
    assert_close(
        layer_norm.RMSNorm(DIM, weight)(x),
        expected,
        what=f"RMSNorm({DIM}, weight)(x) with x about 0.001",
        reduction=DIM,
        magnitude=expected,
    )


def test_task_1_zeros_stay_zero() -> None:
    """Epsilon keeps a vector of zeros from being divided by zero."""
    x, weight = mx.zeros((2, DIM)), normal(DIM, seed=2)
    check_rms_norm(x, weight, 1e-5, "RMSNorm of a vector of zeros")


@half_precision
def test_task_1_half_precision(dtype: mx.Dtype) -> None:
    """In half precision the values are right to its accuracy, and the result has the dtype of x."""
    x = normal(2, 3, 300, seed=1, mean=1.0, dtype=dtype)
    same, float32 = normal(300, seed=2, dtype=dtype), normal(300, seed=2)
    check_rms_norm(x, same, 1e-5, "RMSNorm(300, weight)(x), x and weight in half precision")
    check_rms_norm(x, float32, 1e-5, "RMSNorm(300, weight)(x), x in half precision, weight not")


def test_task_1_half_precision_weight() -> None:
    """A weight in half precision makes neither the result nor the computation less accurate."""
    x, weight = normal(2, 3, DIM, seed=1, scale=20.0), normal(DIM, seed=2, dtype=mx.bfloat16)
    check_rms_norm(x, weight, 1e-5, "RMSNorm of float32 with a bfloat16 weight")


def test_task_1_squares_do_not_overflow() -> None:
    """The square of 300 is beyond float16, so squares and their mean are computed in float32."""
    x, weight = normal(3, 64, seed=1, scale=1000.0, dtype=mx.float16), normal(64, seed=2)
    check_rms_norm(x, weight, 1e-5, "RMSNorm of float16 numbers of about 1000")


def test_task_1_squares_are_not_rounded_to_bfloat16() -> None:
    """Squares and their mean are computed in float32, also for bfloat16."""
    # 1.0625 ** 2 is halfway between two bfloat16 numbers, so that as bfloat16 each square is too
    # small by 0.35%. All other roundings are as often up as down: the average is free of them.
    rng = np.random.default_rng(1)
    features = rng.choice([-1.0625, 1.0625], (1000, 16)) * 2.0 ** rng.integers(-2, 3, (1000, 16))
    x = mx.array(features.astype(np.float32)).astype(mx.bfloat16)
    check_rms_norm(x, mx.ones(16), 1e-12, "RMSNorm of bfloat16 numbers")
    result = float64(layer_norm.RMSNorm(16, mx.ones(16), eps=1e-12)(x))
    average = np.mean(np.sqrt(np.mean(result**2, axis=-1)))
    check(
        abs(average - 1) < 0.0008,
        "RMSNorm of bfloat16 numbers leaves a root mean square that is not 1.\n"
        "  expected   1.0000 on average over 1,000 vectors, with weight 1\n"
        f"  got        {average:.4f}\n"
        "  About 1.0020 is what comes out if the squares are rounded to bfloat16.",
    )


def test_task_1_input_is_left_alone() -> None:
    """The caller's x is the same after the call."""
    x, weight = normal(3, DIM, seed=1), normal(DIM, seed=2)
    with arguments_unchanged(f"RMSNorm({DIM}, weight)(x)", x=x):
        mx.eval(layer_norm.RMSNorm(DIM, weight)(x))


def test_task_1_every_norm_keeps_its_own_weight_and_epsilon() -> None:
    """A model has many norms: one that is made later changes nothing about the first."""
    x, weight = normal(3, DIM, seed=1, scale=0.1), normal(DIM, seed=2)
    first = layer_norm.RMSNorm(DIM, weight, eps=1e-2)
    layer_norm.RMSNorm(DIM, normal(DIM, seed=3), eps=1.0)
    expected = oracles.rms_norm(x, weight, 1e-2)
    assert_close(
        first(x),
        expected,
        what="RMSNorm(...)(x) of the first of two norms",
        reduction=DIM,
        magnitude=expected,
    )


@cases("shape", (DIM + 1,), (1,), (1, DIM))
def test_task_1_other_weight_shapes_are_refused(shape: tuple[int, ...]) -> None:
    """A weight that is not a vector of `dim` numbers raises ValueError."""
    assert_raises_clearly(
        ValueError,
        lambda: layer_norm.RMSNorm(DIM, normal(*shape, seed=2)),
        what=f"RMSNorm({DIM}, weight) with a weight of shape {shape}",
    )


# --- Task 2: SiLU ---------------------------------------------------------------------------


def check_silu(x: mx.array, what: str) -> None:
    """Compare with the oracle, in the dtype of `x`."""
    expected = oracles.silu(float64(x))
    assert_close(basics.silu(x), expected, what=what, dtype=x.dtype, magnitude=float64(x))


@cases("shape", (5,), (2, 3, 5))
def test_task_2_silu(shape: tuple[int, ...]) -> None:
    """Every element is multiplied by its sigmoid."""
    check_silu(normal(*shape, seed=1, scale=3.0), f"silu(x), x {shape}")


def test_task_2_agrees_with_mlx() -> None:
    """MLX's own SiLU gives the same result."""
    x = normal(5, seed=2, scale=2.0)
    with mx.stream(mx.cpu):
        expected = nn.silu(x)
    assert_close(basics.silu(x), expected, what="silu(x), compared with mlx.nn.silu")


def test_task_2_extremes() -> None:
    """Large numbers stay as they are, large negative ones become 0, and none becomes NaN."""
    check_silu(
        mx.array([-1e30, -1e4, -100.0, -20.0, 0.0, 20.0, 100.0, 1e4, 1e30]), "silu(x), x up to 1e30"
    )


def test_task_2_small_results() -> None:
    """For negative numbers the result comes close to 0 only step by step."""
    check_silu(mx.array([-16.0, -14.0, -12.0, -11.0, -9.0, -7.0]), "silu(x), x from -16 to -7")


@half_precision
def test_task_2_half_precision(dtype: mx.Dtype) -> None:
    """In half precision the values are right to its accuracy, and the result has the dtype of x."""
    x = mx.concatenate([normal(50, seed=1, scale=3.0), mx.array([-1e4, -20.0, 20.0, 1e4])])
    check_silu(x.astype(dtype), "silu(x) in half precision")


def test_task_2_input_is_left_alone() -> None:
    """The caller's x is the same after the call."""
    x = normal(5, seed=1)
    with arguments_unchanged("silu(x)", x=x):
        mx.eval(basics.silu(x))


# --- Task 3: the SwiGLU MLP -----------------------------------------------------------------

E, F = 6, 10


def weights(dtype: mx.Dtype = mx.float32) -> dict[str, mx.array]:
    """The three projections."""
    return {
        "w_gate": normal(F, E, seed=10, dtype=dtype),
        "w_up": normal(F, E, seed=11, dtype=dtype),
        "w_down": normal(E, F, seed=12, dtype=dtype),
    }


def mlp(x: mx.array, weights: dict[str, mx.array]) -> tuple[np.ndarray, np.ndarray]:
    """The oracle: the result, and the size of the sums behind it."""
    gate, up, down = (float64(weights[name]).T for name in ("w_gate", "w_up", "w_down"))
    size = np.abs(float64(x))
    output = (oracles.silu(float64(x) @ gate) * (float64(x) @ up)) @ down
    return output, ((size @ np.abs(gate)) * (size @ np.abs(up))) @ np.abs(down)


def check_mlp(x: mx.array, weights: dict[str, mx.array], what: str) -> None:
    """Apply the MLP and compare with the oracle, in the dtype of `x`."""
    expected, magnitude = mlp(x, weights)
    assert_close(
        qwen3.Qwen3MLP(E, F, **weights)(x),
        expected,
        what=what,
        dtype=x.dtype,
        reduction=E + F,
        magnitude=magnitude,
    )


@cases("leading", (), (3,), (2, 3), (2, 3, 4))
def test_task_3_mlp(leading: tuple[int, ...]) -> None:
    """SiLU goes on the gate, its product with up goes through down."""
    x = normal(*leading, E, seed=1)
    check_mlp(x, weights(), f"Qwen3MLP({E}, {F}, ...)(x), x {x.shape}")


def test_task_3_agrees_with_mlx_lm() -> None:
    """The MLP of mlx-lm's Qwen3 gives the same result."""
    x = normal(2, 3, E, seed=1)
    oracle = mlx_qwen3.MLP(E, F)
    oracle.gate_proj.weight = weights()["w_gate"]
    oracle.up_proj.weight = weights()["w_up"]
    oracle.down_proj.weight = weights()["w_down"]
    with mx.stream(mx.cpu):
        expected = oracle(x)
    assert_close(
        qwen3.Qwen3MLP(E, F, **weights())(x),
        expected,
        what="Qwen3MLP, compared with the MLP of mlx_lm.models.qwen3",
        reduction=E + F,
        magnitude=mlp(x, weights())[1],
    )


@half_precision
def test_task_3_half_precision(dtype: mx.Dtype) -> None:
    """In half precision the values are right to its accuracy, and the result has the dtype of x."""
    x = normal(2, 3, E, seed=1, dtype=dtype)
    check_mlp(x, weights(dtype), "Qwen3MLP(...)(x), x and weights in half precision")
    check_mlp(x, weights(), "Qwen3MLP(...)(x), x in half precision, weights in float32")


def test_task_3_every_mlp_keeps_its_own_weights() -> None:
    """A model has an MLP in each layer: one that is made later changes nothing about the first."""
    x = normal(2, E, seed=1)
    first = qwen3.Qwen3MLP(E, F, **weights())
    qwen3.Qwen3MLP(E, F, **{name: -2 * weight for name, weight in weights().items()})
    expected, magnitude = mlp(x, weights())
    assert_close(
        first(x),
        expected,
        what="Qwen3MLP(...)(x) of the first of two MLPs",
        reduction=E + F,
        magnitude=magnitude,
    )


@cases("name", "w_gate", "w_up", "w_down")
def test_task_3_other_weight_shapes_are_refused(name: str) -> None:
    """A weight that is transposed raises ValueError in the constructor, not when it is used."""
    wrong = weights() | {name: weights()[name].T}
    assert_raises_clearly(
        ValueError,
        lambda: qwen3.Qwen3MLP(E, F, **wrong),
        what=f"Qwen3MLP({E}, {F}, ...) with {name} transposed",
    )
