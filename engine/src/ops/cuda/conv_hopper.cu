// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/conv_hopper.cuh"

#include <limits>

namespace flashvsr::cuda {

namespace {

bool is_aligned(const void *pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

bool has_right_shape(const ConvArgs &args) {
    for (const int size : {args.images, args.height, args.width, args.in_channels, args.out_channels,
                           args.frames, args.growth})
        if (size <= 0)
            return false;
    const int64_t pixels = int64_t(args.images) * args.height * args.width;
    if (args.in_channels % 8 != 0 || args.images % args.frames != 0 ||
        pixels * args.growth > std::numeric_limits<int>::max() / 8)
        return false;
    if (args.border != 0 && (args.border != 1 || args.kind != ConvKind::same || args.memory != nullptr))
        return false;
    switch (args.kind) {
    case ConvKind::same:
        return args.out_channels % 8 == 0 && args.growth == 1;
    case ConvKind::doubled:
        return args.out_channels % 8 == 0 && args.memory == nullptr && args.residual == nullptr;
    case ConvKind::planar:
        return args.out_channels <= 8 && args.growth == 1 && args.memory == nullptr &&
               args.residual == nullptr;
    }
    return false;
}

} // namespace

bool conv_hopper_can(const ConvArgs &args) {
    if (args.element == Element::f32 || !has_right_shape(args))
        return false;
    for (const void *pointer : {args.x, args.memory, args.weight, args.residual})
        if (!is_aligned(pointer))
            return false;
    if (args.kind != ConvKind::planar && !is_aligned(args.out))
        return false;
    int device = 0, major = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
           major == 9;
}

bool conv_hopper_pays(const ConvArgs &args) {
    constexpr int fewest_channels = 128;
    if (args.in_channels < fewest_channels ||
        (args.kind != ConvKind::planar && args.out_channels < fewest_channels) || !conv_hopper_can(args))
        return false;
    int device = 0, multiprocessors = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device) == cudaSuccess &&
           hopper::conv::tiles_of(args) >= multiprocessors;
}

cudaError_t conv_hopper(const ConvArgs &args, cudaStream_t stream) {
    if (!conv_hopper_can(args))
        return cudaErrorNotSupported;
    return args.element == Element::bf16 ? hopper::conv::launch<__nv_bfloat16>(args, stream)
                                         : hopper::conv::launch<__half>(args, stream);
}

} // namespace flashvsr::cuda
