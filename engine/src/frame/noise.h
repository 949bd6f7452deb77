// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/noise.h"

namespace flashvsr {

/// A rectangle in latent pixels (8 output pixels each) of the whole picture.
struct Rect {
    int64_t y = 0;
    int64_t x = 0;
    int64_t height = 0;
    int64_t width = 0;
};

/// Standard normal noise (16, latents, region.height, region.width) float32 for the latent frames from
/// `first_latent` on. Each value is a pure function of (seed, latent frame t, channel c, y, x) in coordinates
/// of the whole clip and picture, so any split into chunks and tiles sees the same noise:
///
///     r = philox4x32({x, y, t mod 2^32, c / 4 + 4 * (t div 2^32)}, {seed mod 2^32, seed div 2^32})
///     a, b = r[0], r[1] for c mod 4 in {0, 1};  r[2], r[3] for c mod 4 in {2, 3}
///     radius = sqrt(-2 ln((a | 1) / 2^32))
///     angle  = pi / 2 * (b div 2^30 + signed(b * 4 mod 2^32) / 2^32)
///     value  = radius * (cos(angle) for even c, sin(angle) for odd c)
///
/// Logarithm, sine and cosine are polynomials in float32 of additions and multiplications that are rounded
/// one by one, and no library function but sqrt is called: the bits are the same on every device and on every
/// machine whose compiler does not contract them. Made where it is wanted: on a GPU, queued. Throws EINVAL
/// for a negative coordinate, or one past 2^32. Thread-safe.
at::Tensor position_noise(uint64_t seed, int64_t first_latent, int64_t latents, Rect region,
                          const at::Device &device = at::kCPU);

} // namespace flashvsr
