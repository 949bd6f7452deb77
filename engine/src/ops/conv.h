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

/// 3x3 convolution of pictures that bring a border of one pixel, as stack_frames() makes them.
/// @param x (N, in, h + 2, w + 2), channels-last
/// @return (N, out, h, w), channels-last
at::Tensor conv2d_of_bordered(const at::Tensor &x, const ConvWeights &weights);

/// conv2d() with ReLU of frames that have the frame before them after their own channels.
/// @param x       (B*n, in, h, w), channels-last: n frames in order for each of B
/// @param memory  (B, in, h, w), channels-last: what comes before the first
/// @param weights (out, 2*in, k, k)
/// @return (B*n, out, h, w), channels-last
at::Tensor conv2d_with_past(const at::Tensor &x, const at::Tensor &memory, const ConvWeights &weights);

/// conv2d() to few channels, written as planes.
/// @param out (N, out, h, w), contiguous; overwritten
void conv2d_to_planes(const at::Tensor &out, const at::Tensor &x, const ConvWeights &weights);

/// Upsampling by 2 to the nearest pixel between a 1x1 convolution, which gives each image the channels of
/// `growth`, and a 3x3 convolution of each of those, as convolutions at the size before it. A pixel of the
/// larger picture sees 2x2 of the smaller one, by weights that depend on where in its 2x2 pixels it is.
struct UpsampleConvWeights {
    /// (growth*4*out, in, 2, 2), channels-last; 4: upper left, upper right, lower left, lower right. The
    /// upper ones see the row above, the lower ones the row below, and so to the sides.
    at::Tensor weight;
    int64_t growth = 1;

    int64_t out_channels() const { return weight.size(0) / (4 * growth); }
};

/// @param grow (growth*C, in, 1, 1)
/// @param conv (out, C, 3, 3)
/// @return of both tensors' type; computed in it
UpsampleConvWeights fold_upsampling(const at::Tensor &grow, const at::Tensor &conv);

/// @param x (N, in, h, w), channels-last
/// @return (N*growth, out, 2h, 2w), channels-last
at::Tensor upsample_conv2d(const at::Tensor &x, const UpsampleConvWeights &weights, bool relu = false);

/// Frames with the frame before them after their own channels, as conv2d_with_past() takes them.
/// @return (B*n, 2*in, h, w), channels-last
at::Tensor stack_past(const at::Tensor &x, const at::Tensor &memory);

/// The input of a convolution over time and space as one over space alone: frames of one place side by
/// side in the channels, with one row and column more at each edge, which repeat it.
/// @param frames  (B, F, h, w, C)
/// @param sources (B*F' x n) int64, on the CPU: places in the B*F frames of the n that make each output
/// @return (B*F', n*C, h + 2, w + 2), channels-last
at::Tensor stack_frames(const at::Tensor &frames, const at::Tensor &sources);

} // namespace flashvsr
