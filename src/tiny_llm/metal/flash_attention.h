// What the flash attention kernel does three times: with queries, with keys and with values.
#pragma once

/// Load rows of D elements into a tile whose rows are `D + 1` floats long: 32 lanes that read one
/// column of it then read from 32 banks of the memory.
///
///     from: the first row; the others follow it
///     rows: so many are there; the others of the tile's ROWS are filled with 0
///     thread_index, threads: all threads of the threadgroup load together
template <int ROWS, int D, typename T>
void load_rows(
    const device T* from, int rows, threadgroup float* tile, int thread_index, int threads) {
    // BEGIN SOLUTION load_rows
    // TODO Week 2 Day 5, Task 1: Online softmax over tiles
    // END SOLUTION
}
