// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/element.cuh"
#include "ops/cuda/kernels.h"
#include "ops/philox.h"

namespace flashvsr::cuda {

namespace {

constexpr int threads = 256, draws = 4, normals_per_draw = 4;

/// One thread a position and a draw: four channels of it.
__global__ void philox_normals_kernel(NoiseArgs args) {
    const int64_t frame = static_cast<int64_t>(args.height) * args.width, channel = args.latents * frame;
    const int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (i >= draws * channel)
        return;
    const auto draw = static_cast<uint32_t>(i / channel);
    const int64_t place = i % channel;
    const uint64_t latent = args.first_latent + static_cast<uint64_t>(place / frame);
    uint32_t word0 = args.x + static_cast<uint32_t>(place % args.width);
    uint32_t word1 = args.y + static_cast<uint32_t>(place % frame / args.width);
    auto word2 = static_cast<uint32_t>(latent);
    uint32_t word3 = draw + static_cast<uint32_t>(draws * (latent >> 32));
    auto key0 = static_cast<uint32_t>(args.seed), key1 = static_cast<uint32_t>(args.seed >> 32);
    for (int round = 0; round < philox::rounds; round++) {
        philox::round(word0, word1, word2, word3, key0, key1);
        key0 += philox::weyl0;
        key1 += philox::weyl1;
    }
    float *out = args.out + normals_per_draw * draw * channel + place;
    philox::box_muller(word0, word1, out[0], out[channel]);
    philox::box_muller(word2, word3, out[2 * channel], out[3 * channel]);
}

} // namespace

cudaError_t philox_normals(const NoiseArgs &args, cudaStream_t stream) {
    const int64_t count = draws * static_cast<int64_t>(args.latents) * args.height * args.width;
    if (count == 0)
        return cudaSuccess;
    philox_normals_kernel<<<blocks_for(count, threads), threads, 0, stream>>>(args);
    return cudaGetLastError();
}

} // namespace flashvsr::cuda
