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
  codes = to_floats<n>((words >> (bits * i)) & ((1u << bits) - 1));
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
  constexpr int codes = 32 / bits;  // in a word
  const int words = words_at_once<bits>(group_size);
  for (int64_t start = 0; start < int64_t(M) * K; start += words * codes) {
    for (int word = 0; word < words; word++) {
      for (int i = 0; i < codes; i++) {
        interleaved[start + i * words + word] = x[start + word * codes + i];
      }
    }
  }
  for (int64_t group = 0; group < int64_t(M) * K / group_size; group++) {
    sums[group] = 0;
    for (int k = 0; k < group_size; k++) sums[group] += x[group * group_size + k];
  }
  // END SOLUTION
}

/// `matvec` for M vectors, with `n` words at once.
template <int bits, int n, int M>
void matvec_of(const float* x, const float* sums, const QuantizedRows& w, float* y) {
  // BEGIN SOLUTION matvec
  constexpr int codes = 32 / bits;  // in a word
  const int groups = w.K / w.group_size;
  const int loads = w.group_size / (codes * n);  // in a group
  for (int row = 0; row < w.rows; row++) {
    const uint32_t* packed = w.packed + int64_t(row) * (w.K / codes);
    const float* scales = w.scales + int64_t(row) * groups;
    const float* biases = w.biases + int64_t(row) * groups;
    Floats<n> scaled[M] = {};
    float shifts[M] = {};
    for (int group = 0; group < groups; group++) {
      // Two sums take turns: an addition need not wait for the one before.
      Floats<n> dots[M][2] = {};
      for (int k = group * w.group_size, load_ = 0; load_ < loads; load_++, k += codes * n) {
        const auto words = load<Words<n>>(packed + k / codes);
#pragma GCC unroll 8
        for (int i = 0; i < codes; i++) {
          const Floats<n> q = unpack<bits, n>(words, i);
          for (int m = 0; m < M; m++) {
            dots[m][i % 2] += q * load<Floats<n>>(x + int64_t(m) * w.K + k + i * n);
          }
        }
      }
      for (int m = 0; m < M; m++) {
        scaled[m] += scales[group] * (dots[m][0] + dots[m][1]);
        // The bias is the same for all elements of a group: it meets their sum.
        shifts[m] += biases[group] * sums[m * groups + group];
      }
    }
    for (int m = 0; m < M; m++) y[m * BLOCK_ROWS + row] = sum<n>(scaled[m]) + shifts[m];
  }
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
  constexpr int codes = 32 / bits;  // in a word
  const int groups = w.K / w.group_size, row_words = w.K / codes;
  for (int half = 0; half < PANEL; half += LANES) {
    // Behind the last row is nothing to read: it stands in for what is missing.
    int64_t rows[LANES];
    for (int lane = 0; lane < LANES; lane++) {
      rows[lane] = std::min(row + half + lane, w.rows - 1);
    }
    for (int start = 0; start < columns; start += w.group_size) {
      const int group = (k0 + start) / w.group_size;
      Floats<LANES> scales, biases;
      for (int lane = 0; lane < LANES; lane++) {
        scales[lane] = w.scales[rows[lane] * groups + group];
        biases[lane] = w.biases[rows[lane] * groups + group];
      }
      for (int k = start; k < start + w.group_size; k += codes) {
        Words<LANES> words;
        for (int lane = 0; lane < LANES; lane++) {
          words[lane] = w.packed[rows[lane] * row_words + (k0 + k) / codes];
        }
#pragma GCC unroll 8
        for (int i = 0; i < codes; i++) {
          store(panel + (k + i) * PANEL + half, scales * unpack<bits, LANES>(words, i) + biases);
        }
      }
    }
  }
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
  Floats<LANES> sums[M][2];
  for (int m = 0; m < M; m++) {
    for (int half = 0; half < 2; half++) {
      sums[m][half] = load<Floats<LANES>>(y + m * BLOCK_ROWS + half * LANES);
    }
  }
  for (int k = 0; k < columns; k++) {
    const auto left = load<Floats<LANES>>(panel + k * PANEL);
    const auto right = load<Floats<LANES>>(panel + k * PANEL + LANES);
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
      sums[m][0] += x[int64_t(m) * K + k] * left;
      sums[m][1] += x[int64_t(m) * K + k] * right;
    }
  }
  for (int m = 0; m < M; m++) {
    for (int half = 0; half < 2; half++) {
      store(y + m * BLOCK_ROWS + half * LANES, sums[m][half]);
    }
  }
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
  std::fill(y, y + int64_t(M) * BLOCK_ROWS, 0.0f);
  thread_local FloatBuffer panel(PANEL_COLUMNS * PANEL);
  for (int k = 0; k < w.K; k += PANEL_COLUMNS) {
    const int columns = std::min(PANEL_COLUMNS, w.K - k);
    for (int row = 0; row < w.rows; row += PANEL) {
      dequantize_panel<bits>(w, row, k, columns, panel.data());
      for (int m = 0; m < M; m += TILE) {
        tile_of(std::min(TILE, M - m), x + int64_t(m) * w.K + k, w.K, panel.data(), columns,
                y + int64_t(m) * BLOCK_ROWS + row);
      }
    }
  }
  // END SOLUTION
}

template void prepare<4>(const float*, int, int, int, float*, float*);
template void prepare<8>(const float*, int, int, int, float*, float*);
template void matvec<4>(const float*, const float*, int, const QuantizedRows&, float*);
template void matvec<8>(const float*, const float*, int, const QuantizedRows&, float*);
template void matmul<4>(const float*, int, const QuantizedRows&, float*);
template void matmul<8>(const float*, int, const QuantizedRows&, float*);

}  // namespace tiny_llm
