"""Calling a kernel: arguments, types, strides, errors, settings, the cache."""

import subprocess
import sys
import warnings

import mlx.core as mx
import numpy as np
import pytest

from metal_simulator import CompileError, KernelError, KernelWarning, metal_kernel, watch

COPY = "uint i = thread_position_in_grid.x; out[i] = inp[i];"


def run(kernel, *inputs, n=8, dtype=mx.float32, template=None, **more):
    return kernel(
        inputs=list(inputs),
        template=template,
        grid=(n, 1, 1),
        threadgroup=(n, 1, 1),
        output_shapes=[(n,)],
        output_dtypes=[dtype],
        **more,
    )[0]


DTYPES = [
    mx.bool_, mx.int8, mx.int16, mx.int32, mx.int64, mx.uint8, mx.uint16, mx.uint32, mx.uint64,
    mx.float16, mx.bfloat16, mx.float32, mx.complex64,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_goes_in_and_out(dtype):
    x = mx.array([-3, 2, 0, 1, 7, -1, 100, 5]).astype(dtype)
    out = run(metal_kernel("copy", ["inp"], ["out"], COPY), x, dtype=dtype)
    assert out.dtype == dtype
    assert mx.array_equal(out, x)


def test_templates_take_types_numbers_and_flags():
    source = "out[thread_position_in_grid.x] = T(N) / T(4) + (FLAG ? T(1) : T(0));"
    kernel = metal_kernel("templates", [], ["out"], source)
    for dtype, number, flag in [(mx.float32, -7, True), (mx.int32, 9, False)]:
        out = run(kernel, dtype=dtype, template=[("T", dtype), ("N", number), ("FLAG", flag)])
        expected = (number / 4 if dtype == mx.float32 else number // 4) + flag
        assert out.tolist() == [expected] * 8


def test_shape_strides_and_ndim_of_an_input_that_is_not_contiguous():
    source = """
        uint i = thread_position_in_grid.x;
        uint row = i / inp_shape[1], column = i % inp_shape[1];
        out[i] = inp[row * inp_strides[0] + column * inp_strides[1]] + 100 * inp_ndim;
    """
    x = mx.arange(24, dtype=mx.float32).reshape(4, 6)
    for view in (x.T, x[1:3, ::2], mx.broadcast_to(x[:1], (3, 6))):
        n = view.size
        for contiguous in (True, False):
            kernel = metal_kernel(
                "strided", ["inp"], ["out"], source, ensure_row_contiguous=contiguous
            )
            assert mx.array_equal(run(kernel, view, n=n), view.reshape(-1) + 200)


def test_numbers_and_small_arrays_are_inputs():
    source = "out[thread_position_in_grid.x] = a * 10 + b[1];"
    kernel = metal_kernel("scalars", ["a", "b"], ["out"], source)
    assert run(kernel, 2.5, mx.array([1.0, 2.0])).tolist() == [27.0] * 8
    assert run(kernel, 3, mx.array([1.0, 2.0])).tolist() == [32.0] * 8


def test_positions_of_a_ragged_grid_of_three_dimensions():
    source = """
        uint3 at = thread_position_in_grid;
        uint i = (at.z * threads_per_grid.y + at.y) * threads_per_grid.x + at.x;
        out[i] = threadgroup_position_in_grid.x + 10 * threadgroup_position_in_grid.y
            + 100 * thread_position_in_threadgroup.z + 1000 * threads_per_threadgroup.x
            + 10000 * thread_index_in_threadgroup;
    """
    kernel = metal_kernel("positions", [], ["out"], source)
    grid, group = (5, 3, 2), (4, 2, 2)
    out = kernel(
        inputs=[],
        grid=grid,
        threadgroup=group,
        output_shapes=[grid[::-1]],
        output_dtypes=[mx.uint32],
    )[0]
    expected = np.zeros(grid[::-1])
    for z in range(grid[2]):
        for y in range(grid[1]):
            for x in range(grid[0]):
                width = 4 if x < 4 else 1
                height = 2 if y < 2 else 1
                index = (z % 2 * height + y % 2) * width + x % 4
                expected[z, y, x] = (
                    x // 4 + 10 * (y // 2) + 100 * (z % 2) + 1000 * width + 10000 * index
                )
    np.testing.assert_array_equal(np.array(out), expected)


def test_outputs_begin_with_the_initial_value():
    source = "atomic_fetch_add_explicit(&out[0], inp[0], memory_order_relaxed);"
    kernel = metal_kernel("sum", ["inp"], ["out"], source, atomic_outputs=True)
    out = run(kernel, mx.array([3], mx.uint32), dtype=mx.uint32, init_value=5)
    assert out.tolist() == [5 + 8 * 3] + [5] * 7


def test_a_header_gives_functions():
    header = "template <typename T> T twice(T x) { return x + x; }"
    kernel = metal_kernel("headed", ["inp"], ["out"], "out[0] = twice(inp[0]);", header)
    out = kernel(
        inputs=[mx.array([1.5])],
        grid=(1, 1, 1),
        threadgroup=(1, 1, 1),
        output_shapes=[(1,)],
        output_dtypes=[mx.float32],
    )[0]
    assert out.tolist() == [3.0]


def test_verbose_prints_the_kernel(capsys):
    run(metal_kernel("shown", ["inp"], ["out"], COPY), mx.zeros(8), verbose=True)
    shown = capsys.readouterr().out
    assert "[[kernel]] void custom_kernel_shown(" in shown
    assert "const device float* inp [[buffer(0)]]" in shown
    assert COPY in shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": []}, "Expected `inputs` to have size 1 but got size 0"),
        ({"output_shapes": []}, "Expected `output_shapes` to have size 1 but got size 0"),
        ({"output_dtypes": [mx.int8, mx.int8]}, "`output_dtypes` to have size 1 but got size 2"),
        ({"grid": (0, 1, 1)}, r"grid is \(0, 1, 1\): it must be three positive numbers"),
        ({"threadgroup": (8, 1)}, r"threadgroup is \(8, 1\): it must be three positive numbers"),
        ({"grid": 8}, r"grid is \(8,\): it must be three positive numbers"),
        ({"grid": (4, 1, 1), "threadgroup": (2048, 1, 1)}, "2048 x 1 x 1 has 2048 threads"),
        (
            {"grid": (64, 64, 1), "threadgroup": (64, 32, 1)},
            "64 x 32 x 1 has 2048 threads: Metal takes at most 1024",
        ),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(change, message):
    call = {
        "inputs": [mx.zeros(8)],
        "grid": (8, 1, 1),
        "threadgroup": (8, 1, 1),
        "output_shapes": [(8,)],
        "output_dtypes": [mx.float32],
    }
    with pytest.raises(ValueError, match=message):
        metal_kernel("copy", ["inp"], ["out"], COPY)(**(call | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output_names": []}, "at least one output"),
        ({"name": "two words"}, "'two words' is not a C identifier"),
        ({"compile_options": {"math_mode": "slow"}}, "the only option is math_mode"),
        ({"compile_options": {"unroll": True}}, "the only option is math_mode"),
    ],
)
def test_wrong_definitions_are_refused_in_one_sentence(change, message):
    given = {"name": "copy", "input_names": ["inp"], "output_names": ["out"], "source": COPY}
    with pytest.raises(ValueError, match=message):
        metal_kernel(**(given | change))


@pytest.mark.parametrize(
    ("source", "line", "fragment"),
    [
        ("out[0] = inp[0];\nout[1] = missing;", 2, "'missing' was not declared"),
        ("out[0] = inp[0]\nout[1] = 2;", 1, "expected ';'"),
        ("\n\nout[0] = inp[0].x;", 3, "request for member 'x'"),
        ("float x = 1;\nthreadgroup float t[2] = {1, 2};", 2, "an initializer"),
        ("out[0] = exp(1.0f, 2.0f);", 1, "exp"),
        ("uint i = 0;\nif (i < 3) {\n    out[i] = 1;\n", 2, "'{' has no partner"),
        ("threadgroup float s[threads_per_threadgroup.x];", 1, "'s' must be a constant"),
        ("\natomic_fetch_add_explicit(&out[0], 1, memory_order_relaxed);", 2, "atomic_outputs"),
    ],
)
def test_a_compile_error_names_the_line_of_the_author(source, line, fragment):
    kernel = metal_kernel("wrong", ["inp"], ["out"], source)
    with pytest.raises(CompileError) as error:
        run(kernel, mx.zeros(8))
    text = str(error.value)
    assert text.startswith(f"wrong [source]:{line}: ")
    assert fragment in text
    assert source.split("\n")[line - 1].strip() in text
    assert "msl::" not in text
    assert text.count("error") <= 1


def test_only_the_first_compile_error_is_shown():
    kernel = metal_kernel("wrong", ["inp"], ["out"], "out[0] = one;\nout[1] = two;")
    with pytest.raises(CompileError) as error:
        run(kernel, mx.zeros(8))
    assert "one" in str(error.value)
    assert "two" not in str(error.value)


def test_an_error_inside_a_helper_is_shown_there():
    header = "template <typename T> T half_of(T x) { return x.nothing; }"
    kernel = metal_kernel("wrong", ["inp"], ["out"], "\nout[0] = half_of(inp[0]);", header)
    with pytest.raises(CompileError, match=r"^wrong \[header\]:1: "):
        run(kernel, mx.zeros(8))


OFF_BY_ONE = "uint i = thread_position_in_grid.x;\nout[i] = inp[i + 1];"


def test_a_finding_is_data_and_a_sentence():
    with pytest.raises(KernelError) as error:
        run(metal_kernel("shifted", ["inp"], ["out"], OFF_BY_ONE), mx.zeros(8))
    (finding,) = error.value.findings
    assert finding.kind == "device-out-of-bounds"
    assert (finding.file, finding.line) == ("shifted [source]", 2)
    assert finding.source == "out[i] = inp[i + 1];"
    assert (finding.thread, finding.threadgroup) == ((7, 0, 0), (0, 0, 0))
    assert (finding.variable, finding.element, finding.count) == ("inp", 8, 1)
    assert "reads element 8 of 'inp', which has 8 elements" in str(error.value)


def test_allowed_kinds_neither_raise_nor_warn():
    source = "out[0] = thread_position_in_grid.x;"
    with watch() as launches, warnings.catch_warnings():
        warnings.simplefilter("error")
        kinds = ("device-race", "output-not-written")
        run(metal_kernel("racy", [], ["out"], source, allow=kinds))
    assert {finding.kind for finding in launches[0].findings} == {"device-race"}


def test_an_output_that_is_never_written_is_a_warning():
    kernel = metal_kernel("partial", [], ["out"], "if (thread_position_in_grid.x < 5) "
                          "out[thread_position_in_grid.x] = 1;")  # fmt: skip
    with pytest.warns(KernelWarning, match="3 of 8 elements of the output 'out'") as caught:
        run(kernel)
    assert caught[0].message.finding.element == 5


def test_unchecked_kernels_find_nothing_and_survive():
    with watch() as launches:
        run(metal_kernel("copy", ["inp"], ["out"], COPY, check=False), mx.zeros(8))
    assert launches[0].counts.accesses == 0


def test_watch_counts_and_changes_the_settings():
    source = """
        threadgroup float t[64];
        uint i = thread_position_in_threadgroup.x;
        t[i] = inp[i];
        threadgroup_barrier(mem_flags::mem_threadgroup);
        out[i] = simd_sum(t[63 - i]);
    """
    kernel = metal_kernel("counted", ["inp"], ["out"], source)
    with watch(order=1) as launches:
        run(kernel, mx.ones(64), n=64)
        with watch(check=False) as inner:
            run(kernel, mx.ones(64), n=64)
    assert [launch.kernel for launch in launches] == ["counted", "counted"]
    counts = launches[0].counts
    assert (counts.barriers, counts.simd_operations, counts.threadgroup_bytes) == (1, 2, 256)
    assert counts.accesses == 4 * 64
    assert [launch.counts.accesses for launch in inner] == [0]


def test_a_kernel_inside_a_transformation_says_what_to_do():
    kernel = metal_kernel("copy", ["inp"], ["out"], COPY)
    with pytest.raises(RuntimeError, match=r"outside of mx\.compile"):
        mx.compile(lambda x: run(kernel, x))(mx.zeros(8))


def test_a_gradient_by_custom_function():
    kernel = metal_kernel("square", ["inp"], ["out"], COPY.replace("inp[i]", "inp[i] * inp[i]"))

    @mx.custom_function
    def square(x):
        return run(kernel, x)

    @square.vjp
    def square_vjp(primal, cotangent, output):
        return 2 * primal * cotangent

    x = mx.arange(8, dtype=mx.float32)
    assert mx.array_equal(mx.grad(lambda x: square(x).sum())(x), 2 * x)


def test_a_gradient_is_refused_and_not_zero():
    kernel = metal_kernel("copy", ["inp"], ["out"], COPY)
    with pytest.raises(RuntimeError, match=r"'copy' has no gradient: .* by mx\.custom_function"):
        mx.grad(lambda x: run(kernel, x).sum())(mx.zeros(8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": [None]}, "An input is None: it must be an array or a number"),
        ({"output_dtypes": ["float32"]}, "output_dtypes has 'float32': it takes MLX's"),
        ({"template": [("T", "float")]}, "template argument 'T' is 'float': it must be"),
    ],
)
def test_wrong_types_are_refused_in_one_sentence(change, message):
    call = {
        "inputs": [mx.zeros(8)],
        "grid": (8, 1, 1),
        "threadgroup": (8, 1, 1),
        "output_shapes": [(8,)],
        "output_dtypes": [mx.float32],
    }
    with pytest.raises(TypeError, match=message):
        metal_kernel("copy", ["inp"], ["out"], COPY)(**(call | change))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": -1}, "order is -1: it must be"),
        ({"timeout": 0}, "timeout is 0: it must be"),
        ({"allow": ["thredgroup-race"]}, "'thredgroup-race', which is no kind of finding"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        metal_kernel("copy", ["inp"], ["out"], COPY, **settings)
    with pytest.raises(ValueError, match=message), watch(**settings):
        run(metal_kernel("copy", ["inp"], ["out"], COPY), mx.zeros(8))


def test_an_unsigned_index_below_zero_names_its_buffer():
    source = "uint i = thread_position_in_grid.x;\nout[i] = inp[i - 1];"
    with pytest.raises(KernelError, match="below zero wraps around") as error:
        run(metal_kernel("shifted", ["inp"], ["out"], source), mx.zeros(8))
    (finding,) = error.value.findings
    assert (finding.kind, finding.variable) == ("device-out-of-bounds", "inp")
    assert (finding.element, finding.line) == (2**32 - 1, 2)


def test_a_large_private_array_overflows_the_stack():
    source = "float s[1000000];\ns[inp[0]] = 1;\nout[0] = s[inp[1]];"
    with pytest.raises(KernelError) as error:
        run(metal_kernel("large", ["inp"], ["out"], source), mx.zeros(8, mx.int32))
    assert error.value.findings[0].kind == "stack-overflow"


def test_a_fence_compiles():
    source = COPY + "atomic_thread_fence(mem_flags::mem_device, memory_order_seq_cst);"
    assert run(metal_kernel("fence", ["inp"], ["out"], source), mx.ones(8)).tolist() == [1] * 8


def test_ctrl_c_ends_an_endless_kernel():
    program = """
import _thread, threading, time, mlx.core as mx
from metal_simulator import metal_kernel
kernel = metal_kernel("endless", ["inp"], ["out"], "while (inp[0] == 0) {} out[0] = 1;", timeout=60)
call = dict(grid=(1, 1, 1), threadgroup=(1, 1, 1), output_shapes=[(1,)], output_dtypes=[mx.int32])
threading.Timer(1, _thread.interrupt_main).start()
try:
    for _ in range(3):  # the first one may be interrupted while it is compiled
        kernel(inputs=[mx.zeros(8)], **call)
except KeyboardInterrupt:
    print("interrupted")
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.stdout == "interrupted\n", done.stderr


def test_a_second_process_takes_the_kernel_from_the_cache():
    program = f"""
import mlx.core as mx
from metal_simulator import build, metal_kernel

def fail(*arguments):
    raise AssertionError("compiled again")

build._translation_unit = fail
kernel = metal_kernel("copy", ["inp"], ["out"], {COPY!r})
out = kernel(inputs=[mx.ones(8)], grid=(8, 1, 1), threadgroup=(8, 1, 1), output_shapes=[(8,)],
             output_dtypes=[mx.float32])
print(out[0].sum().item())
"""
    run(metal_kernel("copy", ["inp"], ["out"], COPY), mx.ones(8))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "8.0\n", done.stderr
