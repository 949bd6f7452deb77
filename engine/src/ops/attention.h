// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/block_lists.h"
#include "ops/token_grid.h"

#include <ATen/core/Tensor.h>

namespace flashvsr {

/// softmax(q k^T / sqrt(128)) v per head, each query window over the tokens of its listed key windows.
/// A window with an empty list gives zeros.
/// @param q    (B, heads, query_windows, 128, 128)
/// @param k, v (B, heads, key_windows, 128, 128), views of a buffer whose heads may lie further apart
/// @param grid of the queries
/// @return (B, L, D), token order
at::Tensor block_sparse_attention(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
                                  const BlockLists &lists, const TokenGrid &grid);

/// softmax(q k^T / sqrt(128)) v over a context shared by the batch.
/// @param q    (B, L, D)
/// @param k, v (heads, S, 128)
/// @return (B, L, D)
at::Tensor cross_attention(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v);

} // namespace flashvsr
