// SPDX-License-Identifier: LGPL-2.1-or-later

// What contexts and streams leave of a GPU's memory, and how they fail where it is too small or broken.

#include "torch_guard.h"
#include "unit/pipeline_support.h"

#include "flashvsr/flashvsr.h"

#include <c10/cuda/CUDACachingAllocator.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <optional>
#include <thread>
#include <vector>

namespace flashvsr {
namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

const at::Device gpu(at::kCUDA, 0);
constexpr int64_t mebibyte = int64_t{1} << 20;

class CudaMemory : public testing::Test {
protected:
    void SetUp() override {
        if (gpu_count() == 0)
            GTEST_SKIP() << "there is no GPU";
        check_gpu(0);
    }
};

/// As the driver counts it: what LibTorch holds in reserve is not free.
int64_t free_bytes() {
    size_t free = 0, total = 0;
    if (cudaMemGetInfo(&free, &total) != cudaSuccess)
        fail(EIO, "the free memory of the GPU is not known");
    return static_cast<int64_t>(free);
}

/// As it was asked for: how much larger the allocator's blocks are depends on what was free.
int64_t requested_bytes() {
    constexpr auto all_pools = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    return allocator::getDeviceStats(0).requested_bytes[all_pools].current;
}

std::vector<WorkerDevice> one_gpu(at::ScalarType type = at::kBFloat16) {
    const c10::InferenceMode inference;
    const DeviceScope scope(gpu);
    auto model =
        std::make_shared<const Model>(random_weights(miniature_shape(), at::kFloat, 7), Placement{gpu, type});
    synchronize(gpu);
    return {{"cuda:0", std::move(model), [] { return memory_of(gpu); }}};
}

/// A clip through a pipeline on the GPU: how many pictures came, or the error.
struct PipelineRun {
    int64_t pictures = 0;
    std::optional<Error> error;

