// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <ATen/core/Tensor.h>

namespace flashvsr {

/// Bits of a component that is a float.
constexpr int float_depth = 32;

/// The type of a picture's components as they are stored: uint8 for a depth of 8 bits, uint16 (low bits) for
/// 9 to 16, float for 32.
constexpr at::ScalarType component_type(int depth) {
    return depth == 8 ? at::kByte : depth == float_depth ? at::kFloat : at::kUInt16;
}

/// The largest level of a depth; unused where components are floats.
constexpr int white_level(int depth) {
    return depth == float_depth ? 1 : (1 << depth) - 1;
}

/// Level v of a depth with largest level m as v / m * 2 - 1, fp32. Words above the depth's range count as
/// white; floats are clamped to [0, 1], and a NaN is black.
/// @param levels (...) of component_type(depth), contiguous
at::Tensor pixels_from_levels(const at::Tensor &levels, int depth);

/// The nearest level of each pixel, or the float, clamped to [0, 1] either way; a NaN is black.
/// @param pixels (...) fp32 in [-1, 1]
/// @return (...) of component_type(depth), contiguous
at::Tensor levels_from_pixels(const at::Tensor &pixels, int depth);

} // namespace flashvsr
