// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "frame/upscale.h"
#include "model/block_mask.h"
#include "tiles/batch_planner.h"
#include "weights/model_config.h"

#include <vector>

namespace flashvsr {

/// How a stream of pictures is run.
struct StreamOptions {
    Size input, output; ///< pixels
    SparseOptions sparse;
    ColorFix color_fix = ColorFix::adain;
    uint64_t seed = 0;
    int64_t first_frame = 0;  ///< place of the stream's first picture in the whole clip; decides its noise
    int64_t tile = 0;         ///< side of a tile, output pixels; 0: the whole picture
    int64_t tile_overlap = 0; ///< output pixels
    /// Smaller tiles, largest first, to go over to where even one of `tile` does not fit the memory.
    std::vector<int64_t> fallback_tiles;
    BatchOptions batch;
};

} // namespace flashvsr
