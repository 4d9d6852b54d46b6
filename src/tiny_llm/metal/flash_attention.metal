// out = softmax(scale * q @ k.T + mask) @ v with an online softmax: no score is written to memory.
//
//     q, out: `B x H x L x D`, of type T
//     k, v: `B x H_KV x S x D`, of type T; H / H_KV query heads share one
//     mask: float, `B x H x L x S`, each of the axes may be 1; not used unless MASKED
//
// A threadgroup of SIMDGROUPS SIMD groups computes SIMDGROUPS * QUERIES queries of one head, each
// SIMD group QUERIES of them. Tiles of 32 keys, and then of their values, pass through one place in
// threadgroup memory. For the scores a lane has a key, for the output it has every 32nd feature. The
// grid has a threadgroup for each block of queries along x, for each head along y, and for each item
// of the batch along z. D, SIMDGROUPS, QUERIES, CAUSAL and MASKED are arguments of the template.
#include "flash_attention.h"

constexpr int KEYS = 32;          // in a tile, one for each lane
constexpr int FEATURES = D / 32;  // of the output, for each lane
constexpr int ROW = D + 1;        // floats of a row of a tile
constexpr int BLOCK = SIMDGROUPS * QUERIES;
constexpr int THREADS = SIMDGROUPS * 32;

threadgroup float query_tile[BLOCK * ROW];
threadgroup float tile[KEYS * ROW];  // keys, then their values

int H = q_shape[1];
int L = q_shape[2];
int H_KV = k_shape[1];
int S = k_shape[2];
int thread_index = thread_position_in_threadgroup.x;
int lane = thread_index_in_simdgroup;
int first = simdgroup_index_in_threadgroup * QUERIES;  // of this SIMD group, in the block
int first_query = threadgroup_position_in_grid.x * BLOCK;
int head = threadgroup_position_in_grid.y;
int batch = threadgroup_position_in_grid.z;
size_t query_row = size_t(batch * H + head) * L + first_query;  // of the block, in q and out
size_t key_row = size_t(batch * H_KV + head / (H / H_KV)) * S;  // of key 0, in k and v

float output[QUERIES][FEATURES] = {};
float sums[QUERIES] = {};  // of the weights so far, relative to the largest score so far
float largest[QUERIES];
for (int i = 0; i < QUERIES; i++) {
    largest[i] = -INFINITY;
}
load_rows<BLOCK, D>(q + query_row * D, L - first_query, query_tile, thread_index, THREADS);

// The whole threadgroup takes the same tiles: with CAUSAL, those that its last query can see.
int end = CAUSAL ? min(S, first_query + BLOCK + S - L) : S;
for (int start = 0; start < end; start += KEYS) {
    float weights[QUERIES] = {};  // first the scores: each query with this lane's key
    // BEGIN SOLUTION scores
    // TODO Week 2 Day 5, Task 1: Online softmax over tiles
    // END SOLUTION

    for (int i = 0; i < QUERIES; i++) {
        int query = min(first_query + first + i, L - 1);
        int key = min(start + lane, S - 1);
        // BEGIN SOLUTION masks
        // TODO Week 2 Day 5, Task 2: Masks
        // END SOLUTION
    }

    // BEGIN SOLUTION softmax
    // TODO Week 2 Day 5, Task 1: Online softmax over tiles
    // END SOLUTION

    // BEGIN SOLUTION values
    // TODO Week 2 Day 5, Task 1: Online softmax over tiles
    // END SOLUTION
}

// BEGIN SOLUTION store
// TODO Week 2 Day 5, Task 1: Online softmax over tiles
// END SOLUTION
