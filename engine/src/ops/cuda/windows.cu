// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/element.cuh"
#include "ops/cuda/kernels.h"

namespace flashvsr::cuda {

namespace {

constexpr float norm_eps = 1e-6F;
constexpr int head_dim = 128, window_side = 8, window_frames = 2, window_tokens = 128;
constexpr int time_pairs = 22, space_pairs = 21;
constexpr int per_thread = 8; ///< channels of each of q, k and v

/// Two sums over the block, in every thread.
__device__ float2 block_sum(float2 v) {
    __shared__ float2 partial[32];
    v = {warp_sum(v.x), warp_sum(v.y)};
    const unsigned warps = (blockDim.x + 31) / 32;
    if (threadIdx.x % 32 == 0)
        partial[threadIdx.x / 32] = v;
    __syncthreads();
    v = {0.0F, 0.0F};
    for (unsigned i = 0; i < warps; i++) {
        v.x += partial[i].x;
        v.y += partial[i].y;
    }
    return v;
}

__device__ float sum_of_squares(const float (&x)[per_thread]) {
    float sum = 0.0F;
#pragma unroll
    for (const float v : x)
        sum += v * v;
    return sum;
}

/// One block a token, one thread for eight channels.
template <typename T> __global__ void qkv_to_windows_kernel(QkvArgs args) {
    const int tokens = args.frames * args.height * args.width, dim = args.heads * head_dim;
    const int b = static_cast<int>(blockIdx.x) / tokens, index = static_cast<int>(blockIdx.x) % tokens;
    const int t = index / (args.height * args.width), y = index / args.width % args.height,
              x = index % args.width;
    const int window =
        (t / window_frames * (args.height / window_side) + y / window_side) * (args.width / window_side) +
        x / window_side;
    const int place = (t % window_frames * window_side + y % window_side) * window_side + x % window_side;
    const int channel = static_cast<int>(threadIdx.x) * per_thread, in_head = channel % head_dim;
    const bool active = channel < dim;

    float q[per_thread] = {}, k[per_thread] = {};
    Vector<T, per_thread> v{};
    const T *row = static_cast<const T *>(args.qkv) + static_cast<int64_t>(blockIdx.x) * 3 * dim + channel;
    if (active) {
        load<per_thread>(row, q);
        load<per_thread>(row + dim, k);
        v = *reinterpret_cast<const Vector<T, per_thread> *>(row + 2 * dim);
    }
    const float2 squares = block_sum({sum_of_squares(q), sum_of_squares(k)});
    if (!active)
        return;
    const float q_scale = rsqrtf(squares.x / static_cast<float>(dim) + norm_eps),
                k_scale = rsqrtf(squares.y / static_cast<float>(dim) + norm_eps);

    float q_gain[per_thread], k_gain[per_thread];
    load<per_thread>(args.query_gain + channel, q_gain);
    load<per_thread>(args.key_gain + channel, k_gain);
#pragma unroll
    for (int i = 0; i < per_thread; i += 2) {
        const int pair = (in_head + i) / 2;
        const float *angle = pair < time_pairs ? args.time + (t * time_pairs + pair) * 2
                             : pair < time_pairs + space_pairs
                                 ? args.y_axis + (y * space_pairs + pair - time_pairs) * 2
                                 : args.x_axis + (x * space_pairs + pair - time_pairs - space_pairs) * 2;
        const float cosine = angle[0], sine = angle[1];
        const auto rotate = [&](float(&z)[per_thread], const float(&gain)[per_thread], float scale) {
            const float re = z[i] * scale * gain[i], im = z[i + 1] * scale * gain[i + 1];
            z[i] = re * cosine - im * sine;
            z[i + 1] = re * sine + im * cosine;
        };
        rotate(q, q_gain, q_scale);
        rotate(k, k_gain, k_scale);
    }
    const auto to = [&](const WindowBuffer &buffer) {
        return static_cast<T *>(buffer.data) + b * buffer.batch_stride +
               channel / head_dim * buffer.head_stride +
               (static_cast<int64_t>(window) * window_tokens + place) * head_dim + in_head;
    };
    store<per_thread>(to(args.query), q);
    store<per_thread>(to(args.key), k);
    *reinterpret_cast<Vector<T, per_thread> *>(to(args.value)) = v;
}

constexpr int pool_lanes = head_dim / per_thread, pool_rows = 16;

/// One block a window: 16 rows of 16 threads for eight channels each.
template <typename T>
__global__ void pool_windows_kernel(WindowBuffer windows, WindowBuffer pooled, int heads, int count) {
    const int window = static_cast<int>(blockIdx.x) % count,
              head = static_cast<int>(blockIdx.x) / count % heads,
              b = static_cast<int>(blockIdx.x) / count / heads;
    const int lane = static_cast<int>(threadIdx.x) % pool_lanes,
              first = static_cast<int>(threadIdx.x) / pool_lanes;
    const T *from = static_cast<const T *>(windows.data) + b * windows.batch_stride +
                    head * windows.head_stride + static_cast<int64_t>(window) * window_tokens * head_dim +
                    lane * per_thread;
    float sum[per_thread] = {};
    for (int row = first; row < window_tokens; row += pool_rows) {
        float values[per_thread];
        load<per_thread>(from + row * head_dim, values);
#pragma unroll
        for (int i = 0; i < per_thread; i++)
            sum[i] += values[i];
    }
    __shared__ float partial[pool_rows][head_dim];
#pragma unroll
    for (int i = 0; i < per_thread; i++)
        partial[first][lane * per_thread + i] = sum[i];
    __syncthreads();
    if (threadIdx.x >= head_dim)
        return;
    float total = 0.0F;
    for (int row = 0; row < pool_rows; row++)
        total += partial[row][threadIdx.x];
    static_cast<float *>(pooled.data)[b * pooled.batch_stride + head * pooled.head_stride +
                                      static_cast<int64_t>(window) * head_dim + threadIdx.x] =
        total / window_tokens;
}

} // namespace

cudaError_t qkv_to_windows(const QkvArgs &args, cudaStream_t stream) {
    const auto threads = static_cast<unsigned>(args.heads * head_dim / per_thread);
    if (threads > 1024)
        return cudaErrorInvalidValue;
    const auto tokens = static_cast<unsigned>(args.batch * args.frames * args.height * args.width);
    return with_type(args.element, [&](auto type) {
        qkv_to_windows_kernel<decltype(type)><<<tokens, (threads + 31) / 32 * 32, 0, stream>>>(args);
        return cudaGetLastError();
    });
}

cudaError_t pool_windows(Element element, const WindowBuffer &windows, const WindowBuffer &pooled, int batch,
                         int heads, int count, cudaStream_t stream) {
    return with_type(element, [&](auto type) {
        pool_windows_kernel<decltype(type)>
            <<<static_cast<unsigned>(batch * heads * count), pool_rows * pool_lanes, 0, stream>>>(
                windows, pooled, heads, count);
        return cudaGetLastError();
    });
}

} // namespace flashvsr::cuda
