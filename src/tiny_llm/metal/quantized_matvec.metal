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
// TODO Week 2 Day 3, Task 1: Matrix-vector, for decoding
// END SOLUTION

// BEGIN SOLUTION row_sums
// TODO Week 2 Day 3, Task 1: Matrix-vector, for decoding
// END SOLUTION
