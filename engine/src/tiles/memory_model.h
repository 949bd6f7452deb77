// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "frame/upscale.h"
#include "model/model.h"
#include "tiles/tile_grid.h"
#include "weights/network_shape.h"

#include <cstdint>
#include <vector>

namespace flashvsr {

/// Estimates, on the large side, of what streams take of a device's memory beside the weights that stay
/// there.
class MemoryModel {
public:
    /// @param kv_groups   groups in the K/V cache
    /// @param value_bytes bytes of a value in the model's precision
    MemoryModel(const NetworkShape &shape, int64_t kv_groups, int64_t value_bytes)
        : shape_(shape), kv_groups_(kv_groups), value_bytes_(value_bytes) {}

    /// What the stream of a tile keeps from step to step.
    /// @param tile output pixels, multiples of 128
    int64_t state_bytes(Size tile) const;

    /// What the first and largest step of a tile takes beside what it keeps, with weights that visit.
    int64_t work_bytes(Size tile, const TurnBytes &turns = {}) const;

    /// What whole pictures of a chunk take beside the tiles.
    static int64_t picture_bytes(Size target);

    /// What a tile is taken to need until one was seen: what it keeps and the work, and no less than
    /// pixels * frames * 3 * value_bytes * 13.
    int64_t tile_bytes(Size tile) const;

private:
    NetworkShape shape_;
    int64_t kv_groups_, value_bytes_;
};

/// Where tiles have to fit.
struct TileRoom {
    int64_t free_bytes = 0;   ///< for each worker
    int64_t workers = 1;      ///< that share the tiles of a picture
    bool host_beside = false; ///< states of tiles that are not being run can wait in host memory
    TurnBytes turns = {};     ///< weights that visit each of them
};

/// Whether the states of all tiles that a worker gets are estimated to fit beside the work of one.
bool states_fit(const MemoryModel &memory, Size target, const std::vector<Tile> &grid, const TileRoom &room);

struct TileChoice {
    /// Sides to cut a picture into, input pixels, largest first; 0 is the whole picture. The first is chosen,
    /// the rest are for when the estimate is wrong.
    std::vector<int64_t> sides;
    bool states_aside = false; ///< those of tiles that are not being run do not fit
};

/// The whole picture, else the largest tiles whose states all fit the memory, else the largest of which one
/// fits, where the others' states have another place, else the smallest.
/// @param scale   output size / input size
/// @param overlap input pixels that tiles share; every side is more than two of them
TileChoice choose_tiles(const MemoryModel &memory, Size target, double scale, int64_t overlap,
                        const TileRoom &room);

} // namespace flashvsr
