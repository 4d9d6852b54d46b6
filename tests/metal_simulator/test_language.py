"""The Metal Shading Language's types and functions against NumPy models."""

import math
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from metal_simulator import CompileError, KernelError, metal_kernel

FLOATS = [mx.float32, mx.float16, mx.bfloat16]
ROUNDOFF = {mx.float32: 2.0**-24, mx.float16: 2.0**-11, mx.bfloat16: 2.0**-8}
SMALLEST_NORMAL = {mx.float32: 2.0**-126, mx.float16: 2.0**-14, mx.bfloat16: 2.0**-126}
LANES = 32


def run(
    body: str,
    *inputs: mx.array,
    outputs: Sequence[tuple[tuple[int, ...], mx.Dtype]],
    threads: int = 1,
    threadgroup: int = 32,
    header: str = "",
    template: Sequence[tuple[str, Any]] = (),
    init_value: float | None = None,
    **options: Any,
) -> list[mx.array]:
    """Runs a kernel's body. Its inputs are named a, b, c, ... and its outputs out0, out1, ..."""
    names = "abcdefg"[: len(inputs)]
    out_names = [f"out{i}" for i in range(len(outputs))]
    kernel = metal_kernel("language", list(names), out_names, body, header, **options)
    return kernel(
        inputs=list(inputs),
        template=list(template),
        grid=(threads, 1, 1),
        threadgroup=(threadgroup, 1, 1),
        output_shapes=[shape for shape, _ in outputs],
        output_dtypes=[dtype for _, dtype in outputs],
        init_value=init_value,
    )


def evaluate(
    expressions: Sequence[str], *inputs: mx.array, dtype: mx.Dtype, before: str = "", **options: Any
) -> mx.array:
    """The values of all expressions, one a row: each thread computes one column."""
    (n,) = inputs[0].shape
    lines = [f"out0[{k} * {n} + i] = ({text});" for k, text in enumerate(expressions)]
    body = "\n".join(["uint i = thread_position_in_grid.x;", before, *lines])
    shape = (len(expressions), n)
    return run(body, *inputs, outputs=[(shape, dtype)], threads=n, **options)[0]


def constants(expressions: Sequence[str], dtype: mx.Dtype) -> list[Any]:
    """The values of expressions without inputs."""
    body = "\n".join(f"out0[{k}] = {text};" for k, text in enumerate(expressions))
    return run(body, outputs=[((len(expressions),), dtype)])[0].tolist()


def float64(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32), np.float64)


# ---- Functions of floating-point values.


def smoothstep(low: np.ndarray, high: np.ndarray, x: np.ndarray) -> np.ndarray:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


# x is in (0, 1), y in (1, 3), s in (-3, 3).
FLOATING: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], Any]] = {
    "acos(x)": lambda x, y, s: np.arccos(x),
    "acosh(y)": lambda x, y, s: np.arccosh(y),
    "asin(x)": lambda x, y, s: np.arcsin(x),
    "asinh(s)": lambda x, y, s: np.arcsinh(s),
    "atan(s)": lambda x, y, s: np.arctan(s),
    "atan2(s, y)": lambda x, y, s: np.arctan2(s, y),
    "atanh(x)": lambda x, y, s: np.arctanh(x),
    "ceil(s)": lambda x, y, s: np.ceil(s),
    "copysign(y, s)": lambda x, y, s: np.copysign(y, s),
    "cos(s)": lambda x, y, s: np.cos(s),
    "cosh(s)": lambda x, y, s: np.cosh(s),
    "cospi(s)": lambda x, y, s: np.cos(np.pi * s),
    "divide(s, y)": lambda x, y, s: s / y,
    "exp(s)": lambda x, y, s: np.exp(s),
    "exp2(s)": lambda x, y, s: np.exp2(s),
    "exp10(s)": lambda x, y, s: 10**s,
    "fabs(s)": lambda x, y, s: np.abs(s),
    "abs(s)": lambda x, y, s: np.abs(s),
    "fdim(s, x)": lambda x, y, s: np.maximum(s - x, 0),
    "floor(s)": lambda x, y, s: np.floor(s),
    "fma(x, y, s)": lambda x, y, s: x * y + s,
    "fmax(s, x)": lambda x, y, s: np.maximum(s, x),
    "max(s, x)": lambda x, y, s: np.maximum(s, x),
    "max3(s, x, y)": lambda x, y, s: np.maximum(np.maximum(s, x), y),
    "fmax3(s, x, y)": lambda x, y, s: np.maximum(np.maximum(s, x), y),
    "fmin(s, x)": lambda x, y, s: np.minimum(s, x),
    "min(s, x)": lambda x, y, s: np.minimum(s, x),
    "min3(s, x, y)": lambda x, y, s: np.minimum(np.minimum(s, x), y),
    "median3(s, x, y)": lambda x, y, s: np.median([s, x, y], axis=0),
    "fmedian3(y, s, x)": lambda x, y, s: np.median([s, x, y], axis=0),
    "fmod(s, x)": lambda x, y, s: np.fmod(s, x),
    "fract(s)": lambda x, y, s: s - np.floor(s),
    "ldexp(s, 3)": lambda x, y, s: s * 8,
    "log(y)": lambda x, y, s: np.log(y),
    "log2(y)": lambda x, y, s: np.log2(y),
    "log10(y)": lambda x, y, s: np.log10(y),
    "pow(y, s)": lambda x, y, s: y**s,
    "powr(y, s)": lambda x, y, s: y**s,
    "rint(s)": lambda x, y, s: np.rint(s),
    "round(s)": lambda x, y, s: np.sign(s) * np.floor(np.abs(s) + 0.5),
    "rsqrt(y)": lambda x, y, s: 1 / np.sqrt(y),
    "sin(s)": lambda x, y, s: np.sin(s),
    "sinh(s)": lambda x, y, s: np.sinh(s),
    "sinpi(s)": lambda x, y, s: np.sin(np.pi * s),
    "sqrt(y)": lambda x, y, s: np.sqrt(y),
    "tan(x)": lambda x, y, s: np.tan(x),
    "tanh(s)": lambda x, y, s: np.tanh(s),
    "tanpi(x / T(4))": lambda x, y, s: np.tan(np.pi * x / 4),
    "trunc(s)": lambda x, y, s: np.trunc(s),
    "fast::exp(s)": lambda x, y, s: np.exp(s),
    "precise::tanh(s)": lambda x, y, s: np.tanh(s),
    "clamp(s, x, y)": lambda x, y, s: np.clip(s, x, y),
    "clamp(s, T(-1), T(1))": lambda x, y, s: np.clip(s, -1, 1),
    "saturate(s)": lambda x, y, s: np.clip(s, 0, 1),
    "sign(s)": lambda x, y, s: np.sign(s),
    "step(x, s)": lambda x, y, s: (s >= x) * 1.0,
    "smoothstep(x, y, s)": lambda x, y, s: smoothstep(x, y, s),
    "select(x, s, s < x)": lambda x, y, s: np.where(s < x, s, x),
    "V(isfinite(s))": lambda x, y, s: np.ones_like(s),
    "V(isnormal(s))": lambda x, y, s: np.ones_like(s),
    "V(isordered(s, x))": lambda x, y, s: np.ones_like(s),
    "V(isunordered(s, x))": lambda x, y, s: np.zeros_like(s),
    "V(signbit(s))": lambda x, y, s: np.signbit(s),
    "-s": lambda x, y, s: -s,
    "x * y": lambda x, y, s: x * y,
    "T(2) / y": lambda x, y, s: 2 / y,
}


