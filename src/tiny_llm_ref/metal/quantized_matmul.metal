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
    // All threads of the threadgroup load. What lies outside of a or w is 0, and not read.
    for (int i = thread_index; i < TILE * TILE; i += THREADS) {
        int from = first_vector + i / TILE;
        a_tile[i / TILE][i % TILE] = from < M ? float(a[from * K + k + i % TILE]) : 0.0f;
    }
    for (int i = thread_index; i < TILE * WORDS; i += THREADS) {
        int from = first_row + i / WORDS;
        int word = i % WORDS;
        uint packed = 0;
        float scale = 0;
        float bias = 0;
        if (from < N) {
            packed = b[from * words + k / CODES + word];
            scale = float(scales[from * groups + k / GROUP]);
            bias = float(biases[from * groups + k / GROUP]);
        }
        for (int j = 0; j < CODES; j++) {
            w_tile[i / WORDS][word * CODES + j] = scale * code<BITS>(packed, j) + bias;
        }
    }
    // END SOLUTION

    // BEGIN SOLUTION multiply
    threadgroup_barrier(mem_flags::mem_threadgroup);  // the tiles are complete
    for (int j = 0; j < TILE; j += 8) {
        simdgroup_matrix<float, 8, 8> left[BLOCK];
        simdgroup_matrix<float, 8, 8> right[BLOCK];
        for (int i = 0; i < BLOCK; i++) {
            simdgroup_load(left[i], &a_tile[vector + 8 * i][j], TILE);
            // Row by row in w_tile, column by column in the product: transposed.
            simdgroup_load(right[i], &w_tile[row + 8 * i][j], TILE, ulong2(0, 0), true);
        }
        for (int v = 0; v < BLOCK; v++) {
            for (int r = 0; r < BLOCK; r++) {
                simdgroup_multiply_accumulate(sums[v][r], left[v], right[r], sums[v][r]);
            }
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);  // all are done with the tiles
    // END SOLUTION
}

// BEGIN SOLUTION store
// A matrix can only be stored whole, and as float: rows and columns behind the edge, and the type
// of y, are dealt with on the way from y_tile.
for (int v = 0; v < BLOCK; v++) {
    for (int r = 0; r < BLOCK; r++) {
        simdgroup_store(sums[v][r], &y_tile[vector + 8 * v][row + 8 * r], TILE);
    }
}
threadgroup_barrier(mem_flags::mem_threadgroup);
for (int i = thread_index; i < TILE * TILE; i += THREADS) {
    int to_vector = first_vector + i / TILE;
    int to_row = first_row + i % TILE;
    if (to_vector < M && to_row < N) {
        y[size_t(to_vector) * N + to_row] = T(y_tile[i / TILE][i % TILE]);
    }
}
// END SOLUTION
