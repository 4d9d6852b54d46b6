// Attention with an online softmax as an operation of MLX.

#pragma once

#include <optional>

#include "mlx/array.h"
#include "mlx/utils.h"

namespace tiny_llm {

/// `softmax(scale * query @ key.T + mask) @ value` as an operation of MLX: lazy, on a CPU stream,
/// on all cores.
///
///     query: `B x H_q x L x D`, float32, float16 or bfloat16; D is 32, 64 or 128
///     key, value: `B x H_kv x S x D`, dtype of `query`; H_q is a multiple of H_kv
///     scale: `1 / sqrt(D)` if it is not given
///     mask: float32, float16 or bfloat16, broadcastable to `B x H_q x L x S`, or none
///     causal: query i may look at keys 0 to S - L + i only; not with a mask
///
/// Returns `B x H_q x L x D`, dtype of `query`; everything between is in float32. A query that may
/// look at no key gets 0. Throws std::invalid_argument, which is ValueError in Python, for anything
/// else.
mlx::core::array flash_attention(const mlx::core::array& query, const mlx::core::array& key,
                                 const mlx::core::array& value, std::optional<float> scale,
                                 const std::optional<mlx::core::array>& mask, bool causal,
                                 mlx::core::StreamOrDevice stream);

}  // namespace tiny_llm
