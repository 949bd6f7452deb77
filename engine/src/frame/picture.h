// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "frame/picture_format.h"
#include "ops/device.h"

namespace flashvsr {

/// Throws EINVAL unless `frame` is a picture of width x height pixels whose planes, strides, format, depth
/// and layout can be read and written. Which host memory the planes point to cannot be checked.
void check_picture(const FlashVSRFrame &frame, int width, int height);

/// The planes of a picture in a GPU's memory. Throws EINVAL as check_picture() does.
Surface surface_of(const FlashVSRFrame &frame);

/// A packed copy of a picture in host memory: (picture_bytes()) uint8. Throws EINVAL as check_picture() does.
/// Thread-safe.
at::Tensor pack_picture(const FlashVSRFrame &frame);

/// Write a packed picture of the frame's format and size to the planes of `frame`, whichever memory the two
/// are in; the thread queues its work on the packed picture's device. Throws EINVAL as check_picture() does.
/// Thread-safe, as long as no two write the same planes.
/// @param device of a frame in a GPU's memory: by which GPU a packed picture in host memory gets there
void unpack_picture(const at::Tensor &packed, const FlashVSRFrame &frame,
                    const at::Device &device = at::kCPU);

/// The picture as pixels: PictureConverter::to_pixels(). Throws EINVAL as check_picture() does. Thread-safe.
at::Tensor picture_to_tensor(const FlashVSRFrame &frame);

/// Write pixels to the planes of `frame`: PictureConverter::from_pixels(). Throws EINVAL as check_picture()
/// does, or where the tensor is not of the picture's size. Thread-safe as unpack_picture().
void tensor_to_picture(const at::Tensor &pixels, const FlashVSRFrame &frame);

} // namespace flashvsr
