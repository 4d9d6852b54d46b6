"""The gallery: right kernels give the right results and no finding, planted bugs are found."""

import warnings
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from gallery import BARRIER, KERNELS, Bug, Case, Kernel

from inputs import float64
from metal_simulator import CompileError, KernelError, KernelWarning, metal_kernel, watch

DTYPE_NAMES = {mx.float32: "f32", mx.float16: "f16", mx.bfloat16: "bf16", mx.uint32: "u32"}
BY_NAME = {kernel.name: kernel for kernel in KERNELS}

every_dtype = pytest.mark.parametrize(
    ("kernel", "dtype"),
    [
        pytest.param(kernel, dtype, id=f"{kernel.name}-{DTYPE_NAMES[dtype]}")
        for kernel in KERNELS
        for dtype in kernel.dtypes
    ],
)
every_bug = pytest.mark.parametrize(
    ("kernel", "bug"),
    [
        pytest.param(kernel, bug, id=f"{kernel.name}: {bug.name}")
        for kernel in KERNELS
        for bug in kernel.bugs
    ],
)


def compiled(kernel: Kernel, source: str | None = None, **options: Any) -> Any:
    text = kernel.source if source is None else source
    return metal_kernel(
        kernel.name,
        kernel.inputs,
        kernel.outputs,
        f'#line 1 "{kernel.name}.metal"\n{text}',  # as `read_source` has it
        **kernel.options,
        **options,
    )


def check_result(outputs: list[mx.array], case: Case) -> None:
    result = float64(outputs[0])
    assert result.shape == case.expected.shape
    error = np.abs(result - case.expected)
    assert np.all(error <= case.tolerance), (error - case.tolerance).max()


def findings(kernel: Any, case: Case, order: int) -> list[Any]:
    """What a checked run finds: errors first, then warnings."""
    with watch(order=order), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", KernelWarning)
        errors = []
        try:
            kernel(**case.arguments)
        except KernelError as error:
            errors = error.findings
    return errors + [
        warning.message.finding for warning in caught if isinstance(warning.message, KernelWarning)
    ]


@every_dtype
def test_checked_run_finds_nothing_and_equals_the_oracle(kernel: Kernel, dtype: mx.Dtype) -> None:
    run = compiled(kernel)
    for seed, shape in enumerate(kernel.small):
        case = kernel.case(*shape, dtype=dtype, seed=10 * seed)
        for order in (0, 1, 2, 3):
            with watch(order=order), warnings.catch_warnings():
                warnings.simplefilter("error", KernelWarning)
                check_result(run(**case.arguments), case)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_unchecked_run_equals_the_oracle(kernel: Kernel) -> None:
    run = compiled(kernel, check=False)
    dtype = kernel.dtypes[0]
    for seed, shape in enumerate(kernel.small + kernel.large):
        case = kernel.case(*shape, dtype=dtype, seed=100 + seed)
        check_result(run(**case.arguments), case)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_every_order_of_the_threads_gives_the_same_result(kernel: Kernel) -> None:
    case = kernel.case(*kernel.small[0], dtype=kernel.dtypes[0], seed=1)
    run = compiled(kernel)
    first = np.array(run(**case.arguments)[0])
    for order in range(1, 21):
        with watch(order=order):
            assert np.array_equal(np.array(run(**case.arguments)[0]), first), f"order {order}"


@every_bug
def test_planted_bug_is_found(kernel: Kernel, bug: Bug) -> None:
    source = bug.plant(kernel.source)
    case = kernel.case(*(bug.shape or kernel.small[0]), dtype=kernel.dtypes[0], seed=5)
    run = compiled(kernel, source, timeout=bug.timeout)
    for order in (0, 1, 2):
        found = findings(run, case, order)
        matching = [finding for finding in found if bug.matches(finding, source)]
        assert matching, (order, found)
        if bug.lines(source):
            line = source.splitlines()[matching[0].line - 1]
            assert matching[0].source == line.strip()
            assert matching[0].file == f"{kernel.name}.metal"


def test_every_barrier_of_every_kernel_is_deleted_once() -> None:
    for kernel in KERNELS:
        deleted = {bug.occurrence for bug in kernel.bugs if (bug.old, bug.new) == (BARRIER, "")}
        assert deleted == set(range(kernel.source.count(BARRIER)))


@pytest.mark.parametrize("order", range(100))
def test_racy_kernel_is_caught_in_every_order(order: int) -> None:
    kernel = BY_NAME["transpose"]
    case = kernel.case(3, 5, 4, dtype=mx.float32, seed=order)
    run = compiled(kernel, kernel.source.replace(BARRIER, ""))
    assert "threadgroup-race" in {finding.kind for finding in findings(run, case, order)}


def test_recursion_is_refused_or_stopped() -> None:
    header = "inline float depth(float x) { return x < 0.0f ? x : depth(x + 1.0f) + 1.0f; }\n"
    run = metal_kernel("recursion", ["x"], ["y"], "y[0] = depth(x[0]);", header=header)
    x = mx.ones((8,))
    call = {"grid": (1, 1, 1), "threadgroup": (1, 1, 1)}
    with pytest.raises((CompileError, KernelError)) as error:
        run(inputs=[x], output_shapes=[(1,)], output_dtypes=[mx.float32], **call)
    if isinstance(error.value, KernelError):
        assert error.value.findings[0].kind == "stack-overflow"
