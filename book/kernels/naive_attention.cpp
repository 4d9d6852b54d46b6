// Week 2, day 4: the naive kernel. The chapter shows it, and its example compiles and runs it.

#include <algorithm>
#include <cmath>

extern "C" {

// ANCHOR: kernel
/// `softmax(queries @ keys.T) @ values` of one head, with queries that are scaled already.
void naive_attention(const float* queries, const float* keys, const float* values, int L, int S,
                     int D, float* output) {
  for (int l = 0; l < L; l++) {
    float maximum = -INFINITY, total = 0;
    float* out = output + l * D;
    std::fill_n(out, D, 0.0f);
    for (int s = 0; s < S; s++) {
      float score = 0;
      for (int d = 0; d < D; d++) score += queries[l * D + d] * keys[s * D + d];
      const float larger = std::max(maximum, score);
      const float correction = std::exp(maximum - larger), weight = std::exp(score - larger);
      total = correction * total + weight;
      for (int d = 0; d < D; d++) out[d] = correction * out[d] + weight * values[s * D + d];
      maximum = larger;
    }
    for (int d = 0; d < D; d++) out[d] /= total;
  }
}
// ANCHOR_END: kernel
}
