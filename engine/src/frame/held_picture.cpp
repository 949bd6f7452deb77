// SPDX-License-Identifier: LGPL-2.1-or-later
#include "frame/held_picture.h"

#include "ops/device.h"
#include "ops/levels.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace flashvsr {

namespace {

constexpr int planes = 3, green = 1;
// One row and column in four: the measure is of whole pictures, not of details.
constexpr int sample_step = 4;

template <typename Sample> double sampled_difference(const FlashVSRFrame &a, const FlashVSRFrame &b) {
    double sum = 0;
    int64_t count = 0;
    for (int y = 0; y < a.height; y += sample_step) {
        const auto *row_a =
            reinterpret_cast<const Sample *>(static_cast<const char *>(a.data[green]) + y * a.stride[green]);
        const auto *row_b =
            reinterpret_cast<const Sample *>(static_cast<const char *>(b.data[green]) + y * b.stride[green]);
        for (int x = 0; x < a.width; x += sample_step, count++)
            sum += std::abs(static_cast<double>(row_a[x]) - static_cast<double>(row_b[x]));
    }
    return sum / static_cast<double>(count);
}

} // namespace

HeldPicture::HeldPicture(const FlashVSRFrame &frame) : frame_(frame) {
    check_picture(frame, frame.width, frame.height);
    const auto sample_bytes = static_cast<int64_t>(c10::elementSize(component_type(frame.depth)));
    const int64_t row_bytes = frame.width * sample_bytes;
    bytes_.resize(planes * frame.height * row_bytes);
    unsigned char *to = bytes_.data();
    for (int plane = 0; plane < planes; plane++) {
        frame_.data[plane] = to;
        frame_.stride[plane] = row_bytes;
        for (int y = 0; y < frame.height; y++, to += row_bytes)
            std::memcpy(to, static_cast<const char *>(frame.data[plane]) + y * frame.stride[plane],
                        row_bytes);
    }
}

at::Tensor HeldPicture::to_tensor(const at::Device &device) const {
    if (device.is_cpu())
        return picture_to_tensor(frame_);
    const at::Tensor levels =
        at::from_blob(frame_.data[0], {planes, frame_.height, frame_.width}, component_type(frame_.depth));
    return pixels_from_levels(upload(levels, device), frame_.depth);
}

double HeldPicture::difference(const HeldPicture &other) const {
    switch (frame_.depth) {
    case 8:
        return 100 * sampled_difference<uint8_t>(frame_, other.frame_) / 255;
    case 32:
        return 100 * sampled_difference<float>(frame_, other.frame_);
    default:
        return 100 * sampled_difference<uint16_t>(frame_, other.frame_) / ((1 << frame_.depth) - 1);
    }
}

} // namespace flashvsr
