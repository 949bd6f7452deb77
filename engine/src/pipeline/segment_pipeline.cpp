// SPDX-License-Identifier: LGPL-2.1-or-later
#include "pipeline/segment_pipeline.h"

#include "torch_guard.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

namespace flashvsr {

namespace {

// A whole first chunk, and the next one gathering while it runs.
constexpr int64_t read_ahead = schedule::first_frames_in + schedule::frames_per_chunk;
// An endless segment waits with a finished chunk until the one before it is taken.
constexpr size_t output_low_water = schedule::frames_per_chunk;

/// One device makes one endless segment unless a length is asked for; several need a length.
int64_t segment_length(const PipelineOptions &options, size_t devices) {
    if (options.segment > 0 || devices < 2)
        return options.segment;
    const Size output = options.stream.output;
    const int64_t picture_bytes = 3 * output.width * output.height * static_cast<int64_t>(sizeof(float));
    return choose_segment_length(options.overlap, static_cast<int64_t>(devices), picture_bytes,
                                 host_memory().free);
}

} // namespace

SegmentPipeline::SegmentPipeline(const PipelineOptions &options, std::vector<WorkerDevice> devices,
                                 const Log &log)
    : options_(options), devices_(std::move(devices)), log_(log), keep_inputs_(devices_.size() > 1),
      planner_(segment_length(options, devices_.size()), options.overlap), stats_(devices_.size()),
      steps_(devices_.size()) {
    stream_grid(options_.stream); // its errors belong to the opening, not to the first frame
    if (planner_.splits())
        log_(LogLevel::verbose, "segments of ", segment_length(options, devices_.size()),
             " frames that share ", options_.overlap);
    for (size_t i = 0; i < devices_.size(); i++)
        stats_[i].device = devices_[i].name;
    for (size_t i = 0; i < devices_.size(); i++)
        threads_.emplace_back([this, i](const std::stop_token &stop) { work(i, stop); });
}

SegmentPipeline::~SegmentPipeline() {
    for (std::jthread &thread : threads_)
        thread.request_stop();
}

bool SegmentPipeline::full() const {
    const std::lock_guard lock(mutex_);
    return full_locked();
}

bool SegmentPipeline::full_locked() const {
    if (jobs_.empty())
        return false;
    const Job &newest = jobs_.back();
    if (!planner_.splits())
        return static_cast<int64_t>(newest.inputs.size()) >= read_ahead;
    // Devices that are free need a segment each to start on; one more waits with enough for a start, and with
    // so much that the segment before it is complete.
    return !newest.running &&
           newest.inputs_seen() >= std::max(read_ahead, options_.overlap + schedule::look_ahead + 1);
}

void SegmentPipeline::send(PicturePtr picture) {
    const std::lock_guard lock(mutex_);
    throw_failure();
    if (flushed_)
        fail(EINVAL, "a frame was sent after the flush");
    deal(picture);
    changed_.notify_all();
}

/// Give a picture to every segment that needs it.
void SegmentPipeline::deal(const PicturePtr &picture) {
    const bool cut = planner_.splits() && last_ && scenes_.is_cut(picture->difference(*last_));
    const std::optional<Segment> begun =
        planner_.begin_at(frames_in_, cut, jobs_.empty() ? nullptr : &jobs_.back().segment);
    if (begun) {
        if (!jobs_.empty() && jobs_.back().segment.ends_at_cut)
            jobs_.back().closed = true;
        jobs_.push_back({});
        jobs_.back().segment = *begun;
    }
    for (Job &job : jobs_) {
        if (job.closed)
            continue;
        job.inputs.push_back(picture);
        job.closed = frames_in_ + 1 >= job.segment.end + schedule::look_ahead;
    }
    last_ = picture;
    frames_in_++;
}

void SegmentPipeline::flush() {
    const std::lock_guard lock(mutex_);
    if (!flushed_)
        end_clip();
    flushed_ = true;
    changed_.notify_all();
}

void SegmentPipeline::end_clip() {
    // A last segment that lies within the overlap has nothing of its own. It was not started: see
    // may_start().
    if (jobs_.size() > 1 && jobs_.back().segment.fade > 0 &&
        frames_in_ <= std::prev(jobs_.end(), 2)->segment.end)
        jobs_.pop_back();
    for (Job &job : jobs_) {
        job.segment.end = std::min(job.segment.end, frames_in_);
        job.closed = true;
    }
}

/// A segment is started once it is known to reach beyond its overlap.
bool SegmentPipeline::may_start(const Job &job) const {
    return !job.running && !job.done() && (job.closed || job.inputs_seen() > job.segment.fade);
}

Pipeline::Received SegmentPipeline::receive(OutputPicture &picture) {
    std::unique_lock lock(mutex_);
    const auto finished = [&] { return flushed_ && frames_out_ == frames_in_; };
    for (;;) {
        changed_.wait(
            lock, [&] { return next_ready() || failure_ || finished() || (!flushed_ && !full_locked()); });
        if (!next_ready())
            break;
        const NextPicture next = this->next();
        // Nobody but this caller takes segments and pictures away.
        const JobRef job = jobs_.begin();
        lock.unlock();
        std::optional<at::Tensor> pixels = wait_for(next.picture, *job), other;
        if (pixels && next.other)
            other = wait_for(*next.other, *std::next(job));
        if (pixels && next.other && other)
            pixels = at::lerp(*pixels, *other, next.weight);
        lock.lock();
        if (!pixels || (next.other && !other))
            continue;
        take_next();
        picture = {frames_out_++, std::move(*pixels), next.picture.format};
        drop_finished();
        changed_.notify_all();
        return Received::picture;
    }
    throw_failure();
    return finished() ? Received::end : Received::send_more;
}

/// A picture of a segment, or nothing where its device failed meanwhile: what is not given out yet of the
/// segment is then made again.
std::optional<at::Tensor> SegmentPipeline::wait_for(const PendingPicture &picture, Job &job) {
    try {
        if (options_.before_wait)
            options_.before_wait(picture.worker);
        return picture.wait();
    } catch (...) {
        const Error error = current_error();
        const std::lock_guard lock(mutex_);
        job.outputs.clear();
        job.made = job.taken;
        worker_failed(picture.worker, job, error);
        return std::nullopt;
    }
}

bool SegmentPipeline::next_ready() const {
    if (jobs_.empty() || frames_out_ >= jobs_.front().segment.end || !jobs_.front().has(frames_out_))
        return false;
    if (jobs_.size() == 1)
        return true;
    const Job &after = *std::next(jobs_.begin());
    return frames_out_ < after.segment.begin || after.has(frames_out_);
}

SegmentPipeline::NextPicture SegmentPipeline::next() const {
    NextPicture next{jobs_.front().output(frames_out_), std::nullopt};
    if (jobs_.size() > 1) {
        const Job &after = *std::next(jobs_.begin());
        if (frames_out_ >= after.segment.begin) {
            next.weight = static_cast<double>(frames_out_ - after.segment.begin + 1) /
                          static_cast<double>(after.segment.fade + 1);
            next.other = after.output(frames_out_);
        }
    }
    return next;
}

/// Let go of what next() is.
void SegmentPipeline::take_next() {
    for (Job &job : jobs_) {
        if (frames_out_ < job.segment.begin)
            break;
        job.outputs.pop_front();
        job.taken++;
    }
}

/// Forget segments that are given out. One whose thread is still at look-ahead frames waits for it to let go.
void SegmentPipeline::drop_finished() {
    while (!jobs_.empty() && frames_out_ >= jobs_.front().segment.end && !jobs_.front().running)
        jobs_.pop_front();
}

std::vector<WorkerStats> SegmentPipeline::stats() const {
    const std::lock_guard lock(mutex_);
    return stats_;
}

void SegmentPipeline::throw_failure() const {
    if (failure_)
        throw Error(*failure_);
}

void SegmentPipeline::work(size_t worker, const std::stop_token &stop) {
    use_processors(processors_per_worker(devices_));
    const DeviceScope scope(devices_[worker].model->placement.device);
    std::optional<Worker> own;
    JobRef job;
    while (take_job(worker, job, stop)) {
        try {
            const TorchGuard guard(log_);
            if (!own)
                own.emplace(make_worker(worker));
            run(*own, *job, stop);
        } catch (...) {
            const Error error = current_error();
            const std::lock_guard lock(mutex_);
            job->running = false;
            if (!stop.stop_requested())
                worker_failed(worker, *job, error);
            return;
        }
        const std::lock_guard lock(mutex_);
        job->running = false;
        drop_finished();
        changed_.notify_all();
    }
}

bool SegmentPipeline::take_job(size_t worker, JobRef &job, const std::stop_token &stop) {
    std::unique_lock lock(mutex_);
    const auto find = [&] {
        job = std::find_if(jobs_.begin(), jobs_.end(),
                           [&](const Job &candidate) { return may_start(candidate); });
        return job != jobs_.end() || stats_[worker].failed;
    };
    if (!changed_.wait(lock, stop, find) || stats_[worker].failed)
        return false;
    job->running = true;
    changed_.notify_all();
    return true;
}

SegmentPipeline::Worker SegmentPipeline::make_worker(size_t index) const {
    const StreamOptions &options = options_.stream;
    const WorkerDevice &device = devices_[index];
    return {index, options,
            make_batch_planner(options, stream_grid(options), *device.model, device.memory, log_),
            StepTimer(device.model->placement.device)};
}

void SegmentPipeline::run(Worker &worker, Job &job, const std::stop_token &stop) {
    StreamOptions options = worker.options;
    options.first_frame += job.segment.begin;
    FrameStream stream(devices_[worker.index].model, options, worker.planner, log_);
    PictureConverters converters(devices_[worker.index].model->placement.device);
    Observer observer;
    observer.stop = stop;
    int64_t read = 0, made = 0;

    for (;;) {
        std::vector<PicturePtr> held;
        int64_t step = 0;
        {
            std::unique_lock lock(mutex_);
            const auto unread = [&] { return job.inputs_seen() - read; };
            const auto ready = [&] { return job.closed || unread() >= stream.frames_wanted(); };
            if (!changed_.wait(lock, stop, ready))
                fail(ECANCELED, "the work was cancelled");
            const int64_t count = std::min(unread(), stream.frames_wanted());
            if (job.closed && (made >= job.length() || (count == 0 && stream.frames_held() == 0)))
                break;
            for (int64_t i = 0; i < count; i++)
                held.push_back(job.inputs[read - job.dropped + i]);
            read += count;
            if (!keep_inputs_) {
                job.inputs.erase(job.inputs.begin(), job.inputs.begin() + (read - job.dropped));
                job.dropped = read;
            }
            step = steps_[worker.index]++;
            changed_.notify_all();
        }
        if (options_.before_step)
            options_.before_step(worker.index, step);

        worker.timer.begin();
        std::vector<at::Tensor> frames;
        frames.reserve(held.size());
        for (const PicturePtr &picture : held)
            frames.push_back(picture->to_tensor(converters));
        const std::vector<PendingPicture> pictures =
            pending_pictures(stream.step(frames, observer), worker.index);
        worker.timer.end();

        std::unique_lock lock(mutex_);
        WorkerStats &stats = stats_[worker.index];
        stats.chunks++;
        stats.busy_seconds += worker.timer.take_seconds();
        stats.tile = stream.tile();
        stats.batches.add(stream.planner().take_record());
        if (!planner_.splits() &&
            !changed_.wait(lock, stop, [&] { return job.outputs.size() <= output_low_water; }))
            fail(ECANCELED, "the work was cancelled");
        for (const PendingPicture &picture : pictures) {
            // A segment that is run again makes first what was made before.
            if (made++ == job.made && job.made < job.length()) {
                job.outputs.push_back(picture);
                job.made++;
            }
        }
        changed_.notify_all();
    }
    worker.options.tile = stream.options().tile;
    worker.options.fallback_tiles = stream.options().fallback_tiles;
    worker.planner = std::move(stream.planner());
}

/// With the mutex held. A worker may fail twice: where its pictures are waited for, and at its next step.
void SegmentPipeline::worker_failed(size_t worker, const Job &job, const Error &error) {
    const bool first = !std::exchange(stats_[worker].failed, true);
    const bool others =
        std::any_of(stats_.begin(), stats_.end(), [](const WorkerStats &s) { return !s.failed; });
    if (!others && !failure_)
        failure_ = error;
    else if (others && first)
        log_(LogLevel::warning, "device ", devices_[worker].name, " failed (", error.what(),
             "): frames from ", job.segment.begin, " on are run again on another");
    changed_.notify_all();
}

} // namespace flashvsr
