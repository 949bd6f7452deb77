// SPDX-License-Identifier: LGPL-2.1-or-later
#include "frame/upscale.h"

#include "error.h"
#include "frame/resample_taps.h"

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
    const auto taps = [&](int64_t in, int64_t out) {
        return resample_taps(ResampleKernel::bicubic, in, out,
                             static_cast<double>(in) / static_cast<double>(out), 0.0, device);
    };
    columns_ = taps(from.width, to.width);
    rows_ = taps(from.height, to.height);
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
