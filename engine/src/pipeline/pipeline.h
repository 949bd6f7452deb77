// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "frame/held_picture.h"
#include "log.h"
#include "model/model.h"
#include "ops/device.h"
#include "stream/chunk_pictures.h"

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace flashvsr {

/// An output picture and the place of its input picture in the clip.
struct OutputPicture {
    int64_t index = 0;
    /// (3, H, W) fp32 in [-1, 1], or, where it has a format, a packed picture; finished, in host memory or,
    /// where it is wanted there, a GPU's.
    at::Tensor data;
    std::optional<PictureFormat> format;
};

/// A picture that a device may still be making: one of those that come down together.
struct PendingPicture {
    Unfinished pictures; ///< Pictures::data
    int64_t place = 0;
    size_t worker = 0; ///< who makes it
    std::optional<PictureFormat> format;

    at::Tensor wait() const { return pictures.wait().select(0, place); }
};

/// Pictures on their way to the host, or to be finished where they stay.
std::vector<PendingPicture> pending_pictures(const Pictures &pictures, Downloads &downloads, size_t worker);

struct WorkerStats {
    std::string device;
    int64_t chunks = 0;
    double busy_seconds = 0;
    bool failed = false;
    Size tile = {}; ///< output pixels; of the last step
    BatchRecord batches = {};
};

/// A line for each worker, level info: its work, and what was decided about its memory.
void log_work(const std::vector<WorkerStats> &stats, const Log &log);

/// A device to work on: its name, the network on it (shared by workers of one device) and its memory.
struct WorkerDevice {
    std::string name;
    std::shared_ptr<const Model> model;
    MemoryProvider memory = host_memory;
};

enum class MultiGpu { off, frames, tiles };

struct PipelineOptions {
    StreamOptions stream;
    MultiGpu multi_gpu = MultiGpu::off;
    int64_t overlap = 10; ///< output frames that neighbouring segments share
    int64_t segment = 0;  ///< frames of a segment; 0: one endless segment on one device, chosen for several
    /// Frames of one that is chosen, at most: it costs as much as about 18 frames more than it gives, so
    /// longer ones gain little and fill the memory.
    int64_t longest_segment = 1024;
    /// Called by a worker before each of its steps; what it throws is the worker's failure. For tests.
    std::function<void(size_t worker, int64_t step)> before_step;
    /// Called before a picture of a worker is waited for; what it throws is the worker's failure. For tests.
    std::function<void(size_t worker)> before_wait;
};

/// Pictures in, pictures out, in order, with threads that run the network between them. What waits on either
/// side is bounded: a full side pushes back. One caller at a time. Destroying it stops the threads wherever
/// they are.
class Pipeline {
public:
    virtual ~Pipeline() = default;

    /// Whether pictures must be taken before the next can be sent.
    virtual bool full() const = 0;

    /// Give the next picture; not while full().
    /// @throws Error EINVAL after a flush, or what stopped the work
    virtual void send(PicturePtr picture) = 0;

    /// No more pictures will come.
    virtual void flush() = 0;

    enum class Received { picture, send_more, end };

    /// Take the next picture; waits for one only while none can be sent.
    /// @throws Error what stopped the work
    virtual Received receive(OutputPicture &picture) = 0;

    virtual std::vector<WorkerStats> stats() const = 0;
};

/// Processors for each worker: those of the machine, shared by the workers on the CPU.
int64_t processors_per_worker(const std::vector<WorkerDevice> &devices);

/// @param devices one where multi_gpu is off, else at least one; multi_gpu with one is a warning alone
std::unique_ptr<Pipeline> make_pipeline(const PipelineOptions &options, std::vector<WorkerDevice> devices,
                                        const Log &log);

} // namespace flashvsr
