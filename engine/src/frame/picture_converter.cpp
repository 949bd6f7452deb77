// SPDX-License-Identifier: LGPL-2.1-or-later
#include "frame/picture_converter.h"

#include "error.h"
#include "frame/resample_taps.h"
#include "ops/levels.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace flashvsr {

namespace {

/// A plane of a packed picture: (height, columns) of the format's components.
at::Tensor plane(const at::Tensor &picture, const PlaneLayout &layout, at::ScalarType type) {
    return picture.narrow(0, layout.offset, layout.height * layout.row_bytes)
        .view(type)
        .view({layout.height, -1});
}

} // namespace

YuvConversion yuv_conversion(const FlashVSRYuv &yuv, int depth) {
    const double kr = yuv.kr, kb = yuv.kb, kg = 1 - kr - kb;
    const double red = 2 * (1 - kr), blue = 2 * (1 - kb); // largest differences to Y, both signs
    const double one = 1 << (depth - 8), white = white_level(depth);
    const bool full = yuv.full_range != 0;
    const auto weights = [](double of_red, double of_green, double of_blue) {
        return YuvConversion::Weights{static_cast<float>(of_red), static_cast<float>(of_green),
                                      static_cast<float>(of_blue)};
    };
    const auto levels = [&](double scale, double zero) {
        const double unit = 1 << yuv.shift;
        return YuvConversion::Levels{static_cast<float>(scale), static_cast<float>(zero),
                                     static_cast<float>(zero * unit), static_cast<float>(1 / (scale * unit))};
    };
    YuvConversion by{};
    by.pixels = {-1, 1};
    by.levels = {0, static_cast<float>(white)};
    by.luma = levels(full ? white : 219 * one, full ? 0 : 16 * one);
    by.chroma = levels(full ? white : 224 * one, 128 * one);
    by.shift = yuv.shift;
    // A pixel is 2 * rgb - 1.
    by.y = weights(kr / 2, kg / 2, kb / 2);
    by.cb = weights(-kr / blue / 2, -kg / blue / 2, (1 - kb) / blue / 2);
    by.cr = weights((1 - kr) / red / 2, -kg / red / 2, -kb / red / 2);
    by.cr_in_red = static_cast<float>(2 * red);
    by.cb_in_green = static_cast<float>(-2 * kb * blue / kg);
    by.cr_in_green = static_cast<float>(-2 * kr * red / kg);
    by.cb_in_blue = static_cast<float>(2 * blue);
    return by;
}

YuvPlanes yuv_planes(const at::Tensor &picture, const PictureFormat &format, Size size) {
    const std::vector<PlaneLayout> layouts = plane_layouts(format, size);
    const auto levels = [&](size_t i) { return plane(picture, layouts[i], component_type(format.depth)); };
    if (format.yuv.interleaved == 0)
        return {levels(0), levels(1), levels(2)};
    const at::Tensor both = levels(1);
    return {levels(0), both.slice(1, 0, {}, 2), both.slice(1, 1, {}, 2)};
}

PictureConverter::PictureConverter(const PictureFormat &format, Size size, const at::Device &device)
    : format_(format), size_(size), chroma_size_(chroma_size(format.yuv, size)) {
    if (!format.is_yuv())
        return;
    const FlashVSRYuv &yuv = format.yuv;
    conversion_ = yuv_conversion(yuv, format.depth);
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

at::Tensor PictureConverter::yuv_to_pixels(const at::Tensor &picture) const {
    const YuvPlanes from = yuv_planes(picture, format_, size_);
    at::Tensor chroma;
    if (subsampled_) {
        const at::Tensor samples = samples_from_chroma(from, conversion_);
        chroma = resample_rows(resample_columns(samples, up_columns_), 2, up_rows_);
    }
    return pixels_from_yuv(from, chroma, conversion_);
}

void PictureConverter::yuv_from_pixels(const at::Tensor &pixels, const at::Tensor &picture) const {
    const YuvPlanes to = yuv_planes(picture, format_, size_);
    if (!subsampled_)
        return flashvsr::yuv_from_pixels(pixels, to, {}, conversion_);
    const at::Tensor chroma = at::empty({2 * size_.height, size_.width}, pixels.options());
    flashvsr::yuv_from_pixels(pixels, to, chroma, conversion_);
    chroma_from_samples(resample_rows(resample_columns(chroma, down_columns_), 2, down_rows_), to,
                        conversion_);
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
