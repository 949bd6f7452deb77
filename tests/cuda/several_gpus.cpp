// SPDX-License-Identifier: LGPL-2.1-or-later

// Two GPUs of one machine: the frames of one, however they share the work, and also where one of them fails.

#include "torch_guard.h"
#include "unit/pipeline_support.h"

#include <gtest/gtest.h>

#include <latch>
#include <mutex>
#include <string>
#include <vector>

namespace flashvsr {
namespace {

constexpr Size input = {96, 64};

class SeveralGpus : public testing::Test {
protected:
    void SetUp() override {
        if (gpu_count() < 2)
            GTEST_SKIP() << "there are not two GPUs";
        for (const int index : {0, 1})
            check_gpu(index);
    }

    /// Devices 0 and 1, the same weights on both.
    static const std::vector<WorkerDevice> &devices() {
        static const std::vector<WorkerDevice> devices = [] {
            std::vector<WorkerDevice> made;
            for (const c10::DeviceIndex index : {0, 1}) {
                const c10::InferenceMode inference;
                const at::Device gpu(at::kCUDA, index);
                const DeviceScope scope(gpu);
                auto model = std::make_shared<const Model>(random_weights(miniature_shape(), at::kFloat, 7),
                                                           Placement{gpu, at::kBFloat16});
                synchronize(gpu);
                made.push_back({gpu.str(), std::move(model), [gpu] { return memory_of(gpu); }});
            }
            return made;
        }();
        return devices;
    }

    static std::vector<WorkerDevice> alone() { return {devices().front()}; }

    static PipelineOptions options(MultiGpu mode) {
        PipelineOptions options;
        options.stream = test::stream_options(input);
        options.stream.color_fix = ColorFix::adain;
        options.stream.batch.batch = 2;
        options.multi_gpu = mode;
        if (mode != MultiGpu::frames) {
            options.stream.tile = 128;
            options.stream.tile_overlap = 16;
        }
        options.longest_segment = 60;
        return options;
    }

    /// Every picture that comes out, in order.
    std::vector<at::Tensor> run(const PipelineOptions &options, const std::vector<WorkerDevice> &devices,
                                int64_t frames = 200) {
        const Log log([this](LogLevel level, const std::string &line) {
            const std::lock_guard lock(mutex_);
            if (level == LogLevel::warning)
                warnings_.push_back(line);
        });
        const TorchGuard guard(log);
        const auto pipeline = make_pipeline(options, devices, log);
        const std::vector<PicturePtr> clip = test::moving_pictures(input, frames);
        std::vector<at::Tensor> out;
        size_t sent = 0;
        for (OutputPicture picture;;) {
            const Pipeline::Received received = pipeline->receive(picture);
            if (received == Pipeline::Received::end)
                return out;
            if (received == Pipeline::Received::picture)
                out.push_back(picture.data.clone());
            else if (sent < clip.size())
                pipeline->send(clip[sent++]);
            else
                pipeline->flush();
        }
    }

    static void expect_equal(const std::vector<at::Tensor> &got, const std::vector<at::Tensor> &expected) {
        ASSERT_EQ(got.size(), expected.size());
        for (size_t i = 0; i < got.size(); i++)
            ASSERT_TRUE(at::equal(got[i], expected[i])) << "frame " << i;
    }

    std::mutex mutex_;
    std::vector<std::string> warnings_;
};

TEST_F(SeveralGpus, TilesHaveTheBitsOfOneGpu) {
    const auto expected = run(options(MultiGpu::off), alone());
    expect_equal(run(options(MultiGpu::tiles), devices()), expected);
    EXPECT_TRUE(warnings_.empty()) << warnings_.front();
}

TEST_F(SeveralGpus, SegmentsHaveTheBitsOfTwoWorkersOnOneGpu) {
    const std::vector<WorkerDevice> both_on_one(2, devices().front());
    const auto expected = run(options(MultiGpu::frames), both_on_one);
    expect_equal(run(options(MultiGpu::frames), devices()), expected);
    EXPECT_TRUE(warnings_.empty()) << warnings_.front();
}

TEST_F(SeveralGpus, WhereOneFailsHalfWayTheOtherMakesTheSameFrames) {
    for (const MultiGpu mode : {MultiGpu::frames, MultiGpu::tiles})
        for (const size_t broken : {0U, 1U}) {
            SCOPED_TRACE(concat(mode == MultiGpu::frames ? "frames" : "tiles", ", device ", broken));
            PipelineOptions options = this->options(mode);
            const auto expected = run(options, devices());
            warnings_.clear();
            std::latch failing(1);
            options.before_step = [&](size_t worker, int64_t step) {
                if (worker == broken && step == 5) {
                    failing.count_down();
                    fail(EIO, "injected");
                }
                // Or the other might take segments so soon that too few are left to fail in.
                if (worker != broken && mode == MultiGpu::frames)
                    failing.wait();
            };
            expect_equal(run(options, devices()), expected);
            EXPECT_EQ(warnings_.size(), 1U);
        }
}

} // namespace
} // namespace flashvsr
