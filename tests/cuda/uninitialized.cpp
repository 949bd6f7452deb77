// SPDX-License-Identifier: LGPL-2.1-or-later

// Streams on the GPU do not read what nothing has written. compute-sanitizer's initcheck cannot tell: some
// products of cuBLASLt store through the copy engine, where it does not follow.

#include "unit/fresh_memory.h"
#include "unit/pipeline_support.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>

namespace flashvsr {
namespace {

const at::Device gpu(at::kCUDA, 0);

class CudaUninitializedMemory : public testing::TestWithParam<const char *> {
protected:
    void SetUp() override {
        if (gpu_count() == 0)
            GTEST_SKIP() << "there is no GPU";
        check_gpu(0);
        const c10::InferenceMode inference;
        const DeviceScope scope(gpu);
        std::optional<Placement> placement;
        try {
            placement = placement_in(GetParam(), gpu);
        } catch (const Error &error) {
            GTEST_SKIP() << error.what();
        }
        device_ = {
            "cuda:0",
            std::make_shared<const Model>(random_weights(miniature_shape(), at::kFloat, 7), *placement),
            [] { return memory_of(gpu); }};
        synchronize(gpu);
    }

    /// Three chunks, the first of 25 frames.
    std::vector<at::Tensor> run(const StreamOptions &options, bool filled) const {
        const DeviceScope scope(gpu);
        const test::FreshMemory memory(filled);
        const auto pictures = test::moving_pictures(options.input, 41);
        std::vector<at::Tensor> out = test::run_stream(device_, options, pictures, 0, 41, 41);
        synchronize_stream(gpu); // who compares does so in another stream
        return out;
    }

    void expect_the_same(const StreamOptions &options) const {
        const auto expected = run(options, false), got = run(options, true);
        ASSERT_EQ(expected.size(), 41U);
        ASSERT_EQ(got.size(), 41U);
        for (size_t i = 0; i < got.size(); i++)
            ASSERT_TRUE(at::equal(got[i], expected[i])) << "frame " << i;
    }

private:
    WorkerDevice device_;
};

TEST_P(CudaUninitializedMemory, IsFilledWhereItIsToBe) {
    const test::FreshMemory memory(true);
    EXPECT_TRUE(at::empty({1000}, at::TensorOptions(gpu).dtype(at::kBFloat16)).isnan().all().item<bool>());
}

TEST_P(CudaUninitializedMemory, OfAWholePictureIsNotRead) {
    for (const ColorFix fix : {ColorFix::none, ColorFix::wavelet, ColorFix::adain}) {
        StreamOptions options = test::stream_options({40, 30});
        options.color_fix = fix;
        options.format_at = [](int64_t) { return PictureFormat{}; };
        expect_the_same(options);
    }
}

TEST_P(CudaUninitializedMemory, OfTilesIsNotRead) {
    for (const bool aside : {false, true}) {
        StreamOptions options = test::stream_options({70, 40});
        options.tile = 128;
        options.tile_overlap = 16;
        options.states_aside = aside;
        options.batch.batch = 4;
        expect_the_same(options);
    }
}

INSTANTIATE_TEST_SUITE_P(Precisions, CudaUninitializedMemory, testing::Values("fp32", "bf16", "fp16", "fp8"),
                         [](const auto &info) { return std::string(info.param); });

} // namespace
} // namespace flashvsr
