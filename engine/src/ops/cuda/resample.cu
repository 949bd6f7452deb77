// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/element.cuh"
#include "ops/cuda/kernels.h"

namespace flashvsr::cuda {

namespace {

constexpr int threads = 256;

/// One block a padded row of an output; a thread copies 16 bytes, or one element where that does not divide.
template <typename T>
__global__ void stack_frames_kernel(const T *frames, const int64_t *sources, T *out, int stacked, int height,
                                    int width, int channels) {
    const int rows = height + 2, cols = width + 2;
    const int output = static_cast<int>(blockIdx.x) / rows;
    const int y = min(max(static_cast<int>(blockIdx.x) % rows - 1, 0), height - 1);
    T *to = out + static_cast<int64_t>(blockIdx.x) * cols * stacked * channels;
    for (int i = static_cast<int>(threadIdx.x); i < cols * stacked * channels; i += threads) {
        const int channel = i % channels, place = i / channels % stacked;
        const int x = min(max(i / channels / stacked - 1, 0), width - 1);
        const int64_t frame = sources[output * stacked + place];
        to[i] = frames[((frame * height + y) * width + x) * channels + channel];
    }
}

__global__ void resample_columns_kernel(const float *in, float *out, int64_t rows, int in_width,
                                        int out_width, AxisTaps taps) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (i >= rows * out_width)
        return;
    const auto x = static_cast<int>(i % out_width);
    const float *pixels = in + i / out_width * in_width + taps.first[x];
    const float *weight = taps.weight + static_cast<int64_t>(x) * taps.count;
    float sum = 0.0F;
    for (int k = 0; k < taps.count; k++)
        sum += weight[k] * pixels[k];
    out[i] = sum;
}

__global__ void resample_rows_kernel(const float *in, float *out, int64_t planes, int in_height,
                                     int out_height, int width, AxisTaps taps) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (i >= planes * out_height * width)
        return;
    const auto x = static_cast<int>(i % width);
    const auto y = static_cast<int>(i / width % out_height);
    const int64_t plane = i / width / out_height;
    const float *pixels = in + (plane * in_height + taps.first[y]) * width + x;
    const float *weight = taps.weight + static_cast<int64_t>(y) * taps.count;
    float sum = 0.0F;
    for (int k = 0; k < taps.count; k++)
        sum += weight[k] * pixels[static_cast<int64_t>(k) * width];
    out[i] = fminf(fmaxf(sum, -1.0F), 1.0F);
}

} // namespace

cudaError_t stack_frames(Element element, const void *frames, const int64_t *sources, void *out, int outputs,
                         int stacked, int height, int width, int channels, cudaStream_t stream) {
    const auto launch = [&](auto unit, int units) {
        using T = decltype(unit);
        stack_frames_kernel<T><<<static_cast<unsigned>(outputs * (height + 2)), threads, 0, stream>>>(
            static_cast<const T *>(frames), sources, static_cast<T *>(out), stacked, height, width, units);
        return cudaGetLastError();
    };
    const int bytes = channels * (element == Element::f32 ? 4 : 2);
    if (bytes % 16 == 0)
        return launch(uint4{}, bytes / 16);
    return element == Element::f32 ? launch(uint32_t{}, channels) : launch(uint16_t{}, channels);
}

cudaError_t resample_columns(const float *in, float *out, int64_t rows, int in_width, int out_width,
                             const AxisTaps &taps, cudaStream_t stream) {
    resample_columns_kernel<<<blocks_for(rows * out_width, threads), threads, 0, stream>>>(
        in, out, rows, in_width, out_width, taps);
    return cudaGetLastError();
}

cudaError_t resample_rows(const float *in, float *out, int64_t planes, int in_height, int out_height,
                          int width, const AxisTaps &taps, cudaStream_t stream) {
    resample_rows_kernel<<<blocks_for(planes * out_height * width, threads), threads, 0, stream>>>(
        in, out, planes, in_height, out_height, width, taps);
    return cudaGetLastError();
}

} // namespace flashvsr::cuda
