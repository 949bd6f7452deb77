// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/element.cuh"
#include "ops/cuda/kernels.h"

#include <type_traits>

namespace flashvsr::cuda {

namespace {

constexpr float norm_eps = 1e-6F, channel_norm_floor = 1e-12F;
constexpr int warps_per_block = 8;

/// One warp a row, which it holds in registers: `Loads` vectors of N elements a lane.
template <RowNorm norm, typename T, typename Out, int N, int Loads>
__global__ void norm_rows_kernel(NormRows args) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * warps_per_block + threadIdx.x / 32;
    if (row >= args.rows)
        return;
    const T *x = static_cast<const T *>(args.x) + row * args.width;
    Out *out = static_cast<Out *>(args.out) + row * args.width;
    const auto width = static_cast<float>(args.width);

    float values[Loads][N] = {};
    float sum = 0.0F;
#pragma unroll
    for (int i = 0; i < Loads; i++) {
        const int column = (i * 32 + lane) * N;
        if (column < args.width)
            load<N>(x + column, values[i]);
#pragma unroll
        for (int j = 0; j < N; j++)
            sum += values[i][j];
    }
    const float mean = norm == RowNorm::layer ? warp_sum(sum) / width : 0.0F;
    float squares = 0.0F;
#pragma unroll
    for (int i = 0; i < Loads; i++) {
        if ((i * 32 + lane) * N < args.width) {
#pragma unroll
            for (int j = 0; j < N; j++)
                squares += (values[i][j] - mean) * (values[i][j] - mean);
        }
    }
    squares = warp_sum(squares);
    const float scale = norm == RowNorm::layer || norm == RowNorm::rms
                            ? rsqrtf(squares / width + norm_eps)
                            : sqrtf(width) / fmaxf(sqrtf(squares), channel_norm_floor);
    float greatest = 0.0F;
#pragma unroll
    for (int i = 0; i < Loads; i++) {
        const int column = (i * 32 + lane) * N;
        if (column >= args.width)
            continue;
        float gain[N], offset[N] = {};
        load<N>(args.gain + column, gain);
        if (norm == RowNorm::layer)
            load<N>(args.offset + column, offset);
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float y = (values[i][j] - mean) * scale * gain[j] + offset[j];
            values[i][j] = norm == RowNorm::channel_silu ? y / (1.0F + expf(-y)) : y;
            greatest = fmaxf(greatest, fabsf(values[i][j]));
        }
        if constexpr (std::is_same_v<T, Out>)
            store<N>(out + column, values[i]);
    }
    if constexpr (!std::is_same_v<T, Out>) {
        const RowScale row_scale(warp_max(greatest));
        if (lane == 0)
            args.scales[row] = row_scale.scale;
#pragma unroll
        for (int i = 0; i < Loads; i++) {
            const int column = (i * 32 + lane) * N;
            if (column >= args.width)
                continue;
#pragma unroll
            for (int j = 0; j < N; j++)
                values[i][j] *= row_scale.factor;
            store<N>(out + column, values[i]);
        }
    }
}

template <RowNorm norm, typename T, typename Out, int N>
cudaError_t launch(const NormRows &args, cudaStream_t stream) {
    const unsigned blocks = blocks_for(args.rows, warps_per_block);
    const int loads = (args.width + 32 * N - 1) / (32 * N);
    const auto run = [&](auto kernel) {
        kernel<<<blocks, warps_per_block * 32, 0, stream>>>(args);
        return cudaGetLastError();
    };
    if (loads <= 1)
        return run(norm_rows_kernel<norm, T, Out, N, 1>);
    if (loads <= 3)
        return run(norm_rows_kernel<norm, T, Out, N, 3>);
    if (loads <= 6)
        return run(norm_rows_kernel<norm, T, Out, N, 6>);
    if (loads <= 12)
        return run(norm_rows_kernel<norm, T, Out, N, 12>);
    if (loads <= 24)
        return run(norm_rows_kernel<norm, T, Out, N, 24>);
    return cudaErrorInvalidValue;
}

