// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/element.cuh"
#include "ops/cuda/kernels.h"

namespace flashvsr::cuda {

namespace {

constexpr int head_dim = 128, draft_warps = 4;

/// One block a query window. Every product is summed in the same order, so that equal windows tie exactly.
__global__ void draft_probabilities_kernel(WindowBuffer query, WindowBuffer key, const bool *local,
                                           int local_windows, float *out, int heads, int queries, int keys) {
    extern __shared__ double scores[];
    __shared__ double partial[draft_warps];
    const int row = static_cast<int>(blockIdx.x), window = row % queries, head = row / queries % heads,
              b = row / queries / heads;
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const float *q = static_cast<const float *>(query.data) + b * query.batch_stride +
                     head * query.head_stride + static_cast<int64_t>(window) * head_dim;
    const float *k = static_cast<const float *>(key.data) + b * key.batch_stride + head * key.head_stride;
    const bool *seen = local + static_cast<int64_t>(window % local_windows) * local_windows;
    const double scale = rsqrt(static_cast<double>(head_dim));

    const float4 mine = reinterpret_cast<const float4 *>(q)[lane];
    double greatest = -INFINITY;
    for (int j = warp; j < keys; j += draft_warps) {
        const float4 other = reinterpret_cast<const float4 *>(k + static_cast<int64_t>(j) * head_dim)[lane];
        double sum = static_cast<double>(mine.x) * other.x;
        sum += static_cast<double>(mine.y) * other.y;
        sum += static_cast<double>(mine.z) * other.z;
        sum += static_cast<double>(mine.w) * other.w;
        sum = seen[j % local_windows] ? warp_sum(sum) * scale : -INFINITY;
        greatest = fmax(greatest, sum);
        if (lane == 0)
            scores[j] = sum;
    }
    if (lane == 0)
        partial[warp] = greatest;
    __syncthreads();
    for (const double other : partial)
        greatest = fmax(greatest, other);
    __syncthreads();

    double total = 0.0;
    for (int j = static_cast<int>(threadIdx.x); j < keys; j += draft_warps * 32) {
        scores[j] = exp(scores[j] - greatest);
        total += scores[j];
    }
    total = warp_sum(total);
    if (lane == 0)
        partial[warp] = total;
    __syncthreads();
    total = 0.0;
    for (const double other : partial)
        total += other;
    for (int j = static_cast<int>(threadIdx.x); j < keys; j += draft_warps * 32)
        out[static_cast<int64_t>(row) * keys + j] = static_cast<float>(scores[j] / total);
}

constexpr int select_threads = 1024, digit_bits = 11, digits = 1 << digit_bits;

/// The value of a given rank, from 0 for the greatest, of values above 0; 0 where there are not so many.
/// Three passes over the values' bits, which are ordered as the values are.
__device__ float value_of_rank(const float *values, int count, int64_t rank) {
    __shared__ unsigned histogram[digits];
    __shared__ unsigned found[2]; // digit, how many are above it
    unsigned prefix = 0;
    for (int shift = 32 - 1 - digit_bits; shift > -digit_bits; shift -= digit_bits) {
        const int low = shift > 0 ? shift : 0;
        const unsigned above = shift + digit_bits;
        for (int i = static_cast<int>(threadIdx.x); i < digits; i += select_threads)
            histogram[i] = 0;
        if (threadIdx.x == 0)
            found[0] = digits;
        __syncthreads();
        for (int i = static_cast<int>(threadIdx.x); i < count; i += select_threads) {
            const unsigned bits = __float_as_uint(values[i]);
            if (bits != 0 && bits >> above == prefix >> above)
                atomicAdd(&histogram[(bits >> low) & ((1U << (above - low)) - 1)], 1U);
        }
        __syncthreads();
        // One warp walks from the greatest digit down.
        if (threadIdx.x < 32) {
            unsigned before = 0;
            for (int base = digits - 32; base >= 0; base -= 32) {
                const unsigned mine = histogram[base + 31 - threadIdx.x];
                unsigned inclusive = mine;
                for (int offset = 1; offset < 32; offset *= 2) {
                    const unsigned other = __shfl_up_sync(0xFFFFFFFFU, inclusive, offset);
                    inclusive += static_cast<int>(threadIdx.x) >= offset ? other : 0;
                }
                inclusive += before;
                if (rank < inclusive && rank >= inclusive - mine) {
                    found[0] = base + 31 - threadIdx.x;
                    found[1] = inclusive - mine;
                }
                before = __shfl_sync(0xFFFFFFFFU, inclusive, 31);
                if (rank < before)
                    break;
            }
        }
        __syncthreads();
        if (found[0] == digits)
            return 0.0F;
        prefix |= found[0] << low;
        rank -= found[1];
        __syncthreads();
    }
    return __uint_as_float(prefix);
}

/// One block a list: a (head, temporal group).
__global__ void __launch_bounds__(select_threads)
    select_blocks_kernel(const float *probabilities, int64_t rank, int32_t *counts, int32_t *indices,
                         int group_windows, int keys) {
    const int64_t first_row = static_cast<int64_t>(blockIdx.x) * group_windows;
    const float threshold = value_of_rank(probabilities + first_row * keys, group_windows * keys, rank);
    const int lane = static_cast<int>(threadIdx.x) % 32;
    for (int row = static_cast<int>(threadIdx.x) / 32; row < group_windows; row += select_threads / 32) {
        const float *values = probabilities + (first_row + row) * keys;
        int32_t *list = indices + (first_row + row) * keys;
        int listed = 0;
        for (int base = 0; base < keys; base += 32) {
            const bool kept = base + lane < keys && values[base + lane] > threshold;
            const unsigned mask = __ballot_sync(0xFFFFFFFFU, kept);
            if (kept)
                list[listed + __popc(mask & ((1U << lane) - 1))] = base + lane;
            listed += __popc(mask);
        }
        for (int i = listed + lane; i < keys; i += 32)
            list[i] = -1;
        if (lane == 0)
            counts[first_row + row] = listed;
    }
}

} // namespace

cudaError_t draft_probabilities(const WindowBuffer &query, const WindowBuffer &key, const bool *local,
                                int local_windows, float *out, int batch, int heads, int queries, int keys,
                                cudaStream_t stream) {
    const size_t shared = static_cast<size_t>(keys) * sizeof(double);
    if (const cudaError_t error =
            cudaFuncSetAttribute(draft_probabilities_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared)))
        return error;
    draft_probabilities_kernel<<<static_cast<unsigned>(batch * heads * queries), draft_warps * 32, shared,
                                 stream>>>(query, key, local, local_windows, out, heads, queries, keys);
    return cudaGetLastError();
}

cudaError_t select_blocks(const float *probabilities, int64_t rank, int32_t *counts, int32_t *indices,
                          int lists, int group_windows, int keys, cudaStream_t stream) {
    select_blocks_kernel<<<static_cast<unsigned>(lists), select_threads, 0, stream>>>(
        probabilities, rank, counts, indices, group_windows, keys);
    return cudaGetLastError();
}

} // namespace flashvsr::cuda
