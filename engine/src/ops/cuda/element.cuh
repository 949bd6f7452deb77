// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/cuda/attention_launch.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>
#include <type_traits>

namespace flashvsr::cuda {

/// Call body(T{}) with the element's type.
template <typename Body> auto with_type(Element element, const Body &body) {
    switch (element) {
    case Element::f16:
        return body(__half{});
    case Element::bf16:
        return body(__nv_bfloat16{});
    default:
        return body(float{});
    }
}

__device__ inline float widen(float v) {
    return v;
}
__device__ inline float widen(__half v) {
    return __half2float(v);
}
__device__ inline float widen(__nv_bfloat16 v) {
    return __bfloat162float(v);
}
template <typename T> __device__ T narrow(float v);
template <> __device__ inline float narrow<float>(float v) {
    return v;
}
template <> __device__ inline __half narrow<__half>(float v) {
    return __float2half_rn(v);
}
template <> __device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float v) {
    return __float2bfloat16_rn(v);
}
template <> __device__ inline __nv_fp8_e4m3 narrow<__nv_fp8_e4m3>(float v) {
    return __nv_fp8_e4m3(v); // saturates
}

/// N elements that are loaded and stored together.
template <typename T, int N> struct alignas(sizeof(T) * N > 16 ? 16 : sizeof(T) * N) Vector { T value[N]; };

template <int N, typename T> __device__ void load(const T *from, float (&to)[N]) {
    const auto vector = *reinterpret_cast<const Vector<T, N> *>(from);
#pragma unroll
    for (int i = 0; i < N; i++)
        to[i] = widen(vector.value[i]);
}

template <int N, typename T> __device__ void store(T *to, const float (&from)[N]) {
    Vector<T, N> vector;
#pragma unroll
    for (int i = 0; i < N; i++)
        vector.value[i] = narrow<T>(from[i]);
    *reinterpret_cast<Vector<T, N> *>(to) = vector;
}

/// The sum over a warp, in every lane.
template <typename T> __device__ T warp_sum(T v) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        v += __shfl_xor_sync(0xFFFFFFFFU, v, offset);
    return v;
}

/// The greatest over a warp, in every lane.
__device__ inline double warp_max(double v) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        v = fmax(v, __shfl_xor_sync(0xFFFFFFFFU, v, offset));
    return v;
}

__device__ inline float warp_max(float v) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        v = fmaxf(v, __shfl_xor_sync(0xFFFFFFFFU, v, offset));
    return v;
}

/// What brings a row's greatest magnitude to the greatest of e4m3, and what undoes that.
struct RowScale {
    static constexpr float greatest_e4m3 = 448.0F;
    float factor, scale;

    __device__ explicit RowScale(float greatest)
        : factor(greatest > 0.0F ? greatest_e4m3 / greatest : 0.0F), scale(greatest / greatest_e4m3) {}
};

/// Two fp32 values as one register of two 16-bit values, the first in the low half.
template <class T> __device__ inline uint32_t pack(float low, float high) {
    uint32_t packed;
    if constexpr (std::is_same_v<T, __nv_bfloat16>)
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    else
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

template <class T> __device__ inline float2 unpack(uint32_t packed) {
    if constexpr (std::is_same_v<T, __nv_bfloat16>)
        return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162 &>(packed));
    else
        return __half22float2(reinterpret_cast<const __half2 &>(packed));
}

/// The four 8x8 matrices at the rows that the lanes point to, one register each.
__device__ inline void load_matrices(uint32_t (&r)[4], uint32_t row_address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row_address));
}

inline unsigned blocks_for(int64_t count, int64_t per_block) {
    return static_cast<unsigned>((count + per_block - 1) / per_block);
}

} // namespace flashvsr::cuda
