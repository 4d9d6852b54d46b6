// The kernels of quantized matrix products: unpacking, a few vectors, many vectors.
//
// Everything here is float32 and runs on one thread, for a block of rows of the weights; who calls
// it (quantized_matmul_op.cpp) converts dtypes and divides the work among the cores.

#include "quantized_matmul.h"

#include <algorithm>

#include "tiny_llm_lab/vectors.h"

namespace tiny_llm {

/// Elements of the vectors below: eight floats fill a register of AVX2, and two of NEON.
constexpr int LANES = 8;

/// The code number `i` (from 0) of each word, as floats.
template <int bits, int n>
inline Floats<n> unpack(Words<n> words, int i) {
  Floats<n> codes = {};
  // BEGIN SOLUTION unpack
  // TODO Week 2 Day 2, Task 2: Matrix-vector, for decoding
  // END SOLUTION
  return codes;
}

/// The number of words that `matvec` loads at once: those of a whole group, at most LANES.
template <int bits>
int words_at_once(int group_size) {
  return std::min(LANES, group_size * bits / 32);
}

template <int bits>
void prepare(const float* x, int M, int K, int group_size, float* interleaved, float* sums) {
  // BEGIN SOLUTION prepare
  // TODO Week 2 Day 2, Task 2: Matrix-vector, for decoding
  // END SOLUTION
}

/// `matvec` for M vectors, with `n` words at once.
template <int bits, int n, int M>
void matvec_of(const float* x, const float* sums, const QuantizedRows& w, float* y) {
  // BEGIN SOLUTION matvec
  // TODO Week 2 Day 2, Task 2: Matrix-vector, for decoding
  // END SOLUTION
}

template <int bits, int n>
void matvec_with(const float* x, const float* sums, int M, const QuantizedRows& w, float* y) {
  switch (M) {
    case 1: return matvec_of<bits, n, 1>(x, sums, w, y);
    case 2: return matvec_of<bits, n, 2>(x, sums, w, y);
    case 3: return matvec_of<bits, n, 3>(x, sums, w, y);
    case 4: return matvec_of<bits, n, 4>(x, sums, w, y);
  }
}

template <int bits>
void matvec(const float* interleaved, const float* sums, int M, const QuantizedRows& w, float* y) {
  if (words_at_once<bits>(w.group_size) == LANES) {
    matvec_with<bits, LANES>(interleaved, sums, M, w, y);
  } else {
    matvec_with<bits, LANES / 2>(interleaved, sums, M, w, y);
  }
}

/// A panel is this many rows of the weights, transposed: its row k holds their k-th elements.
constexpr int PANEL = 2 * LANES;

/// So many columns of a panel are in the cache at once; a multiple of every group size.
constexpr int PANEL_COLUMNS = 512;

/// Vectors that `tile` multiplies at once: with PANEL sums for each, most registers of AVX2.
constexpr int TILE = 6;

/// Dequantize columns `k0` to `k0 + columns - 1` of PANEL rows from row `row` on.
///
///     panel: `columns x PANEL`; columns that the weights have no row for may hold anything finite
template <int bits>
void dequantize_panel(const QuantizedRows& w, int row, int k0, int columns, float* panel) {
  // BEGIN SOLUTION dequantize_panel
  // TODO Week 2 Day 2, Task 3: Matrix-matrix, for prefill
  // END SOLUTION
}

/// Add the product of M vectors with a panel to M rows of `y`.
///
///     x: M rows of `columns` elements, K apart
///     panel: `columns x PANEL`
///     y: M rows of PANEL elements, BLOCK_ROWS apart
template <int M>
void tile(const float* x, int K, const float* panel, int columns, float* y) {
  // BEGIN SOLUTION tile
  // TODO Week 2 Day 2, Task 3: Matrix-matrix, for prefill
  // END SOLUTION
}

/// `tile` for M vectors, 1 to TILE.
void tile_of(int M, const float* x, int K, const float* panel, int columns, float* y) {
  switch (M) {
    case 1: return tile<1>(x, K, panel, columns, y);
    case 2: return tile<2>(x, K, panel, columns, y);
    case 3: return tile<3>(x, K, panel, columns, y);
    case 4: return tile<4>(x, K, panel, columns, y);
    case 5: return tile<5>(x, K, panel, columns, y);
    case 6: return tile<6>(x, K, panel, columns, y);
  }
}

template <int bits>
void matmul(const float* x, int M, const QuantizedRows& w, float* y) {
  // BEGIN SOLUTION matmul
  // TODO Week 2 Day 2, Task 3: Matrix-matrix, for prefill
  // END SOLUTION
}

template void prepare<4>(const float*, int, int, int, float*, float*);
template void prepare<8>(const float*, int, int, int, float*, float*);
template void matvec<4>(const float*, const float*, int, const QuantizedRows&, float*);
template void matvec<8>(const float*, const float*, int, const QuantizedRows&, float*);
template void matmul<4>(const float*, int, const QuantizedRows&, float*);
template void matmul<8>(const float*, int, const QuantizedRows&, float*);

}  // namespace tiny_llm
