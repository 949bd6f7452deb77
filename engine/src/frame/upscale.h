// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "flashvsr/flashvsr.h"
#include "ops/resample.h"

#include <ATen/core/Tensor.h>

namespace flashvsr {

/// Pixels.
struct Size {
    int64_t width = 0;
    int64_t height = 0;

    bool operator==(const Size &) const = default;
};

/// The output size that the settings ask for: lrint(side * scale), ties to even, overridden by out_width and
/// out_height. Throws EINVAL with a sentence that names the setting where a size, the scale or a ratio of
/// output to input (1 to 8) is out of range.
Size output_size(const FlashVSRSettings &settings);

/// The size the network runs at: `output` rounded up to multiples of 128 in both directions.
Size target_size(Size output);

/// Resizes pictures of one size to another by Pillow's bicubic kernel (a = -0.5, widened when shrinking) in
/// float, without rounding to 8 bits between the passes. Thread-safe.
class Upscaler {
public:
    /// @param device where the pictures are
    Upscaler(Size from, Size to, at::Device device = at::kCPU);

    /// `frames` (..., 3, h, w) float32 in [-1, 1] to (..., 3, height, width), clamped to [-1, 1] again.
    /// Throws EINVAL for other tensors.
    at::Tensor operator()(const at::Tensor &frames) const;

private:
    Size from_, to_;
    ResampleTaps columns_, rows_;
};

/// Upscaler for one call.
at::Tensor upscale_bicubic(const at::Tensor &frames, int64_t height, int64_t width);

/// `frames` (..., 3, h, w) extended at the right and at the bottom to (..., 3, height, width) by repeating
/// the last column and row, however far. Throws EINVAL where the target is smaller. Thread-safe.
at::Tensor pad_to(const at::Tensor &frames, int64_t height, int64_t width);

} // namespace flashvsr
