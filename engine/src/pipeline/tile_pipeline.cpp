// SPDX-License-Identifier: LGPL-2.1-or-later
#include "pipeline/tile_pipeline.h"

#include "torch_guard.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>

namespace flashvsr {

namespace {

constexpr size_t read_ahead = schedule::first_frames_in + schedule::frames_per_chunk;
constexpr size_t output_low_water = schedule::frames_per_chunk;
// One chunk that the last devices are still at, and one that the first begin.
constexpr size_t chunks_under_way = 2;

/// Wait for what this thread queued on a device.
/// @return false where that failed
bool finishes(const at::Device &device) noexcept {
    try {
        synchronize_stream(device);
        return true;
    } catch (...) {
        return false;
    }
}

/// At its end nothing that this thread queued on a device runs any more, whatever ended the work: it reads
/// tables of the pipeline's.
class Finished {
public:
    explicit Finished(const at::Device &device) : device_(device) {}
    ~Finished() { finishes(device_); }
    Finished(const Finished &) = delete;
    Finished &operator=(const Finished &) = delete;

private:
    at::Device device_;
};

} // namespace

TilePipeline::TilePipeline(const PipelineOptions &options, std::vector<WorkerDevice> devices, const Log &log)
    : options_(options), devices_(std::move(devices)), log_(log),
      lead_(devices_.front().model->placement.device), pictures_(options.stream, lead_),
      grid_(stream_grid(options.stream)), feather_(grid_, pictures_.target(), lead_), downloads_(lead_),
      stats_(devices_.size()) {
    // Shares of whole batches, so that the batches are those of one device.
    const auto batch = static_cast<size_t>(
        options.stream.batch.adaptive ? 1 : std::max<int64_t>(1, options.stream.batch.batch));
    const size_t batches = (grid_.size() + batch - 1) / batch, workers = std::min(devices_.size(), batches);
    for (size_t i = 0; i < workers; i++) {
        const size_t first = i * batches / workers * batch,
                     end = std::min(grid_.size(), (i + 1) * batches / workers * batch);
        shares_.push_back({TileBatches(devices_[i].model, options.stream.sparse, grid_, first, end - first,
                                       make_planner(i), options.stream.states_aside),
                           i, i});
    }
    log_(LogLevel::verbose, grid_.size(), " tiles of ", grid_.front().size.width, "x",
         grid_.front().size.height, " output pixels on ", workers, " of ", devices_.size(), " devices");
    for (size_t i = 0; i < devices_.size(); i++)
        stats_[i].device = devices_[i].name;
    threads_.emplace_back([this](const std::stop_token &stop) { read(stop); });
    for (size_t i = 0; i < devices_.size(); i++)
        threads_.emplace_back([this, i](const std::stop_token &stop) { work(i, stop); });
}

BatchPlanner TilePipeline::make_planner(size_t worker) const {
    return make_batch_planner(options_.stream, grid_, *devices_[worker].model, devices_[worker].memory, log_);
}

TilePipeline::~TilePipeline() {
    for (std::jthread &thread : threads_)
        thread.request_stop();
}

bool TilePipeline::full() const {
    const std::lock_guard lock(mutex_);
    return full_locked();
}

bool TilePipeline::full_locked() const {
    return input_.size() >= read_ahead;
}

void TilePipeline::send(PicturePtr picture) {
    const std::lock_guard lock(mutex_);
    throw_failure();
    if (flushed_)
        fail(EINVAL, "a frame was sent after the flush");
    input_.push_back(std::move(picture));
    frames_in_++;
    changed_.notify_all();
}

void TilePipeline::flush() {
    const std::lock_guard lock(mutex_);
    flushed_ = true;
    changed_.notify_all();
}

Pipeline::Received TilePipeline::receive(OutputPicture &picture) {
    std::unique_lock lock(mutex_);
    const auto finished = [&] { return flushed_ && frames_out_ == frames_in_; };
    changed_.wait(
        lock, [&] { return !output_.empty() || failure_ || finished() || (!flushed_ && !full_locked()); });
    if (!output_.empty()) {
        // Nobody but this caller takes pictures away.
        const PendingPicture next = output_.front();
        lock.unlock();
        at::Tensor pixels = wait_for(next);
        lock.lock();
        output_.pop_front();
        picture = {frames_out_++, std::move(pixels), next.format};
        changed_.notify_all();
        return Received::picture;
    }
    throw_failure();
    return finished() ? Received::end : Received::send_more;
}

at::Tensor TilePipeline::wait_for(const PendingPicture &picture) {
    try {
        return picture.wait();
    } catch (...) {
        const Error error = current_error();
        fail_with(error);
        throw error;
    }
}

std::vector<WorkerStats> TilePipeline::stats() const {
    const std::lock_guard lock(mutex_);
    return stats_;
}

void TilePipeline::throw_failure() const {
    if (failure_)
        throw Error(*failure_);
}

void TilePipeline::fail_with(const Error &error) {
    const std::lock_guard lock(mutex_);
    if (!failure_)
        failure_ = error;
    changed_.notify_all();
}

/// The reading thread: pictures to chunks, which every share then runs.
void TilePipeline::read(const std::stop_token &stop) {
    try {
        const TorchGuard guard(log_);
        const DeviceScope scope(lead_);
        const Finished finished(lead_);
        PictureConverters converters(lead_);
        Observer observer;
        observer.stop = stop;
        for (;;) {
            std::vector<PicturePtr> held;
            {
                std::unique_lock lock(mutex_);
                const auto wanted = static_cast<size_t>(pictures_.frames_wanted());
                const auto ready = [&] {
                    return jobs_.size() < chunks_under_way && (flushed_ || input_.size() >= wanted);
                };
                if (!changed_.wait(lock, stop, ready))
                    return;
                const auto count = static_cast<ptrdiff_t>(std::min(wanted, input_.size()));
                if (count == 0 && pictures_.frames_held() == 0)
                    return;
                held.assign(input_.begin(), input_.begin() + count);
                input_.erase(input_.begin(), input_.begin() + count);
                changed_.notify_all();
            }
            std::vector<at::Tensor> frames;
            frames.reserve(held.size());
            for (const PicturePtr &picture : held) {
                observer.check_stop();
                frames.push_back(picture->to_tensor(converters));
            }
            PictureChunk chunk = pictures_.begin(frames, observer);
            synchronize_stream(lead_);
            const std::lock_guard lock(mutex_);
            jobs_.push_back(
                {std::move(chunk), std::vector<std::vector<TileOutput>>(shares_.size()), shares_.size()});
            changed_.notify_all();
        }
    } catch (...) {
        fail_with(current_error());
    }
}

std::optional<size_t> TilePipeline::next_share(size_t worker) const {
    std::optional<size_t> next;
    for (size_t i = 0; i < shares_.size(); i++)
        if (shares_[i].worker == worker &&
            shares_[i].next_chunk < first_job_ + static_cast<int64_t>(jobs_.size()) &&
            (!next || shares_[i].next_chunk < shares_[*next].next_chunk))
            next = i;
    return next;
}

std::optional<TilePipeline::Task> TilePipeline::next_task(size_t worker) {
    // Only the oldest chunk: the others' turn comes after it, and the one who waits for it may be the last
    // that can finish it.
    if (!jobs_.empty() && jobs_.front().shares_left == 0 && !jobs_.front().finishing)
        return Task{&jobs_.front(), std::nullopt};
    const std::optional<size_t> share = next_share(worker);
    if (!share)
        return std::nullopt;
    // A deque's elements stay where they are while others come and go at its ends.
    return Task{&jobs_[shares_[*share].next_chunk - first_job_], share};
}

void TilePipeline::work(size_t worker, const std::stop_token &stop) {
    use_processors(processors_per_worker(devices_));
    const at::Device device = devices_[worker].model->placement.device;
    try {
        const TorchGuard guard(log_);
        // A stream of its own on the lead, too: copies from there and back wait for each other in one that
        // workers share.
        const DeviceScope on_lead(lead_), scope(device);
        const Finished finished(lead_);
        Pacer pacer(device);
        Observer observer;
        observer.stop = stop;
        observer.pace = [&] { pacer.wait(stop); };
        for (;;) {
            std::optional<Task> task;
            {
                std::unique_lock lock(mutex_);
                if (!changed_.wait(lock, stop, [&] { return (task = next_task(worker)).has_value(); }))
                    return;
                if (!task->share)
                    task->job->finishing = true;
            }
            if (task->share)
                run(worker, *task->share, *task->job, observer);
            else
                finish(*task->job, stop);
        }
    } catch (...) {
        const Error error = current_error();
        if (!stop.stop_requested())
            worker_failed(worker, error);
    }
}

/// Bring a share's streams from the device of another, which failed.
void TilePipeline::take_over(size_t worker, Share &share) {
    if (share.lost) {
        const Error error{EIO, concat("device ", devices_[share.holder].name,
                                      " failed, and what its tiles go on from with it")};
        fail_with(error);
        throw error;
    }
    try {
        share.tiles.move_to(devices_[worker].model, make_planner(worker));
        share.holder = worker;
    } catch (...) {
        const Error error = current_error();
        if (error.code() == ENOMEM)
            throw error;
        synchronize(devices_[worker].model->placement.device); // throws where it is this one that fails
        fail_with({error.code(),
                   concat("device ", devices_[share.holder].name,
                          " failed, and what its tiles go on from cannot be read there: ", error.what())});
        throw error;
    }
}

void TilePipeline::run(size_t worker, size_t index, Job &job, const Observer &observer) {
    Share &share = shares_[index];
    int64_t step = 0;
    {
        const std::lock_guard lock(mutex_);
        step = stats_[worker].chunks;
    }
    if (options_.before_step)
        options_.before_step(worker, step);

    if (share.holder != worker)
        take_over(worker, share);
    const at::Device device = devices_[worker].model->placement.device;
    const auto start = std::chrono::steady_clock::now();
    bool went_on = false;
    try {
        share.tiles.step(
            job.chunk,
            [&](const TileOutput &output) {
                job.outputs[index].push_back({output.first, output.frames.to(lead_)});
            },
            observer);
        went_on = true;
        synchronize_stream(device);
    } catch (...) {
        // What another goes on from: the streams, and the outputs of batches before the one that failed.
        share.lost = went_on || !finishes(device);
        throw;
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;

    const std::lock_guard lock(mutex_);
    WorkerStats &stats = stats_[worker];
    stats.chunks++;
    stats.busy_seconds += seconds.count();
    stats.tile = grid_.front().size;
    stats.batches.add(share.tiles.planner().take_record());
    share.next_chunk++;
    job.shares_left--;
    changed_.notify_all();
}

/// The pictures of a chunk, its tiles blended in the grid's order.
Pictures TilePipeline::blend(const Job &job, const Observer &observer) {
    at::Tensor picture;
    for (const auto &outputs : job.outputs)
        for (const TileOutput &output : outputs)
            feather_.accumulate(picture, output, job.chunk.condition);
    return pictures_.finish(job.chunk, picture, observer);
}

/// Give the oldest chunk's pictures out.
void TilePipeline::finish(Job &job, const std::stop_token &stop) {
    std::vector<PendingPicture> pictures;
    try {
        const DeviceScope scope(lead_);
        const Finished finished(lead_);
        Observer observer;
        observer.stop = stop;
        pictures = pending_pictures(blend(job, observer), downloads_, 0);
        synchronize_stream(lead_);
    } catch (...) {
        const std::lock_guard lock(mutex_);
        job.finishing = false; // for another worker
        throw;
    }
    std::unique_lock lock(mutex_);
    if (!changed_.wait(lock, stop, [&] { return output_.size() <= output_low_water; }))
        return;
    for (PendingPicture &picture : pictures)
        output_.push_back(std::move(picture));
    jobs_.pop_front();
    first_job_++;
    changed_.notify_all();
}

void TilePipeline::worker_failed(size_t worker, const Error &error) {
    const std::lock_guard lock(mutex_);
    if (failure_)
        return;
    stats_[worker].failed = true;
    const auto other =
        std::find_if(stats_.begin(), stats_.end(), [](const WorkerStats &s) { return !s.failed; });
    if (other == stats_.end()) {
        if (!failure_)
            failure_ = error;
    } else {
        const auto heir = static_cast<size_t>(other - stats_.begin());
        for (Share &share : shares_)
            if (share.worker == worker)
                share.worker = heir;
        log_(LogLevel::warning, "device ", devices_[worker].name, " failed (", error.what(),
             "): its tiles go on on ", devices_[heir].name);
    }
    changed_.notify_all();
}

} // namespace flashvsr
