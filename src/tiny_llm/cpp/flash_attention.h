// The kernels of attention with an online softmax on the CPU.
//
// An online softmax takes the keys block by block. Of those it has met it keeps, for every query,
//
//     maximum  of the scores
//     total    of the weights, exp(score - maximum)
//     output   the sum of the weights times the values
//
// When a block brings a larger maximum, what is kept is multiplied by exp(old - new maximum). The
// attention is output / total, after the last block. A query without any visible key has maximum
// -infinity, total 0 and output 0.

#pragma once

#include <cstdint>

#include "tiny_llm_lab/vectors.h"

namespace tiny_llm {

/// Elements of the vectors in the kernels: eight floats fill a register of AVX2, and two of NEON.
constexpr int LANES = 8;

/// A kernel meets at most this many keys at once: with their values they fit into the cache.
constexpr int BLOCK_KEYS = 64;

/// Keys that follow each other, and their values, of one key/value head.
struct KeyBlock {
  const float* keys;    // count x D; rows are `key_stride` floats apart
  const float* values;  // count x D; rows are `value_stride` floats apart
  int64_t key_stride;
  int64_t value_stride;
  int first;  // position of the first of the keys
  int count;  // at most BLOCK_KEYS
};

// --- Many queries: prefill --------------------------------------------------------------------

/// Vectors side by side in a panel.
constexpr int PANEL_VECTORS = 3;

/// A panel is this many queries, one per lane.
constexpr int PANEL = PANEL_VECTORS * LANES;

/// Queries of heads that share a key/value head, in order of their positions, and what the online
/// softmax keeps of them. What belongs to a query is a column: lane i of every vector is query i.
struct Panel {
  const float* queries;    // D x PANEL, scaled
  const int32_t* visible;  // PANEL; query i may look at the first visible[i] keys. None sees less
                           // than the one before it
  float* maximum;          // PANEL
  float* total;            // PANEL
  float* output;           // D x PANEL
};

/// The number of keys of a block, from its first one on, that any query of a panel may look at.
int visible_keys(const Panel& panel, const KeyBlock& block);

/// Let the queries of a panel look at a block of keys.
///
///     D: head dim, a multiple of 4
///     mask: `count x PANEL`, added to the scores, or null
void attend(int D, const KeyBlock& block, const float* mask, const Panel& panel);

// --- One position: decode ---------------------------------------------------------------------

/// `attend_few` takes at most this many queries.
constexpr int MOST_QUERIES = 4;

/// Queries of one position, of heads that share a key/value head, and what is kept of them.
struct FewQueries {
  const float* queries;  // count x D, scaled
  float* maximum;        // count
  float* total;          // count
  float* output;         // count x D
  int count;             // at most MOST_QUERIES
};

/// Let the queries look at all keys of a block.
///
///     D: head dim, a multiple of LANES
///     mask: `queries.count x BLOCK_KEYS`, added to the scores, or null
void attend_few(int D, const KeyBlock& block, const float* mask, const FewQueries& queries);

/// Merge what is kept of a query for some keys with what is kept of it for others.
///
///     maximum, total, output: for some keys; afterwards for all of them; output has D elements
///     other_maximum, other_total, other_output: for the others
void merge(int D, float& maximum, float& total, float* output, float other_maximum,
           float other_total, const float* other_output);

}  // namespace tiny_llm
