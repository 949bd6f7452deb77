// SPDX-License-Identifier: LGPL-2.1-or-later

// Streams on the GPU do not read what nothing has written. compute-sanitizer's initcheck cannot tell of what
// kernels of cuBLASLt and cuDNN store through the copy engine, where it does not follow.

#include "unit/unwritten_memory.h"

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

    WorkerDevice device_;
};

TEST_P(CudaUninitializedMemory, IsFilledWhereItIsToBe) {
    const test::FreshMemory memory(true);
    EXPECT_TRUE(at::empty({1000}, at::TensorOptions(gpu).dtype(at::kBFloat16)).isnan().all().item<bool>());
}

TEST_P(CudaUninitializedMemory, OfAWholePictureIsNotRead) {
    test::expect_unread_by_whole_pictures(device_);
}

TEST_P(CudaUninitializedMemory, OfTilesIsNotRead) {
    test::expect_unread_by_tiles(device_);
}

INSTANTIATE_TEST_SUITE_P(Precisions, CudaUninitializedMemory, testing::Values("fp32", "bf16", "fp16", "fp8"),
                         [](const auto &info) { return std::string(info.param); });

} // namespace
} // namespace flashvsr
