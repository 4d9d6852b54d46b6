// c = a @ b with matrices of 8 x 8 elements that a whole SIMD group holds. A SIMD group computes
// BLOCK x BLOCK of them; M and N are multiples of 8 * BLOCK, K is a multiple of 8.

constexpr int BLOCK = 2;

int M = a_shape[0];
int K = a_shape[1];
int N = b_shape[1];
int simdgroup = threadgroup_position_in_grid.x * simdgroups_per_threadgroup +
    simdgroup_index_in_threadgroup;
int row = threadgroup_position_in_grid.y * 8 * BLOCK;
int column = simdgroup * 8 * BLOCK;

if (row < M && column < N) {  // the same for all threads of a SIMD group
    simdgroup_matrix<float, 8, 8> sums[BLOCK][BLOCK];
    for (int i = 0; i < BLOCK; i++) {
        for (int j = 0; j < BLOCK; j++) {
            sums[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
        }
    }
    for (int k = 0; k < K; k += 8) {
        simdgroup_matrix<T, 8, 8> left[BLOCK];
        simdgroup_matrix<T, 8, 8> right[BLOCK];
        for (int i = 0; i < BLOCK; i++) {
            simdgroup_load(left[i], a + (row + 8 * i) * K + k, K);
            simdgroup_load(right[i], b + k * N + column + 8 * i, N);
        }
        for (int i = 0; i < BLOCK; i++) {
            for (int j = 0; j < BLOCK; j++) {
                simdgroup_multiply_accumulate(sums[i][j], left[i], right[j], sums[i][j]);
            }
        }
    }
    for (int i = 0; i < BLOCK; i++) {
        for (int j = 0; j < BLOCK; j++) {
            simdgroup_store(sums[i][j], c + (row + 8 * i) * N + column + 8 * j, N);
        }
    }
}
