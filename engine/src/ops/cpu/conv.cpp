// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cpu/ops.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <limits>

namespace flashvsr::cpu {

at::Tensor conv2d(const at::Tensor &x, const ConvWeights &weights, bool relu, const at::Tensor &residual) {
    at::Tensor y = at::conv2d(x, weights.weight, weights.bias, 1, weights.weight.size(2) / 2);
    if (residual.defined())
        y.add_(residual);
    return relu ? y.relu_() : y;
}

at::Tensor conv2d_of_bordered(const at::Tensor &x, const ConvWeights &weights) {
    return at::conv2d(x, weights.weight, weights.bias).contiguous(at::MemoryFormat::ChannelsLast);
}

at::Tensor conv2d_with_past(const at::Tensor &x, const at::Tensor &memory, const ConvWeights &weights) {
    return cpu::conv2d(stack_past(x, memory), weights, true, {});
}

void conv2d_to_planes(const at::Tensor &out, const at::Tensor &x, const ConvWeights &weights) {
    out.copy_(cpu::conv2d(x, weights, false, {}));
}

at::Tensor upsample_conv2d(const at::Tensor &x, const UpsampleConvWeights &weights, bool relu) {
    const int64_t images = x.size(0), growth = weights.growth, channels = weights.out_channels(),
                  height = x.size(2), width = x.size(3);
    // (N, h + 1, w + 1, growth, 4, out): each quarter leaves out another row and column.
    const at::Tensor quarters =
        at::conv2d(x, weights.weight, {}, 1, 1).contiguous(at::MemoryFormat::ChannelsLast);
    at::Tensor result = at::empty({images * growth, channels, 2 * height, 2 * width},
                                  x.options().memory_format(at::MemoryFormat::ChannelsLast));
    const float *in = quarters.const_data_ptr<float>();
    float *out = result.mutable_data_ptr<float>();
    const float least = relu ? 0 : -std::numeric_limits<float>::infinity();
    at::parallel_for(0, images * growth * 2 * height, 16, [&](int64_t begin, int64_t end) {
        for (int64_t line = begin; line < end; line++) {
            const int64_t image = line / (2 * height), y = line % (2 * height), row = y % 2;
            const float *from = in + (((image / growth * (height + 1) + y / 2 + row) * (width + 1)) * growth +
                                      image % growth) *
                                         4 * channels;
            float *to = out + line * 2 * width * channels;
            for (int64_t i = 0; i < 2 * width; i++, to += channels) {
                const int64_t col = i % 2;
                const float *pixel = from + ((i / 2 + col) * growth * 4 + 2 * row + col) * channels;
                for (int64_t c = 0; c < channels; c++)
                    to[c] = pixel[c] < least ? least : pixel[c];
            }
        }
    });
    return result;
}

at::Tensor stack_frames(const at::Tensor &frames, const at::Tensor &sources) {
    const at::Tensor from = frames.contiguous();
    const int64_t outputs = sources.size(0), stacked = sources.size(1), height = from.size(2),
                  width = from.size(3), channels = from.size(4), rows = height + 2, cols = width + 2;
    at::Tensor result = at::empty({outputs, rows, cols, stacked * channels}, from.options());
    const float *in = from.const_data_ptr<float>();
    const int64_t *places = sources.const_data_ptr<int64_t>();
    float *out = result.mutable_data_ptr<float>();
    at::parallel_for(0, outputs * rows, 1, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            const int64_t *const of = places + row / rows * stacked;
            const int64_t y = std::clamp<int64_t>(row % rows - 1, 0, height - 1);
            float *to = out + row * cols * stacked * channels;
            for (int64_t col = 0; col < cols; col++) {
                const int64_t x = std::clamp<int64_t>(col - 1, 0, width - 1);
                for (int64_t i = 0; i < stacked; i++, to += channels)
                    std::copy_n(in + ((of[i] * height + y) * width + x) * channels, channels, to);
            }
        }
    });
    return result.permute({0, 3, 1, 2});
}

} // namespace flashvsr::cpu
