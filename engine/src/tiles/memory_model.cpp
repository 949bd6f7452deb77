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
constexpr int64_t colours = 3, formula_factor = 13;

int64_t pixels_of(Size size) {
    return size.width * size.height;
}

/// Tokens of one latent frame.
int64_t tokens_of(Size size) {
    return pixels_of(size) / 256;
}

} // namespace

int64_t MemoryModel::state_bytes(Size tile) const {
    // Keys and values of two latent frames in each of a ring's slots.
    const int64_t slots = std::max<int64_t>(kv_groups_, 3) + 1;
    return value_bytes_ * 2 * slots * 2 * tokens_of(tile) * shape_.dim * shape_.blocks;
}

int64_t MemoryModel::work_bytes(Size tile, const TurnBytes &turns) const {
    const int64_t pixels = pixels_of(tile), tokens = tokens_of(tile);
    const auto &c = shape_.decoder_channels;

    // Two clips of the projector: taps of both convolutions and what they give.
    const int64_t projector =
        2 * tokens * (3 * 4 * 768 + 4 * shape_.lq_hidden1 + 4 * shape_.lq_hidden1 + shape_.lq_hidden2);
    // First chunk: hidden state, its norms, q, k, v in both orders, or the widened hidden state of the
    // feed-forward.
    const int64_t transformer =
        schedule::first_latents * tokens * (4 * shape_.dim + std::max(8 * shape_.dim, 2 * shape_.ffn_dim));
    // One latent frame in the decoder: four frames of half the side before its last stage, where a frame at a
    // time is convolved with what the one before it left.
    const int64_t decoder = pixels * (2 * 5 * c[2] / 4 + 4 * std::max(c[2], c[3])) + tokens * 16 * c[0];
    return std::max(value_bytes_ * std::max(projector, transformer) + turns.transformer,
                    value_bytes_ * decoder + turns.decoder);
}

int64_t MemoryModel::picture_bytes(Size target) {
    // Low quality and condition of the first chunk, and its output before and after the colour fix, in fp32.
    return pixels_of(target) * colours * 4 * (schedule::first_frames_in + 4 * schedule::first_frames_out);
}

int64_t MemoryModel::tile_bytes(Size tile) const {
    const int64_t formula =
        pixels_of(tile) * schedule::frames_per_chunk * colours * value_bytes_ * formula_factor;
    return std::max(formula, state_bytes(tile) + work_bytes(tile));
}

std::vector<int64_t> choose_tile_sizes(const MemoryModel &memory, Size target, double scale, int64_t overlap,
                                       const TileRoom &room) {
    const int64_t available = room.free_bytes - MemoryModel::picture_bytes(target);
    const auto fit = [&](Size tile, int64_t tiles) {
        const int64_t share = (tiles + room.workers - 1) / room.workers;
        return share * memory.state_bytes(tile) + memory.work_bytes(tile, room.turns) <= available;
    };
    const auto scaled = [&](int64_t side) { return std::lrint(static_cast<double>(side) * scale); };

    std::vector<int64_t> chosen;
    if (fit(target, 1))
        chosen.push_back(0);
    for (const int64_t side : tile_sides) {
        if (side <= 2 * overlap || scaled(side) >= std::max(target.width, target.height))
            continue;
        const std::vector<Tile> grid = make_tile_grid(target, scaled(side), scaled(overlap));
        if (!chosen.empty() || fit(grid.front().size, static_cast<int64_t>(grid.size())) ||
            side == tile_sides.back())
            chosen.push_back(side);
    }
    if (chosen.empty())
        chosen.push_back(0);
    return chosen;
}

} // namespace flashvsr
