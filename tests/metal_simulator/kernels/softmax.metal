// The softmax of each row, one threadgroup per row.

threadgroup float partial[32];  // one number per SIMD group: first its maximum, then its sum

int columns = x_shape[1];
int row = threadgroup_position_in_grid.x;
int thread_index = thread_position_in_threadgroup.x;
int threads = threads_per_threadgroup.x;
int lane = thread_index_in_simdgroup;
int simdgroup = simdgroup_index_in_threadgroup;
int simdgroups = simdgroups_per_threadgroup;

// The maximum of the row: of each thread, of each SIMD group, of all of them.
float largest = -INFINITY;
for (int i = thread_index; i < columns; i += threads) {
    largest = max(largest, float(x[row * columns + i]));
}
largest = simd_max(largest);
if (lane == 0) {
    partial[simdgroup] = largest;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
float other = lane < simdgroups ? partial[lane] : -INFINITY;
largest = simd_max(other);
threadgroup_barrier(mem_flags::mem_threadgroup);  // all have read the maxima: now sums may go there

// The sum of the exponentials, in the same way.
float sum = 0.0f;
for (int i = thread_index; i < columns; i += threads) {
    sum += metal::exp(float(x[row * columns + i]) - largest);
}
sum = simd_sum(sum);
if (lane == 0) {
    partial[simdgroup] = sum;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
float part = lane < simdgroups ? partial[lane] : 0.0f;
sum = simd_sum(part);

for (int i = thread_index; i < columns; i += threads) {
    y[row * columns + i] = T(metal::exp(float(x[row * columns + i]) - largest) / sum);
}
