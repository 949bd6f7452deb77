// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tiles/memory_model.h"

#include "stream/chunk_schedule.h"

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

namespace {

/// Whether the states of `states` tiles and the work of one fit.
bool fits(const MemoryModel &memory, Size target, Size tile, int64_t states, const TileRoom &room) {
    return states * memory.state_bytes(tile) + memory.work_bytes(tile, room.turns) +
               MemoryModel::picture_bytes(target) <=
           room.free_bytes;
}

} // namespace

bool states_fit(const MemoryModel &memory, Size target, const std::vector<Tile> &grid, const TileRoom &room) {
    const int64_t share = (static_cast<int64_t>(grid.size()) + room.workers - 1) / room.workers;
    return fits(memory, target, grid.front().size, share, room);
}

TileChoice choose_tiles(const MemoryModel &memory, Size target, double scale, int64_t overlap,
                        const TileRoom &room) {
    const auto scaled = [&](int64_t side) { return std::lrint(static_cast<double>(side) * scale); };
    std::vector<int64_t> sides;
    for (const int64_t side : tile_sides)
        if (side > 2 * overlap && scaled(side) < std::max(target.width, target.height))
            sides.push_back(side);
    if (sides.empty() || fits(memory, target, target, 1, room)) {
        sides.insert(sides.begin(), 0);
        return {sides, false};
    }

    const auto grid_of = [&](int64_t side) { return make_tile_grid(target, scaled(side), scaled(overlap)); };
    const auto all_fit = std::find_if(sides.begin(), sides.end(), [&](int64_t side) {
        return states_fit(memory, target, grid_of(side), room);
    });
    if (all_fit != sides.end())
        return {{all_fit, sides.end()}, false};
    if (!room.host_beside)
        return {{sides.back()}, false};
    const auto one_fits = std::find_if(sides.begin(), sides.end() - 1, [&](int64_t side) {
        return fits(memory, target, grid_of(side).front().size, 1, room);
    });
    return {{one_fits, sides.end()}, true};
}

} // namespace flashvsr
