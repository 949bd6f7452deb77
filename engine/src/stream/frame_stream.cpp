// SPDX-License-Identifier: LGPL-2.1-or-later
#include "stream/frame_stream.h"

#include "tiles/memory_model.h"
#include "torch_guard.h"

#include <ATen/ATen.h>

#include <optional>

namespace flashvsr {

namespace {

constexpr int64_t token_pixels = 16;

} // namespace

std::vector<Tile> stream_grid(const StreamOptions &options) {
    const Size target = target_size(options.output);
    const int64_t whole = std::max(target.width, target.height);
    std::vector<Tile> grid = make_tile_grid(target, options.tile > 0 ? options.tile : whole,
                                            options.tile > 0 ? options.tile_overlap : 0);
    const Size tile = grid.front().size;
    block_budget(options.sparse.sparse_ratio,
                 {schedule::latents_per_chunk, tile.height / token_pixels, tile.width / token_pixels});
    return grid;
}

namespace {

MemoryModel memory_model(const StreamOptions &options, const Model &model) {
    return {model.shape, options.sparse.kv_groups(),
            static_cast<int64_t>(c10::elementSize(model.placement.dtype))};
}

} // namespace

BatchPlanner make_batch_planner(const StreamOptions &options, const std::vector<Tile> &grid,
                                const Model &model, MemoryProvider memory, const Log &log) {
    const Size tile = grid.front().size;
    return {options.batch, tile, memory_model(options, model).tile_bytes(tile), std::move(memory), log};
}

FrameStream::FrameStream(std::shared_ptr<const Model> model, const StreamOptions &options,
                         MemoryProvider memory, const Log &log)
    : FrameStream(model, options,
                  make_batch_planner(options, stream_grid(options), *model, std::move(memory), log), log) {}

FrameStream::FrameStream(std::shared_ptr<const Model> model, const StreamOptions &options,
                         BatchPlanner planner, const Log &log)
    : model_(std::move(model)), options_(options), log_(log), pictures_(options, model_->placement.device),
      tiling_(std::make_unique<Tiling>(make_tiling(std::move(planner)))) {}

FrameStream::Tiling FrameStream::make_tiling(BatchPlanner planner) const {
    std::vector<Tile> grid = stream_grid(options_);
    Feather feather(grid, pictures_.target(), model_->placement.device);
    TileBatches batches(model_, options_.sparse, grid, 0, grid.size(), std::move(planner),
                        options_.states_aside);
    return {std::move(grid), std::move(feather), std::move(batches)};
}

/// Run a chunk's tiles, those that are left of it where an earlier call failed, and blend them into a
/// picture.
void FrameStream::run(const PictureChunk &chunk, at::Tensor &picture, const Observer &observer) {
    tiling_->batches.step(
        chunk,
        [&](const TileOutput &output) { tiling_->feather.accumulate(picture, output, chunk.condition); },
        observer);
}

Pictures FrameStream::step(std::span<const at::Tensor> frames, const Observer &observer) {
    // The first chunk is the largest; later ones have state that other tiles could not take over.
    const bool may_start_again = pictures_.frames_wanted() == schedule::first_frames_in;
    std::optional<PictureChunk> chunk;
    at::Tensor picture;
    for (bool ran = false;;) {
        try {
            observer.enter("input");
            if (!chunk)
                chunk = pictures_.begin(frames, observer);
            if (!ran)
                run(*chunk, picture, observer);
            ran = true;
            observer.enter("color fix");
            return pictures_.finish(*chunk, picture, observer);
        } catch (...) {
            const Error error = current_error();
            if (error.code() != ENOMEM)
                throw error;
            if (planner().batch() > 1) {
                planner().out_of_memory(planner().batch());
                continue;
            }
            if (!may_start_again || options_.fallback_tiles.empty())
                throw error;
            start_with_smaller_tiles(error);
            picture.reset();
            ran = false;
        }
    }
}

void FrameStream::start_with_smaller_tiles(const Error &reason) {
    options_.tile = options_.fallback_tiles.front();
    options_.fallback_tiles.erase(options_.fallback_tiles.begin());
    log_(LogLevel::warning, reason.what(), ": starting again with tiles of ", options_.tile,
         " output pixels");
    BatchPlanner planner = std::move(this->planner());
    tiling_.reset();
    const Size tile = stream_grid(options_).front().size;
    planner.use_tiles(tile, memory_model(options_, *model_).tile_bytes(tile));
    tiling_ = std::make_unique<Tiling>(make_tiling(std::move(planner)));
}

} // namespace flashvsr
