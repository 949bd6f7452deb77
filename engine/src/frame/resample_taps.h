// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/resample.h"

#include <c10/core/Device.h>

namespace flashvsr {

enum class ResampleKernel {
    bicubic, ///< Keys' cubic with a = -0.5, as Pillow has it
    lanczos  ///< of three lobes
};

/// Taps of a kernel, which is widened when shrinking. Coordinates are pixels from the line's edge: sample i
/// lies at i + 0.5.
/// @param ratio  distance of two output samples in the input
/// @param offset where in the input the output's edge lies
/// @return taps on the device; what lies outside the line has no weight, and the weights of a sample sum to 1
ResampleTaps resample_taps(ResampleKernel kernel, int64_t in, int64_t out, double ratio, double offset,
                           const at::Device &device);

} // namespace flashvsr
