// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tiles/memory_model.h"

#include "stream/chunk_schedule.h"
#include "tiles/tile_grid.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace flashvsr {

namespace {

constexpr std::array<int64_t, 6> tile_sides = {512, 384, 256, 192, 128, 64};

} // namespace

int64_t step_bytes(const NetworkShape &shape, Size target, int64_t kv_groups, int64_t value_bytes,
                   const TurnBytes &turns) {
    const int64_t pixels = target.width * target.height, tokens = pixels / 256; // of one latent frame
    const auto &c = shape.decoder_channels;

    // Two clips of the projector: taps of both convolutions and what they give.
    const int64_t projector =
        2 * tokens * (3 * 4 * 768 + 4 * shape.lq_hidden1 + 4 * shape.lq_hidden1 + shape.lq_hidden2);
    // First chunk: hidden state, its norms, q, k, v in both orders, or the widened hidden state of the
    // feed-forward.
    const int64_t transformer =
        schedule::first_latents * tokens * (4 * shape.dim + std::max(8 * shape.dim, 2 * shape.ffn_dim));
    const int64_t groups = std::max<int64_t>(kv_groups, 3) + 1;
    const int64_t cache = 2 * groups * 2 * tokens * shape.dim * shape.blocks;
    // One latent frame in the decoder, at its last and largest stages: inputs, taps and outputs of a
    // convolution.
    const int64_t decoder = pixels * (2 * 5 * c[2] / 4 + 4 * 4 * std::max(c[2], c[3])) + tokens * 16 * c[0];
    return value_bytes * cache + std::max(value_bytes * std::max(projector, transformer) + turns.transformer,
                                          value_bytes * decoder + turns.decoder);
}

int64_t picture_bytes(Size target) {
    // Low quality and condition of the first chunk, and its output before and after the colour fix, in fp32.
    return target.width * target.height * 3 * 4 *
           (schedule::first_frames_in + 4 * schedule::first_frames_out);
}

std::vector<int64_t> choose_tile_sizes(const NetworkShape &shape, Size target, double scale, int64_t overlap,
                                       int64_t kv_groups, int64_t value_bytes, int64_t free_bytes,
                                       const TurnBytes &turns) {
    const int64_t available = free_bytes - picture_bytes(target);
    const auto fits = [&](Size size) {
        return step_bytes(shape, size, kv_groups, value_bytes, turns) <= available;
    };
    const auto scaled = [&](int64_t side) { return std::lrint(static_cast<double>(side) * scale); };

    std::vector<int64_t> chosen;
    if (fits(target))
        chosen.push_back(0);
    for (const int64_t side : tile_sides) {
        if (side <= 2 * overlap || scaled(side) >= std::max(target.width, target.height))
            continue;
        const Size tile = make_tile_grid(target, scaled(side), scaled(overlap)).front().size;
        if (!chosen.empty() || fits(tile) || side == tile_sides.back())
            chosen.push_back(side);
    }
    if (chosen.empty())
        chosen.push_back(0);
    return chosen;
}

} // namespace flashvsr
