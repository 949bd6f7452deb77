// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/token_grid.h"

#include <ATen/core/Tensor.h>

namespace flashvsr {

/// Gains of the norms of queries and keys, fp32.
struct QkvNorm {
    at::Tensor query, key; ///< (D)
};

/// Where queries, keys and values go. Keys and values go into windows of larger buffers.
struct QkvWindows {
    at::Tensor query; ///< (B, heads, windows, 128, 128)
    at::Tensor key,
        value; ///< (B, heads, at least windows, 128, 128), the first to be written, views of a buffer
};

/// Projected tokens to what the attention takes: RMS norm over all of D and the rotary embedding for queries
/// and keys, then window order for all three, in one pass.
/// @param qkv  (B, L, 3*D), token order
/// @param rope angles of the grid
void qkv_to_windows(const at::Tensor &qkv, const QkvNorm &norm, const RopeTable &rope, const TokenGrid &grid,
                    const QkvWindows &windows);

/// The mean token of each window.
/// @param windows (B, heads, windows, 128, 128)
/// @param pooled  (B, heads, windows, 128) fp32, written; it may be a view of a larger buffer
void pool_windows(const at::Tensor &windows, const at::Tensor &pooled);

} // namespace flashvsr
