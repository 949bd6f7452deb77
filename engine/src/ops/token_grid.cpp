// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/token_grid.h"

#include <ATen/ATen.h>

namespace flashvsr {

at::Tensor to_windows(const at::Tensor &tokens, const TokenGrid &grid) {
    const int64_t batch = tokens.size(0), heads = tokens.size(2) / head_dim;
    return tokens
        .view({batch, grid.groups(), window_frames, grid.block_rows(), window_side, grid.block_cols(),
               window_side, heads, head_dim})
        .permute({0, 7, 1, 3, 5, 2, 4, 6, 8})
        .reshape({batch, heads, grid.windows(), window_tokens, head_dim});
}

at::Tensor from_windows(const at::Tensor &windows, const TokenGrid &grid) {
    const int64_t batch = windows.size(0), heads = windows.size(1);
    return windows
        .view({batch, heads, grid.groups(), grid.block_rows(), grid.block_cols(), window_frames, window_side,
               window_side, head_dim})
        .permute({0, 2, 5, 3, 6, 4, 7, 1, 8})
        .reshape({batch, grid.tokens(), heads * head_dim});
}

} // namespace flashvsr
