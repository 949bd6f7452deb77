// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/element.cuh"
#include "ops/cuda/kernels.h"

#include <algorithm>

namespace flashvsr::cuda {

namespace {

constexpr int head_dim = 128;
// Of scores in a block's shared memory: GPUs of compute capability 8.6 have 99 KiB in all.
constexpr int draft_score_bytes = 72 << 10;
constexpr int draft_threads = 512; ///< at most

/// One block `Queries` query windows of a head. A thread sums a key's product with each query in order, so
/// that equal windows tie exactly; then a warp a query makes probabilities of its scores.
template <int Queries>
__global__ void __launch_bounds__(draft_threads)
    draft_probabilities_kernel(WindowBuffer query, WindowBuffer key, const bool *local, int local_windows,
                               float *out, int heads, int queries, int keys) {
    extern __shared__ double scores[]; // (Queries, keys)
    __shared__ double q[Queries][head_dim];
    const int tiles = (queries + Queries - 1) / Queries, tile = static_cast<int>(blockIdx.x) % tiles,
              head = static_cast<int>(blockIdx.x) / tiles % heads,
              b = static_cast<int>(blockIdx.x) / tiles / heads;
    const int first = tile * Queries, count = min(Queries, queries - first);
    const float *from =
        static_cast<const float *>(query.data) + b * query.batch_stride + head * query.head_stride;
    for (int i = static_cast<int>(threadIdx.x); i < Queries * head_dim; i += static_cast<int>(blockDim.x)) {
        const int window = first + min(i / head_dim, count - 1);
        q[i / head_dim][i % head_dim] = from[static_cast<int64_t>(window) * head_dim + i % head_dim];
    }
    __syncthreads();

    const float *k = static_cast<const float *>(key.data) + b * key.batch_stride + head * key.head_stride;
    const double scale = 1.0 / sqrt(static_cast<double>(head_dim));
    for (int j = static_cast<int>(threadIdx.x); j < keys; j += static_cast<int>(blockDim.x)) {
        const auto *values = reinterpret_cast<const float4 *>(k + static_cast<int64_t>(j) * head_dim);
        double sum[Queries] = {};
#pragma unroll 4
        for (int c = 0; c < head_dim; c += 4) {
            const float4 v = values[c / 4];
            const double wide[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int i = 0; i < Queries; i++)
#pragma unroll
                for (int d = 0; d < 4; d++)
                    sum[i] += q[i][c + d] * wide[d];
        }
#pragma unroll
        for (int i = 0; i < Queries; i++)
            scores[i * keys + j] = sum[i] * scale;
    }
    __syncthreads();

    const int lane = static_cast<int>(threadIdx.x) % 32, warps = static_cast<int>(blockDim.x) / 32;
    for (int i = static_cast<int>(threadIdx.x) / 32; i < count; i += warps) {
        const int window = first + i;
        const bool *seen = local + static_cast<int64_t>(window % local_windows) * local_windows;
        double *row = scores + static_cast<int64_t>(i) * keys;
        double greatest = -INFINITY, total = 0.0;
        for (int j = lane; j < keys; j += 32) {
            row[j] = seen[j % local_windows] ? row[j] : -INFINITY;
            greatest = fmax(greatest, row[j]);
        }
        greatest = warp_max(greatest);
        for (int j = lane; j < keys; j += 32) {
            row[j] = exp(row[j] - greatest);
            total += row[j];
        }
        total = warp_sum(total);
        float *to = out + ((static_cast<int64_t>(b) * heads + head) * queries + window) * keys;
        for (int j = lane; j < keys; j += 32)
            to[j] = static_cast<float>(row[j] / total);
    }
}

/// As much as the device has: the limit belongs to the kernel, and a thread that set what its own launch needs
/// would take it away from another's.
template <typename Kernel> cudaError_t allow_shared_memory(Kernel kernel) {
    int device = 0, most = 0;
    cudaFuncAttributes attributes{};
    if (const cudaError_t error = cudaGetDevice(&device))
        return error;
    if (const cudaError_t error =
            cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device))
        return error;
    if (const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel))
        return error;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                most - static_cast<int>(attributes.sharedSizeBytes));
}

template <int Queries>
cudaError_t launch_draft(const WindowBuffer &query, const WindowBuffer &key, const bool *local,
                         int local_windows, float *out, int batch, int heads, int queries, int keys,
                         cudaStream_t stream) {
    const int shared = Queries * keys * static_cast<int>(sizeof(double));
    if (const cudaError_t error = allow_shared_memory(draft_probabilities_kernel<Queries>))
        return error;
    // As many threads as divide the keys best: one round of them where that is possible.
    const int rounds = (keys + draft_threads - 1) / draft_threads,
              threads = ((keys + rounds - 1) / rounds + 31) / 32 * 32;
    const unsigned blocks = static_cast<unsigned>(batch * heads) * blocks_for(queries, Queries);
    draft_probabilities_kernel<Queries>
        <<<blocks, threads, shared, stream>>>(query, key, local, local_windows, out, heads, queries, keys);
    return cudaGetLastError();
}

