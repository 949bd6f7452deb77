// SPDX-License-Identifier: LGPL-2.1-or-later
#include "capi/settings.h"

#include "error.h"
#include "stream/frame_stream.h"
#include "tiles/memory_model.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace flashvsr {

namespace {

SparseOptions sparse_options(const FlashVSRSettings &settings) {
    if (!(settings.sparse_ratio > 0) || !std::isfinite(settings.sparse_ratio))
        fail(EINVAL, "sparse_ratio ", settings.sparse_ratio, " is not above 0");
    if (!(settings.kv_ratio >= 0) || !(settings.kv_ratio <= 1024))
        fail(EINVAL, "kv_ratio ", settings.kv_ratio, " is not between 0 and 1024");
    if (settings.local_range < 1)
        fail(EINVAL, "local_range ", settings.local_range, " is not 1 or more");
    return {settings.sparse_ratio, settings.kv_ratio, settings.local_range};
}

BatchOptions batch_options(const FlashVSRSettings &settings) {
    if (settings.tile_batch < 1)
        fail(EINVAL, "tile_batch ", settings.tile_batch, " is not 1 or more");
    if (!(settings.vram_limit >= 0) || !std::isfinite(settings.vram_limit))
        fail(EINVAL, "vram_limit ", settings.vram_limit, " is below 0");
    BatchOptions options;
    options.adaptive = settings.adaptive_batch != 0;
    options.batch = settings.tile_batch;
    options.limit = settings.vram_limit;
    return options;
}

MultiGpu multi_gpu(int setting) {
    switch (setting) {
    case FLASHVSR_MULTI_GPU_OFF:
        return MultiGpu::off;
    case FLASHVSR_MULTI_GPU_FRAMES:
        return MultiGpu::frames;
    case FLASHVSR_MULTI_GPU_TILES:
        return MultiGpu::tiles;
    default:
        fail(EINVAL, "multi_gpu ", setting, " is none of enum FlashVSRMultiGpu");
    }
}

} // namespace

PipelineOptions pipeline_options(const FlashVSRSettings &settings) {
    PipelineOptions options;
    options.stream.input = {settings.width, settings.height};
    options.stream.output = output_size(settings);
    options.stream.sparse = sparse_options(settings);
    options.stream.seed = settings.seed;
    if (settings.first_frame < 0)
        fail(EINVAL, "first_frame ", settings.first_frame, " is below 0");
    constexpr int64_t last_frame = int64_t{1} << 48; // noise has positions for some more
    if (settings.first_frame > last_frame)
        fail(EINVAL, "first_frame ", settings.first_frame, " is above ", last_frame);
    options.stream.first_frame = settings.first_frame;
    options.stream.batch = batch_options(settings);
    options.multi_gpu = multi_gpu(settings.multi_gpu);
    if (settings.overlap < 0)
        fail(EINVAL, "overlap ", settings.overlap, " is below 0");
    options.overlap = settings.overlap;
    if (settings.segment < 0 || (settings.segment > 0 && settings.segment < 2 * int64_t{settings.overlap}))
        fail(EINVAL, "segment ", settings.segment, " is less than two overlaps of ", settings.overlap,
             " frames");
    options.segment = settings.segment;
    return options;
}

std::optional<Version> wished_version(int version) {
    switch (version) {
    case FLASHVSR_VERSION_AUTO:
        return std::nullopt;
    case FLASHVSR_VERSION_1:
        return Version::v1;
    case FLASHVSR_VERSION_1_1:
        return Version::v1_1;
    default:
        fail(EINVAL, "version ", version, " is none of enum FlashVSRVersion");
    }
}

std::optional<ColorFix> wished_color_fix(int color_fix) {
    switch (color_fix) {
    case FLASHVSR_COLOR_FIX_AUTO:
        return std::nullopt;
    case FLASHVSR_COLOR_FIX_NONE:
        return ColorFix::none;
    case FLASHVSR_COLOR_FIX_ADAIN:
        return ColorFix::adain;
    case FLASHVSR_COLOR_FIX_WAVELET:
        return ColorFix::wavelet;
    default:
        fail(EINVAL, "color_fix ", color_fix, " is none of enum FlashVSRColorFix");
    }
}

