// SPDX-License-Identifier: LGPL-2.1-or-later
#include "pipeline/segment_pipeline.h"

#include "torch_guard.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <bit>
#include <utility>

namespace flashvsr {

namespace {

// A whole first chunk, and the next one gathering while it runs.
constexpr int64_t read_ahead = schedule::first_frames_in + schedule::frames_per_chunk;
// An endless segment waits with a finished chunk until the one before it is taken.
constexpr size_t output_low_water = schedule::frames_per_chunk;

// Segments for each worker that are begun and not given out: the one it makes, and one that waits its turn.
constexpr size_t segments_per_worker = 2;
// Pictures that wait on a GPU are a small part of what the network leaves of its memory.
constexpr int64_t gpu_share = 4;

/// Of a picture in a chunk of finished ones. LibTorch pins blocks whose sizes are powers of two.
int64_t held_bytes(int64_t picture_bytes, bool pinned) {
    const auto chunk = static_cast<uint64_t>(schedule::frames_per_chunk * picture_bytes);
    return static_cast<int64_t>(pinned ? std::bit_ceil(chunk) : chunk) / schedule::frames_per_chunk;
}

/// Frames of the segments of a round, from what is held for each frame of their length.
int64_t round_length(const PipelineOptions &options, const std::vector<WorkerDevice> &devices,
                     const HeldPicture &input) {
    const auto workers = static_cast<int64_t>(devices.size());
    const StreamOptions &stream = options.stream;
    const std::optional<PictureFormat> format =
        stream.format_at ? stream.format_at(stream.first_frame) : std::nullopt;
    const int64_t pixels = stream.output.width * stream.output.height,
                  output_bytes = format ? picture_bytes(*format, stream.output)
                                        : 3 * pixels * static_cast<int64_t>(sizeof(float));
    // Those of the segments that are begun and not given out, which a failure may need again, of the round
    // that comes after them, and those that the next is planned from.
    const auto segments = static_cast<int64_t>(segments_per_worker) * workers;
    const int64_t inputs_bytes = (segments + 2 * workers + 1) * input.bytes();
    const bool pinned = std::any_of(devices.begin(), devices.end(), [](const WorkerDevice &device) {
        return !device.model->placement.device.is_cpu();
    });
    // Chunks with frames that segments share stay floats.
    const int64_t wide_bytes = held_bytes(3 * pixels * static_cast<int64_t>(sizeof(float)), pinned),
                  frame_bytes = held_bytes(output_bytes, pinned),
                  wide_frames = schedule::first_frames_out + options.overlap + 2 * schedule::frames_per_chunk,
                  fixed_bytes = segments * wide_frames * (wide_bytes - frame_bytes);
    const auto length = [&](int64_t bytes_per_frame, int64_t fixed, int64_t free_bytes) {
        return choose_segment_length(options.overlap, options.longest_segment, bytes_per_frame, fixed,
                                     free_bytes);
    };
    if (!input.on_gpu())
        return length(inputs_bytes + segments * frame_bytes, fixed_bytes, host_memory().free);
    return std::min(length(segments * frame_bytes, fixed_bytes, host_memory().free),
                    length(inputs_bytes, 0, memory_of(input.device()).free / gpu_share));
}

} // namespace

SegmentPipeline::SegmentPipeline(const PipelineOptions &options, std::vector<WorkerDevice> devices,
                                 const Log &log)
    : options_(options), devices_(std::move(devices)), log_(log), keep_inputs_(devices_.size() > 1),
      in_rounds_(options.segment == 0 && devices_.size() > 1), planner_(options.segment, options.overlap),
      stats_(devices_.size()), steps_(devices_.size()) {
    stream_grid(options_.stream); // its errors belong to the opening, not to the first frame
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
    if (awaits_send_)
        return false;
    if (in_rounds_)
        return rounds_ && static_cast<int64_t>(waiting_.size()) >= rounds_->frames_wanted();
    if (jobs_.empty())
        return false;
    if (!planner_.splits())
        return static_cast<int64_t>(jobs_.back().inputs.size()) >= read_ahead;
    // Segments that are being made are given all that they need, devices that are free a segment each to
    // start on. Then there waits enough for one more start.
    int64_t waiting = 0;
    for (const Job &job : jobs_) {
        if (job.running && !job.closed)
            return false;
        if (!job.running && !job.done())
            waiting += job.inputs_seen();
    }
    return waiting >= std::max(read_ahead, options_.overlap + schedule::look_ahead + 1);
}

void SegmentPipeline::send(PicturePtr picture) {
    const std::lock_guard lock(mutex_);
    throw_failure();
    if (flushed_)
        fail(EINVAL, "a frame was sent after the flush");
    const bool cut =
        (in_rounds_ || planner_.splits()) && last_ && scenes_.is_cut(picture->difference(*last_));
    try {
        if (in_rounds_)
            hold(picture, cut);
        else
            deal(picture, cut);
    } catch (...) {
        failure_ = current_error(); // some segments may have it, and others not
        changed_.notify_all();
        throw;
    }
    last_ = picture;
    frames_in_++;
    awaits_send_ = false;
    plan_rounds();
    changed_.notify_all();
}

/// Give a picture to every segment that needs it.
void SegmentPipeline::deal(const PicturePtr &picture, bool cut) {
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
}

/// Keep a picture for a round.
void SegmentPipeline::hold(const PicturePtr &picture, bool cut) {
    if (!rounds_) {
        const int64_t length = round_length(options_, devices_, *picture);
        rounds_.emplace(length, options_.overlap, static_cast<int64_t>(devices_.size()));
        log_(LogLevel::verbose, "segments of up to ", length, " frames that share ", options_.overlap);
    }
    if (cut)
        rounds_->add_cut(frames_in_);
    waiting_.push_back(picture);
}

/// Begin the next rounds, where they may begin. What fails, fails the whole: a segment would be missing.
void SegmentPipeline::plan_rounds() {
    try {
        if (!failure_)
            begin_rounds();
    } catch (...) {
        failure_ = current_error();
    }
}

/// A round begins where every segment is being made and enough frames wait.
void SegmentPipeline::begin_rounds() {
    const auto being_made = [&] {
        return std::none_of(jobs_.begin(), jobs_.end(), [&](const Job &job) { return may_start(job); });
    };
    while (rounds_ && !waiting_.empty() && being_made() &&
           (flushed_ || static_cast<int64_t>(waiting_.size()) >= rounds_->frames_wanted())) {
        const int64_t first = rounds_->begin();
        for (const Segment &segment : rounds_->plan(static_cast<int64_t>(waiting_.size()), flushed_)) {
            Job job;
            job.segment = segment;
            job.closed = true;
            const int64_t seen = segment.end + (segment.ends_at_cut ? 0 : schedule::look_ahead),
                          count = std::min(seen - first, static_cast<int64_t>(waiting_.size()));
            job.inputs.assign(waiting_.begin() + (segment.begin - first), waiting_.begin() + count);
            jobs_.push_back(std::move(job));
        }
        waiting_.erase(waiting_.begin(), waiting_.begin() + (rounds_->begin() - first));
    }
}

void SegmentPipeline::flush() {
    const std::lock_guard lock(mutex_);
    if (!flushed_ && !in_rounds_)
        end_clip();
    flushed_ = true;
    plan_rounds();
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
    if (!jobs_.empty())
        jobs_.back().segment.shared_from = jobs_.back().segment.end;
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
    if (finished())
        return Received::end;
    awaits_send_ = true;
    return Received::send_more;
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
    if (frames_out_ < jobs_.front().segment.shared_from)
        return true;
    return jobs_.size() > 1 && std::next(jobs_.begin())->has(frames_out_);
}

SegmentPipeline::NextPicture SegmentPipeline::next() const {
    NextPicture next{jobs_.front().output(frames_out_), std::nullopt};
    if (frames_out_ >= jobs_.front().segment.shared_from) {
        const Job &after = *std::next(jobs_.begin());
        next.weight = static_cast<double>(frames_out_ - after.segment.begin + 1) /
                      static_cast<double>(after.segment.fade + 1);
        next.other = after.output(frames_out_);
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
    std::optional<DeviceScope> scope;
    std::optional<Worker> own;
    JobRef job;
    while (take_job(worker, job, stop)) {
        try {
            const TorchGuard guard(log_);
            if (!own) {
                scope.emplace(devices_[worker].model->placement.device);
                own.emplace(make_worker(worker));
            }
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

/// The oldest segment that may start, of those that the memory of finished pictures has room for.
SegmentPipeline::JobRef SegmentPipeline::startable_job() {
    size_t room = segments_per_worker * devices_.size();
    auto job = jobs_.begin();
    while (job != jobs_.end() && room > 0 && !may_start(*job)) {
        ++job;
        room--;
    }
    return room > 0 ? job : jobs_.end();
}

bool SegmentPipeline::take_job(size_t worker, JobRef &job, const std::stop_token &stop) {
    std::unique_lock lock(mutex_);
    const auto find = [&] {
        job = startable_job();
        return job != jobs_.end() || stats_[worker].failed;
    };
    if (!changed_.wait(lock, stop, find) || stats_[worker].failed)
        return false;
    job->running = true;
    plan_rounds();
    changed_.notify_all();
    return true;
}

SegmentPipeline::Worker SegmentPipeline::make_worker(size_t index) const {
    const StreamOptions &options = options_.stream;
    const WorkerDevice &device = devices_[index];
    return {index,
            options,
            make_batch_planner(options, stream_grid(options), *device.model, device.memory, log_),
            StepTimer(device.model->placement.device),
            Downloads(device.model->placement.device),
            Pacer(device.model->placement.device)};
}

/// The caller may end a segment earlier meanwhile.
Segment SegmentPipeline::segment_of(const Job &job) const {
    const std::lock_guard lock(mutex_);
    return job.segment;
}

/// How a segment is run. What it shares with another stays pixels, which are mixed.
StreamOptions SegmentPipeline::stream_options(const Segment &segment) const {
    StreamOptions options = options_.stream;
    if (in_rounds_ || planner_.splits()) {
        options.on_gpu_at = nullptr;
        if (options.format_at)
            options.format_at = [format_at = options.format_at, first = options.first_frame,
                                 own = segment.begin + segment.fade, shared = segment.shared_from](
                                    int64_t place) -> std::optional<PictureFormat> {
                return place - first < own || place - first >= shared ? std::nullopt : format_at(place);
            };
    }
    options.first_frame += segment.begin;
    return options;
}

void SegmentPipeline::run(Worker &worker, Job &job, const std::stop_token &stop) {
    StreamOptions options = stream_options(segment_of(job));
    options.tile = worker.options.tile;
    options.fallback_tiles = worker.options.fallback_tiles;
    FrameStream stream(devices_[worker.index].model, options, worker.planner, log_);
    PictureConverters converters(devices_[worker.index].model->placement.device);
    Observer observer;
    observer.stop = stop;
    observer.pace = [&] { worker.pacer.wait(stop); };
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
        for (const PicturePtr &picture : held) {
            observer.check_stop();
            frames.push_back(picture->to_tensor(converters));
        }
        const std::vector<PendingPicture> pictures =
            pending_pictures(stream.step(frames, observer), worker.downloads, worker.index);
        worker.timer.end();

        std::unique_lock lock(mutex_);
        WorkerStats &stats = stats_[worker.index];
        stats.chunks++;
        stats.busy_seconds += worker.timer.take_seconds();
        stats.tile = stream.tile();
        stats.batches.add(stream.planner().take_record());
        if (!in_rounds_ && !planner_.splits() &&
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
