// A thread for each element of y: codes of 4 bits, unpacked one by one.
uint row = thread_position_in_grid.x;  // of w
uint vector = thread_position_in_grid.y;
uint K = a_shape[1];
uint words = b_shape[1];  // in a row of w
float sum = 0;
for (uint k = 0; k < K; k++) {
    uint code = (b[row * words + k / 8] >> (4 * (k % 8))) & 15;
    uint group = row * (K / GROUP) + k / GROUP;
    float w = float(scales[group]) * code + float(biases[group]);
    sum += w * float(a[vector * K + k]);
}
y[vector * b_shape[0] + row] = T(sum);
