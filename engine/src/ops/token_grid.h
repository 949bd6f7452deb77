// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <ATen/core/Tensor.h>

namespace flashvsr {

constexpr int64_t head_dim = 128;
/// A window is 2 latent frames x 8 x 8 tokens, which is also the block of the sparse attention.
constexpr int64_t window_frames = 2, window_side = 8, window_tokens = 128;

/// The tokens of a chunk: index (t*height + y)*width + x.
struct TokenGrid {
    int64_t frames, height, width; ///< latent frames, H/16, W/16

    int64_t tokens() const { return frames * height * width; }
    int64_t groups() const { return frames / window_frames; }
    int64_t block_rows() const { return height / window_side; }
    int64_t block_cols() const { return width / window_side; }
    /// Windows of one temporal group.
    int64_t group_windows() const { return block_rows() * block_cols(); }
    int64_t windows() const { return groups() * group_windows(); }
};

/// cos and sin of the rotary angles of each axis, fp32: 22 pairs for time, 21 each for y and x.
struct RopeTable {
    at::Tensor time; ///< (frames, 22, 2)
    at::Tensor y;    ///< (height, 21, 2)
    at::Tensor x;    ///< (width, 21, 2)
};

/// (B, L, D) in token order -> (B, D/128, windows, 128, 128) in window order.
at::Tensor to_windows(const at::Tensor &tokens, const TokenGrid &grid);

/// The inverse of to_windows().
at::Tensor from_windows(const at::Tensor &windows, const TokenGrid &grid);

} // namespace flashvsr
