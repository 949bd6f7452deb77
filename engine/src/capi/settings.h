// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "flashvsr/flashvsr.h"
#include "pipeline/pipeline.h"
#include "weights/network_shape.h"

#include <optional>

namespace flashvsr {

/// The public settings as the engine's own options, checked. Throws EINVAL with a sentence that names the
/// setting and its value. Tiles are decided by plan_tiles(), when the model is known.
PipelineOptions pipeline_options(const FlashVSRSettings &settings);

std::optional<Version> wished_version(int version);

std::optional<ColorFix> wished_color_fix(int color_fix);

/// The model's place on a device in one of enum FlashVSRPrecision.
Placement placement_on(const at::Device &device, int precision);

/// Set the stream's tiles: as asked for, or the largest that fit the memory of the workers' devices.
void plan_tiles(StreamOptions &stream, const FlashVSRSettings &settings,
                const std::vector<WorkerDevice> &workers);

} // namespace flashvsr
