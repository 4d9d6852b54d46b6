// The kernels of products with quantized weights on the CPU.

#pragma once

#include <cstdint>

namespace tiny_llm {

/// Some rows of a weight matrix in MLX's affine packing: `weight = scale * code + bias`.
///
/// `K` codes of a row lie in `K * bits / 32` words of 32 bits, the first code in the lowest bits of
/// the first word. Each `group_size` codes in a row share a scale and a bias.
struct QuantizedRows {
  const uint32_t* packed;  // rows x K * bits / 32
  const float* scales;     // rows x K / group_size
  const float* biases;     // rows x K / group_size
  int rows;
  int K;           // a multiple of group_size
  int group_size;  // 32, 64 or 128
};

/// A kernel multiplies with at most this many rows of the weights at once, and `y` has room for as
/// many columns.
constexpr int BLOCK_ROWS = 32;

/// `matvec` takes at most this many vectors.
constexpr int MOST_VECTORS = 4;

/// The activations as `matvec` wants them.
///
///     interleaved: `M x K`, each row with its elements in the order in which `matvec` unpacks codes
///     sums:        `M x K / group_size`, the sum of each group of a row
template <int bits>
void prepare(const float* x, int M, int K, int group_size, float* interleaved, float* sums);

/// `y = x @ w.T` for few vectors, from what `prepare` has made of `x`.
///
///     M: number of vectors, 1 to MOST_VECTORS
///     y: `M x BLOCK_ROWS`, of which the first `w.rows` columns are written
template <int bits>
void matvec(const float* interleaved, const float* sums, int M, const QuantizedRows& w, float* y);

/// `y = x @ w.T` for many vectors.
///
///     x: `M x K`
///     M: number of vectors, 1 or more
///     y: `M x BLOCK_ROWS`, of which the first `w.rows` columns count and all may be written
template <int bits>
void matmul(const float* x, int M, const QuantizedRows& w, float* y);

}  // namespace tiny_llm