def floating_inputs(dtype: mx.Dtype, n: int) -> list[mx.array]:
    rng = np.random.default_rng(4)
    ranges = [(0.05, 0.95), (1.1, 3.0), (-3.0, 3.0)]
    return [mx.array(rng.uniform(*bounds, n).astype(np.float32)).astype(dtype) for bounds in ranges]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_floating_point_functions_of_scalars_and_vectors(dtype: mx.Dtype) -> None:
    n = 64
    inputs = floating_inputs(dtype, n)
    body = ["uint i = thread_position_in_grid.x; using T = OUT;"]
    body.append("{ using V = T; V x = a[i], y = b[i], s = c[i];")
    body += [f"out0[{k} * {n} + i] = {text};" for k, text in enumerate(FLOATING)]
    body.append(f"}} if (i < {n // 2}) {{ using V = vec<T, 2>;")
    body.append("auto at = [](auto p, uint i) { return V(p[2 * i], p[2 * i + 1]); };")
    body.append("V x = at(a, i), y = at(b, i), s = at(c, i); device V* out = (device V*)out1;")
    body += [f"out[{k} * {n // 2} + i] = {text};" for k, text in enumerate(FLOATING)]
    body.append("}")
    outputs = [((len(FLOATING), n), dtype)] * 2
    scalars, vectors = run(
        "\n".join(body), *inputs, outputs=outputs, threads=n, template=[("OUT", dtype)]
    )
    assert mx.array_equal(scalars, vectors)
    with np.errstate(all="raise"):
        expected = np.stack([f(*map(float64, inputs)) for f in FLOATING.values()])
    tolerance = 4 * ROUNDOFF[dtype] * np.abs(expected) + 1e-6 * ROUNDOFF[dtype]
    wrong = np.abs(float64(scalars) - expected) > tolerance
    assert [text for text, row in zip(FLOATING, wrong, strict=True) if row.any()] == []


def test_special_values_at_checked_and_unchecked_flags() -> None:
    expressions = {
        "isnan(NAN)": 1, "isnan(INFINITY)": 0, "isnan(a[0])": 1, "isinf(INFINITY)": 1,
        "isinf(-a[1])": 1, "isinf(a[0])": 0, "isfinite(a[1])": 0, "isfinite(a[0])": 0,
        "isnormal(a[2])": 0, "isnormal(half(6e-8h))": 0, "isnormal(0.0f)": 0,
        "isunordered(a[0], 1.0f)": 1, "isordered(a[1], 1.0f)": 1, "signbit(-0.0f)": 1,
        "isnan(half(NAN))": 1, "isinf(half(70000.0f))": 1, "isnan(bfloat(NAN))": 1,
        "max(a[0], 2.0f)": 2, "max(2.0f, a[0])": 2, "min(a[0], 2.0f)": 2, "fmax(2.0f, a[0])": 2,
        "saturate(a[0])": 0, "sign(a[0])": 0, "clamp(a[1], 0.0f, 3.0f)": 3,
        "isnan(sqrt(-1.0f))": 1, "isnan(powr(-1.0f, 2.0f))": 1, "exp(-a[1])": 0,
        "all(isnan(float2(a[0], NAN)))": 1, "any(isnan(float2(a[0], 1)))": 1,
        "all(isnan(float2(a[0], 1)))": 0,
    }  # fmt: skip
    special = mx.array([np.nan, np.inf, 1e-39] + [0.0] * 6)
    body = "\n".join(f"out0[{k}] = {text};" for k, text in enumerate(expressions))
    for check in (True, False):
        (out,) = run(body, special, outputs=[((len(expressions),), mx.float32)], check=check)
        assert dict(zip(expressions, out.tolist(), strict=True)) == expressions


