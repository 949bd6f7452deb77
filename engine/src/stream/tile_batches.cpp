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
                         const std::vector<Tile> &grid, size_t first, size_t count, BatchPlanner planner,
                         bool aside)
    : model_(std::move(model)), sparse_(sparse), grid_(grid), planner_(std::move(planner)), aside_(aside) {
    for (size_t i = first; i < first + count; i++)
        batches_.push_back({i, 1, {}});
}

void TileBatches::step(const PictureChunk &chunk, const std::function<void(const TileOutput &)> &done,
                       const Observer &observer) {
    while (next_ < batches_.size()) {
        const size_t first = batches_[next_].first,
                     left = batches_.back().first + batches_.back().count - first,
                     tiles = std::min({static_cast<size_t>(planner_.batch()), left, most_together(next_)});
        const MemoryMeter memory(model_->placement.device);
        try {
            resize(next_, tiles);
            Batch &batch = batches_[next_];
            StreamState after = state_for_step(batch.state, model_->placement.device);
            const at::Tensor frames = run(batch, chunk, after, observer);
            if (aside_)
                after = state_after_step(after, batch.state);
            done({first, frames});
            batch.state = std::move(after);
            next_++;
        } catch (...) {
            const Error error = current_error();
            if (error.code() != ENOMEM)
                throw error;
            if (!planner_.out_of_memory(static_cast<int64_t>(tiles)) && !set_aside())
                fail(ENOMEM, "a tile of ", grid_[first].size.width, "x", grid_[first].size.height,
                     " output pixels does not fit the memory (", planner_.shortage(),
                     "; a smaller tile_size needs less): ", error.what());
            continue;
        }
        planner_.succeeded(static_cast<int64_t>(tiles), memory.peak_bytes());
    }
    next_ = 0;
}

/// Tiles that batch `index` can have. Streams that wait in host memory are not joined there: that takes more
/// time, and leaves more pinned memory of other sizes behind, than larger batches gain.
size_t TileBatches::most_together(size_t index) const {
    const Batch &batch = batches_[index];
    return aside_ && batch.state.chunk > 0 ? batch.count : grid_.size();
}

/// Let the streams wait in host memory.
/// @return false if that makes no more room
bool TileBatches::set_aside() {
    if (aside_ || batches_.size() < 2 || model_->placement.device.is_cpu())
        return false;
    planner_.log_states_aside(static_cast<int64_t>(batches_.size()));
    for (Batch &batch : batches_)
        batch.state = state_on(batch.state, at::kCPU);
    return aside_ = true;
}

void TileBatches::move_to(std::shared_ptr<const Model> model, BatchPlanner planner) {
    const auto move = [&](const at::Device &device) {
        std::vector<StreamState> states;
        for (const Batch &batch : batches_)
            states.push_back(state_on(batch.state, device));
        for (size_t i = 0; i < states.size(); i++)
            batches_[i].state = std::move(states[i]);
    };
    try {
        move(aside_ ? at::Device(at::kCPU) : model->placement.device);
    } catch (...) {
        const Error error = current_error();
        if (aside_ || error.code() != ENOMEM)
            throw error;
        planner.log_states_aside(static_cast<int64_t>(batches_.size()));
        move(at::kCPU);
        aside_ = true;
    }
    model_ = std::move(model);
    planner_ = std::move(planner);
}

/// Make batch `index` one of `count` tiles, or of as many as are left; or, where it throws, leave all as it
/// is.
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
        states.push_back(batches_[i].state);
    const StreamState joined = join_states(states);
    for (size_t begin = 0; begin < available; begin += count) {
        const size_t tiles = std::min(count, available - begin);
        after.push_back({first + begin, tiles,
                         slice_state(joined, static_cast<int64_t>(begin), static_cast<int64_t>(tiles))});
    }
    const auto at = batches_.begin() + static_cast<ptrdiff_t>(index);
    batches_.insert(batches_.erase(at, batches_.begin() + static_cast<ptrdiff_t>(end)),
                    std::make_move_iterator(after.begin()), std::make_move_iterator(after.end()));
}

/// @param[in,out] state of the batch's streams
at::Tensor TileBatches::run(const Batch &batch, const PictureChunk &chunk, StreamState &state,
                            const Observer &observer) const {
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
    return run_chunk(*model_, sparse_, batched(frames), batched(noise), state, observer).frames;
}

} // namespace flashvsr
