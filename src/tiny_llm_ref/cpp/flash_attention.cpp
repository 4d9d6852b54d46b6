// The kernels of attention with an online softmax: many queries, one position, merging.
//
// Everything here is float32 and runs on one thread, for a block of keys; who calls it
// (flash_attention_op.cpp) converts dtypes and divides the work among the cores.
//
// Source: Dao et al., "FlashAttention", https://arxiv.org/abs/2205.14135, section 3.1; the online
// softmax: Milakov and Gimelshein, https://arxiv.org/abs/1805.02867, section 3.

#include "flash_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tiny_llm_lab/exponential.h"

namespace tiny_llm {

using Vector = Floats<LANES>;

constexpr float INFINITE = std::numeric_limits<float>::infinity();

/// Keys, and then features, that a tile of a panel multiplies at once: 4 x PANEL_VECTORS sums, with
/// what they are made of, fill the 16 registers of AVX2.
constexpr int TILE = 4;

/// The scores of a panel for N keys.
///
///     keys: N rows, `stride` floats apart
///     scores: `N x PANEL`
template <int N>
void score_tile(int D, const float* keys, int64_t stride, const float* queries, float* scores) {
  // BEGIN SOLUTION score_tile
  Vector sums[N][PANEL_VECTORS] = {};
  for (int d = 0; d < D; d++) {
    Vector query[PANEL_VECTORS];
    for (int v = 0; v < PANEL_VECTORS; v++) {
      query[v] = load_once<Vector>(queries + d * PANEL + v * LANES);
    }
#pragma GCC unroll 4
    for (int key = 0; key < N; key++) {
      for (int v = 0; v < PANEL_VECTORS; v++) sums[key][v] += keys[key * stride + d] * query[v];
    }
  }
  for (int key = 0; key < N; key++) {
    for (int v = 0; v < PANEL_VECTORS; v++) store(scores + key * PANEL + v * LANES, sums[key][v]);
  }
  // END SOLUTION
}

/// The scores of a panel for `count` keys, `count x PANEL`.
void scores_of(int D, const KeyBlock& block, int count, const float* queries, float* scores) {
  int key = 0;
  const float* keys = block.keys;
  for (; key + TILE <= count; key += TILE) {
    score_tile<TILE>(D, keys + key * block.key_stride, block.key_stride, queries,
                     scores + key * PANEL);
  }
  for (; key < count; key++) {
    score_tile<1>(D, keys + key * block.key_stride, block.key_stride, queries,
                  scores + key * PANEL);
  }
}

/// Make the weights of scores, and bring maximum and total up to date.
///
///     scores: `count x PANEL`; afterwards the weights, exp(score - new maximum)
///     correction: PANEL; what the output so far must be multiplied by
void online_softmax(int count, float* scores, const Panel& panel, float* correction) {
  // BEGIN SOLUTION online_softmax
  for (int lane = 0; lane < PANEL; lane += LANES) {
    const auto before = load<Vector>(panel.maximum + lane);
    Vector maximum = before;
    for (int key = 0; key < count; key++) {
      maximum = larger<LANES>(maximum, load<Vector>(scores + key * PANEL + lane));
    }
    // As long as a query has seen no key, any number does: infinity - infinity would be NaN.
    const Vector shift = maximum == -INFINITE ? Vector{} : maximum;
    const Vector factor = exponential<LANES>(before - shift);
    Vector total = factor * load<Vector>(panel.total + lane);
    for (int key = 0; key < count; key++) {
      float* score = scores + key * PANEL + lane;
      const Vector weight = exponential<LANES>(load<Vector>(score) - shift);
      store(score, weight);
      total += weight;
    }
    store(panel.maximum + lane, maximum);
    store(panel.total + lane, total);
    store(correction + lane, factor);
  }
  // END SOLUTION
}

/// Correct TILE features of the output so far, and add those of `count` weighted values.
///
///     values: `count` rows, `stride` floats apart
///     weights: `count x PANEL`
///     output: `TILE x PANEL`
void value_tile(int count, const float* values, int64_t stride, const float* weights,
                const float* correction, float* output) {
  // BEGIN SOLUTION value_tile
  Vector sums[TILE][PANEL_VECTORS];
  for (int d = 0; d < TILE; d++) {
    for (int v = 0; v < PANEL_VECTORS; v++) {
      sums[d][v] = load<Vector>(output + d * PANEL + v * LANES) *
                   load<Vector>(correction + v * LANES);
    }
  }
  for (int key = 0; key < count; key++) {
    Vector weight[PANEL_VECTORS];
    for (int v = 0; v < PANEL_VECTORS; v++) {
      weight[v] = load_once<Vector>(weights + key * PANEL + v * LANES);
    }
#pragma GCC unroll 4
    for (int d = 0; d < TILE; d++) {
      for (int v = 0; v < PANEL_VECTORS; v++) sums[d][v] += values[key * stride + d] * weight[v];
    }
  }
  for (int d = 0; d < TILE; d++) {
    for (int v = 0; v < PANEL_VECTORS; v++) store(output + d * PANEL + v * LANES, sums[d][v]);
  }
  // END SOLUTION
}

int visible_keys(const Panel& panel, const KeyBlock& block) {
  int count = block.count;
  // BEGIN SOLUTION visible_keys
  count = std::clamp(panel.visible[PANEL - 1] - block.first, 0, block.count);
  // END SOLUTION
  return count;
}

/// Give a score of -infinity to keys that a query may not look at.
///
///     scores: `count x PANEL`
void hide(int first, int count, const int32_t* visible, float* scores) {
  // BEGIN SOLUTION hide
  if (first + count <= visible[0]) return;  // all of them see all keys
  for (int lane = 0; lane < PANEL; lane += LANES) {
    const auto seen = load<Ints<LANES>>(visible + lane);
    for (int key = 0; key < count; key++) {
      float* score = scores + key * PANEL + lane;
      store(score, first + key < seen ? load<Vector>(score) : Vector{} - INFINITE);
    }
  }
  // END SOLUTION
}

void attend(int D, const KeyBlock& block, const float* mask, const Panel& panel) {
  alignas(64) float scores[BLOCK_KEYS * PANEL], correction[PANEL];
  const int count = visible_keys(panel, block);
  if (count == 0) return;
  // What a kernel forgets to write is to be seen as such.
  std::fill_n(scores, count * PANEL, std::numeric_limits<float>::quiet_NaN());
  scores_of(D, block, count, panel.queries, scores);
  if (mask) {
    for (int i = 0; i < count * PANEL; i++) scores[i] += mask[i];
  }
  hide(block.first, count, panel.visible, scores);
  online_softmax(count, scores, panel, correction);
  for (int d = 0; d < D; d += TILE) {
    value_tile(count, block.values + d, block.value_stride, scores, correction,
               panel.output + d * PANEL);
  }
}

/// The scores of N queries for some keys.
///
///     keys: `count` rows, `stride` floats apart
///     queries: `N x D`
///     scores: `N x BLOCK_KEYS`
template <int N, int count>
void few_scores(int D, const float* keys, int64_t stride, const float* queries, float* scores) {
  // BEGIN SOLUTION few_scores
  Vector dots[count][N] = {};
  for (int d = 0; d < D; d += LANES) {
    Vector query[N];
    for (int q = 0; q < N; q++) query[q] = load_once<Vector>(queries + q * D + d);
    for (int key = 0; key < count; key++) {
      const auto k = load_once<Vector>(keys + key * stride + d);
      for (int q = 0; q < N; q++) dots[key][q] += k * query[q];
    }
  }
  for (int key = 0; key < count; key++) {
    for (int q = 0; q < N; q++) scores[q * BLOCK_KEYS + key] = sum<LANES>(dots[key][q]);
  }
  // END SOLUTION
}

/// Add weighted values to the output of N queries.
///
///     values: `count` rows, `stride` floats apart
///     weights: `N x BLOCK_KEYS`
///     output: `N x D`
template <int N, int count>
void few_values(int D, const float* values, int64_t stride, const float* weights, float* output) {
  // BEGIN SOLUTION few_values
  Vector weight[N][count];  // each a vector of equal numbers
  for (int q = 0; q < N; q++) {
    for (int key = 0; key < count; key++) weight[q][key] = Vector{} + weights[q * BLOCK_KEYS + key];
  }
  for (int d = 0; d < D; d += LANES) {
    Vector value[count];
    for (int key = 0; key < count; key++) value[key] = load_once<Vector>(values + key * stride + d);
    for (int q = 0; q < N; q++) {
      auto sums = load<Vector>(output + q * D + d);
      for (int key = 0; key < count; key++) sums += weight[q][key] * value[key];
      store(output + q * D + d, sums);
    }
  }
  // END SOLUTION
}

/// `online_softmax` for one query: from `count` scores to weights. Corrects the output, too.
///
///     scores: BLOCK_KEYS, of which those behind the first `count` may be anything
void few_softmax(int D, int count, float* scores, float& maximum, float& total, float* output) {
  // BEGIN SOLUTION few_softmax
  // Whole vectors: a score of -infinity has a weight of 0.
  std::fill(scores + count, scores + BLOCK_KEYS, -INFINITE);
  float now = maximum;
  for (int key = 0; key < count; key++) now = std::max(now, scores[key]);
  const float shift = now == -INFINITE ? 0 : now;
  Vector weights = {};
  for (int key = 0; key < count; key += LANES) {
    const Vector weight = exponential<LANES>(load<Vector>(scores + key) - shift);
    store(scores + key, weight);
    weights += weight;
  }
  const float correction = std::exp(maximum - shift);
  maximum = now;
  total = correction * total + sum<LANES>(weights);
  for (int d = 0; d < D; d++) output[d] *= correction;
  // END SOLUTION
}

/// `attend_few` for N queries.
template <int N>
void attend_few_of(int D, const KeyBlock& block, const float* mask, const FewQueries& queries) {
  alignas(64) float scores[N * BLOCK_KEYS];
  std::fill_n(scores, N * BLOCK_KEYS, std::numeric_limits<float>::quiet_NaN());
  const int count = block.count;
  const int64_t key_stride = block.key_stride, value_stride = block.value_stride;
  int key = 0;
  for (; key + TILE <= count; key += TILE) {
    few_scores<N, TILE>(D, block.keys + key * key_stride, key_stride, queries.queries,
                        scores + key);
  }
  for (; key < count; key++) {
    few_scores<N, 1>(D, block.keys + key * key_stride, key_stride, queries.queries, scores + key);
  }
  for (int q = 0; q < N; q++) {
    for (int i = q * BLOCK_KEYS; mask && i < q * BLOCK_KEYS + count; i++) scores[i] += mask[i];
    few_softmax(D, count, scores + q * BLOCK_KEYS, queries.maximum[q], queries.total[q],
                queries.output + q * D);
  }
  key = 0;
  for (; key + TILE <= count; key += TILE) {
    few_values<N, TILE>(D, block.values + key * value_stride, value_stride, scores + key,
                        queries.output);
  }
  for (; key < count; key++) {
    few_values<N, 1>(D, block.values + key * value_stride, value_stride, scores + key,
                     queries.output);
  }
}

void attend_few(int D, const KeyBlock& block, const float* mask, const FewQueries& queries) {
  switch (queries.count) {
    case 1: return attend_few_of<1>(D, block, mask, queries);
    case 2: return attend_few_of<2>(D, block, mask, queries);
    case 3: return attend_few_of<3>(D, block, mask, queries);
    case 4: return attend_few_of<4>(D, block, mask, queries);
  }
}

void merge(int D, float& maximum, float& total, float* output, float other_maximum,
           float other_total, const float* other_output) {
  // BEGIN SOLUTION merge
  const float larger = std::max(maximum, other_maximum);
  const float shift = larger == -INFINITE ? 0 : larger;
  const float own = std::exp(maximum - shift), other = std::exp(other_maximum - shift);
  maximum = larger;
  total = own * total + other * other_total;
  for (int d = 0; d < D; d++) output[d] = own * output[d] + other * other_output[d];
  // END SOLUTION
}

}  // namespace tiny_llm
