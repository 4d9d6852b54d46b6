"""On a Mac, the gallery on the GPU: the same sources, the same calls, the same results."""

import mlx.core as mx
import numpy as np
import pytest
from gallery import Kernel
from test_kernels import check_result, compiled, every_dtype

from inputs import float64

pytestmark = pytest.mark.skipif(
    not mx.metal.is_available(), reason="not verified: there is no Metal GPU to compare with"
)


@every_dtype
def test_native_equals_the_oracle_and_the_simulator(kernel: Kernel, dtype: mx.Dtype) -> None:
    native = mx.fast.metal_kernel(
        name=kernel.name,
        input_names=kernel.inputs,
        output_names=kernel.outputs,
        source=f'#line 1 "{kernel.name}.metal"\n{kernel.source}',
        **kernel.options,
    )
    for seed, shape in enumerate(kernel.small):
        case = kernel.case(*shape, dtype=dtype, seed=10 * seed)
        on_gpu = native(**case.arguments, stream=mx.gpu)
        check_result(on_gpu, case)
        simulated = compiled(kernel)(**case.arguments)
        apart = np.abs(float64(on_gpu[0]) - float64(simulated[0]))
        assert np.all(apart <= 2 * case.tolerance)
