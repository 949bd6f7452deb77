// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "log.h"
#include "pipeline/pipeline.h"
#include "weights/model_directory.h"

#include <vector>

namespace flashvsr {

/// A worker's device for each place, with the network of a model directory, once on each device. Those that
/// others in this process have already are shared with them, and where all are, no weights are read; the
/// rest are loaded side by side.
/// @param take_turns as Model(), on devices that have a memory of their own
/// @throws what load_weights() and Model() throw
std::vector<WorkerDevice> make_worker_devices(const ModelInfo &info, const std::vector<Placement> &places,
                                              bool take_turns, const Log &log);

} // namespace flashvsr
