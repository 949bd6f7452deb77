// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/element.cuh"
#include "ops/cuda/kernels.h"
#include "ops/level_pixels.h"

namespace flashvsr::cuda {

namespace {

constexpr int threads = 256, per_thread = 4;

/// One thread four components: where they are all there, loaded and stored together.
template <typename Component>
__global__ void pixels_from_levels_kernel(const Component *levels, float *pixels, int64_t count, int white) {
    const int64_t first = (static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) * per_thread;
    if (first + per_thread <= count) {
        const auto stored = *reinterpret_cast<const Vector<Component, per_thread> *>(levels + first);
        Vector<float, per_thread> to;
#pragma unroll
        for (int i = 0; i < per_thread; i++)
            to.value[i] = levels::to_pixel(stored.value[i], white);
        *reinterpret_cast<Vector<float, per_thread> *>(pixels + first) = to;
    } else {
        for (int64_t i = first; i < count; i++)
            pixels[i] = levels::to_pixel(levels[i], white);
    }
}

template <typename Component>
__global__ void levels_from_pixels_kernel(const float *pixels, Component *levels, int64_t count, int white) {
    const int64_t first = (static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) * per_thread;
    if (first + per_thread <= count) {
        const auto from = *reinterpret_cast<const Vector<float, per_thread> *>(pixels + first);
        Vector<Component, per_thread> to;
#pragma unroll
        for (int i = 0; i < per_thread; i++)
            to.value[i] = levels::from_pixel<Component>(from.value[i], white);
        *reinterpret_cast<Vector<Component, per_thread> *>(levels + first) = to;
    } else {
        for (int64_t i = first; i < count; i++)
            levels[i] = levels::from_pixel<Component>(pixels[i], white);
    }
}

/// Call body(component, white) with a component of the depth's type and its largest level.
template <typename Body> cudaError_t with_component(int depth, const Body &body) {
    if (depth == 8)
        body(uint8_t{}, 255);
    else if (depth == 32)
        body(float{}, 1);
    else
        body(uint16_t{}, (1 << depth) - 1);
    return cudaGetLastError();
}

} // namespace

cudaError_t pixels_from_levels(const void *levels, int depth, float *pixels, int64_t count,
                               cudaStream_t stream) {
    return with_component(depth, [&](auto component, int white) {
        pixels_from_levels_kernel<<<blocks_for(count, threads * per_thread), threads, 0, stream>>>(
            static_cast<const decltype(component) *>(levels), pixels, count, white);
    });
}

cudaError_t levels_from_pixels(const float *pixels, void *levels, int depth, int64_t count,
                               cudaStream_t stream) {
    return with_component(depth, [&](auto component, int white) {
        levels_from_pixels_kernel<<<blocks_for(count, threads * per_thread), threads, 0, stream>>>(
            pixels, static_cast<decltype(component) *>(levels), count, white);
    });
}

} // namespace flashvsr::cuda
