// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/linear.h"

#include <ATen/core/Tensor.h>

namespace flashvsr {

/// (x - mean) / sqrt(variance + 1e-6) * weight + bias over the last dimension; the modulation of a
/// block goes into weight (1 + scale) and bias (shift). x (..., D), weight and bias (D) fp32.
at::Tensor layer_norm(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias);

/// The same as the next layer wants its rows: quantized where its weight is.
Rows layer_norm_for(const LinearWeights &next, const at::Tensor &x, const at::Tensor &weight,
                    const at::Tensor &bias);

/// x * rsqrt(mean(x^2) + 1e-6) * weight over the last dimension, statistics in fp32. x (..., D), weight (D)
/// fp32.
at::Tensor rms_norm(const at::Tensor &x, const at::Tensor &weight);

/// x / max(|x|_2, 1e-12) * sqrt(C) * gamma over the last dimension, then SiLU if asked for.
/// x (..., C), gamma (C).
at::Tensor channel_norm(const at::Tensor &x, const at::Tensor &gamma, bool silu = true);

} // namespace flashvsr
