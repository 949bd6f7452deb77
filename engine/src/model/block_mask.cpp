// SPDX-License-Identifier: LGPL-2.1-or-later
#include "model/block_mask.h"

#include "error.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

namespace flashvsr {

int64_t block_budget(double sparse_ratio, const TokenGrid &grid) {
    const int64_t height = 16 * grid.height, width = 16 * grid.width, n = grid.group_windows();
    const double topk_ratio = sparse_ratio * 768 * 1280 / static_cast<double>(height * width);
    const double kept = std::trunc(static_cast<double>(n * n) * topk_ratio);
    if (!(kept >= 2))
        fail(EINVAL, "sparse_ratio ", sparse_ratio, " keeps no attention at ", width, "x", height);
    // More than all blocks is the same as all of them.
    return static_cast<int64_t>(std::min(kept, 1e15)) - 1;
}

at::Tensor local_window_mask(int64_t rows, int64_t cols, int64_t local_range) {
    const int64_t n = rows * cols, before = local_range / 2;
    at::Tensor mask = at::empty({n, n}, at::kBool);
    bool *out = mask.mutable_data_ptr<bool>();
    const auto near = [=](int64_t from, int64_t to) {
        return to - from >= -before && to - from < local_range - before;
    };
    for (int64_t q = 0; q < n; q++)
        for (int64_t k = 0; k < n; k++)
            *out++ = near(q / cols, k / cols) && near(q % cols, k % cols);
    return mask;
}

} // namespace flashvsr
