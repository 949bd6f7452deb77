// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "frame/picture_format.h"

namespace flashvsr {

/// Throws EINVAL unless `frame` is a picture in host memory of width x height pixels whose planes, strides,
/// format, depth and layout can be read and written. Which memory the planes point to cannot be checked.
void check_picture(const FlashVSRFrame &frame, int width, int height);

/// A packed copy of the picture: (picture_bytes()) uint8. Throws EINVAL as check_picture() does. Thread-safe.
at::Tensor pack_picture(const FlashVSRFrame &frame);

/// Write a packed picture of the frame's format and size to the planes of `frame`. Throws EINVAL as
/// check_picture() does. Thread-safe, as long as no two write the same planes.
void unpack_picture(const at::Tensor &packed, const FlashVSRFrame &frame);

/// The picture as pixels: PictureConverter::to_pixels(). Throws EINVAL as check_picture() does. Thread-safe.
at::Tensor picture_to_tensor(const FlashVSRFrame &frame);

/// Write pixels to the planes of `frame`: PictureConverter::from_pixels(). Throws EINVAL as check_picture()
/// does, or where the tensor is not of the picture's size. Thread-safe as unpack_picture().
void tensor_to_picture(const at::Tensor &pixels, const FlashVSRFrame &frame);

} // namespace flashvsr
