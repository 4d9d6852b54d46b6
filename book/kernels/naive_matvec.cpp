// Week 2, day 2: the naive kernel. The chapter shows it, and its example compiles and runs it.

#include <cstdint>

extern "C" {

// ANCHOR: kernel
/// `y = x @ w.T` for one vector and codes of 4 bits.
void naive_matvec(const float* x, const uint32_t* packed, const float* scales, const float* biases,
                  int rows, int K, int group_size, float* y) {
  for (int row = 0; row < rows; row++) {
    y[row] = 0;
    for (int k = 0; k < K; k++) {
      const uint32_t word = packed[row * (K / 8) + k / 8];
      const uint32_t code = (word >> (4 * (k % 8))) & 15;
      const int group = row * (K / group_size) + k / group_size;
      y[row] += (scales[group] * code + biases[group]) * x[k];
    }
  }
}
// ANCHOR_END: kernel
}
