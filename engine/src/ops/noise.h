// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>

namespace flashvsr {

/// Channels of the noise, and how many of them one draw of four words gives.
constexpr int64_t noise_channels = 16, noise_channels_per_draw = 4;
constexpr int64_t noise_draws = noise_channels / noise_channels_per_draw;

/// Where noise is wanted, in coordinates of the whole clip and picture: latent frames and latent pixels.
struct NoiseRegion {
    int64_t first_latent = 0, latents = 0;
    int64_t y = 0, x = 0, height = 0, width = 0;
};

/// Standard normal noise (16, latents, height, width) fp32. frame/noise.h has the formula and checks ranges.
at::Tensor philox_normals(uint64_t seed, const NoiseRegion &region, const at::Device &device);

/// Philox4x32 with ten rounds: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3",
/// SC 2011. Four random words, a pure function of counter and key.
std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

} // namespace flashvsr