def test_functions_with_two_results_and_neighbours() -> None:
    before = """
        float x = a[i], cosine, whole; int exponent; half h = half(x), half_whole;
        float sine = sincos(x, cosine), part = modf(x, whole), significand = frexp(x, exponent);
        half half_part = modf(h, half_whole);
        float2 wholes; float2 parts = modf(float2(x, -x), wholes);
    """
    expressions = [
        "sine", "cosine", "part", "whole", "significand", "exponent", "half_part", "half_whole",
        "parts.y", "wholes.y", "ilogb(x)", "nextafter(x, INFINITY)", "nextafter(x, -INFINITY)",
        "nextafter(h, half(INFINITY))",
    ]  # fmt: skip
    x = np.array([-2.75, -0.5, 0.3, 1.0, 5.5, 100.0, -1e-3, 7.0], np.float32)
    h = x.astype(np.float16)
    part, whole = np.modf(x)
    half_part, half_whole = np.modf(h)
    significand, exponent = np.frexp(x)
    expected = [
        np.sin(x.astype(float)), np.cos(x.astype(float)), part, whole, significand, exponent,
        half_part, half_whole, -part, -whole, exponent - 1, np.nextafter(x, np.float32(np.inf)),
        np.nextafter(x, np.float32(-np.inf)), np.nextafter(h, np.float16(np.inf)),
    ]  # fmt: skip
    out = evaluate(expressions, mx.array(x), dtype=mx.float32, before=before)
    np.testing.assert_allclose(float64(out), np.stack(expected), rtol=2e-7, atol=1e-9)


