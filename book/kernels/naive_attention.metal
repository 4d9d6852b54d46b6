// A SIMD group for each query of each head: a lane has every 32nd feature. Nothing is shared.
uint H = q_shape[1], L = q_shape[2], S = k_shape[2];
uint lane = thread_index_in_simdgroup;
uint head = threadgroup_position_in_grid.y;
uint query_row = head * L + threadgroup_position_in_grid.x;  // of q and out
uint first_key = head / (H / k_shape[1]) * S;  // row of k and v
float query[D / 32];
for (uint f = 0; f < D / 32; f++) {
    query[f] = scale * float(q[query_row * D + 32 * f + lane]);
}
float output[D / 32] = {};
float sum = 0;
float largest = -INFINITY;
for (uint key = first_key; key < first_key + S; key++) {
    float part = 0;
    for (uint f = 0; f < D / 32; f++) {
        part += query[f] * float(k[key * D + 32 * f + lane]);
    }
    float score = simd_sum(part);
    float new_largest = max(largest, score);
    float shrink = metal::exp(largest - new_largest);
    float weight = metal::exp(score - new_largest);
    largest = new_largest;
    sum = sum * shrink + weight;
    for (uint f = 0; f < D / 32; f++) {
        output[f] = output[f] * shrink + weight * float(v[key * D + 32 * f + lane]);
    }
}
for (uint f = 0; f < D / 32; f++) {
    out[query_row * D + 32 * f + lane] = T(output[f] / sum);
}
