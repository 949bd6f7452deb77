// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/element.cuh"
#include "ops/cuda/kernels.h"

namespace flashvsr::cuda {

namespace {

constexpr float norm_eps = 1e-6F, channel_norm_floor = 1e-12F;
constexpr int warps_per_block = 8;

struct NormArgs {
    const void *x;
    const float *gain, *offset;
    void *out;
    int64_t rows;
    int width;
};

/// One warp a row, which it holds in registers: `Loads` vectors of N elements a lane.
template <RowNorm norm, typename T, int N, int Loads> __global__ void norm_rows_kernel(NormArgs args) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * warps_per_block + threadIdx.x / 32;
    if (row >= args.rows)
        return;
    const T *x = static_cast<const T *>(args.x) + row * args.width;
    T *out = static_cast<T *>(args.out) + row * args.width;
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
        }
        store<N>(out + column, values[i]);
    }
}

template <RowNorm norm, typename T, int N> cudaError_t launch(const NormArgs &args, cudaStream_t stream) {
    const unsigned blocks = blocks_for(args.rows, warps_per_block);
    const int loads = (args.width + 32 * N - 1) / (32 * N);
    const auto run = [&](auto kernel) {
        kernel<<<blocks, warps_per_block * 32, 0, stream>>>(args);
        return cudaGetLastError();
    };
    if (loads <= 1)
        return run(norm_rows_kernel<norm, T, N, 1>);
    if (loads <= 3)
        return run(norm_rows_kernel<norm, T, N, 3>);
    if (loads <= 6)
        return run(norm_rows_kernel<norm, T, N, 6>);
    if (loads <= 12)
        return run(norm_rows_kernel<norm, T, N, 12>);
    if (loads <= 24)
        return run(norm_rows_kernel<norm, T, N, 24>);
    return cudaErrorInvalidValue;
}

template <RowNorm norm> cudaError_t launch_typed(Element element, const NormArgs &args, cudaStream_t stream) {
    return with_type(element, [&](auto type) {
        using T = decltype(type);
        constexpr int n = sizeof(T) == 2 ? 8 : 4;
        return args.width % n == 0 ? launch<norm, T, n>(args, stream) : launch<norm, T, 1>(args, stream);
    });
}

} // namespace

cudaError_t norm_rows(RowNorm norm, Element element, const void *x, const float *gain, const float *offset,
                      void *out, int64_t rows, int width, cudaStream_t stream) {
    const NormArgs args{x, gain, offset, out, rows, width};
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

} // namespace flashvsr::cuda
