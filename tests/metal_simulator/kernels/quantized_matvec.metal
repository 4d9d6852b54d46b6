// y = w @ x for a matrix w of 4-bit numbers as `mx.quantize` packs them: eight to a word, the
// first in the lowest bits, with a scale and a bias for each GROUP of neighbours in a row:
// w = scale * number + bias. A SIMD group computes ROWS elements of y.

constexpr int ROWS = 4;
constexpr int PER_WORD = 8;

int columns = x_shape[0];
int rows = w_shape[0];
int words = columns / PER_WORD;
int groups = columns / GROUP;
int lane = thread_index_in_simdgroup;
int simdgroup = threadgroup_position_in_grid.x * simdgroups_per_threadgroup +
    simdgroup_index_in_threadgroup;
int first_row = simdgroup * ROWS;
int end_row = min(first_row + ROWS, rows);

float sums[ROWS] = {0.0f};
for (int word = lane; word < words; word += 32) {
    // The word's part of x is loaded once, for all rows.
    float values[PER_WORD];
    float total = 0.0f;
    for (int i = 0; i < PER_WORD; i++) {
        values[i] = float(x[word * PER_WORD + i]);
        total += values[i];
    }
    int group = word * PER_WORD / GROUP;
    for (int row = first_row; row < end_row; row++) {
        uint packed = w[row * words + word];
        float product = 0.0f;
        for (int i = 0; i < PER_WORD; i++) {
            product += values[i] * float((packed >> (4 * i)) & 15);
        }
        float scale = float(scales[row * groups + group]);
        float bias = float(biases[row * groups + group]);
        sums[row - first_row] += scale * product + bias * total;
    }
}

for (int row = first_row; row < end_row; row++) {
    float sum = simd_sum(sums[row - first_row]);
    if (lane == 0) {
        y[row] = T(sum);
    }
}
