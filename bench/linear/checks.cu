// SPDX-License-Identifier: LGPL-2.1-or-later
#include "checks.h"

namespace linear_bench {

namespace {

__device__ uint32_t mix(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x7FEB352DU;
    x = (x ^ (x >> 15)) * 0x846CA68BU;
    return x ^ (x >> 16);
}

__device__ float normal(size_t i, uint32_t seed) {
    const uint32_t a = mix(uint32_t(i) ^ mix(seed + uint32_t(i >> 32))), b = mix(a + 0x9E3779B9U);
    return sqrtf(-2 * logf((a + 1.0F) / 4294967808.0F)) * cospif(b / 2147483648.0F);
}

template <class T> __global__ void fill_normal(T *values, size_t count, uint32_t seed, float scale) {
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < count;
         i += size_t(gridDim.x) * blockDim.x)
        values[i] = T(scale * normal(i, seed));
}

__global__ void fill_scales(float *values, size_t count, uint32_t seed, float scale) {
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < count;
         i += size_t(gridDim.x) * blockDim.x)
        values[i] = scale * (0.5F + float(mix(uint32_t(i) ^ mix(seed)) >> 8) / 16777216.0F);
}

__device__ float gelu_exactly(float x) {
    return 0.5F * x * (1 + tanhf(0.7978845608028654F * (x + 0.044715F * x * x * x)));
}

/// 64 x 64 results a block of 256 threads, summed in fp32 one after the other.
template <class T>
__global__ void compute_reference(const T *x, const T *w, const bf16 *bias, const bf16 *sum,
                                  const float *x_scales, const float *w_scales, float *y, int m, int n, int k,
                                  LinearEpilogue epilogue) {
    constexpr int side = 64, step = 16;
    __shared__ float xs[step][side + 1], ws[step][side + 1];
    const int row0 = blockIdx.y * side, col0 = blockIdx.x * side, tx = threadIdx.x % 16,
              ty = threadIdx.x / 16;
    float sums[4][4] = {};
    for (int k0 = 0; k0 < k; k0 += step) {
        for (int i = threadIdx.x; i < side * step; i += blockDim.x) {
            const int r = i / step, c = i % step;
            xs[c][r] = row0 + r < m && k0 + c < k ? float(x[size_t(row0 + r) * k + k0 + c]) : 0;
            ws[c][r] = col0 + r < n && k0 + c < k ? float(w[size_t(col0 + r) * k + k0 + c]) : 0;
        }
        __syncthreads();
        for (int c = 0; c < step; ++c)
            for (int i = 0; i < 4; ++i)
                for (int j = 0; j < 4; ++j)
                    sums[i][j] = fmaf(xs[c][ty + 16 * i], ws[c][tx + 16 * j], sums[i][j]);
        __syncthreads();
    }
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) {
            const int row = row0 + ty + 16 * i, col = col0 + tx + 16 * j;
            if (row >= m || col >= n)
                continue;
            const size_t at = size_t(row) * n + col;
            float value = sums[i][j];
            if (x_scales)
                value *= x_scales[row] * w_scales[col];
            value += float(bias[col]);
            if (epilogue == LinearEpilogue::gelu)
                value = gelu_exactly(value);
            if (epilogue == LinearEpilogue::add)
                value += float(sum[at]);
            y[at] = value;
        }
}

/// Rows from m on must be as they were: all bits set, or the sum.
__global__ void compare(const bf16 *y, const float *reference, const bf16 *sum, int m, int rows, int n,
                        Difference *result) {
    double error_squares = 0, reference_squares = 0;
    unsigned long long not_finite = 0, written = 0;
    float largest = 0, beyond = 0;
    const size_t inside = size_t(m) * n, all = size_t(rows) * n;
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < all;
         i += size_t(gridDim.x) * blockDim.x) {
        if (i >= inside) {
            const unsigned short was = sum ? __bfloat16_as_ushort(sum[i]) : 0xFFFF;
            written += __bfloat16_as_ushort(y[i]) != was;
            continue;
        }
        const float value = float(y[i]), wanted = reference[i], error = fabsf(value - wanted);
        if (!isfinite(value)) {
            ++not_finite;
            continue;
        }
        error_squares += double(error) * error;
        reference_squares += double(wanted) * wanted;
        largest = fmaxf(largest, error);
        beyond = fmaxf(beyond, error - fabsf(wanted) * 0.0039064F);
    }
    for (int lane = 16; lane; lane /= 2) {
        error_squares += __shfl_xor_sync(~0U, error_squares, lane);
        reference_squares += __shfl_xor_sync(~0U, reference_squares, lane);
        not_finite += __shfl_xor_sync(~0U, not_finite, lane);
        written += __shfl_xor_sync(~0U, written, lane);
        largest = fmaxf(largest, __shfl_xor_sync(~0U, largest, lane));
        beyond = fmaxf(beyond, __shfl_xor_sync(~0U, beyond, lane));
    }
    if (threadIdx.x % 32 == 0) {
        atomicAdd(&result->error_squares, error_squares);
        atomicAdd(&result->reference_squares, reference_squares);
        atomicAdd(&result->not_finite, not_finite);
        atomicAdd(&result->written_outside, written);
        atomicMax(&result->largest_bits, __float_as_uint(largest));
        atomicMax(&result->beyond_bits, __float_as_uint(beyond));
    }
}

template <class T> void queue_reference(const LinearArgs &args, const bf16 *sum, float *reference) {
    const dim3 grid((args.out + 63) / 64, (args.rows + 63) / 64);
    compute_reference<<<grid, 256>>>(static_cast<const T *>(args.x), static_cast<const T *>(args.weight),
                                     static_cast<const bf16 *>(args.bias), sum, args.x_scales,
                                     args.weight_scales, reference, args.rows, args.out, args.in,
                                     args.epilogue);
}

} // namespace

void queue_normal(bf16 *values, size_t count, uint32_t seed, float scale) {
    fill_normal<<<1056, 256>>>(values, count, seed, scale);
}

void queue_normal(e4m3 *values, size_t count, uint32_t seed, float scale) {
    fill_normal<<<1056, 256>>>(values, count, seed, scale);
}

void queue_scales(float *values, size_t count, uint32_t seed, float scale) {
    fill_scales<<<64, 256>>>(values, count, seed, scale);
}

void queue_reference(const LinearArgs &args, const bf16 *sum, float *reference) {
    if (args.element == LinearElement::bf16)
        queue_reference<bf16>(args, sum, reference);
    else
        queue_reference<e4m3>(args, sum, reference);
}

void queue_comparison(const bf16 *y, const float *reference, const bf16 *sum, int m, int rows, int n,
                      Difference *result) {
    compare<<<528, 256>>>(y, reference, sum, m, rows, n, result);
}

} // namespace linear_bench
