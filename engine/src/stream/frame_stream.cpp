// SPDX-License-Identifier: LGPL-2.1-or-later
#include "stream/frame_stream.h"

#include "torch_guard.h"

#include <ATen/ATen.h>

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

BatchPlanner make_batch_planner(const StreamOptions &options, const std::vector<Tile> &grid,
                                const Model &model, MemoryProvider memory, const Log &log) {
    const Size tile = grid.front().size;
    return {options.batch, tile.width * tile.height,
            static_cast<int64_t>(c10::elementSize(model.placement.dtype)), std::move(memory), log};
}

FrameStream::FrameStream(std::shared_ptr<const Model> model, const StreamOptions &options,
                         MemoryProvider memory, const Log &log)
    : model_(std::move(model)), options_(options), memory_(std::move(memory)), log_(log), pictures_(options),
      tiling_(std::make_unique<Tiling>(make_tiling())) {}

FrameStream::Tiling FrameStream::make_tiling() const {
    std::vector<Tile> grid = stream_grid(options_);
    Feather feather(grid, pictures_.target());
    TileBatches batches(model_, options_.sparse, grid, 0, grid.size(),
                        make_batch_planner(options_, grid, *model_, memory_, log_));
    return {std::move(grid), std::move(feather), std::move(batches)};
}

at::Tensor FrameStream::run(const PictureChunk &chunk, const Observer &observer) {
    at::Tensor picture;
    tiling_->batches.step(
        chunk,
        [&](const TileOutput &output) { tiling_->feather.accumulate(picture, output, chunk.condition); },
        observer);
    return picture;
}

std::vector<at::Tensor> FrameStream::step(std::span<const at::Tensor> frames, const Observer &observer) {
    const PictureChunk chunk = pictures_.begin(frames);
    for (;;) {
        try {
            return pictures_.finish(chunk, run(chunk, observer));
        } catch (...) {
            const Error error = current_error();
            // The first chunk is the largest; later ones have state that other tiles could not take over.
            if (error.code() != ENOMEM || chunk.index > 0 || options_.fallback_tiles.empty())
                throw error;
            options_.tile = options_.fallback_tiles.front();
            options_.fallback_tiles.erase(options_.fallback_tiles.begin());
            log_(LogLevel::warning, error.what(), ": starting again with tiles of ", options_.tile,
                 " output pixels");
            tiling_.reset();
            tiling_ = std::make_unique<Tiling>(make_tiling());
        }
    }
}

} // namespace flashvsr
