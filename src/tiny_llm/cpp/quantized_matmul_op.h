// Products with quantized weights as an operation of MLX.

#pragma once

#include "mlx/array.h"
#include "mlx/utils.h"

namespace tiny_llm {

/// `a @ dequantized(b).T` as an operation of MLX: lazy, on a CPU stream, on all cores.
///
///     scales, biases: `N x K / group_size`, dtype of `a` or float32
///     group_size: 32, 64 or 128
///     bits: 4 or 8
///     a: `... x K`, float32, float16 or bfloat16
///     b: `N x K * bits / 32`, uint32
///
/// Returns `... x N`, dtype of `a`; sums are in float32. Throws std::invalid_argument, which is
/// ValueError in Python, for anything else.
mlx::core::array quantized_matmul(const mlx::core::array& scales, const mlx::core::array& biases,
                                  int group_size, int bits, const mlx::core::array& a,
                                  const mlx::core::array& b, mlx::core::StreamOrDevice stream);

}  // namespace tiny_llm
