// What the kernels of quantized products share.
#pragma once

/// The code number `i` (from 0) of a word, as a float.
template <int bits>
float code(uint word, int i) {
    float value = 0;
    // BEGIN SOLUTION code
    value = float((word >> (bits * i)) & ((1u << bits) - 1));
    // END SOLUTION
    return value;
}
