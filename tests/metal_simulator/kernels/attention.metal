// Attention with an online softmax: no score is ever written to memory. A threadgroup computes
// QUERIES queries of one head, PARTS threads a query; each of them has D / PARTS features.
// H query heads share H_KV key heads. With CAUSAL, the last query sees all keys.

constexpr int PARTS = 4;
constexpr int FEATURES = D / PARTS;
constexpr int THREADS = QUERIES * PARTS;

threadgroup float key_tile[KEYS][D];
threadgroup float value_tile[KEYS][D];

int H = q_shape[1];
int L = q_shape[2];
int H_KV = k_shape[1];
int S = k_shape[2];
int thread_index = thread_position_in_threadgroup.x;
int batch = threadgroup_position_in_grid.z;
int head = threadgroup_position_in_grid.y;
int kv_head = head / (H / H_KV);
int first_query = threadgroup_position_in_grid.x * QUERIES;
int query = first_query + thread_index / PARTS;
int feature = thread_index % PARTS * FEATURES;
const device T* keys = k + (batch * H_KV + kv_head) * S * D;
const device T* values = v + (batch * H_KV + kv_head) * S * D;
int query_offset = ((batch * H + head) * L + query) * D + feature;

float query_part[FEATURES];
float output[FEATURES];
for (int i = 0; i < FEATURES; i++) {
    query_part[i] = query < L ? scale * float(q[query_offset + i]) : 0.0f;
    output[i] = 0.0f;
}
float largest = -INFINITY;  // of the scores so far
float sum = 0.0f;           // of their exponentials, relative to the largest

// The whole threadgroup takes the same tiles: as many as its last query needs.
int last_key = CAUSAL ? first_query + QUERIES - 1 + S - L : S - 1;
int end = min(last_key + 1, S);
for (int start = 0; start < end; start += KEYS) {
    for (int i = thread_index; i < KEYS * D; i += THREADS) {
        bool inside = start + i / D < S;
        key_tile[i / D][i % D] = inside ? float(keys[start * D + i]) : 0.0f;
        value_tile[i / D][i % D] = inside ? float(values[start * D + i]) : 0.0f;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);

    for (int j = 0; j < KEYS; j++) {
        // The score: each thread's part of the dot product, summed over the query's threads.
        float score = 0.0f;
        for (int i = 0; i < FEATURES; i++) {
            score += query_part[i] * key_tile[j][feature + i];
        }
        score += simd_shuffle_xor(score, 1);
        score += simd_shuffle_xor(score, 2);
        int key = start + j;
        bool visible = key < S && (!CAUSAL || key <= query + S - L);
        if (visible) {
            // A new largest score shrinks what has been summed so far.
            float new_largest = max(largest, score);
            float shrink = metal::exp(largest - new_largest);
            float weight = metal::exp(score - new_largest);
            for (int i = 0; i < FEATURES; i++) {
                output[i] = output[i] * shrink + weight * value_tile[j][feature + i];
            }
            sum = sum * shrink + weight;
            largest = new_largest;
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);  // all are done with the tiles
}

if (query < L) {
    for (int i = 0; i < FEATURES; i++) {
        out[query_offset + i] = T(output[i] / sum);
    }
}
