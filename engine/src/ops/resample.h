// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <ATen/core/Tensor.h>

namespace flashvsr {

/// Resampling along one axis: out[i] = sum over k of weight[i][k] * in[first[i] + k].
struct ResampleTaps {
    at::Tensor first;  ///< (out) int64
    at::Tensor weight; ///< (out, count) fp32
};

/// (rows, in) -> (rows, out), fp32.
at::Tensor resample_columns(const at::Tensor &rows, const ResampleTaps &taps);

/// (planes*in, width) -> (planes*out, width), fp32, clamped to [-1, 1].
at::Tensor resample_rows(const at::Tensor &rows, int64_t planes, const ResampleTaps &taps);

} // namespace flashvsr
