// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <ATen/core/Tensor.h>

namespace flashvsr::golden {

// What the published code does around the network and the engine does better: upsampling in 8 bits, cropping
// to multiples of 128, dropping the last frames, truncating to 8 bits. Only for
// comparison with what that code gives.

/// round(side * scale) of Python: ties to even.
int64_t scaled_side(int64_t side, double scale);

/// Pillow's bicubic resize of an 8-bit image (h, w, 3) to (height, width, 3), exactly: horizontal pass first,
/// 22-bit fixed point, 8 bits between the passes.
at::Tensor resize_bicubic_u8(const at::Tensor &image, int64_t height, int64_t width);

/// The middle of (..., h, w, 3), cut to multiples of 128. Throws EINVAL where nothing would be left.
at::Tensor centre_crop(const at::Tensor &images);

/// Frames the network is given for a clip: the last one four times more, then as many as 8n + 1 leaves.
/// Throws EINVAL for a clip that is too short for it.
int64_t network_frames(int64_t clip_frames);

/// A clip (N, h, w, 3) uint8 as the network gets it: (F, H, W, 3) uint8.
at::Tensor prepare_clip(const at::Tensor &clip, double scale);

/// (F, H, W, 3) uint8 -> (1, 3, F, H, W) float32, v / 255 * 2 - 1.
at::Tensor to_network_range(const at::Tensor &frames);

/// (3, T, H, W) about [-1, 1] -> (T, H, W, 3) uint8, truncated. Throws EINVAL for a NaN, which has no level.
at::Tensor truncate_to_u8(const at::Tensor &frames);

} // namespace flashvsr::golden
