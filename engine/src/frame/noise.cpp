// SPDX-License-Identifier: LGPL-2.1-or-later
#include "frame/noise.h"

#include "error.h"

namespace flashvsr {
namespace {

void check_range(const char *what, int64_t begin, int64_t count, int64_t limit) {
    if (begin < 0 || count < 0 || begin > limit - count)
        fail(EINVAL, "noise was asked for at ", what, " ", begin, " to ", begin, " + ", count,
             ", but these are within 0 to ", limit);
}

} // namespace

at::Tensor position_noise(uint64_t seed, int64_t first_latent, int64_t latents, Rect region,
                          const at::Device &device) {
    constexpr int64_t coordinates = int64_t{1} << 32;
    check_range("row", region.y, region.height, coordinates);
    check_range("column", region.x, region.width, coordinates);
    check_range("latent frame", first_latent, latents, int64_t{1} << 61);
    return philox_normals(seed, {first_latent, latents, region.y, region.x, region.height, region.width},
                          device);
}

} // namespace flashvsr
