// y = a @ w.T for many vectors, where w is quantized: w = scale * code + bias.
//
//     scales, biases: `N x K / GROUP`
//     a: `M x K`, of type T
//     b: the codes of w, `N x K * BITS / 32`
//     y: `M x N`, of type T
//
// A threadgroup of 4 SIMD groups computes TILE x TILE elements of y, and each of the four a quarter,
// as 2 x 2 matrices of 8 x 8. It goes along K in steps of TILE, which is 32, so that a step lies
// within a group. The grid has a threadgroup for each tile of y: its columns along x, rows along y.
// BITS, GROUP and TILE are arguments of the template.
#include "quantized.h"

constexpr int CODES = 32 / BITS;     // in a word
constexpr int WORDS = TILE / CODES;  // of a row of w, in a step
constexpr int THREADS = 128;
constexpr int BLOCK = TILE / 2 / 8;  // matrices of 8 x 8 along each side of a quarter

threadgroup float a_tile[TILE][TILE];  // vectors x k
threadgroup float w_tile[TILE][TILE];  // rows of w x k, dequantized
threadgroup float y_tile[TILE][TILE];  // vectors x rows of w

int M = a_shape[0];
int K = a_shape[1];
int N = b_shape[0];
int words = b_shape[1];  // in a row of w
int groups = K / GROUP;  // in a row of w
int thread_index = thread_position_in_threadgroup.x;
int first_vector = threadgroup_position_in_grid.y * TILE;
int first_row = threadgroup_position_in_grid.x * TILE;
// Where this SIMD group's quarter of the tile begins.
int vector = simdgroup_index_in_threadgroup / 2 * 8 * BLOCK;
int row = simdgroup_index_in_threadgroup % 2 * 8 * BLOCK;

simdgroup_matrix<float, 8, 8> sums[BLOCK][BLOCK];
for (int i = 0; i < BLOCK; i++) {
    for (int j = 0; j < BLOCK; j++) {
        sums[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    }
}
for (int k = 0; k < K; k += TILE) {
    // BEGIN SOLUTION load_tiles
    // TODO Week 2 Day 3, Task 2: Matrix-matrix, for prefill
    // END SOLUTION

    // BEGIN SOLUTION multiply
    // TODO Week 2 Day 3, Task 2: Matrix-matrix, for prefill
    // END SOLUTION
}

// BEGIN SOLUTION store
// TODO Week 2 Day 3, Task 2: Matrix-matrix, for prefill
// END SOLUTION
