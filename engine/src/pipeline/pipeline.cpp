// SPDX-License-Identifier: LGPL-2.1-or-later
#include "pipeline/pipeline.h"

#include "block_cache.h"
#include "pipeline/segment_pipeline.h"
#include "pipeline/tile_pipeline.h"

#include <algorithm>
#include <thread>

namespace flashvsr {

std::vector<PendingPicture> pending_pictures(const Pictures &pictures, Downloads &downloads, size_t worker) {
    const Unfinished data = pictures.stay ? Unfinished(pictures.data) : downloads.begin(pictures.data);
    std::vector<PendingPicture> pending;
    for (int64_t i = 0; i < pictures.data.size(0); i++) {
        pending.push_back({data, i, worker, std::nullopt});
        if (!pictures.formats.empty())
            pending.back().format = pictures.formats[i];
    }
    return pending;
}

void log_work(const std::vector<WorkerStats> &stats, const Log &log) {
    for (const WorkerStats &worker : stats) {
        const std::string name = concat("device ", worker.device, worker.failed ? " (failed)" : "", ": ");
        if (worker.chunks == 0) {
            log(LogLevel::info, name, "no work");
            continue;
        }
        std::string batches;
        for (const auto &[tiles, count] : worker.batches.batches)
            batches += concat(batches.empty() ? "" : ", ", count, " of ", tiles);
        log(LogLevel::info, name, worker.chunks, " chunks, ", worker.busy_seconds, " s at work, tiles of ",
            worker.tile.width, "x", worker.tile.height, " output pixels in batches (", batches, "), ",
            worker.batches.out_of_memory, " times out of memory");
    }
}

int64_t processors_per_worker(const std::vector<WorkerDevice> &devices) {
    const auto on_cpu = std::count_if(devices.begin(), devices.end(), [](const WorkerDevice &device) {
        return device.model->placement.device.is_cpu();
    });
    return std::thread::hardware_concurrency() / std::max<int64_t>(1, on_cpu);
}

std::unique_ptr<Pipeline> make_pipeline(const PipelineOptions &options, std::vector<WorkerDevice> devices,
                                        const Log &log) {
    cache_host_memory();
    PipelineOptions chosen = options;
    if (options.multi_gpu != MultiGpu::off && devices.size() < 2) {
        log(LogLevel::warning, "multi_gpu needs two devices or more, there is one: ", devices.front().name);
        chosen.multi_gpu = MultiGpu::off;
    }
    if (chosen.multi_gpu == MultiGpu::tiles)
        return std::make_unique<TilePipeline>(chosen, std::move(devices), log);
    return std::make_unique<SegmentPipeline>(chosen, std::move(devices), log);
}

} // namespace flashvsr
