// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/host_device.h"

#include <cstdint>

/// The arithmetic of ops/levels.h, one component at a time, the same on every device. What includes this is
/// compiled without contraction. `white` is the largest level; floats need none.
namespace flashvsr::levels {

/// Comparisons that are false for NaN, so that NaN ends at 0; they compile to min and max instructions.
FLASHVSR_HOST_DEVICE inline float clamp01(float v) {
    v = v > 0.0f ? v : 0.0f;
    return v < 1.0f ? v : 1.0f;
}

template <typename Level> FLASHVSR_HOST_DEVICE inline float to_pixel(Level stored, int white) {
    const int level = stored < white ? stored : white;
    return static_cast<float>(level) / static_cast<float>(white) * 2.0f - 1.0f;
}
FLASHVSR_HOST_DEVICE inline float to_pixel(float stored, int) {
    return clamp01(stored) * 2.0f - 1.0f;
}

template <typename Level> FLASHVSR_HOST_DEVICE inline Level from_pixel(float pixel, int white) {
    // What is rounded is at least 0, and lround() would keep the loop from being vectorized.
    // NOLINTNEXTLINE(bugprone-incorrect-roundings)
    return static_cast<Level>(
        static_cast<int>(clamp01((pixel + 1.0f) * 0.5f) * static_cast<float>(white) + 0.5f));
}
template <> FLASHVSR_HOST_DEVICE inline float from_pixel<float>(float pixel, int) {
    return clamp01((pixel + 1.0f) * 0.5f);
}

} // namespace flashvsr::levels
