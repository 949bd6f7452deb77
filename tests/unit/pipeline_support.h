// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "pipeline/pipeline.h"
#include "stream/frame_stream.h"
#include "weights/random_weights.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace flashvsr::test {

/// A network of the smallest sizes with random weights, made once.
inline std::shared_ptr<const Model> miniature_model() {
    static const auto model =
        std::make_shared<const Model>(random_weights(miniature_shape(), at::kFloat, 7), Placement{});
    return model;
}

inline std::vector<WorkerDevice> cpu_workers(size_t count) {
    return std::vector<WorkerDevice>(count, WorkerDevice{"cpu", miniature_model()});
}

inline StreamOptions stream_options(Size input, double scale = 4) {
    StreamOptions options;
    options.input = input;
    options.output = {std::lrint(static_cast<double>(input.width) * scale),
                      std::lrint(static_cast<double>(input.height) * scale)};
    options.color_fix = ColorFix::none;
    options.seed = 3;
    return options;
}

/// Smooth moving pictures, 8 bits, without scene cuts but at the frames named.
inline std::vector<PicturePtr> moving_pictures(Size size, int64_t count,
                                               const std::vector<int64_t> &cuts = {}) {
    std::vector<PicturePtr> pictures;
    int scene = 0;
    for (int64_t t = 0; t < count; t++) {
        for (const int64_t cut : cuts)
            scene += cut == t;
        std::vector<uint8_t> bytes(3 * size.width * size.height);
        uint8_t *to = bytes.data();
        for (int64_t plane = 0; plane < 3; plane++)
            for (int64_t y = 0; y < size.height; y++)
                for (int64_t x = 0; x < size.width; x++)
                    *to++ =
                        static_cast<uint8_t>((scene % 2 ? 235 : 20) +
                                             (scene % 2 ? -1 : 1) * ((x * 3 + y * 2 * (plane + 1) + t) % 64));
        FlashVSRFrame frame = {};
        frame.width = static_cast<int>(size.width);
        frame.height = static_cast<int>(size.height);
        frame.format = FLASHVSR_PIXEL_FORMAT_RGB;
        frame.depth = 8;
        for (int plane = 0; plane < 3; plane++) {
            frame.data[plane] = bytes.data() + plane * size.width * size.height;
            frame.stride[plane] = size.width;
        }
        pictures.push_back(std::make_shared<const HeldPicture>(frame));
    }
    return pictures;
}

/// The first `wanted` pictures that one stream makes of pictures begin .. end-1.
inline std::vector<at::Tensor> run_stream(const WorkerDevice &device, const StreamOptions &options,
                                          const std::vector<PicturePtr> &pictures, int64_t begin, int64_t end,
                                          int64_t wanted) {
    const c10::InferenceMode guard;
    const Log log;
    StreamOptions placed = options;
    placed.first_frame = begin;
    FrameStream stream(device.model, placed, device.memory, log);
    std::vector<at::Tensor> out;
    while (begin < end || stream.frames_held() > 0) {
        std::vector<at::Tensor> frames;
        for (int64_t i = std::min(stream.frames_wanted(), end - begin); i > 0; i--)
            frames.push_back(pictures[begin++]->to_tensor());
        for (at::Tensor &picture : stream.step(frames).data.unbind(0))
            out.push_back(std::move(picture));
    }
    out.resize(std::min(wanted, static_cast<int64_t>(out.size())));
    return out;
}

inline std::vector<at::Tensor> run_stream(const StreamOptions &options,
                                          const std::vector<PicturePtr> &pictures, int64_t begin, int64_t end,
                                          int64_t wanted) {
    return run_stream(cpu_workers(1).front(), options, pictures, begin, end, wanted);
}

/// Everything that a pipeline gives for the pictures, checking its rules on the way: it never asks for more
/// while it is full, and numbers what it gives.
/// @param sent pictures that it has been given before
inline std::vector<at::Tensor> run_pipeline(Pipeline &pipeline, const std::vector<PicturePtr> &pictures,
                                            size_t sent = 0) {
    std::vector<at::Tensor> out;
    for (;;) {
        OutputPicture picture;
        switch (pipeline.receive(picture)) {
        case Pipeline::Received::end:
            return out;
        case Pipeline::Received::picture:
            if (picture.index != static_cast<int64_t>(out.size()))
                fail(EIO, "picture ", picture.index, " came in place ", out.size());
            out.push_back(std::move(picture.data));
            break;
        case Pipeline::Received::send_more:
            if (pipeline.full())
                fail(EIO, "asked for more while full");
            if (sent < pictures.size())
                pipeline.send(pictures[sent++]);
            else
                pipeline.flush();
            break;
        }
    }
}

inline std::vector<at::Tensor> run_pipeline(const PipelineOptions &options, size_t workers,
                                            const std::vector<PicturePtr> &pictures, const Log &log) {
    const c10::InferenceMode guard;
    return run_pipeline(*make_pipeline(options, cpu_workers(workers), log), pictures);
}

/// Where workers wait until they are let go on.
class Gate {
public:
    /// @return how many came before
    int wait() {
        std::unique_lock lock(mutex_);
        const int before = waiting_++;
        changed_.notify_all();
        changed_.wait(lock, [&] { return open_ || released_ == before; });
        return before;
    }
    void open() {
        set([&] { open_ = true; });
    }
    /// Let one go on alone, by how many came before it.
    void release(int one) {
        set([&] { released_ = one; });
    }
    /// Until so many have come.
    void await(int count) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return waiting_ >= count; });
    }

    /// Opens it at the end of a scope, before a pipeline that was made earlier there waits for its workers.
    struct Opener {
        Gate &gate;
        ~Opener() { gate.open(); }
    };

private:
    template <typename Change> void set(Change &&change) {
        const std::lock_guard lock(mutex_);
        change();
        changed_.notify_all();
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    bool open_ = false;
    int waiting_ = 0, released_ = -1;
};

/// Greatest difference of two pictures.
inline double difference(const at::Tensor &a, const at::Tensor &b) {
    return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

} // namespace flashvsr::test
