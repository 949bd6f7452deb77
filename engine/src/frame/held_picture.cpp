// SPDX-License-Identifier: LGPL-2.1-or-later
#include "frame/held_picture.h"

#include "ops/device.h"
#include "ops/levels.h"

#include <ATen/ATen.h>

#include <cmath>

namespace flashvsr {

namespace {

constexpr size_t luma = 0, green = 1; // planes
// One row and column in four: the measure is of whole pictures, not of details.
constexpr int64_t sample_step = 4;

} // namespace

HeldPicture::HeldPicture(const FlashVSRFrame &frame)
    : format_(format_of(frame)), size_{frame.width, frame.height}, packed_(pack_picture(frame)) {}

HeldPicture::HeldPicture(const FlashVSRFrame &frame, DevicePictures &pictures)
    : format_(format_of(frame)), size_{frame.width, frame.height},
      on_gpu_(pictures.read(surface_of(frame), picture_bytes(format_, size_))) {}

at::Tensor HeldPicture::to_tensor(PictureConverters &converters) const {
    const PictureConverter &converter = converters.get(format_, size_);
    if (!on_gpu_)
        return converter.to_pixels(upload(packed_, converters.device()));
    at::Tensor packed = on_gpu_->bytes();
    if (packed.device() == converters.device()) {
        at::Tensor pixels = converter.to_pixels(packed);
        on_gpu_->mark_read();
        return pixels;
    }
    {
        const DeviceScope scope(packed.device()); // a stream that nobody else waits in
        packed = packed.to(converters.device());
        on_gpu_->mark_read();
    }
    return converter.to_pixels(packed);
}

at::Tensor HeldPicture::to_tensor(const at::Device &device) const {
    PictureConverters converters(device);
    return to_tensor(converters);
}

template <typename Component> double HeldPicture::sampled_difference(const HeldPicture &other) const {
    const int64_t plane = plane_layouts(format_, size_)[format_.is_yuv() ? luma : green].offset;
    const auto *const a = reinterpret_cast<const Component *>(packed_.const_data_ptr<uint8_t>() + plane);
    const auto *const b =
        reinterpret_cast<const Component *>(other.packed_.const_data_ptr<uint8_t>() + plane);
    double sum = 0;
    int64_t count = 0;
    for (int64_t y = 0; y < size_.height; y += sample_step)
        for (int64_t x = 0; x < size_.width; x += sample_step, count++)
            sum += std::abs(static_cast<double>(a[y * size_.width + x]) -
                            static_cast<double>(b[y * size_.width + x]));
    return sum / static_cast<double>(count);
}

/// One in sample_step rows and columns of the luma or green plane, fp64, on the device.
at::Tensor HeldPicture::samples(const at::Device &device) const {
    const PlaneLayout plane = plane_layouts(format_, size_)[format_.is_yuv() ? luma : green];
    const at::Tensor levels = packed()
                                  .narrow(0, plane.offset, plane.height * plane.row_bytes)
                                  .view(component_type(format_.depth))
                                  .view({plane.height, -1})
                                  .slice(0, 0, {}, sample_step)
                                  .slice(1, 0, {}, sample_step);
    at::Tensor samples = at::empty(levels.sizes(), at::TensorOptions(packed().device()).dtype(at::kDouble));
    samples = samples.copy_(levels).to(device);
    if (on_gpu_)
        on_gpu_->mark_read();
    return samples;
}

/// sampled_difference() where one of the two is on a GPU. Sums of levels are exact in fp64, so it is the
/// same.
double HeldPicture::difference_on_gpu(const HeldPicture &other) const {
    const at::Device device = (on_gpu_ ? *this : other).packed().device();
    const DeviceScope scope(device);
    const at::Tensor differences = samples(device).sub_(other.samples(device)).abs_();
    return differences.sum().item<double>() / static_cast<double>(differences.numel());
}

double HeldPicture::difference(const HeldPicture &other) const {
    constexpr double percent = 100;
    if (!(format_ == other.format_) || !(size_ == other.size_))
        return percent;
    const double white = white_level(format_.depth) << format_.yuv.shift;
    const double difference = on_gpu_ || other.on_gpu_       ? difference_on_gpu(other)
                              : format_.depth == 8           ? sampled_difference<uint8_t>(other)
                              : format_.depth == float_depth ? sampled_difference<float>(other)
                                                             : sampled_difference<uint16_t>(other);
    return percent * difference / white;
}

} // namespace flashvsr
