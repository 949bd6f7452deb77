// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/token_grid.h"

#include <ATen/core/Tensor.h>

namespace flashvsr {

/// How much of the attention is kept, as published.
struct SparseOptions {
    double sparse_ratio = 2.0;
    double kv_ratio = 3.0;
    int64_t local_range = 11;

    /// Groups after which the oldest leaves the K/V cache.
    int64_t kv_groups() const { return static_cast<int64_t>(kv_ratio); }
};

/// Rank of the first value that is dropped, per (head, query group): trunc(n^2 * topk_ratio) - 1 with
/// topk_ratio = sparse_ratio*768*1280/(H*W). As published.
/// @throws Error EINVAL where nothing would be kept
int64_t block_budget(double sparse_ratio, const TokenGrid &grid);

/// Which blocks a block sees by distance: (n, n) bool, n = rows*cols. Block (ry,rx) sees (cy,cx) iff
/// -(range/2) <= cy-ry < range - range/2, and the same in x.
at::Tensor local_window_mask(int64_t rows, int64_t cols, int64_t local_range);

} // namespace flashvsr
