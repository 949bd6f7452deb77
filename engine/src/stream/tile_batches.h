// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "stream/chunk_pictures.h"
#include "stream/chunk_step.h"
#include "tiles/batch_planner.h"
#include "tiles/tile_grid.h"

#include <functional>
#include <memory>
#include <vector>

namespace flashvsr {

/// A run of a grid's tiles on one device, each with its own stream, in batches whose size the planner sets. A
/// batch that runs out of memory leaves its streams as they were and is run again as smaller ones; where one
/// tile does not fit beside the streams of the others, these wait in host memory from then on.
class TileBatches {
public:
    /// @param first, count the tiles of the grid that are run here
    /// @param aside        let the streams of tiles whose batch is not being run wait in host memory
    TileBatches(std::shared_ptr<const Model> model, const SparseOptions &sparse,
                const std::vector<Tile> &grid, size_t first, size_t count, BatchPlanner planner, bool aside);

    /// Run a chunk on every tile; `done` is called batch by batch, in the grid's order. A batch counts once
    /// `done` has returned: where that throws, it must leave things as they were. After an exception the call
    /// may be repeated with the same chunk: it goes on with the batch that failed.
    /// @throws Error ENOMEM where one tile alone does not fit
    void step(const PictureChunk &chunk, const std::function<void(const TileOutput &)> &done,
              const Observer &observer = {});

    /// Go on with the network on another device; where that has no room for the streams, they wait in host
    /// memory.
    void move_to(std::shared_ptr<const Model> model, BatchPlanner planner);

    BatchPlanner &planner() { return planner_; }

private:
    struct Batch {
        size_t first, count;
        StreamState state;
    };

    void resize(size_t index, size_t count);
    size_t most_together(size_t index) const;
    bool set_aside();
    at::Tensor run(const Batch &batch, const PictureChunk &chunk, StreamState &state,
                   const Observer &observer) const;

    std::shared_ptr<const Model> model_;
    SparseOptions sparse_;
    std::vector<Tile> grid_;
    BatchPlanner planner_;
    bool aside_; ///< streams wait in host memory
    std::vector<Batch> batches_;
    size_t next_ = 0; ///< batch of the chunk that is run next
};

} // namespace flashvsr
