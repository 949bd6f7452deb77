// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cuda_runtime_api.h>

namespace flashvsr::cuda {

/// Of both factors.
enum class LinearElement { bf16, e4m3 };

/// What becomes of a product.
enum class LinearEpilogue {
    bias, ///< y = x W^T + bias
    gelu, ///< y = GELU(x W^T + bias), in its tanh form
    add,  ///< y += x W^T + bias
};

/// All pointers are device memory, 16-byte aligned, and must live until the stream has passed the call.
struct LinearArgs {
    LinearElement element;
    LinearEpilogue epilogue;
    int rows, in, out;
    const void *x;              ///< (rows, in)
    const void *weight;         ///< (out, in)
    const float *x_scales;      ///< (rows), which the rows of e4m3 are multiplied by; else null
    const float *weight_scales; ///< (out), likewise
    const void *bias;           ///< (out) bf16
    void *y;                    ///< (rows, out) bf16
};

/// Whether the device, the shape and the pointers are such that linear_hopper() can run: Hopper, a row of x
/// and one of y a multiple of 16 bytes, 16-byte alignment.
bool linear_hopper_can(const LinearArgs &args);

/// Whether it is also worth it: tiles that fill the device several times over, and nearly fill it the last
/// time.
bool linear_hopper_pays(const LinearArgs &args);

/// Sums in fp32; times the scales, + bias, GELU or + y; then rounded once. Enqueues one kernel on `stream` of
/// the current device: no allocation, no host synchronisation. Equal inputs give equal bits, and a row's do
/// not depend on how many rows there are.
/// @return cudaErrorNotSupported where linear_hopper_can() says no, or what the launch says
cudaError_t linear_hopper(const LinearArgs &args, cudaStream_t stream);

} // namespace flashvsr::cuda
