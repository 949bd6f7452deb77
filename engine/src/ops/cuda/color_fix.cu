// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/element.cuh"
#include "ops/cuda/kernels.h"

namespace flashvsr::cuda {

namespace {

constexpr int threads = 256;
constexpr float variance_eps = 1e-5F;
constexpr int blur_levels = 5;

/// A picture's channel: first sample of plane (b, t, channel) of the output's order.
template <typename T> __device__ const T *plane_of(const PictureView &view, int plane, int frames) {
    const int channel = plane % picture_channels, t = plane / picture_channels % frames,
              b = plane / picture_channels / frames;
    return static_cast<const T *>(view.data) + b * view.batch_stride + channel * view.channel_stride +
           t * view.frame_stride;
}

/// Sums over the block, in thread 0.
__device__ double2 block_sum(double2 v) {
    __shared__ double2 partial[threads / 32];
    v = {warp_sum(v.x), warp_sum(v.y)};
    if (threadIdx.x % 32 == 0)
        partial[threadIdx.x / 32] = v;
    __syncthreads();
    v = {0.0, 0.0};
    for (const double2 &other : partial)
        v = {v.x + other.x, v.y + other.y};
    return v;
}

/// Sum and sum of squares of some rows of a plane, N samples a thread at a time.
template <typename T, int N>
__device__ double2 row_sums(const T *plane, int64_t row_stride, int height, int width) {
    double2 sums = {0.0, 0.0};
    for (int y = static_cast<int>(blockIdx.x); y < height; y += static_cast<int>(gridDim.x))
        for (int x = static_cast<int>(threadIdx.x) * N; x < width; x += threads * N) {
            float values[N];
            load<N>(plane + y * row_stride + x, values);
#pragma unroll
            for (const float value : values) {
                const double wide = value;
                sums.x += wide;
                sums.y += wide * wide;
            }
        }
    return block_sum(sums);
}

/// Grid: shares of a plane's rows, planes, content and style.
template <typename T, int N> __global__ void __launch_bounds__(threads) plane_sums_kernel(ColorFixArgs args) {
    const int plane = static_cast<int>(blockIdx.y), planes = static_cast<int>(gridDim.y);
    const double2 sums = blockIdx.z == 0 ? row_sums<T, N>(plane_of<T>(args.content, plane, args.frames),
                                                          args.content.row_stride, args.height, args.width)
                                         : row_sums<float, N>(plane_of<float>(args.style, plane, args.frames),
                                                              args.style.row_stride, args.height, args.width);
    if (threadIdx.x == 0)
        reinterpret_cast<double2 *>(args.scratch)[(blockIdx.z * planes + plane) * gridDim.x + blockIdx.x] =
            sums;
}

/// Mean and deviation from the shares' sums, added in order by every warp for itself.
__device__ float2 mean_and_deviation(const double2 *sums, int shares, double count) {
    double2 total = {0.0, 0.0};
    for (int i = 0; i < shares; i++)
        total = {total.x + sums[i].x, total.y + sums[i].y};
    const double mean = total.x / count, variance = fmax(total.y / count - mean * mean, 0.0);
    return {static_cast<float>(mean), static_cast<float>(sqrt(variance + variance_eps))};
}

/// Grid as above, without the style.
template <typename T, int N> __global__ void __launch_bounds__(threads) adain_kernel(ColorFixArgs args) {
    const int plane = static_cast<int>(blockIdx.y), planes = static_cast<int>(gridDim.y),
              shares = static_cast<int>(gridDim.x);
    __shared__ float2 of_content, of_style;
    if (threadIdx.x < 2) {
        const double2 *sums = reinterpret_cast<const double2 *>(args.scratch) +
                              (static_cast<int64_t>(threadIdx.x) * planes + plane) * shares;
        const float2 result = mean_and_deviation(sums, shares, static_cast<double>(args.height) * args.width);
        (threadIdx.x == 0 ? of_content : of_style) = result;
    }
    __syncthreads();
    const T *from = plane_of<T>(args.content, plane, args.frames);
    float *out = args.out + static_cast<int64_t>(plane) * args.height * args.width;
    for (int y = static_cast<int>(blockIdx.x); y < args.height; y += shares)
        for (int x = static_cast<int>(threadIdx.x) * N; x < args.width; x += threads * N) {
            float values[N];
            load<N>(from + y * args.content.row_stride + x, values);
#pragma unroll
            for (float &value : values) {
                value = (value - of_content.x) / of_content.y * of_style.y + of_style.x;
                value = fminf(fmaxf(value, -1.0F), 1.0F);
            }
            store<N>(out + static_cast<int64_t>(y) * args.width + x, values);
        }
}

/// The 3x3 binomial blur with holes, edges replicated, of at(y, x).
template <typename At>
__device__ float blur(const At &at, int y, int x, int dilation, int height, int width) {
    float sum = 0.0F;
#pragma unroll
    for (int i = -1; i <= 1; i++) {
        const int row = min(max(y + i * dilation, 0), height - 1);
#pragma unroll
        for (int j = -1; j <= 1; j++) {
            const int column = min(max(x + j * dilation, 0), width - 1);
            const float weight = (i == 0 ? 2.0F : 1.0F) * (j == 0 ? 2.0F : 1.0F) / 16.0F;
            sum += weight * at(row, column);
        }
    }
    return sum;
}

/// A level of the wavelet fix, which is linear: what is blurred is style less content, and the last level
/// adds the content. Grid: columns, rows, planes.
template <typename T, int level>
__global__ void wavelet_kernel(ColorFixArgs args, const float *from, float *to) {
    const int x = static_cast<int>(blockIdx.x) * threads + static_cast<int>(threadIdx.x),
              y = static_cast<int>(blockIdx.y), plane = static_cast<int>(blockIdx.z);
    if (x >= args.width)
        return;
    const T *content = plane_of<T>(args.content, plane, args.frames);
    const float *style = plane_of<float>(args.style, plane, args.frames);
    const int64_t first = static_cast<int64_t>(plane) * args.height * args.width;
    const auto difference = [&](int row, int column) {
        if (level == 0)
            return style[row * args.style.row_stride + column] -
                   widen(content[row * args.content.row_stride + column]);
        return from[first + static_cast<int64_t>(row) * args.width + column];
    };
    float value = blur(difference, y, x, 1 << level, args.height, args.width);
    if (level == blur_levels - 1) {
        value += widen(content[y * args.content.row_stride + x]);
        value = fminf(fmaxf(value, -1.0F), 1.0F);
    }
    to[first + static_cast<int64_t>(y) * args.width + x] = value;
}

} // namespace

cudaError_t adain(const ColorFixArgs &args, cudaStream_t stream) {
    const dim3 sums_grid(color_fix_shares, static_cast<unsigned>(args.planes()), 2),
        grid(color_fix_shares, static_cast<unsigned>(args.planes()));
    return with_type(args.element, [&](auto type) {
        using T = decltype(type);
        const auto run = [&](auto sums, auto fix) {
            sums<<<sums_grid, threads, 0, stream>>>(args);
            fix<<<grid, threads, 0, stream>>>(args);
            return cudaGetLastError();
        };
        return args.in_fours ? run(plane_sums_kernel<T, 4>, adain_kernel<T, 4>)
                             : run(plane_sums_kernel<T, 1>, adain_kernel<T, 1>);
    });
}

cudaError_t wavelet(const ColorFixArgs &args, cudaStream_t stream) {
    const dim3 grid(blocks_for(args.width, threads), static_cast<unsigned>(args.height),
                    static_cast<unsigned>(args.planes()));
    return with_type(args.element, [&](auto type) {
        using T = decltype(type);
        auto *scratch = static_cast<float *>(args.scratch);
        wavelet_kernel<T, 0><<<grid, threads, 0, stream>>>(args, nullptr, args.out);
        wavelet_kernel<T, 1><<<grid, threads, 0, stream>>>(args, args.out, scratch);
        wavelet_kernel<T, 2><<<grid, threads, 0, stream>>>(args, scratch, args.out);
        wavelet_kernel<T, 3><<<grid, threads, 0, stream>>>(args, args.out, scratch);
        wavelet_kernel<T, 4><<<grid, threads, 0, stream>>>(args, scratch, args.out);
        return cudaGetLastError();
    });
}

} // namespace flashvsr::cuda
