// SPDX-License-Identifier: LGPL-2.1-or-later
#include "frame/upscale.h"

#include "error.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/replication_pad2d.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace flashvsr {
namespace {

constexpr double min_scale = 1.0;
constexpr double max_scale = 8.0;
// A block of the sparse attention is 8x8 tokens of 16x16 pixels.
constexpr int64_t block_px = 128;

void check_input_side(const char *name, int value) {
    if (value < 1 || value > FLASHVSR_MAX_SIZE)
        fail(EINVAL, name, " is ", value, ", but must be within 1 to ", FLASHVSR_MAX_SIZE, " pixels");
}

int64_t output_side(const char *input_name, int input, const char *override_name, int override_value,
                    double scale) {
    if (override_value != 0) {
        if (override_value < 0 || override_value > FLASHVSR_MAX_SIZE)
            fail(EINVAL, override_name, " is ", override_value, ", but must be within 1 to ",
                 FLASHVSR_MAX_SIZE, " pixels, or 0 for ", input_name, " times scale");
        const double ratio = static_cast<double>(override_value) / input;
        if (ratio < min_scale || ratio > max_scale)
            fail(EINVAL, override_name, " is ", override_value, ", which is ", ratio, " times the ",
                 input_name, " of ", input, ", but must be ", min_scale, " to ", max_scale, " times it");
        return override_value;
    }
    const int64_t side = std::lrint(input * scale);
    if (side > FLASHVSR_MAX_SIZE)
        fail(EINVAL, "scale is ", scale, ", which makes a ", input_name, " of ", input, " into ", side,
             " pixels, more than the largest ", FLASHVSR_MAX_SIZE);
    return side;
}

// The pictures as one batch (n, 3, h, w).
at::Tensor batch_of(const at::Tensor &frames) {
    if (frames.dim() < 3 || frames.size(-3) != 3 || frames.numel() == 0 || frames.scalar_type() != at::kFloat)
        fail(EINVAL, "frames of shape ", frames.sizes(), " and type ", frames.scalar_type(),
             " are not float pictures (..., 3, height, width)");
    return frames.reshape({-1, 3, frames.size(-2), frames.size(-1)});
}

at::Tensor with_leading_sizes(const at::Tensor &batch, const at::Tensor &frames) {
    std::vector<int64_t> sizes = frames.sizes().vec();
    sizes[sizes.size() - 2] = batch.size(-2);
    sizes[sizes.size() - 1] = batch.size(-1);
    return batch.reshape(sizes);
}

// Keys' cubic with a = -0.5, as Pillow has it.
double bicubic_kernel(double x) {
    constexpr double a = -0.5;
    x = std::abs(x);
    if (x < 1.0)
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    if (x < 2.0)
        return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
    return 0.0;
}

// Positions and weights in double: in float, the sampling position alone is off by 1e-4 pixels at column
// 2000, which is more than a 16-bit level.
ResampleTaps make_taps(int64_t in, int64_t out) {
    const double ratio = static_cast<double>(in) / static_cast<double>(out);
    const double stretch = std::max(ratio, 1.0);
    const double support = 2.0 * stretch;
    const auto begin_of = [&](int64_t i) {
        return std::max<int64_t>(
            0, static_cast<int64_t>((static_cast<double>(i) + 0.5) * ratio - support + 0.5));
    };
    const auto end_of = [&](int64_t i) {
        return std::min<int64_t>(
            in, static_cast<int64_t>((static_cast<double>(i) + 0.5) * ratio + support + 0.5));
    };
    int64_t count = 0;
    for (int64_t i = 0; i < out; i++)
        count = std::max(count, end_of(i) - begin_of(i));
    ResampleTaps taps{at::empty({out}, at::kLong), at::empty({out, count}, at::kFloat)};
    int64_t *const first_of = taps.first.data_ptr<int64_t>();
    float *weight_of = taps.weight.data_ptr<float>();
    std::vector<double> weight(static_cast<size_t>(count));
    for (int64_t i = 0; i < out; i++) {
        const double centre = (static_cast<double>(i) + 0.5) * ratio;
        // The same count everywhere: at the edges the taps outside the kernel weigh 0.
        const int64_t first = std::min(begin_of(i), in - count);
        double sum = 0.0;
        for (int64_t k = 0; k < count; k++) {
            const int64_t j = first + k;
            const bool inside = j >= begin_of(i) && j < end_of(i);
            weight[k] = inside ? bicubic_kernel((static_cast<double>(j) - centre + 0.5) / stretch) : 0.0;
            sum += weight[k];
        }
        first_of[i] = first;
        for (int64_t k = 0; k < count; k++)
            *weight_of++ = static_cast<float>(weight[k] / sum);
    }
    return taps;
}

} // namespace

