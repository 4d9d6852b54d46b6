// The sum of each row, one threadgroup per row. The row's length is a multiple of 4, so that a
// thread can load four elements at once.

threadgroup float partial[MAX_SIMDGROUPS];  // the sum of each SIMD group

int columns = x_shape[1];
int row = threadgroup_position_in_grid.x;
int lane = thread_index_in_simdgroup;
int simdgroup = simdgroup_index_in_threadgroup;
int simdgroups = simdgroups_per_threadgroup;
int threads = threads_per_threadgroup.x;

// Each thread: every `threads`-th group of four.
const device vec<T, 4>* fours = (const device vec<T, 4>*)(x + row * columns);
float sum = 0.0f;
for (int i = thread_position_in_threadgroup.x; i < columns / 4; i += threads) {
    vec<T, 4> four = fours[i];
    sum += float(four.x) + float(four.y) + float(four.z) + float(four.w);
}

// Each SIMD group: the sum of its threads.
sum = simd_sum(sum);
if (lane == 0) {
    partial[simdgroup] = sum;
}
threadgroup_barrier(mem_flags::mem_threadgroup);

// The first SIMD group: the sum of all of them.
if (simdgroup == 0) {
    float part = lane < simdgroups ? partial[lane] : 0.0f;
    sum = simd_sum(part);
    if (lane == 0) {
        y[row] = T(sum);
    }
}
