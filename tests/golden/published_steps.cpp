// SPDX-License-Identifier: LGPL-2.1-or-later
#include "published_steps.h"

#include "error.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace flashvsr::golden {
namespace {

constexpr int64_t crop_px = 128;
constexpr int64_t look_ahead_frames = 4;
constexpr int64_t frames_per_chunk = 8;
constexpr int64_t first_chunk_frames = 25;
constexpr int fixed_point_bits = 22;

struct Weights {
    int64_t first = 0;
    std::vector<int32_t> weight;
};

double bicubic_kernel(double x) {
    constexpr double a = -0.5;
    x = std::abs(x);
    if (x < 1.0)
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    return x < 2.0 ? (((x - 5.0) * x + 8.0) * x - 4.0) * a : 0.0;
}

std::vector<Weights> fixed_point_weights(int64_t in, int64_t out) {
    const double ratio = static_cast<double>(in) / static_cast<double>(out);
    const double stretch = std::max(ratio, 1.0);
    const double support = 2.0 * stretch;
    std::vector<Weights> result(static_cast<size_t>(out));
    for (int64_t i = 0; i < out; i++) {
        const double centre = (static_cast<double>(i) + 0.5) * ratio;
        const int64_t low = std::max<int64_t>(static_cast<int64_t>(centre - support + 0.5), 0);
        const int64_t high = std::min<int64_t>(static_cast<int64_t>(centre + support + 0.5), in);
        std::vector<double> weights;
        double sum = 0.0;
        for (int64_t j = low; j < high; j++) {
            weights.push_back(bicubic_kernel((static_cast<double>(j) - centre + 0.5) / stretch));
            sum += weights.back();
        }
        result[i].first = low;
        for (const double weight : weights) {
            const double scaled = weight / sum * (1 << fixed_point_bits);
            result[i].weight.push_back(static_cast<int32_t>(scaled + (scaled < 0.0 ? -0.5 : 0.5)));
        }
    }
    return result;
}

// Resample the middle dimension of (a, n, b) to (a, out, b).
at::Tensor resample_u8(const at::Tensor &image, int64_t out) {
    const int64_t lines = image.size(0);
    const int64_t in = image.size(1);
    const int64_t step = image.size(2);
    at::Tensor result = at::empty({lines, out, step}, at::kByte);
    const at::Tensor source = image.contiguous();
    const uint8_t *const from = source.const_data_ptr<uint8_t>();
    uint8_t *const to = result.mutable_data_ptr<uint8_t>();
    const std::vector<Weights> weights = fixed_point_weights(in, out);
    for (int64_t line = 0; line < lines; line++)
        for (int64_t i = 0; i < out; i++)
            for (int64_t c = 0; c < step; c++) {
                int64_t sum = int64_t{1} << (fixed_point_bits - 1);
                const uint8_t *pixel = from + (line * in + weights[i].first) * step + c;
                for (const int32_t weight : weights[i].weight) {
                    sum += int64_t{weight} * *pixel;
                    pixel += step;
                }
                to[(line * out + i) * step + c] =
                    static_cast<uint8_t>(std::clamp<int64_t>(sum >> fixed_point_bits, 0, 255));
            }
    return result;
}

void check_images(const at::Tensor &images, int64_t dimensions) {
    if (images.dim() != dimensions || images.size(-1) != 3 || images.scalar_type() != at::kByte ||
        images.numel() == 0)
        fail(EINVAL, "a tensor of shape ", images.sizes(), " and type ", images.scalar_type(),
             " is not made of 8-bit RGB pictures");
}

} // namespace

int64_t scaled_side(int64_t side, double scale) {
    return std::lrint(static_cast<double>(side) * scale);
}

at::Tensor resize_bicubic_u8(const at::Tensor &image, int64_t height, int64_t width) {
    check_images(image, 3);
    if (height < 1 || width < 1)
        fail(EINVAL, "a picture cannot be resized to ", width, "x", height);
    at::Tensor result = image;
    if (result.size(1) != width)
        result = resample_u8(result, width);
    if (result.size(0) != height)
        result = resample_u8(result.view({1, result.size(0), width * 3}), height).view({height, width, 3});
    return result;
}

at::Tensor centre_crop(const at::Tensor &images) {
    const int64_t height = images.size(-3) / crop_px * crop_px;
    const int64_t width = images.size(-2) / crop_px * crop_px;
    if (height == 0 || width == 0)
        fail(EINVAL, "pictures of ", images.size(-2), "x", images.size(-3),
             " pixels cannot be cropped to multiples of ", crop_px);
    return images.narrow(-3, (images.size(-3) - height) / 2, height)
        .narrow(-2, (images.size(-2) - width) / 2, width)
        .contiguous();
}

int64_t network_frames(int64_t clip_frames) {
    const int64_t frames = (clip_frames + look_ahead_frames - 1) / frames_per_chunk * frames_per_chunk + 1;
    if (frames < first_chunk_frames)
        fail(EINVAL, "the published code cannot take a clip of ", clip_frames, " frames");
    return frames;
}

at::Tensor prepare_clip(const at::Tensor &clip, double scale) {
    check_images(clip, 4);
    const int64_t frames = network_frames(clip.size(0));
    const int64_t height = scaled_side(clip.size(1), scale);
    const int64_t width = scaled_side(clip.size(2), scale);
    std::vector<at::Tensor> prepared;
    for (int64_t i = 0; i < frames; i++)
        prepared.push_back(i < clip.size(0) ? centre_crop(resize_bicubic_u8(clip[i], height, width))
                                            : prepared.back());
    return at::stack(prepared);
}

at::Tensor to_network_range(const at::Tensor &frames) {
    check_images(frames, 4);
    return frames.permute({3, 0, 1, 2}).to(at::kFloat).div(255).mul(2).sub(1).unsqueeze(0).contiguous();
}

at::Tensor truncate_to_u8(const at::Tensor &frames) {
    if (at::isnan(frames).any().item<bool>())
        fail(EINVAL, "there is a NaN in the frames");
    return frames.add(1).mul(127.5).clamp(0, 255).to(at::kByte).permute({1, 2, 3, 0}).contiguous();
}

} // namespace flashvsr::golden