Size output_size(const FlashVSRSettings &settings) {
    check_input_side("width", settings.width);
    check_input_side("height", settings.height);
    // Written so that a NaN fails.
    if (!(settings.scale >= min_scale && settings.scale <= max_scale))
        fail(EINVAL, "scale is ", settings.scale, ", but must be within ", min_scale, " to ", max_scale);
    return {output_side("width", settings.width, "out_width", settings.out_width, settings.scale),
            output_side("height", settings.height, "out_height", settings.out_height, settings.scale)};
}

Size target_size(Size output) {
    const auto round_up = [](int64_t side) { return (side + block_px - 1) / block_px * block_px; };
    return {round_up(output.width), round_up(output.height)};
}

Upscaler::Upscaler(Size from, Size to, at::Device device) : from_(from), to_(to) {
    if (from.width < 1 || from.height < 1 || to.width < 1 || to.height < 1)
        fail(EINVAL, "frames of ", from.width, "x", from.height, " pixels cannot be resized to ", to.width,
             "x", to.height);
    const auto on_device = [&](const ResampleTaps &taps) {
        return ResampleTaps{taps.first.to(device), taps.weight.to(device)};
    };
    columns_ = on_device(make_taps(from.width, to.width));
    rows_ = on_device(make_taps(from.height, to.height));
}

at::Tensor Upscaler::operator()(const at::Tensor &frames) const {
    const at::Tensor batch = batch_of(frames);
    if (Size{batch.size(-1), batch.size(-2)} != from_)
        fail(EINVAL, "frames of ", batch.size(-1), "x", batch.size(-2), " pixels came where ", from_.width,
             "x", from_.height, " were expected");
    if (from_ == to_)
        return frames.clamp(-1.0, 1.0);
    const int64_t planes = batch.size(0) * batch.size(1);
    at::Tensor rows = batch.contiguous().view({planes * batch.size(2), batch.size(3)});
    rows = resample_columns(rows, columns_);
    rows = resample_rows(rows, planes, rows_);
    return with_leading_sizes(rows.view({batch.size(0), batch.size(1), to_.height, to_.width}), frames);
}

at::Tensor upscale_bicubic(const at::Tensor &frames, int64_t height, int64_t width) {
    const at::Tensor batch = batch_of(frames);
    return Upscaler({batch.size(-1), batch.size(-2)}, {width, height}, frames.device())(frames);
}

at::Tensor pad_to(const at::Tensor &frames, int64_t height, int64_t width) {
    const at::Tensor batch = batch_of(frames);
    const int64_t right = width - batch.size(-1);
    const int64_t bottom = height - batch.size(-2);
    if (right < 0 || bottom < 0)
        fail(EINVAL, "frames of ", batch.size(-1), "x", batch.size(-2), " pixels cannot be padded to ", width,
             "x", height);
    if (right == 0 && bottom == 0)
        return frames;
    return with_leading_sizes(at::replication_pad2d(batch, {0, right, 0, bottom}), frames);
}

} // namespace flashvsr
