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
    load_rows<KEYS, D>(k + (key_row + start) * D, S - start, tile, thread_index, THREADS);
    threadgroup_barrier(mem_flags::mem_threadgroup);  // queries and keys are complete
    for (int d = 0; d < D; d++) {
        float feature = tile[lane * ROW + d];
        for (int i = 0; i < QUERIES; i++) {
            weights[i] += query_tile[(first + i) * ROW + d] * feature;
        }
    }
    for (int i = 0; i < QUERIES; i++) {
        weights[i] = start + lane < S ? scale * weights[i] : -INFINITY;
    }
    // END SOLUTION

    for (int i = 0; i < QUERIES; i++) {
        int query = min(first_query + first + i, L - 1);
        int key = min(start + lane, S - 1);
        // BEGIN SOLUTION masks
        if (CAUSAL && key > query + S - L) {
            weights[i] = -INFINITY;
        }
        if (MASKED) {
            size_t at = mask_shape[0] == 1 ? 0 : batch;
            at = at * mask_shape[1] + (mask_shape[1] == 1 ? 0 : head);
            at = at * mask_shape[2] + (mask_shape[2] == 1 ? 0 : query);
            at = at * mask_shape[3] + (mask_shape[3] == 1 ? 0 : key);
            weights[i] += mask[at];
        }
        // END SOLUTION
    }

    // BEGIN SOLUTION softmax
    for (int i = 0; i < QUERIES; i++) {
        float new_largest = max(largest[i], simd_max(weights[i]));
        // While a query has seen no key, its largest score is -inf, and -inf - -inf is no number.
        float shift = new_largest == -INFINITY ? 0.0f : new_largest;
        float shrink = metal::exp(largest[i] - shift);
        weights[i] = metal::exp(weights[i] - shift);
        largest[i] = new_largest;
        sums[i] = sums[i] * shrink + simd_sum(weights[i]);
        for (int f = 0; f < FEATURES; f++) {
            output[i][f] *= shrink;
        }
    }
    // END SOLUTION

    // BEGIN SOLUTION values
    threadgroup_barrier(mem_flags::mem_threadgroup);  // all are done with the keys
    load_rows<KEYS, D>(v + (key_row + start) * D, S - start, tile, thread_index, THREADS);
    threadgroup_barrier(mem_flags::mem_threadgroup);  // the values are complete
    for (int j = 0; j < KEYS; j++) {
        for (int i = 0; i < QUERIES; i++) {
            float weight = simd_shuffle(weights[i], j);
            for (int f = 0; f < FEATURES; f++) {
                output[i][f] += weight * tile[j * ROW + 32 * f + lane];
            }
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);  // all are done with the values
    // END SOLUTION
}

// BEGIN SOLUTION store
for (int i = 0; i < QUERIES; i++) {
    if (first_query + first + i < L) {
        for (int f = 0; f < FEATURES; f++) {
            // A query that has seen no key gets 0.
            float value = sums[i] > 0 ? output[i][f] / sums[i] : 0.0f;
            out[(query_row + first + i) * D + 32 * f + lane] = T(value);
        }
    }
}
// END SOLUTION
