// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/token_grid.h"

#include <ATen/core/Tensor.h>

namespace flashvsr {

/// (x - mean) / sqrt(variance + 1e-6) * weight + bias over the last dimension; the modulation of a
/// block goes into weight (1 + scale) and bias (shift). x (..., D), weight and bias (D).
at::Tensor layer_norm(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias);

/// x * rsqrt(mean(x^2) + 1e-6) * weight over the last dimension, statistics in fp32. x (..., D), weight (D).
at::Tensor rms_norm(const at::Tensor &x, const at::Tensor &weight);

/// x / max(|x|_2, 1e-12) * sqrt(C) * gamma, norm over the channels of each position. x (N, C, h, w), gamma
/// (C).
at::Tensor channel_rms_norm(const at::Tensor &x, const at::Tensor &gamma);

/// SiLU of channel_rms_norm().
at::Tensor channel_rms_norm_silu(const at::Tensor &x, const at::Tensor &gamma);

/// rms_norm(), then the rotary embedding, then window order in one pass.
/// @param x      (B, L, D), token order
/// @param weight (D)
/// @param rope   angles of the grid
/// @return (B, D/128, windows, 128, 128): head, window, token in window, channel
at::Tensor rms_norm_rope_to_windows(const at::Tensor &x, const at::Tensor &weight, const RopeTable &rope,
                                    const TokenGrid &grid);

} // namespace flashvsr
