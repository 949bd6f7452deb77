// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/block_lists.h"

#include <ATen/core/Tensor.h>

namespace flashvsr {

/// Softmax over the key windows of the scaled products of pooled queries and keys; masked ones are 0.
/// @param pooled_q (B, heads, query_windows, 128) fp32
/// @param pooled_k (B, heads, key_windows, 128) fp32; the heads may lie further apart
/// @param local    (n, n) bool, repeated over temporal groups
/// @return (B, heads, query_windows, key_windows) fp32
at::Tensor draft_probabilities(const at::Tensor &pooled_q, const at::Tensor &pooled_k,
                               const at::Tensor &local);

/// Keep what is greater than the (budget+1)-th largest value of its (batch, head, temporal query group).
/// @param probabilities (B, heads, query_windows, key_windows) fp32, not below 0
/// @param group_windows query windows of a temporal group
BlockLists select_blocks(const at::Tensor &probabilities, int64_t group_windows, int64_t budget);

/// The lists as a mask: (B, heads, query_windows, key_windows) bool.
at::Tensor to_mask(const BlockLists &lists);

} // namespace flashvsr