    PipelineRun(const PipelineOptions &options, const std::vector<WorkerDevice> &devices, int64_t frames) {
        const Log log;
        const auto pipeline = make_pipeline(options, devices, log);
        const std::vector<PicturePtr> clip = test::moving_pictures(options.stream.input, frames);
        size_t sent = 0;
        try {
            for (OutputPicture picture;;) {
                const Pipeline::Received received = pipeline->receive(picture);
                if (received == Pipeline::Received::end)
                    return;
                if (received == Pipeline::Received::picture)
                    pictures++;
                else if (sent < clip.size())
                    pipeline->send(clip[sent++]);
                else
                    pipeline->flush();
            }
        } catch (...) {
            error = current_error();
        }
    }
};

/// Open a context with the built-in model, give it a few frames, and close it.
void use_context() {
    constexpr int side = 32, scale = 4, frames = 30;
    static uint8_t in_bytes[3 * side * side], out_bytes[3 * side * side * scale * scale];
    const auto frame_of = [](uint8_t *bytes, int size) {
        FlashVSRFrame frame{};
        frame.width = frame.height = size;
        frame.format = FLASHVSR_PIXEL_FORMAT_RGB;
        frame.depth = 8;
        for (int plane = 0; plane < 3; plane++) {
            frame.data[plane] = bytes + plane * size * size;
            frame.stride[plane] = size;
        }
        return frame;
    };
    FlashVSRSettings settings;
    flashvsr_settings_default(&settings);
    settings.width = settings.height = side;
    settings.device = "cuda:0";
    FlashVSRContext *ctx = nullptr;
    ASSERT_EQ(flashvsr_open(&ctx, &settings), 0) << flashvsr_error(ctx);
    FlashVSRFrame in = frame_of(in_bytes, side), out = frame_of(out_bytes, side * scale);
    int sent = 0, received = 0;
    for (int ret = 0; ret != FLASHVSR_END;) {
        ret = flashvsr_receive_frame(ctx, &out);
        received += ret == 0;
        if (ret == FLASHVSR_EAGAIN)
            ret = flashvsr_send_frame(ctx, sent++ < frames ? &in : nullptr);
        ASSERT_TRUE(ret == 0 || ret == FLASHVSR_END) << flashvsr_error(ctx);
    }
    EXPECT_EQ(received, frames);
    flashvsr_close(&ctx);
}

/// Pictures of three chunks of four tiles; `refuse` the second chunk's third as if memory had run out.
std::vector<at::Tensor> tiled_pictures(bool aside, bool refuse, std::vector<std::string> &warnings) {
    const c10::InferenceMode inference;
    const DeviceScope scope(gpu);
    StreamOptions options = test::stream_options({72, 24});
    options.tile = 128;
    options.tile_overlap = 16;
    options.states_aside = aside;
    const Log log([&](LogLevel level, const std::string &line) {
        if (level == LogLevel::warning)
            warnings.push_back(line);
    });
    const std::vector<WorkerDevice> devices = one_gpu();
    FrameStream stream(devices.front().model, options, devices.front().memory, log);
    const std::vector<PicturePtr> clip = test::moving_pictures(options.input, 41);
    std::vector<at::Tensor> pictures;
    size_t frame = 0;
    int64_t begun = 0;
    Observer observer;
    observer.part = [&](std::string_view name) {
        // The third tile of the second chunk.
        if (name == "projector" && begun++ == 6 && refuse)
            fail(ENOMEM, "refused");
    };
    while (frame < clip.size()) {
        std::vector<at::Tensor> frames;
        while (static_cast<int64_t>(frames.size()) < stream.frames_wanted())
            frames.push_back(clip[frame++]->to_tensor());
        pictures.push_back(stream.step(frames, observer).data.cpu());
    }
    return pictures;
}

TEST_F(CudaMemory, StatesThatWaitInHostMemoryAreTheSame) {
    std::vector<std::string> warnings;
    const std::vector<at::Tensor> resident = tiled_pictures(false, false, warnings);
    ASSERT_EQ(resident.size(), 3U);
    const std::vector<at::Tensor> aside = tiled_pictures(true, false, warnings);
    EXPECT_TRUE(warnings.empty());
    const std::vector<at::Tensor> refused = tiled_pictures(false, true, warnings);
    ASSERT_EQ(warnings.size(), 1U);
    EXPECT_NE(warnings.front().find("they wait in host memory from now on"), std::string::npos);
    for (size_t i = 0; i < resident.size(); i++) {
        EXPECT_TRUE(at::equal(aside.at(i), resident[i])) << "chunk " << i;
        EXPECT_TRUE(at::equal(refused.at(i), resident[i])) << "chunk " << i << ", from the second on";
    }
}

TEST_F(CudaMemory, TwentyContextsLeaveNoneBehind) {
    constexpr int rounds = 20, settled = 3;
    std::vector<int64_t> free;
    for (int round = 0; round < rounds; round++) {
        use_context();
        free.push_back(free_bytes() / mebibyte);
    }
    // The driver takes pages of 2 MiB, at times one more for itself.
    EXPECT_GE(free.back(), free[settled] - 2) << "MiB free after each: " << testing::PrintToString(free);
}

TEST_F(CudaMemory, IsTheSameAfterChunk60AsAfterChunk12) {
    const c10::InferenceMode inference;
    const DeviceScope scope(gpu);
    const Log log;
    const WorkerDevice device = one_gpu().front();
    StreamOptions options = test::stream_options({64, 64});
    options.color_fix = ColorFix::adain;
    options.format_at = [](int64_t) { return PictureFormat{}; };
    FrameStream stream(device.model, options, device.memory, log);
    Downloads downloads(gpu);
    const std::vector<PicturePtr> clip = test::moving_pictures(options.input, schedule::first_frames_in);
    int64_t requested_once_settled = 0, free_once_settled = 0, requested_last = 0;
    for (int chunk = 1; chunk <= 60; chunk++) {
        std::vector<at::Tensor> frames;
        for (int64_t i = 0; i < stream.frames_wanted(); i++)
            frames.push_back(clip[i]->to_tensor(gpu));
        ASSERT_EQ(downloads.begin(stream.step(frames).data).wait().scalar_type(), at::kByte);
        requested_last = requested_bytes();
        if (chunk == 12) {
            requested_once_settled = requested_last;
            free_once_settled = free_bytes();
        }
    }
    EXPECT_EQ(requested_last, requested_once_settled);
    EXPECT_GE(free_bytes(), free_once_settled - mebibyte);
}

TEST_F(CudaMemory, HoldsNoPicturesThatWaitToBeTaken) {
    const WorkerDevice device = one_gpu().front();
    PipelineOptions options;
    options.stream = test::stream_options({64, 64});
    options.stream.format_at = [](int64_t) { return PictureFormat{}; };
    options.multi_gpu = MultiGpu::frames;
    options.longest_segment = 98;
    constexpr int64_t frames = 186, chunks = 4 + 4 + 7 + 7; // of two rounds of two segments, which share ten
    const int64_t pictures = frames * picture_bytes(PictureFormat{}, options.stream.output);
    const Log log;
    const auto pipeline = make_pipeline(options, {device, device}, log);
    for (const PicturePtr &picture : test::moving_pictures(options.stream.input, frames)) {
        ASSERT_FALSE(pipeline->full());
        pipeline->send(picture);
    }
    pipeline->flush();
    const auto done = [&] {
        const std::vector<WorkerStats> workers = pipeline->stats();
        return workers[0].chunks + workers[1].chunks == chunks;
    };
    for (int tenths = 0; tenths < 600 && !done(); tenths++)
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
    ASSERT_TRUE(done());
    const int64_t waiting = requested_bytes();
    EXPECT_EQ(test::run_pipeline(*pipeline, {}).size(), static_cast<size_t>(frames));
    EXPECT_LT(waiting - requested_bytes(), pictures / 2);
}

/// A clip in tiles on the GPU and the CPU, which fails at its second chunk; `starved` until streams are set
/// aside, the GPU has no memory for those of the CPU.
std::vector<at::Tensor> inherited_tiles(bool starved, std::vector<std::string> &warnings) {
    const c10::InferenceMode inference;
    PipelineOptions options;
    options.stream = test::stream_options({72, 24});
    options.stream.tile = 128;
    options.stream.tile_overlap = 16;
    options.multi_gpu = MultiGpu::tiles;
    std::promise<void> ahead;
    options.before_step = [&](size_t worker, int64_t step) {
        if (worker == 1 && step == 1) {
            ahead.get_future().wait();
            fail(EIO, "injected");
        }
        if (worker == 0 && step == 2)
            ahead.set_value();
        if (worker == 0 && step == 3 && starved) { // of the tiles that were the CPU's
            allocator::emptyCache();
            allocator::setMemoryFraction(1e-6, 0);
        }
    };
    const Log log([&](LogLevel level, const std::string &line) {
        if (level != LogLevel::warning)
            return;
        warnings.push_back(line);
        if (line.find("wait in host memory") != std::string::npos)
            allocator::setMemoryFraction(1.0, 0);
    });
    std::vector<WorkerDevice> devices = one_gpu(at::kFloat);
    devices.push_back(test::cpu_workers(1).front());
    const auto pipeline = make_pipeline(options, devices, log);
    return test::run_pipeline(*pipeline, test::moving_pictures(options.stream.input, 41));
}

TEST_F(CudaMemory, WithoutRoomForTheTilesOfADeviceThatFailedTheyWaitInHostMemory) {
    std::vector<std::string> warnings;
    const std::vector<at::Tensor> roomy = inherited_tiles(false, warnings);
    ASSERT_EQ(warnings.size(), 1U) << testing::PrintToString(warnings);
    const std::vector<at::Tensor> starved = inherited_tiles(true, warnings);
    ASSERT_EQ(warnings.size(), 3U) << testing::PrintToString(warnings);
    EXPECT_NE(warnings.back().find("they wait in host memory from now on"), std::string::npos);
    ASSERT_EQ(roomy.size(), 41U);
    ASSERT_EQ(starved.size(), roomy.size());
    for (size_t i = 0; i < roomy.size(); i++)
        EXPECT_TRUE(at::equal(starved[i], roomy[i])) << i;
}

TEST_F(CudaMemory, TooLittleIsOneSentenceAndACodeAndNothingIsLost) {
    const std::vector<WorkerDevice> devices = one_gpu();
    PipelineOptions options;
    options.stream = test::stream_options({256, 256});
    const int64_t total = memory_of(gpu).total;
    allocator::emptyCache();
    allocator::setMemoryFraction(static_cast<double>(100 * mebibyte) / static_cast<double>(total), 0);
    const PipelineRun starved(options, devices, 30);
    allocator::setMemoryFraction(1.0, 0);
    ASSERT_TRUE(starved.error) << "100 MiB were enough";
    EXPECT_EQ(starved.error->code(), ENOMEM) << starved.error->what();
    EXPECT_EQ(std::string(starved.error->what()).find('\n'), std::string::npos) << starved.error->what();

    const PipelineRun fed(options, devices, 30);
    EXPECT_FALSE(fed.error) << fed.error->what();
    EXPECT_EQ(fed.pictures, 30);
}

/// A kernel that stops with an assertion, some time after the call has returned.
void break_the_gpu() {
    at::index_select(at::zeros({1}, gpu), 0, at::full({1}, 5, at::TensorOptions(gpu).dtype(at::kLong)));
}

/// Run a clip whose third chunk breaks the GPU, and leave as any program does.
[[noreturn]] void run_on_a_gpu_that_breaks() {
    {
        PipelineOptions options;
        options.stream = test::stream_options({32, 32});
        options.before_step = [](size_t, int64_t step) {
            if (step == 2)
                break_the_gpu();
        };
        const PipelineRun run(options, one_gpu(), 200);
        if (!run.error || run.error->code() != EIO || run.pictures == 200)
            std::exit(1);
        std::fprintf(stderr, "sentence: %s\n", run.error->what());
    }
    std::exit(0);
}

// In a process of its own: the GPU is lost to one that broke it.
using CudaMemoryDeathTest = CudaMemory;

TEST_F(CudaMemoryDeathTest, AnErrorThatComesLaterIsOneSentenceAndACode) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    EXPECT_EXIT(run_on_a_gpu_that_breaks(), testing::ExitedWithCode(0), "sentence: .*CUDA error");
}

} // namespace
} // namespace flashvsr
