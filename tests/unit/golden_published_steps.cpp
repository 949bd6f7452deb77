// SPDX-License-Identifier: LGPL-2.1-or-later
#include "error.h"
#include "frame/upscale.h"
#include "published_steps.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

namespace {

using namespace flashvsr;
using namespace flashvsr::golden;

at::Tensor random_image(int64_t height, int64_t width) {
    return at::randint(0, 256, {height, width, 3}, at::kLong).to(at::kByte);
}

TEST(PublishedSteps, EightBitUpscalingIsWithinTheTwoRoundingsOfTheEngines) {
    at::manual_seed(3);
    for (const auto &[h, w, oh, ow] : std::vector<std::array<int64_t, 4>>{
             {32, 32, 128, 128}, {33, 35, 132, 140}, {70, 60, 175, 150}, {200, 170, 160, 136}}) {
        const at::Tensor image = random_image(h, w);
        const at::Tensor published = resize_bicubic_u8(image, oh, ow);
        const at::Tensor pixels = to_network_range(image.unsqueeze(0)).squeeze(2).squeeze(0);
        const at::Tensor engine = (upscale_bicubic(pixels, oh, ow) + 1) * 127.5;
        const at::Tensor difference = (engine.permute({1, 2, 0}) - published.to(at::kFloat)).abs();
        // Half a level from each pass, the first's spread by weights whose magnitudes sum to at most 1.25;
        // where the first pass is clamped to 8 bits, noise overshoots more, so the mean says the rest.
        EXPECT_LT(difference.mean().item<float>(), 0.75f) << h << "x" << w << " to " << oh << "x" << ow;
        const at::Tensor smooth = (image.to(at::kFloat) * 0.5 + 64).to(at::kByte);
        const at::Tensor smooth_pixels = to_network_range(smooth.unsqueeze(0)).squeeze(2).squeeze(0);
        const at::Tensor smooth_engine = (upscale_bicubic(smooth_pixels, oh, ow) + 1) * 127.5;
        EXPECT_LT((smooth_engine.permute({1, 2, 0}) - resize_bicubic_u8(smooth, oh, ow).to(at::kFloat))
                      .abs()
                      .max()
                      .item<float>(),
                  1.13f)
            << h << "x" << w << " to " << oh << "x" << ow;
    }
}

TEST(PublishedSteps, ScaledSidesAreRoundedTiesToEven) {
    EXPECT_EQ(scaled_side(37, 1.5), 56);
    EXPECT_EQ(scaled_side(35, 1.5), 52);
    EXPECT_EQ(scaled_side(170, 0.8), 136);
}

TEST(PublishedSteps, TheCropIsTheMiddle) {
    const at::Tensor image = random_image(130, 260);
    EXPECT_TRUE(at::equal(centre_crop(image), image.narrow(0, 1, 128).narrow(1, 2, 256)));
    EXPECT_THROW(centre_crop(random_image(127, 260)), Error);
}

TEST(PublishedSteps, ClipsLoseTheirLastFrames) {
    EXPECT_THROW(network_frames(20), Error);
    EXPECT_EQ(network_frames(21), 25);
    EXPECT_EQ(network_frames(28), 25);
    EXPECT_EQ(network_frames(29), 33);
    const at::Tensor clip = at::stack(std::vector<at::Tensor>(21, random_image(128, 128)));
    clip[20].fill_(9);
    const at::Tensor prepared = prepare_clip(clip, 1.0);
    ASSERT_EQ(prepared.sizes(), at::IntArrayRef({25, 128, 128, 3}));
    for (int64_t i = 0; i < 25; i++)
        EXPECT_TRUE(at::equal(prepared[i], clip[std::min<int64_t>(i, 20)])) << i;
}

TEST(PublishedSteps, LevelsAreTruncatedAndClamped) {
    const at::Tensor levels = at::tensor({0.0f, 0.99f, 1.0f, 127.6f, 254.99f, 255.0f, 300.0f, -4.0f});
    const at::Tensor frames = (levels / 127.5 - 1).view({1, 1, 1, 8}).expand({3, 1, 1, 8});
    const at::Tensor got = truncate_to_u8(frames);
    ASSERT_EQ(got.sizes(), at::IntArrayRef({1, 1, 8, 3}));
    const at::Tensor wanted = at::tensor({0, 0, 1, 127, 254, 255, 255, 0}, at::kByte);
    // 1.0 is not exact in this range and may fall to either side.
    for (const int64_t i : {0, 1, 3, 4, 5, 6, 7})
        EXPECT_EQ(got[0][0][i][1].item<int>(), wanted[i].item<int>()) << i;
    EXPECT_THROW(truncate_to_u8(at::full({3, 1, 1, 1}, std::numeric_limits<float>::quiet_NaN())), Error);
}

} // namespace
