// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "frame/picture_format.h"
#include "ops/resample.h"
#include "ops/yuv.h"

#include <deque>

namespace flashvsr {

/// H.273's levels and colours.
YuvConversion yuv_conversion(const FlashVSRYuv &yuv, int depth);

/// The planes of a packed Y'CbCr picture, in its memory.
/// @param picture (picture_bytes()) uint8, contiguous
YuvPlanes yuv_planes(const at::Tensor &picture, const PictureFormat &format, Size size);

/// Between packed pictures of one format and size and the pixels of the network, on one device. Chroma is
/// resampled by a sharp kernel, so that what goes down to the chroma grid is what came up from it.
/// Thread-safe.
class PictureConverter {
public:
    PictureConverter(const PictureFormat &format, Size size, const at::Device &device);

    const PictureFormat &format() const { return format_; }
    Size size() const { return size_; }

    /// @param picture (picture_bytes()) uint8, contiguous
    /// @return (3, height, width) fp32 in [-1, 1]. RGB: level v of a depth with largest level m is
    /// v / m * 2 - 1, words above the depth's range count as white, floats are clamped to [0, 1] and a NaN is
    /// black. Colours of Y'CbCr that RGB has not are clamped.
    at::Tensor to_pixels(const at::Tensor &picture) const;

    /// Pixels as the nearest levels, or as floats, clamped either way; a NaN is black.
    /// @param pixels (3, height, width) fp32, in [-1, 1]
    /// @param picture (picture_bytes()) uint8, contiguous, to be written
    void from_pixels(const at::Tensor &pixels, const at::Tensor &picture) const;

private:
    at::Tensor yuv_to_pixels(const at::Tensor &picture) const;
    void yuv_from_pixels(const at::Tensor &pixels, const at::Tensor &picture) const;

    PictureFormat format_;
    Size size_, chroma_size_;
    bool subsampled_ = false;
    YuvConversion conversion_{};
    ResampleTaps up_columns_, up_rows_, down_columns_, down_rows_;
};

/// The converters of a device, each made when it is first asked for. For one thread.
class PictureConverters {
public:
    explicit PictureConverters(const at::Device &device) : device_(device) {}

    const at::Device &device() const { return device_; }

    /// Valid as long as no more than a few other formats are asked for.
    const PictureConverter &get(const PictureFormat &format, Size size);

private:
    at::Device device_;
    std::deque<PictureConverter> converters_; ///< the last that was made is in front
};

} // namespace flashvsr