constexpr int select_threads = 1024, digit_bits = 11, digits = 1 << digit_bits;
constexpr int select_loads = 8;            ///< values that a thread has under way at a time
constexpr int select_blocks_at_most = 128; ///< about as many as there are multiprocessors

/// The sum over threads before this one, in the block.
__device__ unsigned exclusive_sum(unsigned v) {
    __shared__ unsigned warp_totals[select_threads / 32];
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const auto scan = [lane](unsigned inclusive) {
        for (int offset = 1; offset < 32; offset *= 2) {
            const unsigned other = __shfl_up_sync(0xFFFFFFFFU, inclusive, offset);
            inclusive += lane >= offset ? other : 0;
        }
        return inclusive;
    };
    const unsigned inclusive = scan(v);
    if (lane == 31)
        warp_totals[warp] = inclusive;
    __syncthreads();
    const unsigned totals = scan(warp_totals[lane]);
    const unsigned before = __shfl_sync(0xFFFFFFFFU, totals, max(warp - 1, 0));
    return (warp > 0 ? before : 0) + inclusive - v;
}

/// The value of a given rank, from 0 for the greatest, of values above 0; 0 where there are not so many.
/// Three passes over the values' bits, which are ordered as the values are.
__device__ float value_of_rank(const float *__restrict__ values, int count, unsigned rank) {
    __shared__ unsigned histogram[digits];
    __shared__ unsigned found[2]; // digit, how many are above it
    const int thread = static_cast<int>(threadIdx.x);
    unsigned prefix = 0;
    for (int shift = 32 - 1 - digit_bits; shift > -digit_bits; shift -= digit_bits) {
        const int low = shift > 0 ? shift : 0;
        const unsigned above = shift + digit_bits;
        for (int i = thread; i < digits; i += select_threads)
            histogram[i] = 0;
        if (thread == 0)
            found[0] = digits;
        __syncthreads();
        for (int base = thread; base < count; base += select_loads * select_threads) {
            unsigned bits[select_loads];
#pragma unroll
            for (int i = 0; i < select_loads; i++) {
                const int place = base + i * select_threads;
                bits[i] = place < count ? __float_as_uint(values[place]) : 0;
            }
#pragma unroll
            for (int i = 0; i < select_loads; i++)
                if (bits[i] != 0 && bits[i] >> above == prefix >> above)
                    atomicAdd(&histogram[(bits[i] >> low) & ((1U << (above - low)) - 1)], 1U);
        }
        __syncthreads();
        // Each thread has two digits, the first threads the greatest.
        const int digit = digits - 1 - 2 * thread;
        const unsigned upper = histogram[digit], lower = histogram[digit - 1];
        const unsigned before = exclusive_sum(upper + lower);
        if (rank >= before && rank - before < upper + lower) {
            const bool in_lower = rank - before >= upper;
            found[0] = digit - in_lower;
            found[1] = before + (in_lower ? upper : 0);
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

/// Some blocks a list, which is a (head, temporal group): each finds the list's threshold for itself and
/// lists its share of the rows, one warp a row.
__global__ void __launch_bounds__(select_threads)
    select_blocks_kernel(const float *__restrict__ probabilities, unsigned rank, int32_t *counts,
                         int32_t *indices, int group_windows, int keys) {
    const int64_t first_row = static_cast<int64_t>(blockIdx.y) * group_windows;
    const float threshold = value_of_rank(probabilities + first_row * keys, group_windows * keys, rank);
    const int lane = static_cast<int>(threadIdx.x) % 32;
    for (int row = static_cast<int>(blockIdx.x * select_threads + threadIdx.x) / 32; row < group_windows;
         row += static_cast<int>(gridDim.x) * select_threads / 32) {
        const float *values = probabilities + (first_row + row) * keys;
        int32_t *list = indices + (first_row + row) * keys;
        int listed = 0;
#pragma unroll 4
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
    // As many queries in a block as there is room for their scores: each key that is read serves them all.
    const int room = draft_score_bytes / static_cast<int>(sizeof(double)) / keys;
    const auto launch = room >= 6 ? launch_draft<6> : room >= 2 ? launch_draft<2> : launch_draft<1>;
    return launch(query, key, local, local_windows, out, batch, heads, queries, keys, stream);
}

cudaError_t select_blocks(const float *probabilities, int64_t rank, int32_t *counts, int32_t *indices,
                          int lists, int group_windows, int keys, cudaStream_t stream) {
    const int useful = (group_windows * 32 + select_threads - 1) / select_threads,
              blocks = std::max(1, std::min(useful, select_blocks_at_most / lists));
    const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(lists));
    select_blocks_kernel<<<grid, select_threads, 0, stream>>>(probabilities, static_cast<unsigned>(rank),
                                                              counts, indices, group_windows, keys);
    return cudaGetLastError();
}

} // namespace flashvsr::cuda
