// How often each number from 0 to BINS - 1 occurs; what is outside counts as the nearest of them.
// A threadgroup counts its part of x in threadgroup memory, where atomics are cheap, and then adds
// its counts to the result. Only where threads may meet at one element is the access atomic.

threadgroup uint counts[BINS];

int size = x_shape[0];
int thread_index = thread_position_in_threadgroup.x;
int threads = threads_per_threadgroup.x;

for (int bin = thread_index; bin < BINS; bin += threads) {
    counts[bin] = 0;
}
threadgroup_barrier(mem_flags::mem_threadgroup);

int first = threadgroup_position_in_grid.x * PER_GROUP;
int end = min(first + PER_GROUP, size);
for (int i = first + thread_index; i < end; i += threads) {
    int bin = clamp(x[i], 0, BINS - 1);
    threadgroup atomic_uint* count = (threadgroup atomic_uint*)&counts[bin];
    atomic_fetch_add_explicit(count, 1u, memory_order_relaxed);
}
threadgroup_barrier(mem_flags::mem_threadgroup);

for (int bin = thread_index; bin < BINS; bin += threads) {
    atomic_fetch_add_explicit(&histogram[bin], counts[bin], memory_order_relaxed);
}
