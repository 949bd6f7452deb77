// SPDX-License-Identifier: LGPL-2.1-or-later
#include "frame/upscale.h"

#include "error.h"

#include <ATen/Parallel.h>
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
// Less than this many pixels a task costs more to hand out than to resample.
constexpr int64_t pixels_per_task = 16384;

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

/// The inputs of each output along one axis: weight[i * count + k] is that of input first[i] + k.
struct Taps {
    int64_t count = 0;
    std::vector<int64_t> first;
    std::vector<float> weight;
};

// Positions and weights in double: in float, the sampling position alone is off by 1e-4 pixels at column
// 2000, which is more than a 16-bit level.
Taps make_taps(int64_t in, int64_t out) {
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
    Taps taps;
    for (int64_t i = 0; i < out; i++)
        taps.count = std::max(taps.count, end_of(i) - begin_of(i));
    taps.first.resize(static_cast<size_t>(out));
    taps.weight.resize(static_cast<size_t>(out * taps.count));
    std::vector<double> weight(static_cast<size_t>(taps.count));
    for (int64_t i = 0; i < out; i++) {
        const double centre = (static_cast<double>(i) + 0.5) * ratio;
        // The same count everywhere: at the edges the taps outside the kernel weigh 0.
        const int64_t first = std::min(begin_of(i), in - taps.count);
        double sum = 0.0;
        for (int64_t k = 0; k < taps.count; k++) {
            const int64_t j = first + k;
            const bool inside = j >= begin_of(i) && j < end_of(i);
            weight[k] = inside ? bicubic_kernel((static_cast<double>(j) - centre + 0.5) / stretch) : 0.0;
            sum += weight[k];
        }
        taps.first[i] = first;
        for (int64_t k = 0; k < taps.count; k++)
            taps.weight[i * taps.count + k] = static_cast<float>(weight[k] / sum);
    }
    return taps;
}

// (rows, in) -> (rows, out)
at::Tensor resample_columns(const at::Tensor &rows, const Taps &taps) {
    const int64_t count = rows.size(0);
    const int64_t in = rows.size(1);
    const auto out = static_cast<int64_t>(taps.first.size());
    at::Tensor result = at::empty({count, out}, at::kFloat);
    const float *const from = rows.const_data_ptr<float>();
    float *const to = result.mutable_data_ptr<float>();
    at::parallel_for(0, count, std::max<int64_t>(1, pixels_per_task / out), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            const float *weight = taps.weight.data();
            for (int64_t x = 0; x < out; x++, weight += taps.count) {
                const float *const pixels = from + row * in + taps.first[x];
                float sum = 0.0f;
                for (int64_t k = 0; k < taps.count; k++)
                    sum += weight[k] * pixels[k];
                to[row * out + x] = sum;
            }
        }
    });
    return result;
}

// (planes * in, width) -> (planes * out, width), clamped to [-1, 1]
at::Tensor resample_rows(const at::Tensor &rows, int64_t planes, const Taps &taps) {
    const int64_t in = rows.size(0) / planes;
    const int64_t width = rows.size(1);
    const auto out = static_cast<int64_t>(taps.first.size());
    at::Tensor result = at::empty({planes * out, width}, at::kFloat);
    const float *const from = rows.const_data_ptr<float>();
    float *const to = result.mutable_data_ptr<float>();
    const int64_t grain = std::max<int64_t>(1, pixels_per_task / width);
    at::parallel_for(0, planes * out, grain, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            const int64_t y = row % out;
            const float *const weight = taps.weight.data() + y * taps.count;
            const float *source = from + (row / out * in + taps.first[y]) * width;
            float *const target = to + row * width;
            std::fill_n(target, width, 0.0f);
            for (int64_t k = 0; k < taps.count; k++, source += width)
                for (int64_t x = 0; x < width; x++)
                    target[x] += weight[k] * source[x];
            for (int64_t x = 0; x < width; x++) {
                const float v = target[x] > -1.0f ? target[x] : -1.0f;
                target[x] = v < 1.0f ? v : 1.0f;
            }
        }
    });
    return result;
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

at::Tensor upscale_bicubic(const at::Tensor &frames, int64_t height, int64_t width) {
    const at::Tensor batch = batch_of(frames);
    if (height < 1 || width < 1)
        fail(EINVAL, "frames cannot be resized to ", width, "x", height, " pixels");
    if (batch.size(-2) == height && batch.size(-1) == width)
        return frames.clamp(-1.0, 1.0);
    const int64_t planes = batch.size(0) * batch.size(1);
    at::Tensor rows = batch.contiguous().view({planes * batch.size(2), batch.size(3)});
    rows = resample_columns(rows, make_taps(batch.size(3), width));
    rows = resample_rows(rows, planes, make_taps(batch.size(2), height));
    return with_leading_sizes(rows.view({batch.size(0), batch.size(1), height, width}), frames);
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
