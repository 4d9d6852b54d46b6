// c = a @ b. A threadgroup computes a tile of TILE x TILE elements of c, a thread one element.
// The sizes need not be multiples of TILE.

threadgroup T a_tile[TILE][TILE];
threadgroup T b_tile[TILE][TILE];

int M = a_shape[0];
int K = a_shape[1];
int N = b_shape[1];
int2 here = int2(thread_position_in_threadgroup.xy);
int row = thread_position_in_grid.y;
int column = thread_position_in_grid.x;

float sum = 0.0f;
for (int start = 0; start < K; start += TILE) {
    // Each thread loads one element of both tiles. Beyond the edges there are zeros.
    int a_column = start + here.x;
    int b_row = start + here.y;
    T a_element = T(0);
    T b_element = T(0);
    if (row < M && a_column < K) {
        a_element = a[row * K + a_column];
    }
    if (b_row < K && column < N) {
        b_element = b[b_row * N + column];
    }
    a_tile[here.y][here.x] = a_element;
    b_tile[here.y][here.x] = b_element;
    threadgroup_barrier(mem_flags::mem_threadgroup);

    for (int k = 0; k < TILE; k++) {
        float left = float(a_tile[here.y][k]);
        float right = float(b_tile[k][here.x]);
        sum += left * right;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);  // all are done with the tiles
}

if (row < M && column < N) {
    c[row * N + column] = T(sum);
}
