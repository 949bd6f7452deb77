// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "frame/picture_format.h"
#include "model/block_mask.h"
#include "tiles/batch_planner.h"
#include "weights/model_config.h"

#include <functional>
#include <optional>
#include <vector>

namespace flashvsr {

/// How a stream of pictures is run.
struct StreamOptions {
    Size input, output; ///< pixels
    SparseOptions sparse;
    ColorFix color_fix = ColorFix::adain;
    /// Where set, the format of the output picture at a place in the whole clip; any thread may ask. Unset,
    /// or of no value: fp32 in [-1, 1], as those need that are mixed with others.
    std::function<std::optional<PictureFormat>(int64_t place)> format_at;
    /// Where set, whether the picture at a place, if it has a format, is wanted in a GPU's memory; any thread
    /// may ask.
    std::function<bool(int64_t place)> on_gpu_at;
    /// Where set, the colour fix of the picture at a place in the whole clip; any thread may ask.
    std::function<ColorFix(int64_t place)> color_fix_at;
    uint64_t seed = 0;
    int64_t first_frame = 0;  ///< place of the stream's first picture in the whole clip; decides its noise
    int64_t tile = 0;         ///< side of a tile, output pixels; 0: the whole picture
    int64_t tile_overlap = 0; ///< output pixels
    /// Smaller tiles, largest first, to go over to where even one of `tile` does not fit the memory.
    std::vector<int64_t> fallback_tiles;
    bool states_aside = false; ///< of tiles that are not being run: in host memory, not the device's
    BatchOptions batch;
};

} // namespace flashvsr
