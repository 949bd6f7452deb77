// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <ATen/core/Tensor.h>

namespace flashvsr {

/// Mean and deviation of each frame's channels set to the style's: (x - mean)/std*std_s + mean_s,
/// std = sqrt(biased variance + 1e-5), clamped to [-1, 1].
/// @param content (B, 3, T, H, W) in about [-1, 1], of the model's precision; its rows may lie apart
/// @param style   the same, fp32
/// @return (B, 3, T, H, W) fp32; on a GPU frame by frame in memory: (B, T, 3, H, W) transposed
at::Tensor adain(const at::Tensor &content, const at::Tensor &style);

/// Low frequencies set to the style's: five levels of a dilated 3x3 binomial blur. As above.
at::Tensor wavelet(const at::Tensor &content, const at::Tensor &style);

} // namespace flashvsr
