// SPDX-License-Identifier: LGPL-2.1-or-later
#include "frame/picture_converter.h"

#include "error.h"
#include "frame/resample_taps.h"
#include "ops/levels.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>

namespace flashvsr {

namespace {

using Matrix = std::array<std::array<double, 3>, 3>;

at::Tensor tensor_of(const Matrix &matrix, const at::Device &device) {
    at::Tensor tensor = at::empty({3, 3}, at::kFloat);
    for (int64_t row = 0; row < 3; row++)
        for (int64_t column = 0; column < 3; column++)
            tensor.mutable_data_ptr<float>()[3 * row + column] = static_cast<float>(matrix[row][column]);
    return tensor.to(device);
}

at::Tensor column_of(const std::array<double, 3> &column, const at::Device &device) {
    at::Tensor tensor = at::empty({3, 1}, at::kFloat);
    std::copy(column.begin(), column.end(), tensor.mutable_data_ptr<float>());
    return tensor.to(device);
}

/// A plane of a packed picture: (height, columns) of the format's components.
at::Tensor plane(const at::Tensor &picture, const PlaneLayout &layout, at::ScalarType type) {
    return picture.narrow(0, layout.offset, layout.height * layout.row_bytes)
        .view(type)
        .view({layout.height, -1});
}

} // namespace

PictureConverter::PictureConverter(const PictureFormat &format, Size size, const at::Device &device)
    : format_(format), size_(size), chroma_size_(chroma_size(format.yuv, size)) {
    if (!format.is_yuv())
        return;
    const FlashVSRYuv &yuv = format.yuv;
    const double kg = 1 - yuv.kr - yuv.kb;
    const double red = 2 * (1 - yuv.kr), blue = 2 * (1 - yuv.kb); // largest differences to Y, both signs
    // A pixel is 2 * rgb - 1.
    to_rgb_ = tensor_of(
        Matrix{{{2, 0, 2 * red}, {2, -2 * yuv.kb * blue / kg, -2 * yuv.kr * red / kg}, {2, 2 * blue, 0}}},
        device);
    to_offset_ = column_of({-1, -1, -1}, device);
    from_rgb_ = tensor_of(Matrix{{{yuv.kr / 2, kg / 2, yuv.kb / 2},
                                  {-yuv.kr / blue / 2, -kg / blue / 2, (1 - yuv.kb) / blue / 2},
                                  {(1 - yuv.kr) / red / 2, -kg / red / 2, -yuv.kb / red / 2}}},
                          device);
    from_offset_ = column_of({0.5, 0, 0}, device);

    const double one = 1 << (format.depth - 8), unit = 1 << yuv.shift, white = (1 << format.depth) - 1;
    const bool full = yuv.full_range != 0;
    luma_levels_ = {unit * (full ? white : 219 * one), unit * (full ? 0 : 16 * one), unit * white};
    chroma_levels_ = {unit * (full ? white : 224 * one), unit * 128 * one, unit * white};

    subsampled_ = yuv.log2_chroma_w > 0 || yuv.log2_chroma_h > 0;
    if (!subsampled_)
        return;
    // Chroma sample i lies at luma pixel i * step + first, pixel j at j; edges are half a sample before.
    const auto taps = [&](int64_t fine, int64_t coarse, int log2, int place, ResampleTaps &up,
                          ResampleTaps &down) {
        const double step = 1 << log2, first = place / 256.0;
        constexpr auto kernel = ResampleKernel::lanczos;
        up = resample_taps(kernel, coarse, fine, 1 / step, 0.5 - (0.5 + first) / step, device);
        down = resample_taps(kernel, fine, coarse, step, first + 0.5 - step / 2, device);
    };
    taps(size.width, chroma_size_.width, yuv.log2_chroma_w, yuv.chroma_x, up_columns_, down_columns_);
    taps(size.height, chroma_size_.height, yuv.log2_chroma_h, yuv.chroma_y, up_rows_, down_rows_);
}

at::Tensor PictureConverter::to_pixels(const at::Tensor &picture) const {
    if (format_.is_yuv())
        return yuv_to_pixels(picture);
    return pixels_from_levels(
        picture.view(component_type(format_.depth)).view({3, size_.height, size_.width}), format_.depth);
}

void PictureConverter::from_pixels(const at::Tensor &pixels, const at::Tensor &picture) const {
    if (pixels.sizes() != at::IntArrayRef({3, size_.height, size_.width}) ||
        pixels.scalar_type() != at::kFloat)
        fail(EINVAL, "pixels of shape ", pixels.sizes(), " and type ", pixels.scalar_type(),
             " do not go into a frame of ", size_.width, "x", size_.height, " pixels");
    if (format_.is_yuv())
        yuv_from_pixels(pixels, picture);
    else
        picture.view(component_type(format_.depth))
            .view(pixels.sizes())
            .copy_(levels_from_pixels(pixels, format_.depth));
}

at::Tensor PictureConverter::luma(const at::Tensor &picture) const {
    return plane(picture, plane_layouts(format_, size_)[0], component_type(format_.depth));
}

at::Tensor PictureConverter::chroma(const at::Tensor &picture, int64_t component) const {
    const std::vector<PlaneLayout> layouts = plane_layouts(format_, size_);
    const at::ScalarType type = component_type(format_.depth);
    return format_.yuv.interleaved != 0 ? plane(picture, layouts[1], type).slice(1, component, {}, 2)
                                        : plane(picture, layouts[1 + component], type);
}

at::Tensor PictureConverter::yuv_to_pixels(const at::Tensor &picture) const {
    const int64_t height = size_.height, width = size_.width;
    const auto options = at::TensorOptions(picture.device()).dtype(at::kFloat);
    const auto read = [](const at::Tensor &to, const at::Tensor &levels, const Levels &by) {
        to.copy_(levels).sub_(by.zero).mul_(1 / by.scale);
    };
    at::Tensor samples = at::empty({3, height, width}, options);
    read(samples[0], luma(picture), luma_levels_);
    if (subsampled_) {
        at::Tensor coarse = at::empty({2, chroma_size_.height, chroma_size_.width}, options);
        for (int64_t i = 0; i < 2; i++)
            read(coarse[i], chroma(picture, i), chroma_levels_);
        const at::Tensor rows = resample_columns(coarse.view({-1, chroma_size_.width}), up_columns_);
        samples.narrow(0, 1, 2).copy_(resample_rows(rows, 2, up_rows_).view({2, height, width}));
    } else {
        for (int64_t i = 0; i < 2; i++)
            read(samples[1 + i], chroma(picture, i), chroma_levels_);
    }
    return at::addmm(to_offset_, to_rgb_, samples.view({3, -1})).clamp_(-1, 1).view({3, height, width});
}

void PictureConverter::yuv_from_pixels(const at::Tensor &pixels, const at::Tensor &picture) const {
    const auto write = [](const at::Tensor &samples, const at::Tensor &to, const Levels &by, int shift) {
        const double unit = 1 << shift;
        at::Tensor levels = samples * (by.scale / unit);
        levels.add_(by.zero / unit).round_().clamp_(0, by.white / unit);
        to.copy_(shift > 0 ? levels.mul_(unit) : levels);
    };
    const at::Tensor rgb = at::nan_to_num(pixels, -1.0).clamp_(-1, 1);
    at::Tensor samples = at::addmm(from_offset_, from_rgb_, rgb.view({3, -1}));
    write(samples[0].view({size_.height, size_.width}), luma(picture), luma_levels_, format_.yuv.shift);
    at::Tensor coarse = samples.narrow(0, 1, 2).view({2, size_.height, size_.width});
    if (subsampled_) {
        const at::Tensor rows = resample_columns(coarse.view({-1, size_.width}), down_columns_);
        coarse = resample_rows(rows, 2, down_rows_).view({2, chroma_size_.height, chroma_size_.width});
    }
    for (int64_t i = 0; i < 2; i++)
        write(coarse[i], chroma(picture, i), chroma_levels_, format_.yuv.shift);
}

const PictureConverter &PictureConverters::get(const PictureFormat &format, Size size) {
    constexpr size_t most = 4;
    const auto found =
        std::find_if(converters_.begin(), converters_.end(), [&](const PictureConverter &converter) {
            return converter.size() == size && converter.format() == format;
        });
    if (found != converters_.end())
        return *found;
    if (converters_.size() == most)
        converters_.pop_back();
    return converters_.emplace_front(format, size, device_);
}

} // namespace flashvsr
