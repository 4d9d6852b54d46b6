// y = a @ w.T for a few vectors, where w is quantized: w = scale * code + bias.
//
//     scales, biases: `N x K / GROUP`
//     a: `M x K`, of type T
//     b: the codes of w, `N x K * BITS / 32`
//     y: `M x N`, of type T
//
// A SIMD group computes ROWS elements of y: the products of one vector with ROWS rows of w. The
// grid has a vector for each y, and enough SIMD groups along x for all rows. BITS, GROUP and ROWS
// are arguments of the template.
#include "quantized.h"

constexpr int CODES = 32 / BITS;  // in a word

int N = b_shape[0];
int words = b_shape[1];  // in a row of w
int K = a_shape[1];
int groups = K / GROUP;  // in a row of w
int lane = thread_index_in_simdgroup;
int vector = threadgroup_position_in_grid.y;
int simdgroup = threadgroup_position_in_grid.x * simdgroups_per_threadgroup +
    simdgroup_index_in_threadgroup;
int first_row = simdgroup * ROWS;

float sums[ROWS] = {0.0f};  // this lane's part of each row
// BEGIN SOLUTION lane_sums
for (int word = lane; word < words; word += 32) {
    // The word's part of the vector is loaded once, for all rows.
    int k = word * CODES;
    float x[CODES];
    float total = 0;
    for (int i = 0; i < CODES; i++) {
        x[i] = float(a[vector * K + k + i]);
        total += x[i];
    }
    for (int i = 0; i < ROWS; i++) {
        // Behind the last row is nothing to read: it stands in, so that the loop can be unrolled.
        int row = min(first_row + i, N - 1);
        uint packed = b[row * words + word];
        float dot = 0;
        for (int j = 0; j < CODES; j++) {
            dot += x[j] * code<BITS>(packed, j);
        }
        int group = row * groups + k / GROUP;
        sums[i] += float(scales[group]) * dot + float(biases[group]) * total;
    }
}
// END SOLUTION

// BEGIN SOLUTION row_sums
for (int i = 0; i < ROWS; i++) {
    float sum = simd_sum(sums[i]);
    if (lane == 0 && first_row + i < N) {
        y[size_t(vector) * N + first_row + i] = T(sum);
    }
}
// END SOLUTION
