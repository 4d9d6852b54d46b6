"""`tiny_llm_lab.kernels.metal_kernel`: where a kernel runs, and sources in files."""

import sys
from types import SimpleNamespace

import mlx.core as mx
import pytest

from metal_simulator import KernelError
from tiny_llm_lab.course import failure
from tiny_llm_lab.kernels import load_metal_kernel, metal_kernel, uses_metal, uses_simulator

SOURCE = "uint i = thread_position_in_grid.x; out[i] = 2 * inp[i];"


def doubled(kernel, x):
    return kernel(
        inputs=[x],
        grid=(x.size, 1, 1),
        threadgroup=(4, 1, 1),
        output_shapes=[x.shape],
        output_dtypes=[x.dtype],
    )[0]


def test_a_kernel_runs_where_it_can():
    x = mx.arange(12, dtype=mx.float32)
    assert mx.array_equal(doubled(metal_kernel("double_it", ["inp"], ["out"], SOURCE), x), 2 * x)


def test_the_simulator_is_used_without_metal_and_when_it_is_asked_for(monkeypatch):
    monkeypatch.delenv("TINY_LLM_METAL", raising=False)
    assert uses_simulator() == (not mx.metal.is_available())
    monkeypatch.setenv("TINY_LLM_METAL", "simulate")
    assert uses_simulator()
    monkeypatch.setenv("TINY_LLM_METAL", "native")
    with pytest.raises(ValueError, match='set it to "simulate"'):
        uses_simulator()


def test_a_source_file_with_a_header_beside_it(tmp_path):
    (tmp_path / "double.metal").write_text(
        '#include "twice.h"\nuint i = thread_position_in_grid.x;\nout[i] = twice(inp[i]);\n'
    )
    (tmp_path / "twice.h").write_text("inline float twice(float x) { return 2 * x; }\n")
    x = mx.arange(12, dtype=mx.float32)
    kernel = metal_kernel("double_it", ["inp"], ["out"], tmp_path / "double.metal")
    assert mx.array_equal(doubled(kernel, x), 2 * x)


def test_a_missing_source_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no Metal source .*lost\.metal"):
        metal_kernel("double_it", ["inp"], ["out"], tmp_path / "lost.metal")


@pytest.mark.parametrize("asked", ["", "simulate"])
def test_only_a_gpu_gets_metal_kernels(asked, monkeypatch):
    monkeypatch.setenv("TINY_LLM_METAL", asked)
    for device in (mx.cpu, mx.gpu):
        monkeypatch.setattr(mx, "default_device", lambda device=device: mx.Device(device))
        for available in (False, True):
            monkeypatch.setattr(mx.metal, "is_available", lambda available=available: available)
            expected = device == mx.gpu and (available or asked == "simulate")
            assert uses_metal() == expected


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A solution package, as far as its Metal kernels go."""
    (tmp_path / "metal").mkdir()
    (tmp_path / "metal" / "double_it.metal").write_text(SOURCE)
    module = SimpleNamespace(__file__=str(tmp_path / "__init__.py"))
    monkeypatch.setitem(sys.modules, "some_solution", module)
    return tmp_path


def test_the_kernel_of_a_package_is_read_once(package):
    kernel = load_metal_kernel("some_solution", "double_it", ["inp"], ["out"])
    x = mx.arange(12, dtype=mx.float32)
    assert mx.array_equal(doubled(kernel, x), 2 * x)
    assert load_metal_kernel("some_solution", "double_it", ["inp"], ["out"]) is kernel


def test_the_kernel_of_a_package_runs_where_it_is_asked_to(package, monkeypatch):
    kernel = load_metal_kernel("some_solution", "double_it", ["inp"], ["out"])
    simulated = uses_simulator()
    monkeypatch.setenv("TINY_LLM_METAL", "simulate")
    again = load_metal_kernel("some_solution", "double_it", ["inp"], ["out"])
    assert (again is kernel) == simulated


def test_a_package_without_the_kernel(package):
    with pytest.raises(FileNotFoundError, match=r"There is no Metal source .*lost\.metal"):
        load_metal_kernel("some_solution", "lost", ["inp"], ["out"])


def test_a_finding_is_shown_to_a_student_at_its_line(package, monkeypatch):
    monkeypatch.setenv("TINY_LLM_METAL", "simulate")
    path = package / "metal" / "double_it.metal"
    path.write_text(
        "uint i = thread_position_in_grid.x;\n"
        "threadgroup float tile[12];\n"
        "tile[i] = inp[i];\n"
        "out[i] = tile[11 - i] + tile[i];\n"
    )
    kernel = load_metal_kernel("some_solution", "double_it", ["inp"], ["out"])
    with pytest.raises(KernelError) as caught:
        kernel(
            inputs=[mx.arange(12.0)],
            grid=(12, 1, 1),
            threadgroup=(12, 1, 1),
            output_shapes=[(12,)],
            output_dtypes=[mx.float32],
        )
    lines = failure.describe(caught.value, None, package)
    assert lines[0] == "kernel 'double_it':"
    assert lines[1].startswith("  double_it.metal:3: [threadgroup-race] A thread writes element 6")
    assert max(map(len, lines[:-2])) <= 100
    assert lines[-2].endswith("double_it.metal:3, in the Metal kernels")
    assert lines[-1].strip() == "tile[i] = inp[i];"
