// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/cuda/attention_launch.h"
#include "ops/cuda/element.cuh"

#include <cmath>

namespace flashvsr::cuda {

constexpr int window_tokens = 128, head_dim = 128, window_elements = window_tokens * head_dim;

/// log2(e) / sqrt(head_dim): softmax weights as powers of two of the raw products.
constexpr float softmax_exponent_scale = 0.08838834764831845F * 1.4426950408889634F;

/// What a kernel is told by AttentionArgs.
enum class Attention {
    sparse, ///< as they say
    /// CrossAttentionArgs: a window is 128 tokens in a row, q is as `out`, k and v are the same for the whole
    /// batch, heads one behind the other, and every window has all keys, key_head_stride/128, without counts,
    /// indices and counters. The last key window may be short.
    cross,
};

/// One (batch, head, query window).
template <Attention kind> struct QueryRow {
    int batch, head, window;

    __device__ QueryRow(const AttentionArgs &args, int row)
        : batch(row / (args.query_windows * args.heads)), head(row / args.query_windows % args.heads),
          window(row % args.query_windows) {}

    /// Of those that have keys of their own.
    __device__ int key_head(const AttentionArgs &args) const {
        return kind == Attention::cross ? head : batch * args.heads + head;
    }

    /// Elements before the key window 0 of this row's head.
    __device__ int64_t key_offset(const AttentionArgs &args) const {
        return key_head(args) * args.key_head_stride;
    }

    /// Elements before the head's 128 channels of token `i` of the window, in `out`.
    __device__ int64_t out_offset(const AttentionArgs &args, int i) const {
        int64_t token = window * window_tokens + i;
        if constexpr (kind == Attention::sparse) {
            const int group_windows = args.block_rows * args.block_cols;
            const int group = window / group_windows, by = window / args.block_cols % args.block_rows,
                      bx = window % args.block_cols;
            const int t = 2 * group + i / 64, y = 8 * by + i / 8 % 8, x = 8 * bx + i % 8;
            token = (int64_t(t) * 8 * args.block_rows + y) * 8 * args.block_cols + x;
        }
        const int64_t tokens = int64_t(args.query_windows) * window_tokens;
        return ((batch * tokens + token) * args.heads + head) * head_dim;
    }
};

/// Tokens of the last key window.
__host__ __device__ inline int last_window_keys(const AttentionArgs &args) {
    return int(args.key_head_stride / head_dim) - (args.key_windows - 1) * window_tokens;
}

/// Leave out what a thread has of the scores of keys from `keys` on, of an accumulator of n/2 keys as
/// OnlineSoftmax's.
template <int n> __device__ inline void mask_scores(float (&s)[n], int keys) {
#pragma unroll
    for (int i = 0; i < n; i++)
        if (i / 4 * 8 + int(threadIdx.x) % 4 * 2 + i % 2 >= keys)
            s[i] = -INFINITY;
}

/// 2^x, 2 ulp; 0 for -infinity.
__device__ inline float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/// Reduce over the four lanes that share a row of an accumulator.
template <class Operation> __device__ inline float quad_reduce(float x, Operation operation) {
    x = operation(x, __shfl_xor_sync(~0U, x, 1));
    return operation(x, __shfl_xor_sync(~0U, x, 2));
}

/// Lane t of a quad gives v[k] to lane k and gets v[t] of every lane.
__device__ inline void quad_transpose(uint32_t (&v)[4], int t) {
    const bool odd = t & 1, high = t & 2;
#pragma unroll
    for (int k = 0; k < 4; k += 2) {
        const uint32_t got = __shfl_xor_sync(~0U, odd ? v[k] : v[k + 1], 1);
        v[k] = odd ? got : v[k];
        v[k + 1] = odd ? v[k + 1] : got;
    }
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const uint32_t got = __shfl_xor_sync(~0U, high ? v[k] : v[k + 2], 2);
        v[k] = high ? got : v[k];
        v[k + 2] = high ? v[k + 2] : got;
    }
}

/// The running softmax of two rows, g and g + 8 of a 16-row tensor-core accumulator, g = lane / 4. Element 4c
/// + 2r + e of a thread is column 8c + 2(lane % 4) + e of its row r.
struct OnlineSoftmax {
    float greatest[2] = {-INFINITY, -INFINITY}; ///< what the weights are relative to, in raw products
    float total[2] = {};                        ///< of this thread's columns

    /// Turns raw products into weights and adds them to the totals. The maximum moves only when a row has
    /// grown by more than a factor of 2^8, which fp32 sums and 16-bit weights bear, so it seldom does.
    /// @return whether what was summed with earlier weights must be multiplied by keep[row]; alike in a warp
    template <int n> __device__ bool update(float (&s)[n], float (&keep)[2]) {
        constexpr float most_growth = 8 / softmax_exponent_scale;
        bool grown = false;
        float now[2];
        for (int r = 0; r < 2; r++) {
            now[r] = s[2 * r];
            for (int c = 0; c < n; c += 4)
                now[r] = fmaxf(now[r], fmaxf(s[c + 2 * r], s[c + 2 * r + 1]));
            now[r] = quad_reduce(now[r], fmaxf);
            grown |= now[r] - greatest[r] > most_growth;
        }
        grown = __any_sync(~0U, grown);
        if (grown) {
            for (int r = 0; r < 2; r++) {
                const float next = fmaxf(greatest[r], now[r]);
                keep[r] = exp2_fast((greatest[r] - next) * softmax_exponent_scale);
                total[r] *= keep[r];
                greatest[r] = next;
            }
        }
        const float shift[2] = {greatest[0] * softmax_exponent_scale, greatest[1] * softmax_exponent_scale};
        for (int i = 0; i < n; i++) {
            s[i] = exp2_fast(fmaf(s[i], softmax_exponent_scale, -shift[i / 2 % 2]));
            total[i / 2 % 2] += s[i];
        }
        return grown;
    }

    /// What to multiply the sums of row r by in the end; 0 for a row that saw no key.
    __device__ float normaliser(int r) const {
        const float sum = quad_reduce(total[r], [](float a, float b) { return a + b; });
        return sum > 0 ? 1 / sum : 0;
    }
};

/// Write the 16 x 128 accumulator of a warp, rows normalised, to tokens first_token .. first_token + 15 of a
/// window.
template <class T, Attention kind>
__device__ inline void store_rows(const AttentionArgs &args, const QueryRow<kind> &row, int first_token,
                                  const float (&o)[64], const OnlineSoftmax &softmax) {
    const int lane = threadIdx.x % 32, t = lane % 4;
    for (int r = 0; r < 2; r++) {
        const float scale = softmax.normaliser(r);
        T *out = static_cast<T *>(args.out) + row.out_offset(args, first_token + lane / 4 + 8 * r);
        for (int c = 0; c < 16; c += 4) {
            uint32_t packed[4];
            for (int k = 0; k < 4; k++) {
                const int i = 4 * (c + k) + 2 * r;
                packed[k] = pack<T>(o[i] * scale, o[i + 1] * scale);
            }
            quad_transpose(packed, t);
            *reinterpret_cast<uint4 *>(out + 8 * (c + t)) =
                make_uint4(packed[0], packed[1], packed[2], packed[3]);
        }
    }
}

cudaError_t attention_f32(const AttentionArgs &args, cudaStream_t stream);
cudaError_t attention_portable(const AttentionArgs &args, Attention kind, cudaStream_t stream);
cudaError_t attention_hopper(const AttentionArgs &args, Attention kind, cudaStream_t stream);

} // namespace flashvsr::cuda
