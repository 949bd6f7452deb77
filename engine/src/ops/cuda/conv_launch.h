// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/cuda/attention_launch.h"

#include <cuda_runtime_api.h>

#include <cstdint>

namespace flashvsr::cuda {

/// What is computed. All are of stride 1 and zero-padded to keep the size.
enum class ConvKind {
    same,    ///< 3x3
    doubled, ///< 3x3 at twice the size, as ops/conv.h's UpsampleConvWeights: four 2x2 for each frame it makes
    planar,  ///< 3x3 to at most 8 channels, written as planes
};

/// All pointers are device memory, 16-byte aligned, and must live until the stream has passed the call.
struct ConvArgs {
    ConvKind kind;
    Element element; ///< f16 or bf16
    int images, height, width, in_channels, out_channels;
    const void *x; ///< (images, height, width, in_channels)
    /// (images/frames, height, width, in_channels) or null. Where given, of `same`: each image has the one
    /// before it after its own channels; the first of every `frames` images has this.
    const void *memory;
    int frames;
    int border; ///< rows and columns that x has more at each edge: 0 (zeros are read there) or, of `same`, 1
    int growth;           ///< images that each one becomes, of `doubled`; else 1
    const void *weight;   ///< (growth*4*out_channels, 2, 2, in_channels) or (out_channels, 3, 3, in or 2*in)
    const void *bias;     ///< (out_channels) or null
    const void *residual; ///< as out, or null; of `same`
    /// (images, height, width, out_channels); (images*growth, 2*height, 2*width, out_channels);
    /// or (images, out_channels, height, width) with image_stride elements between images
    void *out;
    int64_t image_stride; ///< of `planar`
    bool relu;
};

/// Whether the device, the shape and the pointers are such that conv_hopper() can run: Hopper, channels a
/// multiple of 8 (out_channels: at most 8 of `planar`), 16-byte alignment.
bool conv_hopper_can(const ConvArgs &args);

/// Whether it is also worth it: enough channels to fill its tiles, and enough tiles to fill the device.
bool conv_hopper_pays(const ConvArgs &args);

/// Sums in fp32; + bias, + residual, ReLU; then rounded once. Enqueues one kernel on `stream` of the current
/// device: no allocation, no host synchronisation, no global state. Equal inputs give equal bits.
/// @return cudaErrorNotSupported where conv_hopper_can() says no, or what the launch says
cudaError_t conv_hopper(const ConvArgs &args, cudaStream_t stream);

} // namespace flashvsr::cuda
