// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cpu/ops.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

namespace flashvsr::cpu {

namespace {

// Less than this many pixels a task costs more to hand out than to resample.
constexpr int64_t pixels_per_task = 16384;

} // namespace

at::Tensor resample_columns(const at::Tensor &rows, const ResampleTaps &taps) {
    const int64_t count = rows.size(0);
    const int64_t in = rows.size(1);
    const int64_t out = taps.weight.size(0), tap_count = taps.weight.size(1);
    at::Tensor result = at::empty({count, out}, rows.options());
    const int64_t *const first = taps.first.const_data_ptr<int64_t>();
    const float *const from = rows.const_data_ptr<float>();
    float *const to = result.mutable_data_ptr<float>();
    at::parallel_for(0, count, std::max<int64_t>(1, pixels_per_task / out), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            const float *weight = taps.weight.const_data_ptr<float>();
            for (int64_t x = 0; x < out; x++, weight += tap_count) {
                const float *const pixels = from + row * in + first[x];
                float sum = 0.0f;
                for (int64_t k = 0; k < tap_count; k++)
                    sum += weight[k] * pixels[k];
                to[row * out + x] = sum;
            }
        }
    });
    return result;
}

at::Tensor resample_rows(const at::Tensor &rows, int64_t planes, const ResampleTaps &taps) {
    const int64_t in = rows.size(0) / planes;
    const int64_t width = rows.size(1);
    const int64_t out = taps.weight.size(0), tap_count = taps.weight.size(1);
    at::Tensor result = at::empty({planes * out, width}, rows.options());
    const int64_t *const first = taps.first.const_data_ptr<int64_t>();
    const float *const from = rows.const_data_ptr<float>();
    float *const to = result.mutable_data_ptr<float>();
    const int64_t grain = std::max<int64_t>(1, pixels_per_task / width);
    at::parallel_for(0, planes * out, grain, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            const int64_t y = row % out;
            const float *const weight = taps.weight.const_data_ptr<float>() + y * tap_count;
            const float *source = from + (row / out * in + first[y]) * width;
            float *const target = to + row * width;
            std::fill_n(target, width, 0.0f);
            for (int64_t k = 0; k < tap_count; k++, source += width)
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

} // namespace flashvsr::cpu
