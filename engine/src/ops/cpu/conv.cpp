// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cpu/ops.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

namespace flashvsr::cpu {

at::Tensor conv2d(const at::Tensor &x, const ConvWeights &weights, bool relu, const at::Tensor &residual) {
    at::Tensor y = at::conv2d(x, weights.weight, weights.bias, 1, weights.weight.size(2) / 2);
    if (residual.defined())
        y.add_(residual);
    return relu ? y.relu_() : y;
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
