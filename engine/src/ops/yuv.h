// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/yuv_pixels.h"

#include <ATen/core/Tensor.h>

namespace flashvsr {

/// Planes of a Y'CbCr picture: bytes, or words where a component has more than 8 bits. Rows follow one
/// another without padding.
struct YuvPlanes {
    at::Tensor luma;   ///< (H, W), contiguous
    at::Tensor cb, cr; ///< (h, w), contiguous, or columns two apart: then in turns, Cb first
};

/// The samples of both chroma planes.
/// @return (2*h, w) fp32
at::Tensor samples_from_chroma(const YuvPlanes &planes, const YuvConversion &by);

/// The inverse: the nearest levels, clamped.
/// @param samples (2*h, w) fp32, contiguous
void chroma_from_samples(const at::Tensor &samples, const YuvPlanes &planes, const YuvConversion &by);

/// Luma and chroma of the same size as pixels, clamped.
/// @param chroma (2*H, W) fp32, contiguous: the samples of chroma; or none, where the planes' are read
/// @return (3, H, W) fp32 in [-1, 1]
at::Tensor pixels_from_yuv(const YuvPlanes &planes, const at::Tensor &chroma, const YuvConversion &by);

/// The inverse: the nearest levels of pixels that are clamped; a NaN is black.
/// @param pixels (3, H, W) fp32 in [-1, 1]
/// @param chroma (2*H, W) fp32, contiguous, where the samples of chroma go; or none, and levels go to planes
void yuv_from_pixels(const at::Tensor &pixels, const YuvPlanes &planes, const at::Tensor &chroma,
                     const YuvConversion &by);

} // namespace flashvsr
