// SPDX-License-Identifier: LGPL-2.1-or-later
#include "fresh_memory.h"
#include "pipeline_support.h"

#include <gtest/gtest.h>

namespace flashvsr {
namespace {

/// Three chunks, the first of 25 frames.
std::vector<at::Tensor> run(const StreamOptions &options, bool filled) {
    const test::FreshMemory memory(filled);
    const auto pictures = test::moving_pictures(options.input, 41);
    return test::run_stream(options, pictures, 0, 41, 41);
}

void expect_the_same(const StreamOptions &options) {
    const auto expected = run(options, false), got = run(options, true);
    ASSERT_EQ(expected.size(), 41U);
    ASSERT_EQ(got.size(), 41U);
    for (size_t i = 0; i < got.size(); i++)
        ASSERT_TRUE(at::equal(got[i], expected[i])) << "frame " << i;
}

TEST(UninitializedMemory, IsFilledWhereItIsToBe) {
    const test::FreshMemory memory(true);
    EXPECT_TRUE(at::empty({1000}, at::kFloat).isnan().all().item<bool>());
}

TEST(UninitializedMemory, OfAWholePictureIsNotRead) {
    for (const ColorFix fix : {ColorFix::none, ColorFix::wavelet, ColorFix::adain}) {
        StreamOptions options = test::stream_options({40, 30});
        options.color_fix = fix;
        expect_the_same(options);
    }
}

TEST(UninitializedMemory, OfTilesIsNotRead) {
    for (const bool aside : {false, true}) {
        StreamOptions options = test::stream_options({70, 40});
        options.tile = 128;
        options.tile_overlap = 16;
        options.states_aside = aside;
        options.batch.batch = 4;
        expect_the_same(options);
    }
}

} // namespace
} // namespace flashvsr
