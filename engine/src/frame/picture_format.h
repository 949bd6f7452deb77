// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "flashvsr/flashvsr.h"
#include "frame/upscale.h"

#include <ATen/core/Tensor.h>

#include <vector>

namespace flashvsr {

/// How the components of a picture are stored: the fields of that name of FlashVSRFrame.
struct PictureFormat {
    int format = FLASHVSR_PIXEL_FORMAT_RGB;
    int depth = 8;
    FlashVSRYuv yuv = {}; ///< of FLASHVSR_PIXEL_FORMAT_YUV; otherwise all zero

    bool is_yuv() const { return format == FLASHVSR_PIXEL_FORMAT_YUV; }
    bool operator==(const PictureFormat &other) const;
};

/// @throws Error EINVAL where the frame's format, depth or layout is not one that there is
PictureFormat format_of(const FlashVSRFrame &frame);

/// A plane of a packed picture: planes one after the other, rows without padding.
struct PlaneLayout {
    int64_t offset;    ///< bytes from the picture's beginning
    int64_t height;    ///< rows
    int64_t row_bytes; ///< bytes
};

/// Bytes of a stored component.
int64_t component_bytes(const PictureFormat &format);

/// Columns and rows of a chroma plane.
Size chroma_size(const FlashVSRYuv &yuv, Size size);

/// The planes of packed pictures of `size` pixels.
std::vector<PlaneLayout> plane_layouts(const PictureFormat &format, Size size);

/// Bytes of a packed picture.
int64_t picture_bytes(const PictureFormat &format, Size size);

} // namespace flashvsr
