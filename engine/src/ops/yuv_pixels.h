// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/host_device.h"

/// The arithmetic of ops/yuv.h, one pixel at a time, the same on every device. What includes this is compiled
/// without contraction: each product and each sum is rounded.
namespace flashvsr {

/// Between the levels of a Y'CbCr format, their samples (Y in [0, 1], Cb and Cr in [-0.5, 0.5]) and pixels
/// (2 * rgb - 1).
struct YuvConversion {
    struct Range {
        float low, high;
    };
    /// A sample's level is the nearest to sample * scale + zero that there is, and the sample of what is
    /// stored is (stored - stored_zero) * stored_step.
    struct Levels {
        float scale, zero, stored_zero, stored_step;
    };
    struct Weights {
        float red, green, blue;
    };

    /// What there is of pixels, -1 to 1, and of levels. Not constants in the code, of which GCC would make
    /// four instructions where two values that it does not know make a min and a max.
    Range pixels, levels;
    Levels luma, chroma;
    int shift;         ///< of a level that is stored, to the left
    Weights y, cb, cr; ///< of pixels in samples; Y is 0.5 more
    float cr_in_red, cb_in_green, cr_in_green,
        cb_in_blue; ///< of samples in pixels, which are 2 * Y - 1 and these
};

namespace yuv {

struct Pixel {
    float red, green, blue;
};
struct Sample {
    float y, cb, cr;
};

/// Comparisons that are false for NaN, so that NaN ends at the low end.
FLASHVSR_HOST_DEVICE inline float clamp(float v, const YuvConversion::Range &to) {
    v = v > to.low ? v : to.low;
    return v < to.high ? v : to.high;
}

FLASHVSR_HOST_DEVICE inline float weigh(const Pixel &p, const YuvConversion::Weights &by) {
    return by.red * p.red + by.green * p.green + by.blue * p.blue;
}

FLASHVSR_HOST_DEVICE inline Sample to_sample(const Pixel &pixel, const YuvConversion &by) {
    const Pixel p = {clamp(pixel.red, by.pixels), clamp(pixel.green, by.pixels),
                     clamp(pixel.blue, by.pixels)};
    return {weigh(p, by.y) + 0.5f, weigh(p, by.cb), weigh(p, by.cr)};
}

FLASHVSR_HOST_DEVICE inline Pixel to_pixel(const Sample &s, const YuvConversion &by) {
    const float grey = 2.0f * s.y - 1.0f;
    return {clamp(grey + by.cr_in_red * s.cr, by.pixels),
            clamp(grey + by.cb_in_green * s.cb + by.cr_in_green * s.cr, by.pixels),
            clamp(grey + by.cb_in_blue * s.cb, by.pixels)};
}

/// Halves are rounded to even.
template <typename Stored>
FLASHVSR_HOST_DEVICE inline Stored to_stored(float sample, const YuvConversion::Levels &levels,
                                             const YuvConversion &by) {
    const float level = clamp(sample * levels.scale + levels.zero, by.levels);
    // From here on floats are whole. A call of rint() would keep the loop from being vectorized.
    constexpr float whole = 8388608.0f;
    return static_cast<Stored>(static_cast<int>((level + whole) - whole) << by.shift);
}

template <typename Stored>
FLASHVSR_HOST_DEVICE inline float from_stored(Stored stored, const YuvConversion::Levels &levels) {
    return (static_cast<float>(stored) - levels.stored_zero) * levels.stored_step;
}

} // namespace yuv
} // namespace flashvsr
