// The running sums of each row, y[i] = x[0] + ... + x[i], one threadgroup per row. It goes along
// the row in chunks of one element per thread; the threads fill whole SIMD groups.

threadgroup float totals[32];  // the sum of each SIMD group's part of the chunk

int columns = x_shape[1];
int row = threadgroup_position_in_grid.x;
int thread_index = thread_position_in_threadgroup.x;
int threads = threads_per_threadgroup.x;
int lane = thread_index_in_simdgroup;
int simdgroup = simdgroup_index_in_threadgroup;
int simdgroups = simdgroups_per_threadgroup;

float carry = 0.0f;  // the sum of all chunks before this one
for (int start = 0; start < columns; start += threads) {
    int i = start + thread_index;
    float value = 0.0f;
    if (i < columns) {
        value = float(x[row * columns + i]);
    }
    float running = simd_prefix_inclusive_sum(value);
    float total = simd_broadcast(running, 31);
    if (lane == 0) {
        totals[simdgroup] = total;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);

    float before = carry;
    for (int s = 0; s < simdgroups; s++) {
        float other = totals[s];
        before += s < simdgroup ? other : 0.0f;
        carry += other;
    }
    if (i < columns) {
        y[row * columns + i] = T(before + running);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);  // all have read the totals
}