template <RowNorm norm, typename T, int N> cudaError_t launch(const NormRows &args, cudaStream_t stream) {
    if constexpr (norm == RowNorm::layer)
        if (args.scales)
            return launch<norm, T, __nv_fp8_e4m3, N>(args, stream);
    return launch<norm, T, T, N>(args, stream);
}

template <RowNorm norm> cudaError_t launch_typed(Element element, const NormRows &args, cudaStream_t stream) {
    return with_type(element, [&](auto type) {
        using T = decltype(type);
        constexpr int n = sizeof(T) == 2 ? 8 : 4;
        return args.width % n == 0 ? launch<norm, T, n>(args, stream) : launch<norm, T, 1>(args, stream);
    });
}

constexpr int quantize_threads = 256;

/// One block a row, which it holds in registers: `Loads` vectors of N elements a thread.
template <typename T, int N, int Loads>
__global__ void quantize_rows_kernel(const T *x, __nv_fp8_e4m3 *out, float *scales, int width) {
    __shared__ float warps[quantize_threads / 32];
    const int thread = static_cast<int>(threadIdx.x);
    const int64_t row = blockIdx.x;
    float values[Loads][N] = {};
    float greatest = 0.0F;
#pragma unroll
    for (int i = 0; i < Loads; i++) {
        const int column = (i * quantize_threads + thread) * N;
        if (column < width)
            load<N>(x + row * width + column, values[i]);
#pragma unroll
        for (int j = 0; j < N; j++)
            greatest = fmaxf(greatest, fabsf(values[i][j]));
    }
    greatest = warp_max(greatest);
    if (thread % 32 == 0)
        warps[thread / 32] = greatest;
    __syncthreads();
    greatest = warp_max(warps[thread % (quantize_threads / 32)]);
    const RowScale row_scale(greatest);
    if (thread == 0)
        scales[row] = row_scale.scale;
#pragma unroll
    for (int i = 0; i < Loads; i++) {
        const int column = (i * quantize_threads + thread) * N;
        if (column >= width)
            continue;
#pragma unroll
        for (int j = 0; j < N; j++)
            values[i][j] *= row_scale.factor;
        store<N>(out + row * width + column, values[i]);
    }
}

} // namespace

cudaError_t norm_rows(RowNorm norm, Element element, const NormRows &args, cudaStream_t stream) {
    switch (norm) {
    case RowNorm::layer:
        return launch_typed<RowNorm::layer>(element, args, stream);
    case RowNorm::rms:
        return launch_typed<RowNorm::rms>(element, args, stream);
    case RowNorm::channel:
        return launch_typed<RowNorm::channel>(element, args, stream);
    default:
        return launch_typed<RowNorm::channel_silu>(element, args, stream);
    }
}

cudaError_t quantize_rows(Element element, const void *x, void *out, float *scales, int64_t rows, int width,
                          cudaStream_t stream) {
    return with_type(element, [&](auto type) {
        using T = decltype(type);
        constexpr int n = sizeof(T) == 2 ? 8 : 4;
        if (width % n != 0)
            return cudaErrorInvalidValue;
        const auto run = [&](auto kernel) {
            kernel<<<static_cast<unsigned>(rows), quantize_threads, 0, stream>>>(
                static_cast<const T *>(x), static_cast<__nv_fp8_e4m3 *>(out), scales, width);
            return cudaGetLastError();
        };
        const int loads = (width + quantize_threads * n - 1) / (quantize_threads * n);
        if (loads <= 1)
            return run(quantize_rows_kernel<T, n, 1>);
        if (loads <= 2)
            return run(quantize_rows_kernel<T, n, 2>);
        if (loads <= 5)
            return run(quantize_rows_kernel<T, n, 5>);
        if (loads <= 16)
            return run(quantize_rows_kernel<T, n, 16>);
        return cudaErrorInvalidValue;
    });
}

} // namespace flashvsr::cuda