def test_geometric_functions() -> None:
    rng = np.random.default_rng(5)
    u, v, w = (rng.standard_normal((8, 3)).astype(np.float32) for _ in range(3))
    before = """
        float3 u(a[3 * i], a[3 * i + 1], a[3 * i + 2]), v(b[3 * i], b[3 * i + 1], b[3 * i + 2]);
        float3 w(c[3 * i], c[3 * i + 1], c[3 * i + 2]), n = normalize(v);
        half3 h = half3(u);
    """
    expressions = [
        "dot(u, v)", "length(u)", "length_squared(u)", "distance(u, v)", "distance_squared(u, v)",
        "cross(u, v)[0]", "cross(u, v)[1]", "cross(u, v).z", "n.x", "n.y", "reflect(u, n).y",
        "faceforward(u, v, w).x", "refract(normalize(u), n, 0.5f).z", "dot(u.xy, v.yz)",
        "dot(h, h)",
    ]  # fmt: skip
    x, y, z = u.astype(float), v.astype(float), w.astype(float)
    n = y / np.linalg.norm(y, axis=1, keepdims=True)
    i = x / np.linalg.norm(x, axis=1, keepdims=True)
    along = (n * i).sum(1)
    k = 1 - 0.25 * (1 - along**2)
    half = x.astype(np.float16).astype(float)
    expected = np.stack([
        (x * y).sum(1), np.linalg.norm(x, axis=1), (x * x).sum(1), np.linalg.norm(x - y, axis=1),
        ((x - y) ** 2).sum(1), *np.cross(x, y).T, n[:, 0], n[:, 1],
        x[:, 1] - 2 * (n * x).sum(1) * n[:, 1], np.where((y * z).sum(1) < 0, x[:, 0], -x[:, 0]),
        0.5 * i[:, 2] - (0.5 * along + np.sqrt(k)) * n[:, 2],
        x[:, 0] * y[:, 1] + x[:, 1] * y[:, 2], (half * half).sum(1),
    ])  # fmt: skip
    inputs = [mx.array(q.reshape(-1)) for q in (u, v, w)]
    lines = [f"out0[{k} * 8 + i] = {text};" for k, text in enumerate(expressions)]
    body = "\n".join(["uint i = thread_position_in_grid.x;", before, *lines])
    (out,) = run(body, *inputs, outputs=[(expected.shape, mx.float32)], threads=8)
    np.testing.assert_allclose(float64(out)[:-1], expected[:-1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(float64(out)[-1], expected[-1], rtol=3 * 2.0**-11)


# ---- Integer functions, on Python's integers.


def bit_pattern(value: int, bits: int) -> str:
    return f"{value % 2**bits:0{bits}b}"


def from_pattern(pattern: str, signed: bool) -> int:
    value = int(pattern, 2)
    return value - 2 ** len(pattern) if signed and pattern[0] == "1" else value


class Integers:
    """Models of the integer functions for a type with this many bits."""

    def __init__(self, bits: int, signed: bool) -> None:
        self.bits, self.signed = bits, signed
        self.low = -(2 ** (bits - 1)) if signed else 0
        self.high = self.low + 2**bits - 1

    def saturate(self, value: int) -> int:
        return min(max(value, self.low), self.high)

    def rotate(self, value: int, count: int) -> int:
        pattern, count = bit_pattern(value, self.bits), count % self.bits
        return int(pattern[count:] + pattern[:count], 2)

    def extract(self, value: int, offset: int, count: int) -> int:
        pattern = bit_pattern(value, self.bits)[::-1][offset : offset + count][::-1]
        return from_pattern(pattern, self.signed)

    def insert(self, value: int, other: int, offset: int, count: int) -> int:
        mask = (2**count - 1) << offset
        return (value & ~mask) | (other << offset & mask)


INTEGER: dict[str, Callable[[Integers, int, int, int], int]] = {
    "abs(x)": lambda t, x, y, z: abs(x),
    "OUT(absdiff(x, y))": lambda t, x, y, z: abs(x - y),
    "addsat(x, y)": lambda t, x, y, z: t.saturate(x + y),
    "subsat(x, y)": lambda t, x, y, z: t.saturate(x - y),
    "clamp(x, min(y, z), max(y, z))": lambda t, x, y, z: sorted([x, y, z])[1],
    "median3(x, y, z)": lambda t, x, y, z: sorted([x, y, z])[1],
    "max3(x, y, z)": lambda t, x, y, z: max(x, y, z),
    "min3(x, y, z)": lambda t, x, y, z: min(x, y, z),
    "clz(x)": lambda t, x, y, z: len(p := bit_pattern(x, t.bits)) - len(p.lstrip("0")),
    "ctz(x)": lambda t, x, y, z: len(p := bit_pattern(x, t.bits)) - len(p.rstrip("0")),
    "popcount(x)": lambda t, x, y, z: bit_pattern(x, t.bits).count("1"),
    "reverse_bits(x)": lambda t, x, y, z: int(bit_pattern(x, t.bits)[::-1], 2),
    "rotate(x, y)": lambda t, x, y, z: t.rotate(x, y),
    "extract_bits(x, 1, 5)": lambda t, x, y, z: t.extract(x, 1, 5),
    "insert_bits(x, y, 2, 3)": lambda t, x, y, z: t.insert(x, y, 2, 3),
    "hadd(x, y)": lambda t, x, y, z: (x + y) >> 1,
    "rhadd(x, y)": lambda t, x, y, z: (x + y + 1) >> 1,
    "mulhi(x, y)": lambda t, x, y, z: x * y >> t.bits,
    "madhi(x, y, z)": lambda t, x, y, z: (x * y >> t.bits) + z,
    "madsat(x, y, z)": lambda t, x, y, z: t.saturate(x * y + z),
    "select(x, y, z > x)": lambda t, x, y, z: y if z > x else x,
    "x % OUT(7)": lambda t, x, y, z: abs(x) % 7 * (-1 if x < 0 else 1),
    "x >> 3": lambda t, x, y, z: x >> 3,
    "(x ^ y) & ~z": lambda t, x, y, z: (x ^ y) & ~z,
    "addsat(vec<OUT, 3>(x, y, z), y).yz[1]": lambda t, x, y, z: t.saturate(y + z),
}


@pytest.mark.parametrize("name", ["int8", "uint16", "int32", "uint32", "int64"])
def test_integer_functions(name: str) -> None:
    dtype, info = getattr(mx, name), np.iinfo(name)
    rng = np.random.default_rng(6)
    n = 48
    columns = [rng.integers(info.min, info.max, n, np.dtype(name), endpoint=True) for _ in "xyz"]
    for column, extremes in zip(columns, [(0, 1), (1, 0), (0, 0)], strict=True):
        column[: len(extremes)] = extremes
        column[2:5] = rng.permutation([info.min, info.max, 0])
    out = evaluate(
        list(INTEGER), *map(mx.array, columns), dtype=dtype,
        before="OUT x = a[i], y = b[i], z = c[i];", template=[("OUT", dtype)],
    )  # fmt: skip
    model = Integers(info.bits, info.min < 0)
    for (text, function), got in zip(INTEGER.items(), np.array(out), strict=True):
        expected = [function(model, *map(int, row)) for row in zip(*columns, strict=True)]
        assert [int(g) % 2**info.bits for g in got] == [e % 2**info.bits for e in expected], text


def test_24_bit_multiplication_and_packing() -> None:
    uints = {
        "mul24(0xff000003u, 5u)": 15,
        "mad24(3u, 5u, 7u)": 22,
        "uint(mul24(-3, 5))": 2**32 - 15,
        "pack_float_to_unorm4x8(float4(0, 0.5f, 1, 2))": 0xFFFF8000,
        "pack_float_to_snorm4x8(float4(0, -1, 1, -2))": 0x817F8100,
        "pack_half_to_unorm4x8(half4(1, 0, 0, 0.2h))": 0x330000FF,
        "pack_float_to_unorm2x16(float2(1, 0.2f))": 0x3333FFFF,
        "pack_float_to_snorm2x16(float2(-1, 1))": 0x7FFF8001,
        "as_type<uint>(half2(1, -2))": 0xC0003C00,
        "as_type<uint>(1.0f)": 0x3F800000,
        "as_type<ushort>(bfloat(1.0f))": 0x3F80,
        "as_type<uint>(uchar4(1, 2, 3, 4).wzyx)": 0x01020304,
        "uint(as_type<ulong>(uint2(7, 9)) >> 32)": 9,
    }
    assert constants(list(uints), mx.uint32) == list(uints.values())
    floats = {
        "unpack_unorm4x8_to_float(0xff008033u).x": 0x33 / 255,
        "unpack_unorm4x8_to_float(0xff008033u).w": 1,
        "unpack_snorm4x8_to_float(0x80817f00u).y": 1,
        "unpack_snorm4x8_to_float(0x80817f00u).w": -1,
        "unpack_unorm2x16_to_float(0xffff8000u).x": 0x8000 / 65535,
        "unpack_snorm2x16_to_float(0x80018000u).x": -1,
        "unpack_unorm4x8_to_half(0x000000ffu).x": 1,
    }
    assert constants(list(floats), mx.float32) == pytest.approx(list(floats.values()), rel=1e-6)


# ---- Types.


def test_half_and_bfloat_arithmetic_rounds_each_operation() -> None:
    n = 64
    rng = np.random.default_rng(7)
    x, y, z = (mx.array(rng.uniform(-4, 4, n).astype(np.float32)) for _ in range(3))
    for dtype in (mx.float16, mx.bfloat16):
        u, v, w = (q.astype(dtype) for q in (x, y, z))
        for check in (True, False):
            out = evaluate(
                ["T(u * v) + w", "u * v + w", "u / v - w", "T(float(u * v) == float(u) * v)"],
                u, v, w, dtype=dtype, before="T u = a[i], v = b[i], w = c[i];",
                template=[("T", dtype)], check=check,
            )  # fmt: skip
            assert mx.array_equal(out[0], u * v + w)
            assert mx.array_equal(out[1], u * v + w)
            assert mx.array_equal(out[2], u / v - w)
            assert out[3].sum().item() < n / 2  # products are rounded
        wide = evaluate(["u * x"], u, x, dtype=mx.float32, before="T u = a[i]; float x = b[i];",
                        template=[("T", dtype)])  # fmt: skip
        assert mx.array_equal(wide[0], u.astype(mx.float32) * x)


def test_types_of_expressions() -> None:
    types = {
        "half(1) * half(1)": "half",
        "half(1) * 2": "half",
        "half(1) * 1.0f": "float",
        "1.0 * 2": "float",
        "1.5h": "half",
        "1.5bf": "bfloat",
        "bfloat(1) * bfloat(1)": "bfloat",
        "bfloat(1) + 1": "bfloat",
        "bfloat(1) * 1.0f": "float",
        "true ? bfloat(1) : 0.0f": "float",
        "true ? bfloat(1) : 0": "bfloat",
        "bfloat(1) * half(1)": "float",
        "bfloat(1) < half(1)": "bool",
        "float4(1) * 2": "float4",
        "2.0f * half4(1)": "half4",
        "float4(1) < 2": "bool4",
        "float4(1).xy": "float2",
        "max(half2(1), 0.5h)": "half2",
        "pow(2, 1.0f)": "float",
        "dot(half3(1), half3(1))": "half",
        "isnan(float3(1))": "bool3",
        "absdiff(short(1), short(2))": "ushort",
        "uchar(1) + uchar(1)": "int",
        "int64_t(1)": "long",
        "size_t(1)": "ulong",
        "float2x3()[0]": "float3",
    }
    checks = [f"is_same_v<decltype(as({text})), {name}>" for text, name in types.items()]
    header = """
        template <class T> T as(T value) { return value; }
        template <class T> vec<T, 2> as(vec<T, 2> value) { return value; }
    """
    body = "\n".join(f"out0[{k}] = {text};" for k, text in enumerate(checks))
    (out,) = run(body, outputs=[((len(checks),), mx.bool_)], header=header)
    wrong = [text for text, ok in zip(types, out.tolist(), strict=True) if not ok]
    assert wrong == ["float4(1).xy"]  # a view of float4, until it is used


def test_conversions() -> None:
    expected = {
        "int(-2.9f)": -2, "int(half(2.9f))": 2, "int(bfloat(-3))": -3, "uint(3.99f)": 3,
        "float(half(0.1f)) * 16384": 1638, "float(bfloat(0.1f)) * 65536": 6560,
        "uchar(300)": 44, "char(200)": -56, "ushort(-1)": 65535, "bool(0.5f) + 0": 1,
        "int(float4(int4(1, -2, 3, 4)).y)": -2, "int4(float4(1.9f, -1.9f, 0, 7)).y": -1,
        "int(half2(float2(1, 3)).y)": 3, "int(float2(half4(1, 2, 3, 4).zw).x)": 3,
        "float(bfloat4(float4(1, 2, 3, 4)).w)": 4, "float3(packed_float3(1, 2, 3)).z": 3,
        "float4(float2(1, 2), 3, half(4)).w": 4, "float4(1, float3(2, 3, 4)).z": 3,
        "float4(float4(7).xy, float4(8).zw).w": 8, "int(1e9f * 1e9f > 1e18h)": 0,
        "int(1.0 / 3 == 1.0f / 3.0f)": 1, "sizeof(float3)": 16, "sizeof(packed_float3)": 12,
        "sizeof(half4)": 8, "sizeof(long)": 8, "sizeof(bool4)": 4, "alignof(float2)": 8,
        "sizeof(1.0)": 4, "alignof(packed_half2)": 2, "float4().z": 0,
    }  # fmt: skip
    out = constants(list(expected), mx.float32)
    assert dict(zip(expected, map(int, out), strict=True)) == expected


def test_every_swizzle_reads_its_components() -> None:
    body: list[str] = []
    expected: list[int] = []
    for size in (2, 3, 4):
        arguments = ", ".join(str(i + 1) for i in range(size))
        body.append(f"int{size} v{size} = int{size}({arguments});")
        for names in ("xyzw", "rgba"):
            choices = list(permutations(range(size), 2)) + list(permutations(range(size), size))
            if names == "xyzw":
                choices += [(1, 1), (size - 1, 0, size - 1), (1, 0, size - 1, 1)]
            for chosen in choices:
                swizzle = "".join(names[i] for i in chosen)
                digits = [f"int{len(chosen)}(v{size}.{swizzle})[{j}]" for j in range(len(chosen))]
                value = " * 10 + ".join(
                    ["(" * len(digits) + digits[0], *[d + ")" for d in digits[1:]]]
                )
                body.append(f"out0[{len(expected)}] = {value});")
                expected.append(int("".join(str(i + 1) for i in chosen)))
    (out,) = run("\n".join(body), outputs=[((len(expected),), mx.int32)])
    assert out.tolist() == expected


def test_swizzles_write_and_compound() -> None:
    body = """
        float4 v = float4(1, 2, 3, 4);
        v.xz = float2(10, 30);
        v.wy += v.xz;             // w = 14, y = 32
        v.yx *= 2;                // y = 64, x = 20
        v.zw = v.wz;              // z = 14, w = 30: the right side is read first
        v.rgb -= 1;               // 19, 63, 13
        device float4* out = (device float4*)out0;
        out[0] = v;
        out[1] = float4(0);
        out[1].yz = v.xx;
        out[1].w = v.b;
        uint4 u = uint4(1, 2, 3, 4);
        u.xy <<= 2;
        u.zw |= uint2(8, 16);
        u[1] ^= 1;
        u++;
        out[2] = float4(u);
        packed_float3 p = packed_float3(1, 2, 3);
        p.xy = p.yx;
        p += 1.0f;
        float3 q = p.zyx * p;
        out[3] = float4(q, all(q.xy == q.yx) ? 1 : 0);
        bool3 b = q > float3(11) || !(q.zyx < 100);
        out[4] = float4(b.x, b.y, b.z, any(b));
    """
    (out,) = run(body, outputs=[((5, 4), mx.float32)])
    # p = (3, 2, 4), so q = (12, 4, 12)
    expected = [
        [19, 63, 13, 30], [0, 19, 19, 13], [5, 10, 12, 21], [12, 4, 12, 0], [1, 0, 1, 1],
    ]  # fmt: skip
    assert out.tolist() == expected


def test_numeric_limits() -> None:
    names = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
    body = "\n".join(
        f"out{k}[0] = numeric_limits<{name}_t>::max(); out{k}[1] = numeric_limits<{name}_t>::min();"
        f"out{k}[2] = numeric_limits<{name}_t>::digits;"
        for k, name in enumerate(names)
    )
    out = run(body, outputs=[((3,), getattr(mx, name)) for name in names])
    for name, limits in zip(names, out, strict=True):
        info = np.iinfo(name)
        assert limits.tolist() == [info.max, info.min, info.bits - (info.min < 0)]

    body = "\n".join(
        f"{{ using L = numeric_limits<{name}>; out{k}[0] = L::max(); out{k}[1] = L::lowest();"
        f"out{k}[2] = L::min(); out{k}[3] = L::epsilon(); out{k}[4] = L::infinity();"
        f"out{k}[5] = L::digits; out{k}[6] = L::quiet_NaN(); }}"
        for k, name in enumerate(["float", "half", "bfloat"])
    )
    out = run(body, outputs=[((7,), mx.float32)] * 3)
    for dtype, limits in zip(FLOATS, out, strict=True):
        info, digits = mx.finfo(dtype), -math.log2(ROUNDOFF[dtype])
        smallest, epsilon = SMALLEST_NORMAL[dtype], 2 * ROUNDOFF[dtype]
        expected = [info.max, info.min, smallest, epsilon, math.inf, digits]
        assert limits[:6].tolist() == expected
        assert math.isnan(limits[6].item())
    names = ["M_PI_F", "M_E_F", "MAXFLOAT", "FLT_MIN", "FLT_EPSILON", "HALF_MAX", "M_PI_H"]
    expected = [math.pi, math.e, 3.4028234663852886e38, 2.0**-126, 2.0**-23, 65504, 3.140625]
    assert constants(names, mx.float32) == [float(np.float32(e)) for e in expected]


def test_matrices() -> None:
    rng = np.random.default_rng(8)
    m, k = rng.integers(-3, 4, (4, 4)), rng.integers(-3, 4, (4, 4))
    x = rng.integers(-3, 4, 4)
    body = """
        float4x4 m, k; float4 x;
        for (int c = 0; c < 4; c++) {
            for (int r = 0; r < 4; r++) { m[c][r] = a[r * 4 + c]; k[c][r] = b[r * 4 + c]; }
            x[c] = b[16 + c];
        }
        float4x4 results[5] = {
            m * k, transpose(m), m + k * 2, float4x4(m * x, x * m, float4(determinant(m)), x),
            float4x4(2.0f) };
        for (int j = 0; j < 5; j++)
            for (int r = 0; r < 4; r++)
                for (int c = 0; c < 4; c++) out0[j * 16 + r * 4 + c] = results[j][c][r];
    """
    inputs = [mx.array(m.astype(np.float32)), mx.array(np.append(k, x).astype(np.float32))]
    (out,) = run(body, *inputs, outputs=[((5, 4, 4), mx.float32)])
    columns = np.stack([m @ x, x @ m, np.full(4, round(np.linalg.det(m))), x], axis=1)
    expected = [m @ k, m.T, m + 2 * k, columns, 2 * np.eye(4)]
    assert np.array_equal(np.array(out), np.stack(expected))


# ---- SIMD-groups.


def groups(x: np.ndarray, size: int, f: Callable[[np.ndarray], Any]) -> np.ndarray:
    """f of each group of lanes, for its lanes."""
    return np.concatenate([np.broadcast_to(f(part), size) for part in x.reshape(-1, size)])


def taken(x: np.ndarray, size: int, source: Callable[[int], int]) -> np.ndarray:
    """For each lane of a group the value of another; its own where there is no such lane."""
    lanes = [source(lane) if 0 <= source(lane) < size else lane for lane in range(size)]
    return x.reshape(-1, size)[:, lanes].reshape(-1)


def filled(x: np.ndarray, filling: np.ndarray, size: int, delta: int) -> np.ndarray:
    """Shuffled down (delta > 0) or up, with the filling's lanes moving in."""
    parts, fillings = x.reshape(-1, size), filling.reshape(-1, size)
    if delta > 0:
        return np.concatenate([parts[:, delta:], fillings[:, :delta]], axis=1).reshape(-1)
    return np.concatenate([fillings[:, delta:], parts[:, :delta]], axis=1).reshape(-1)


def exclusive(inclusive: Callable[[np.ndarray], np.ndarray], first: int) -> Callable[..., Any]:
    return lambda part: np.concatenate([[first], inclusive(part)[:-1]])


def simd_models(prefix: str, size: int) -> dict[str, Callable[[np.ndarray, np.ndarray], Any]]:
    """The functions of a group on x and y, x of small products."""
    models: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {
        "sum(x)": lambda x, y: groups(x, size, np.sum),
        "product(x)": lambda x, y: groups(x, size, np.prod),
        "max(y)": lambda x, y: groups(y, size, np.max),
        "min(y)": lambda x, y: groups(y, size, np.min),
        "prefix_inclusive_sum(y)": lambda x, y: groups(y, size, np.cumsum),
        "prefix_exclusive_sum(y)": lambda x, y: groups(y, size, exclusive(np.cumsum, 0)),
        "prefix_inclusive_product(x)": lambda x, y: groups(x, size, np.cumprod),
        "prefix_exclusive_product(x)": lambda x, y: groups(x, size, exclusive(np.cumprod, 1)),
        "broadcast(y, 3)": lambda x, y: taken(y, size, lambda lane: 3),
        "broadcast_first(y)": lambda x, y: taken(y, size, lambda lane: 0),
        f"shuffle(y, (i * 7 + 1) % {size})": lambda x, y: taken(
            y, size, lambda lane: (lane * 7 + 1) % size
        ),
        "shuffle_xor(y, 1)": lambda x, y: taken(y, size, lambda lane: lane ^ 1),
        "shuffle_xor(y, 3)": lambda x, y: taken(y, size, lambda lane: lane ^ 3),
    }
    for delta in (1, size // 2, size - 1):
        models |= {
            f"shuffle_down(y, {delta})": lambda x, y, d=delta: taken(y, size, lambda i: i + d),
            f"shuffle_up(y, {delta})": lambda x, y, d=delta: taken(y, size, lambda i: i - d),
            f"shuffle_rotate_down(y, {delta})": lambda x, y, d=delta: taken(
                y, size, lambda i: (i + d) % size
            ),
            f"shuffle_rotate_up(y, {delta})": lambda x, y, d=delta: taken(
                y, size, lambda i: (i - d) % size
            ),
            f"shuffle_and_fill_down(y, x, {delta})": lambda x, y, d=delta: filled(y, x, size, d),
            f"shuffle_and_fill_up(y, x, {delta})": lambda x, y, d=delta: filled(y, x, size, -d),
        }
    return {f"{prefix}_{text}": model for text, model in models.items()}


SIMD = simd_models("simd", 32) | simd_models("quad", 4)
SIMD |= {
    "simd_shuffle_and_fill_down(y, x, 3, 8)": lambda x, y: filled(y, x, 8, 3),
    "simd_shuffle_and_fill_up(y, x, 5, 16)": lambda x, y: filled(y, x, 16, -5),
    "simd_sum(vec<T, 3>(x, y, x)).y": lambda x, y: groups(y, 32, np.sum),
    "simd_shuffle(vec<T, 4>(x, y, x, y).wx, 5)[0]": lambda x, y: taken(y, 32, lambda lane: 5),
}
SIMD_INTEGER = {
    f"{prefix}_{name}(y)": lambda x, y, f=f, size=size: groups(y, size, f.reduce)
    for prefix, size in (("simd", 32), ("quad", 4))
    for name, f in (("and", np.bitwise_and), ("or", np.bitwise_or), ("xor", np.bitwise_xor))
}


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "int32", "uint16"])
def test_simd_group_functions(name: str) -> None:
    """Small integers, so that every type holds every intermediate result."""
    dtype = getattr(mx, name)
    rng = np.random.default_rng(9)
    n = 2 * LANES
    x = rng.choice([1, 2], n, p=[0.9, 0.1]).astype(np.int64)
    y = rng.integers(0, 8, n)
    is_integer = mx.issubdtype(dtype, mx.integer)
    models = SIMD | (SIMD_INTEGER if is_integer else {})
    out = evaluate(
        list(models), mx.array(x).astype(dtype), mx.array(y).astype(dtype), dtype=dtype,
        before="T x = a[i], y = b[i];", template=[("T", dtype)],
    )  # fmt: skip
    expected = np.stack([model(x, y) for model in models.values()])
    got = float64(out)
    wrong = [text for text, row, e in zip(models, got, expected, strict=True) if (row != e).any()]
    assert wrong == []


def test_votes() -> None:
    x = np.zeros(2 * LANES, np.int32)
    x[[1, 2, 7, 31]] = 1
    x[LANES:] = 1
    expressions = [
        "(uint)(simd_vote::vote_t)simd_ballot(p)", "simd_any(p)", "simd_all(p)", "simd_is_first()",
        "(uint)(simd_vote::vote_t)simd_active_threads_mask()", "simd_ballot(p).all()",
        "simd_ballot(p).any()", "(uint)(quad_vote::vote_t)quad_ballot(p)", "quad_any(p)",
        "quad_all(p)", "quad_is_first()", "quad_ballot(p).all()", "quad_ballot(p).any()",
        "(uint)(quad_vote::vote_t)quad_active_threads_mask()",
    ]  # fmt: skip
    out = evaluate(expressions, mx.array(x), dtype=mx.uint32, before="bool p = a[i] != 0;")
    p = x != 0
    lane = np.arange(2 * LANES)

    def ballot(size: int) -> np.ndarray:
        return groups(p, size, lambda part: sum(int(bit) << i for i, bit in enumerate(part)))

    full = np.full(2 * LANES, 2**32 - 1)
    any32, all32 = groups(p, 32, np.any), groups(p, 32, np.all)
    any4, all4 = groups(p, 4, np.any), groups(p, 4, np.all)
    expected = [
        ballot(32), any32, all32, lane % 32 == 0, full, all32, any32, ballot(4), any4, all4,
        lane % 4 == 0, all4, any4, np.full(2 * LANES, 15),
    ]  # fmt: skip
    assert np.array_equal(np.array(out), np.stack(expected))


def test_the_lanes_that_take_part() -> None:
    """A group of 20 threads, of which some diverge: Metal allows it, the simulator warns of it."""
    body = """
        uint i = thread_position_in_grid.x;
        out0[i] = 0;
        out1[i] = 0;
        out2[i] = 0;
        if (i >= 5) {
            out0[i] = (uint)(simd_vote::vote_t)simd_active_threads_mask();
            out1[i] = simd_is_first() ? 100 : 1;
            out2[i] = simd_sum(i);
        }
    """
    outputs = [((20,), mx.uint32)] * 3
    out = run(body, outputs=outputs, threads=20, threadgroup=20, check=False)
    assert out[0].tolist() == [0] * 5 + [2**20 - 2**5] * 15
    assert out[1].tolist() == [0] * 5 + [100] + [1] * 14
    assert out[2].tolist() == [0] * 5 + [sum(range(5, 20))] * 15


@pytest.mark.parametrize(
    "expression",
    ["simd_shuffle(i, 40)", "simd_broadcast(i, 25)", "simd_shuffle_down(i, 16)"],
)
def test_a_value_from_a_lane_that_is_not_there(expression: str) -> None:
    with pytest.raises(KernelError, match=expression.split("(")[0]):
        run(
            f"uint i = thread_position_in_grid.x; out0[i] = {expression};",
            outputs=[((24,), mx.uint32)], threads=24, threadgroup=24,
        )  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_simdgroup_matrix(dtype: mx.Dtype) -> None:
    """Small integers: the results are exact in every type."""
    rng = np.random.default_rng(10)
    a, b = rng.integers(-3, 4, (8, 8)), rng.integers(-3, 4, (16, 24))
    body = """
        threadgroup T tile[64];
        simdgroup_matrix<T, 8, 8> x, y, z, transposed, d;
        simdgroup_matrix<float, 8, 8> sum = make_filled_simdgroup_matrix<float, 8, 8>(1.0f);
        simdgroup_load(x, a);
        simdgroup_load(y, b, 24, ulong2(9, 5));
        simdgroup_load(transposed, b, 24, ulong2(9, 5), true);
        simdgroup_multiply(d, x, y);
        simdgroup_store(d, out0);
        simdgroup_multiply_accumulate(sum, x, transposed, sum);
        simdgroup_store(sum, out1);
        simdgroup_store(y, out2, 24, ulong2(9, 5));
        simdgroup_store(y, out2, 24, ulong2(0, 8), true);
        simdgroup_store(x, tile);
        simdgroup_barrier(mem_flags::mem_threadgroup);
        simdgroup_load(z, tile, 8, 0, true);
        z.thread_elements()[1] += T(thread_index_in_simdgroup);
        simdgroup_store(z, out0 + 64);
        simdgroup_store(simdgroup_matrix<T, 8, 8>(T(3)), out0 + 128);
        simdgroup_store(make_diagonal_simdgroup_matrix<T, 8, 8>(T(4)), out0 + 192);
    """
    inputs = [mx.array(a).astype(dtype), mx.array(b).astype(dtype)]
    outputs = [((4, 8, 8), dtype), ((8, 8), mx.float32), ((16, 24), dtype)]
    out = run(body, *inputs, outputs=outputs, threads=LANES, template=[("T", dtype)], init_value=0)
    block = b[5:13, 9:17]
    marked = a.T.copy()
    for lane in range(LANES):  # the layout that MLX relies on, `BaseMMAFrag::get_coord`
        quad = lane // 4
        row, column = (quad & 4) + lane // 2 % 4, (quad & 2) * 2 + lane % 2 * 2
        marked[row, column + 1] += lane
    expected = [a @ block, marked, 3 * np.eye(8), 4 * np.eye(8)]
    assert np.array_equal(float64(out[0]), np.stack(expected))
    assert np.array_equal(float64(out[1]), a @ block.T + 1)
    stored = np.zeros((16, 24))
    stored[5:13, 9:17] = block
    stored[8:16, 0:8] = block.T
    assert np.array_equal(float64(out[2]), stored)


# ---- Atomics.


def test_atomics_from_many_threadgroups() -> None:
    body = """
        uint i = thread_position_in_grid.x;
        atomic_fetch_add_explicit(&out0[0], i, memory_order_relaxed);
        atomic_fetch_sub_explicit(&out0[1], 1u, memory_order_relaxed);
        atomic_fetch_max_explicit(&out0[2], i ^ 37, memory_order_relaxed);
        atomic_fetch_min_explicit(&out0[3], i + 5, memory_order_relaxed);
        atomic_fetch_or_explicit(&out0[4], 1u << (i % 32), memory_order_relaxed);
        atomic_fetch_and_explicit(&out0[5], ~(1u << (i % 16)), memory_order_relaxed);
        atomic_fetch_xor_explicit(&out0[6], i, memory_order_relaxed);
        uint seen = atomic_load_explicit(&out0[7], memory_order_relaxed);
        while (!atomic_compare_exchange_weak_explicit(
            &out0[7], &seen, seen + 2, memory_order_relaxed, memory_order_relaxed)) {}
        uint ticket = atomic_fetch_add_explicit(&out0[8], 1, memory_order_relaxed);
        atomic_store_explicit(&out0[16 + ticket - 0xFFFFF], 7, memory_order_relaxed);
        if (i == 99) atomic_exchange_explicit(&out0[9], 3, memory_order_relaxed);
        atomic_fetch_add_explicit(&out1[0], 0.5f, memory_order_relaxed);
        threadgroup atomic_int shared;
        if (thread_index_in_threadgroup == 0)
            atomic_store_explicit(&shared, -10, memory_order_relaxed);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        atomic_fetch_max_explicit(&shared, -5 + int(i % 32), memory_order_relaxed);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (thread_index_in_threadgroup == 0)
            atomic_fetch_add_explicit(
                &out1[1], float(atomic_load_explicit(&shared, memory_order_relaxed)),
                memory_order_relaxed);
    """
    n = 640
    initial = 0xFFFFF
    outputs = [((16 + n,), mx.uint32), ((2,), mx.float32)]
    words, floats = run(body, outputs=outputs, threads=n, atomic_outputs=True, init_value=initial)
    i = np.arange(n)
    got = words.tolist()
    assert got[0] == initial + int(i.sum())
    assert got[1] == initial - n
    assert got[2] == initial
    assert got[3] == 5
    assert got[4] == 2**32 - 1
    assert got[5] == initial & ~0xFFFF
    assert got[6] == initial ^ int(np.bitwise_xor.reduce(i))
    assert got[7] == initial + 2 * n
    assert got[9] == 3
    assert floats.tolist() == [initial + n / 2, initial + 26 * n / 32]


# ---- What Metal refuses.


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("out0[0] = max(a[0], 1);", ""),
        ("out0[0] = clamp(a[0], 0, 1);", ""),
        ("out0[0] = exp(2);", ""),
        ("out0[0] = fma(a[0], half(1), a[1]);", ""),
        ("bfloat b = a[0]; out0[0] = b;", ""),
        ("out0[0] = as_type<half>(a[0]);", "same size"),
        ("int4 v = float4(1); out0[0] = v.x;", ""),
        ("float4 v = float4(1); v.xx = float2(2);", "twice"),
        ("simdgroup_matrix<float, 16, 16> m; (void)m;", "8 rows and 8 columns"),
        ("out0[0] = simd_sum(a[0] > 0);", "no bool"),
        ("out0[0] = simd_sum(ulong(1));", "64-bit"),
        ("threadgroup atomic<float> x; atomic_fetch_max_explicit(&x, 1, memory_order_relaxed);",
         "int and uint only"),
        ("out0[0] = float3(float4(1)).x;", ""),
    ],
)  # fmt: skip
def test_what_metal_refuses(statement: str, words: str) -> None:
    with pytest.raises(CompileError) as error:
        run(statement, mx.zeros(16), outputs=[((1,), mx.float32)])
    assert words in str(error.value)
