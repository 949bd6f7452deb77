// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/color_fix.h"
#include "weights/model_config.h"

namespace flashvsr {

/// The network's frames with the colours of the low-quality ones, or, without a fix, clamped to [-1, 1].
/// @param content (B, 3, T, H, W) in about [-1, 1], of the model's precision
/// @param style   the same, fp32
/// @return (B, 3, T, H, W) fp32
at::Tensor fix_color(ColorFix color_fix, const at::Tensor &content, const at::Tensor &style);

} // namespace flashvsr
