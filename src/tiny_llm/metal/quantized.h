// What the kernels of quantized products share.
#pragma once

/// The code number `i` (from 0) of a word, as a float.
template <int bits>
float code(uint word, int i) {
    float value = 0;
    // BEGIN SOLUTION code
    // TODO Week 2 Day 3, Task 1: Matrix-vector, for decoding
    // END SOLUTION
    return value;
}
