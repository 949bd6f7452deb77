// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "stream/tile_batches.h"

namespace flashvsr {

/// A run of consecutive pictures through the network on one device: upscaled, padded, cut into tiles, run
/// chunk by chunk, blended, cropped, colour fixed. N pictures in, N pictures out. Not thread-safe; the model
/// may be shared.
class FrameStream {
public:
    /// @throws Error EINVAL where the options keep no attention at this size
    FrameStream(std::shared_ptr<const Model> model, const StreamOptions &options, MemoryProvider memory,
                const Log &log);

    /// A stream that begins with what another on the same device ended with: options() and planner().
    FrameStream(std::shared_ptr<const Model> model, const StreamOptions &options, BatchPlanner planner,
                const Log &log);

    int64_t frames_wanted() const { return pictures_.frames_wanted(); }
    int64_t frames_held() const { return pictures_.frames_held(); }

    /// The options as they are by now: tiles may have had to become smaller.
    const StreamOptions &options() const { return options_; }

    BatchPlanner &planner() { return tiling_->batches.planner(); }

    /// Size of the tiles, output pixels.
    Size tile() const { return tiling_->grid.front().size; }

    /// Run the next chunk. Where memory runs out, in the network or around it, it goes on with smaller
    /// batches, and the first chunk with smaller tiles then. After an exception the stream is of no use.
    /// @param frames as ChunkPictures::begin()
    /// @return the next pictures as ChunkPictures::finish() gives them, on the model's device, which may be
    ///         at work still
    Pictures step(std::span<const at::Tensor> frames, const Observer &observer = {});

private:
    /// A grid, how its tiles are blended, and their streams.
    struct Tiling {
        std::vector<Tile> grid;
        Feather feather;
        TileBatches batches;
    };
    Tiling make_tiling(BatchPlanner planner) const;
    void run(const PictureChunk &chunk, at::Tensor &picture, const Observer &observer);
    void start_with_smaller_tiles(const Error &reason);

    std::shared_ptr<const Model> model_;
    StreamOptions options_;
    const Log &log_;
    ChunkPictures pictures_;
    std::unique_ptr<Tiling> tiling_;
};

/// The tiles of a stream's pictures.
/// @throws Error EINVAL where the options keep no attention at the tiles' size
std::vector<Tile> stream_grid(const StreamOptions &options);

/// The planner of a device that runs tiles of that grid.
BatchPlanner make_batch_planner(const StreamOptions &options, const std::vector<Tile> &grid,
                                const Model &model, MemoryProvider memory, const Log &log);

} // namespace flashvsr
