// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <ATen/core/Tensor.h>

namespace flashvsr {

struct ConvWeights {
    at::Tensor weight, bias; ///< (out, in, k, k), channels-last; (out) or undefined
};

/// Convolution of stride 1, zero-padded to keep the size, with what follows it: + residual, then ReLU.
/// @param x        (N, in, h, w), channels-last
/// @param residual (N, out, h, w), or undefined
/// @return (N, out, h, w), channels-last
at::Tensor conv2d(const at::Tensor &x, const ConvWeights &weights, bool relu = false,
                  const at::Tensor &residual = {});

/// The input of a convolution over time and space as one over space alone: frames of one place side by
/// side in the channels, with one row and column more at each edge, which repeat it.
/// @param frames  (B, F, h, w, C)
/// @param sources (B*F' x n) int64, on the CPU: places in the B*F frames of the n that make each output
/// @return (B*F', n*C, h + 2, w + 2), channels-last
at::Tensor stack_frames(const at::Tensor &frames, const at::Tensor &sources);

} // namespace flashvsr
