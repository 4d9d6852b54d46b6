"""`tiny_llm_lab.kernels.metal_kernel`: where a kernel runs, and sources in files."""

import mlx.core as mx
import pytest

from tiny_llm_lab.kernels import metal_kernel, uses_simulator

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
