// SPDX-License-Identifier: LGPL-2.1-or-later
#include "stream/tile_batches.h"

#include "stream/state_batch.h"
#include "torch_guard.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace flashvsr {

namespace {

constexpr int64_t latent_pixels = 8;

} // namespace

TileBatches::TileBatches(std::shared_ptr<const Model> model, const SparseOptions &sparse,
                         const std::vector<Tile> &grid, size_t first, size_t count, BatchPlanner planner)
    : model_(std::move(model)), sparse_(sparse), grid_(grid), planner_(std::move(planner)) {
    for (size_t i = first; i < first + count; i++)
        batches_.push_back({i, 1, {}});
}

void TileBatches::step(const PictureChunk &chunk, const std::function<void(const TileOutput &)> &done,
                       const Observer &observer) {
    while (next_ < batches_.size()) {
        resize(next_, static_cast<size_t>(planner_.batch()));
        Batch &batch = batches_[next_];
        const auto tiles = static_cast<int64_t>(batch.count);
        TileOutput output{batch.first, {}};
        try {
            output.frames = run(batch, chunk, observer);
        } catch (...) {
            const Error error = current_error();
            if (error.code() != ENOMEM)
                throw error;
            if (!planner_.out_of_memory(tiles))
                fail(ENOMEM, "a tile of ", grid_[batch.first].size.width, "x", grid_[batch.first].size.height,
                     " output pixels does not fit the memory: ", error.what(),
                     "; a smaller tile_size needs less");
            continue;
        }
        planner_.succeeded(tiles, 0);
        next_++;
        done(output);
    }
    next_ = 0;
}

/// Make batch `index` one of `count` tiles, or of as many as are left.
void TileBatches::resize(size_t index, size_t count) {
    size_t available = 0, end = index;
    while (end < batches_.size() && available < count)
        available += batches_[end++].count;
    if (end == index + 1 && available <= count)
        return;

    std::vector<StreamState> states;
    std::vector<Batch> after;
    size_t first = batches_[index].first;
    for (size_t i = index; i < end; i++)
        states.push_back(std::move(batches_[i].state));
    const StreamState joined = join_states(states);
    states.clear();
    for (size_t begin = 0; begin < available; begin += count) {
        const size_t tiles = std::min(count, available - begin);
        after.push_back({first + begin, tiles,
                         slice_state(joined, static_cast<int64_t>(begin), static_cast<int64_t>(tiles))});
    }
    const auto at = batches_.begin() + static_cast<ptrdiff_t>(index);
    batches_.insert(batches_.erase(at, batches_.begin() + static_cast<ptrdiff_t>(end)),
                    std::make_move_iterator(after.begin()), std::make_move_iterator(after.end()));
}

at::Tensor TileBatches::run(Batch &batch, const PictureChunk &chunk, const Observer &observer) const {
    std::vector<at::Tensor> frames, noise;
    for (size_t i = batch.first; i < batch.first + batch.count; i++) {
        const Tile &tile = grid_[i];
        const auto cut = [&](const at::Tensor &x, int64_t unit) {
            return x.narrow(2, tile.y / unit, tile.size.height / unit)
                .narrow(3, tile.x / unit, tile.size.width / unit);
        };
        frames.push_back(cut(chunk.low_quality, 1));
        noise.push_back(cut(chunk.noise, latent_pixels));
    }
    const auto batched = [&](const std::vector<at::Tensor> &tiles) {
        return model_->placement(tiles.size() == 1 ? tiles.front().unsqueeze(0) : at::stack(tiles));
    };
    return run_chunk(*model_, sparse_, batched(frames), batched(noise), batch.state, observer).frames;
}

} // namespace flashvsr
