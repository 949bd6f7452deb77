// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "flashvsr/flashvsr.h"

#include <ATen/core/Tensor.h>

namespace flashvsr {

/// Throws EINVAL unless `frame` is a picture in host memory of width x height pixels whose planes, strides,
/// format and depth can be read and written. Which memory the planes point to cannot be checked.
void check_picture(const FlashVSRFrame &frame, int width, int height);

/// The picture as (3, height, width) float32 in [-1, 1], contiguous: level v of a depth with largest level m
/// is v / m * 2 - 1. Words above the depth's range count as white; float components are clamped to [0, 1]
/// and a NaN counts as black. Throws EINVAL as check_picture() does. Thread-safe.
at::Tensor picture_to_tensor(const FlashVSRFrame &frame);

/// Write `pixels`, (3, height, width) float32 in [-1, 1], to the planes of `frame`: to the nearest level, or
/// as float, clamped to [0, 1] either way. A NaN becomes black. Throws EINVAL as check_picture() does, or
/// where the tensor is not of the picture's size. Thread-safe, as long as no two write the same planes.
void tensor_to_picture(const at::Tensor &pixels, FlashVSRFrame &frame);

/// Copy `levels`, (3, height, width) of component_type(frame.depth) as levels_from_pixels() gives them for
/// the frame's depth, to the planes of `frame`. Throws and is thread-safe as tensor_to_picture().
void levels_to_picture(const at::Tensor &levels, FlashVSRFrame &frame);

} // namespace flashvsr
