// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "pipeline/pipeline.h"
#include "pipeline/segment_planner.h"
#include "stream/frame_stream.h"

#include <condition_variable>
#include <deque>
#include <list>
#include <mutex>
#include <optional>
#include <thread>

namespace flashvsr {

/// Segments dealt to whichever device is free, and their pictures given out in order, cross-faded where
/// segments overlap. Segments of a length that is asked for get their pictures as they come; others are
/// planned in rounds, from pictures that wait. A device that fails, at a step or when its pictures are waited
/// for, has its segment run again from its start by another.
class SegmentPipeline : public Pipeline {
public:
    SegmentPipeline(const PipelineOptions &options, std::vector<WorkerDevice> devices, const Log &log);
    ~SegmentPipeline() override;

    bool full() const override;
    void send(PicturePtr picture) override;
    void flush() override;
    Received receive(OutputPicture &picture) override;
    std::vector<WorkerStats> stats() const override;

private:
    /// A segment under way: what it was given and what has come of it.
    struct Job {
        Segment segment;
        std::deque<PicturePtr> inputs;      ///< frames begin + dropped ...
        int64_t dropped = 0;                ///< inputs that are not kept any more
        bool closed = false;                ///< no more inputs will come
        std::deque<PendingPicture> outputs; ///< frames begin + taken ...
        int64_t taken = 0, made = 0;        ///< outputs given out, outputs made in all
        bool running = false;

        int64_t inputs_seen() const { return dropped + static_cast<int64_t>(inputs.size()); }
        int64_t length() const { return segment.end - segment.begin; }
        bool done() const { return closed && made >= length(); }
        bool has(int64_t frame) const { return frame - segment.begin < made; }
        const PendingPicture &output(int64_t frame) const { return outputs[frame - segment.begin - taken]; }
    };
    using JobRef = std::list<Job>::iterator;
    /// What a worker takes from one segment to the next.
    struct Worker {
        size_t index;
        StreamOptions options; ///< with tiles as large as was found to fit
        BatchPlanner planner;
        StepTimer timer;
        Downloads downloads;
        Pacer pacer;
    };

    void work(size_t worker, const std::stop_token &stop);
    bool take_job(size_t worker, JobRef &job, const std::stop_token &stop);
    Worker make_worker(size_t index) const;
    void run(Worker &worker, Job &job, const std::stop_token &stop);
    void worker_failed(size_t worker, const Job &job, const Error &error);

    bool may_start(const Job &job) const;
    void drop_finished();
    bool full_locked() const;
    void deal(const PicturePtr &picture, bool cut);
    void hold(const PicturePtr &picture, bool cut);
    void plan_rounds();
    void begin_rounds();
    void end_clip();
    JobRef startable_job();
    Segment segment_of(const Job &job) const;
    StreamOptions stream_options(const Segment &segment) const;
    bool next_ready() const;
    /// A picture, and the one of the next segment that it fades into, if it does.
    struct NextPicture {
        PendingPicture picture;
        std::optional<PendingPicture> other;
        double weight = 0; ///< of the other
    };
    NextPicture next() const;
    std::optional<at::Tensor> wait_for(const PendingPicture &picture, Job &job);
    void take_next();
    void throw_failure() const;

    const PipelineOptions options_;
    const std::vector<WorkerDevice> devices_;
    const Log &log_;
    const bool keep_inputs_; ///< for running a segment again

    const bool in_rounds_;

    mutable std::mutex mutex_;
    std::condition_variable_any changed_;
    SegmentPlanner planner_;             ///< where segments are not planned in rounds
    std::optional<RoundPlanner> rounds_; ///< from the first picture on, where they are
    std::deque<PicturePtr> waiting_;     ///< for a round: frames rounds_->begin() ...
    SceneDetector scenes_;
    PicturePtr last_;
    std::list<Job> jobs_;
    int64_t frames_in_ = 0, frames_out_ = 0;
    bool flushed_ = false;
    bool awaits_send_ = false; ///< a picture was asked for: it is taken even if a device fails meanwhile
    std::optional<Error> failure_;
    std::vector<WorkerStats> stats_;
    std::vector<int64_t> steps_;

    std::vector<std::jthread> threads_; ///< last: they end before what they use
};

} // namespace flashvsr
