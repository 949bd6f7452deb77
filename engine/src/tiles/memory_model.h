// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "frame/upscale.h"
#include "model/model.h"
#include "weights/network_shape.h"

#include <cstdint>
#include <vector>

namespace flashvsr {

/// An estimate, on the large side, of the memory that a stream's first and largest step takes, less the
/// weights that stay on the device.
/// @param target      output pixels of the network's input, multiples of 128
/// @param kv_groups   groups in the K/V cache
/// @param value_bytes bytes of a value in the model's precision
/// @param turns       weights that come to the device for a part of the step alone
int64_t step_bytes(const NetworkShape &shape, Size target, int64_t kv_groups, int64_t value_bytes,
                   const TurnBytes &turns = {});

/// An estimate of what whole pictures of a chunk take beside the tiles.
int64_t picture_bytes(Size target);

/// Sides to cut a picture into, largest first: the first is the largest that is estimated to fit, and 0 there
/// is the whole picture; the rest are for when the estimate is wrong. Input pixels.
/// @param scale   output size / input size
/// @param overlap input pixels that tiles share; every side is more than two of them
/// @param turns   as step_bytes()
std::vector<int64_t> choose_tile_sizes(const NetworkShape &shape, Size target, double scale, int64_t overlap,
                                       int64_t kv_groups, int64_t value_bytes, int64_t free_bytes,
                                       const TurnBytes &turns = {});

} // namespace flashvsr
