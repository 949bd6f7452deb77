// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tiles/batch_planner.h"

#include <algorithm>
#include <utility>

namespace flashvsr {

namespace {

int64_t mebibytes(int64_t bytes) {
    return bytes >> 20;
}

/// More tiles than these keep a GPU no busier.
int64_t most_tiles(Size tile) {
    const Size usual = BatchPlanner::usual_tile;
    return std::clamp(BatchPlanner::usual_batch * usual.width * usual.height / (tile.width * tile.height),
                      BatchPlanner::usual_batch, BatchPlanner::largest_batch);
}

} // namespace

void BatchRecord::add(const BatchRecord &other) {
    for (const auto &[tiles, count] : other.batches)
        batches[tiles] += count;
    out_of_memory += other.out_of_memory;
}

int64_t usable_memory(double limit, const DeviceMemory &memory) {
    const int64_t free = memory.free - BatchPlanner::margin_bytes;
    if (limit <= 0)
        return free;
    const double bytes = limit <= 1 ? limit * static_cast<double>(memory.total)
                                    : std::min(limit, static_cast<double>(memory.total));
    return std::min(free, static_cast<int64_t>(bytes) - (memory.total - memory.free));
}

BatchPlanner::BatchPlanner(const BatchOptions &options, Size tile, int64_t tile_bytes, MemoryProvider memory,
                           const Log &log)
    : options_(options), memory_(std::move(memory)), log_(&log) {
    use_tiles(tile, tile_bytes);
}

void BatchPlanner::use_tiles(Size tile, int64_t tile_bytes) {
    tile_bytes_ = tile_bytes;
    seen_ = false;
    ceiling_ = most_tiles(tile);
    if (options_.adaptive)
        review();
    else
        batch_ = std::max<int64_t>(1, options_.batch);
}

int64_t BatchPlanner::usable_bytes() const {
    return std::max<int64_t>(0, usable_memory(options_.limit, memory_()) - options_.visiting);
}

void BatchPlanner::review() {
    const int64_t usable = usable_bytes();
    const int64_t batch = std::clamp<int64_t>(usable / tile_bytes_, 1, ceiling_);
    if (batch != batch_)
        (*log_)(LogLevel::verbose, "tile batch ", batch_, " -> ", batch, ": ", mebibytes(usable),
                " MiB usable, ", mebibytes(tile_bytes_), " MiB a tile (", seen_ ? "seen" : "estimated", ")");
    batch_ = batch;
}

void BatchPlanner::succeeded(int64_t tiles, int64_t bytes) {
    batches_++;
    record_.batches[tiles]++;
    if (!options_.adaptive)
        return;
    if (bytes > 0) {
        const int64_t tile_bytes = std::max<int64_t>(1, bytes / tiles);
        tile_bytes_ = seen_ ? std::max(tile_bytes_, tile_bytes) : tile_bytes;
        seen_ = true;
    }
    if (batches_ % review_interval == 0)
        review();
}

bool BatchPlanner::out_of_memory(int64_t tiles) {
    record_.out_of_memory++;
    if (tiles <= 1)
        return false;
    const DeviceMemory memory = memory_();
    // What did not fit now is not tried again.
    ceiling_ = std::max<int64_t>(1, tiles / 2);
    batch_ = std::min(batch_, ceiling_);
    (*log_)(LogLevel::warning, "out of memory with ", tiles, " tiles in a batch, ", mebibytes(memory.free),
            " of ", mebibytes(memory.total), " MiB free: going on with ", batch_);
    return true;
}

void BatchPlanner::log_states_aside(int64_t tiles) const {
    const DeviceMemory memory = memory_();
    (*log_)(LogLevel::warning, "out of memory with the states of ", tiles, " tiles on the device, ",
            mebibytes(memory.free), " of ", mebibytes(memory.total),
            " MiB free: they wait in host memory from now on");
}

std::string BatchPlanner::shortage() const {
    const DeviceMemory memory = memory_();
    return concat("about ", mebibytes(tile_bytes_), " MiB (", seen_ ? "seen" : "estimated", ") needed, ",
                  mebibytes(memory.free), " of ", mebibytes(memory.total), " MiB free");
}

BatchRecord BatchPlanner::take_record() {
    return std::exchange(record_, {});
}

} // namespace flashvsr