Placement placement_on(const at::Device &device, int precision) {
    switch (precision) {
    case FLASHVSR_PRECISION_AUTO:
        return placement_in("auto", device);
    case FLASHVSR_PRECISION_FP32:
        return placement_in("fp32", device);
    case FLASHVSR_PRECISION_BF16:
        return placement_in("bf16", device);
    case FLASHVSR_PRECISION_FP16:
        return placement_in("fp16", device);
    case FLASHVSR_PRECISION_FP8:
        return placement_in("fp8", device);
    default:
        fail(EINVAL, "precision ", precision, " is none of enum FlashVSRPrecision");
    }
}

namespace {

/// What the worker that has the least finds.
TileRoom room_of(const std::vector<WorkerDevice> &workers, MultiGpu mode, double limit) {
    TileRoom room;
    room.free_bytes = std::numeric_limits<int64_t>::max();
    for (const WorkerDevice &worker : workers) {
        const int64_t free = usable_memory(limit, worker.memory());
        const auto sharing = std::count_if(workers.begin(), workers.end(), [&](const WorkerDevice &other) {
            return other.name == worker.name;
        });
        room.free_bytes = std::min(room.free_bytes, free / sharing);
        room.host_beside |= !worker.model->placement.device.is_cpu();
        const TurnBytes turns = worker.model->turn_bytes();
        room.turns.transformer = std::max(room.turns.transformer, turns.transformer);
        room.turns.decoder = std::max(room.turns.decoder, turns.decoder);
    }
    if (mode == MultiGpu::tiles)
        room.workers = static_cast<int64_t>(workers.size());
    return room;
}

} // namespace

void plan_tiles(StreamOptions &stream, const FlashVSRSettings &settings,
                const std::vector<WorkerDevice> &workers) {
    const double scale =
        std::max(static_cast<double>(stream.output.width) / static_cast<double>(stream.input.width),
                 static_cast<double>(stream.output.height) / static_cast<double>(stream.input.height));
    const auto scaled = [&](int64_t side) { return std::lrint(static_cast<double>(side) * scale); };
    if (settings.tile_overlap < 0)
        fail(EINVAL, "tile_overlap ", settings.tile_overlap, " is below 0");
    stream.tile_overlap = scaled(settings.tile_overlap);
    const Model &model = *workers.front().model;
    const MemoryModel memory(model.shape, stream.sparse.kv_groups(),
                             static_cast<int64_t>(c10::elementSize(model.placement.dtype)));
    const Size target = target_size(stream.output);
    const TileRoom room = room_of(workers, multi_gpu(settings.multi_gpu), stream.batch.limit);

    switch (settings.tiled) {
    case FLASHVSR_TILED_OFF:
        return;
    case FLASHVSR_TILED_ON:
        if (settings.tile_size < 16 || settings.tile_size > FLASHVSR_MAX_SIZE)
            fail(EINVAL, "tile_size ", settings.tile_size, " is not between 16 and ", FLASHVSR_MAX_SIZE);
        if (settings.tile_size < 2 * int64_t{settings.tile_overlap})
            fail(EINVAL, "tile_size ", settings.tile_size, " is less than two overlaps of ",
                 settings.tile_overlap, " pixels (tile_overlap)");
        stream.tile = scaled(settings.tile_size);
        stream.states_aside = room.host_beside && !states_fit(memory, target, stream_grid(stream), room);
        return;
    case FLASHVSR_TILED_AUTO: {
        TileChoice choice = choose_tiles(memory, target, scale, settings.tile_overlap, room);
        std::vector<int64_t> &sides = choice.sides;
        std::transform(sides.begin(), sides.end(), sides.begin(), scaled);
        stream.tile = sides.front();
        stream.fallback_tiles.assign(sides.begin() + 1, sides.end());
        stream.states_aside = choice.states_aside;
        return;
    }
    default:
        fail(EINVAL, "tiled ", settings.tiled, " is none of enum FlashVSRTiled");
    }
}

} // namespace flashvsr
