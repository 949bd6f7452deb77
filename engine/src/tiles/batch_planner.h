// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "log.h"
#include "ops/device.h"
#include "tiles/tile_grid.h"

#include <cstdint>
#include <map>
#include <string>

namespace flashvsr {

struct BatchOptions {
    bool adaptive = false;
    int64_t batch = 1; ///< tiles in a step when not adaptive
    /// Most of a device's memory to use: up to 1 a fraction of it, above that bytes; 0: all but the margin.
    double limit = 0;
    int64_t visiting = 0; ///< bytes of weights that a step brings to the device, whatever its batch
};

/// Bytes that may still be taken of a device's memory under BatchOptions::limit; below 0 where too much is in
/// use already.
int64_t usable_memory(double limit, const DeviceMemory &memory);

/// What became of a planner's decisions.
struct BatchRecord {
    std::map<int64_t, int64_t> batches; ///< batches that went through, by the number of tiles in them
    int64_t out_of_memory = 0;          ///< batches that did not

    void add(const BatchRecord &other);
};

/// How many tiles go through a model step together. Not thread-safe.
///
/// Adaptive: 1 to 8, or of small tiles as many as have the pixels of 8 of 512x512, at most 64. From free
/// memory less a margin of 2 GiB and visiting weights, divided by what a tile takes: at first an estimate
/// (MemoryModel), then the most a tile was seen to take. Looked at again every 5 batches; halved when memory
/// runs out. Every change is logged with its numbers.
class BatchPlanner {
public:
    static constexpr int64_t usual_batch = 8, largest_batch = 64, review_interval = 5;
    static constexpr Size usual_tile = {512, 512};
    static constexpr int64_t margin_bytes = int64_t{2} << 30;

    /// @param tile       output pixels
    /// @param tile_bytes what a tile is estimated to take
    BatchPlanner(const BatchOptions &options, Size tile, int64_t tile_bytes, MemoryProvider memory,
                 const Log &log);

    /// Tiles of another size from now on: what was seen of those before says nothing about them.
    void use_tiles(Size tile, int64_t tile_bytes);

    /// Tiles of the next batch, at least 1.
    int64_t batch() const { return batch_; }

    /// A batch of `tiles` went through and took `bytes` of memory above what was in use before (0: not
    /// known). Visiting weights are counted with the tiles: nobody knows whether they were there at the peak.
    void succeeded(int64_t tiles, int64_t bytes);

    /// A batch of `tiles` ran out of memory: the next is half as large.
    /// @return false if it was of one tile, and nothing smaller is left
    bool out_of_memory(int64_t tiles);

    /// Say that the states of tiles wait in host memory from now on.
    void log_states_aside(int64_t tiles) const;

    /// What a tile needs and what is free, for a sentence.
    std::string shortage() const;

    /// What happened since the last call.
    BatchRecord take_record();

private:
    void review();
    int64_t usable_bytes() const;

    BatchOptions options_;
    int64_t tile_bytes_ = 0; ///< what a tile is taken to need
    bool seen_ = false;      ///< tile_bytes_ was measured
    MemoryProvider memory_;
    const Log *log_;
    int64_t batch_ = 1, ceiling_ = usual_batch, batches_ = 0;
    BatchRecord record_;
};

} // namespace flashvsr
