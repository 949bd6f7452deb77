// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "pipeline/pipeline.h"
#include "stream/frame_stream.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>

namespace flashvsr {

/// One endless stream whose tiles are dealt out to devices, a run of neighbouring tiles to each: no seam in
/// time, and the same pictures as on one device. The tiles of a device that fails go on, from where they
/// were, on another. Chunks are made and blended on the first device; what passes from thread to thread has
/// been waited for on its stream, so that its memory may be freed by any.
class TilePipeline : public Pipeline {
public:
    TilePipeline(const PipelineOptions &options, std::vector<WorkerDevice> devices, const Log &log);
    ~TilePipeline() override;

    bool full() const override;
    void send(PicturePtr picture) override;
    void flush() override;
    Received receive(OutputPicture &picture) override;
    std::vector<WorkerStats> stats() const override;

private:
    /// Tiles that stay together, and the worker that runs them.
    struct Share {
        TileBatches tiles;
        size_t worker;
        size_t holder; ///< worker on whose device the streams are
        int64_t next_chunk = 0;
        bool lost = false; ///< the streams: their device failed where nobody knows what it did
    };
    /// A chunk under way: per share, what its tiles gave.
    struct Job {
        PictureChunk chunk;
        std::vector<std::vector<TileOutput>> outputs;
        size_t shares_left;
        bool finishing = false;
    };
    /// A share's next chunk, or a chunk whose shares are all done and which is to be finished.
    struct Task {
        Job *job = nullptr;
        std::optional<size_t> share;
    };

    void read(const std::stop_token &stop);
    void work(size_t worker, const std::stop_token &stop);
    /// The worker's share that is furthest behind, if there is a chunk for it.
    std::optional<size_t> next_share(size_t worker) const;
    std::optional<Task> next_task(size_t worker);
    BatchPlanner make_planner(size_t worker) const;
    void run(size_t worker, size_t index, Job &job, const Observer &observer);
    void take_over(size_t worker, Share &share);
    Pictures blend(const Job &job, const Observer &observer);
    void finish(Job &job, const std::stop_token &stop);
    void worker_failed(size_t worker, const Error &error);
    void fail_with(const Error &error);
    bool full_locked() const;
    at::Tensor wait_for(const PendingPicture &picture);
    void throw_failure() const;

    const PipelineOptions options_;
    const std::vector<WorkerDevice> devices_;
    const Log &log_;
    const at::Device lead_;  ///< where chunks are made and blended
    ChunkPictures pictures_; ///< begun by the reading thread; finish() is of any
    std::vector<Tile> grid_;
    Feather feather_;
    Downloads downloads_; ///< of whoever finishes a chunk

    mutable std::mutex mutex_;
    std::condition_variable_any changed_;
    std::vector<Share> shares_;
    std::deque<PicturePtr> input_;
    std::deque<Job> jobs_; ///< chunks first_job_ ...
    int64_t first_job_ = 0;
    std::deque<PendingPicture> output_;
    bool flushed_ = false;
    int64_t frames_in_ = 0, frames_out_ = 0;
    std::optional<Error> failure_;
    std::vector<WorkerStats> stats_;

    std::vector<std::jthread> threads_; ///< last: they end before what they use
};

} // namespace flashvsr
