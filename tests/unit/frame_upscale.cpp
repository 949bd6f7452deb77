// SPDX-License-Identifier: LGPL-2.1-or-later
#include "error.h"
#include "frame/upscale.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace {

using namespace flashvsr;

FlashVSRSettings settings_of(int width, int height, double scale, int out_width = 0, int out_height = 0) {
    FlashVSRSettings settings{};
    settings.width = width;
    settings.height = height;
    settings.scale = scale;
    settings.out_width = out_width;
    settings.out_height = out_height;
    return settings;
}

std::string sentence_of(const FlashVSRSettings &settings) {
    try {
        output_size(settings);
    } catch (const Error &error) {
        EXPECT_EQ(error.code(), EINVAL);
        return error.what();
    }
    return "";
}

/// Pillow's definition, in double and without any rounding: (out, in) weights of one axis.
at::Tensor bicubic_weights(int64_t in, int64_t out) {
    const double ratio = static_cast<double>(in) / static_cast<double>(out);
    const double stretch = std::max(ratio, 1.0);
    const double support = 2.0 * stretch;
    const auto kernel = [](double x) {
        constexpr double a = -0.5;
        x = std::abs(x);
        if (x < 1.0)
            return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
        return x < 2.0 ? (((x - 5.0) * x + 8.0) * x - 4.0) * a : 0.0;
    };
    at::Tensor weights = at::zeros({out, in}, at::kDouble);
    for (int64_t i = 0; i < out; i++) {
        const double centre = (static_cast<double>(i) + 0.5) * ratio;
        const int64_t low = std::max<int64_t>(0, static_cast<int64_t>(centre - support + 0.5));
        const int64_t high = std::min<int64_t>(in, static_cast<int64_t>(centre + support + 0.5));
        for (int64_t j = low; j < high; j++)
            weights[i][j] = kernel((static_cast<double>(j) - centre + 0.5) / stretch);
    }
    return weights / weights.sum(1, true);
}

at::Tensor bicubic_by_definition(const at::Tensor &frames, int64_t height, int64_t width) {
    const at::Tensor rows = bicubic_weights(frames.size(-2), height);
    const at::Tensor columns = bicubic_weights(frames.size(-1), width);
    return at::matmul(at::matmul(rows, frames.to(at::kDouble)), columns.t()).clamp(-1.0, 1.0);
}

TEST(UpscaleBicubic, IsPillowsKernelInFloat) {
    struct Resize {
        int64_t height, width, out_height, out_width;
    };
    at::manual_seed(1);
    for (const Resize &r : std::vector<Resize>{{18, 32, 72, 128},
                                               {33, 35, 132, 140},
                                               {20, 27, 41, 54},
                                               {45, 37, 135, 111},
                                               {70, 60, 175, 150},
                                               {2, 2, 8, 8},
                                               {1, 1, 8, 8},
                                               {1, 9, 3, 9},
                                               {9, 5, 9, 40},
                                               {40, 34, 32, 27},
                                               {3, 2000, 5, 8000}}) {
        const at::Tensor frames = at::rand({2, 3, r.height, r.width}) * 2 - 1;
        const at::Tensor got = upscale_bicubic(frames, r.out_height, r.out_width);
        ASSERT_EQ(got.sizes(), at::IntArrayRef({2, 3, r.out_height, r.out_width}));
        const at::Tensor wanted = bicubic_by_definition(frames, r.out_height, r.out_width);
        EXPECT_LT((got.to(at::kDouble) - wanted).abs().max().item<double>(), 1e-6)
            << r.height << "x" << r.width << " to " << r.out_height << "x" << r.out_width;
    }
}

TEST(UpscaleBicubic, OvershootIsClamped) {
    at::Tensor frames = at::full({3, 8, 8}, -1.0f);
    frames.narrow(2, 4, 4).fill_(1.0f);
    const at::Tensor got = upscale_bicubic(frames, 32, 32);
    EXPECT_EQ(got.max().item<float>(), 1.0f);
    EXPECT_EQ(got.min().item<float>(), -1.0f);
}

TEST(UpscaleBicubic, LeadingDimensionsAndLayoutDoNotMatter) {
    at::manual_seed(2);
    const at::Tensor frames = at::rand({2, 3, 4, 6, 5}).transpose(1, 2) * 2 - 1; // (2, 4, 3, 6, 5)
    const at::Tensor all = upscale_bicubic(frames, 13, 11);
    ASSERT_EQ(all.sizes(), at::IntArrayRef({2, 4, 3, 13, 11}));
    for (int64_t i = 0; i < 2; i++)
        for (int64_t j = 0; j < 4; j++)
            EXPECT_TRUE(at::equal(all[i][j], upscale_bicubic(frames[i][j], 13, 11)));
}

TEST(UpscaleBicubic, TheSameSizeIsTheSamePicture) {
    const at::Tensor frames = at::rand({3, 7, 9}) * 2 - 1;
    EXPECT_TRUE(at::equal(upscale_bicubic(frames, 7, 9), frames));
}

TEST(UpscaleBicubic, OtherTensorsAreRefused) {
    EXPECT_THROW(upscale_bicubic(at::zeros({1, 8, 8}), 16, 16), Error);
    EXPECT_THROW(upscale_bicubic(at::zeros({3, 0, 8}), 16, 16), Error);
    EXPECT_THROW(upscale_bicubic(at::zeros({3, 8, 8}, at::kDouble), 16, 16), Error);
    EXPECT_THROW(upscale_bicubic(at::zeros({3, 8, 8}), 0, 16), Error);
}

TEST(PadTo, RepeatsTheLastRowAndColumnHoweverFar) {
    const at::Tensor frames = at::rand({2, 3, 2, 2});
    const at::Tensor padded = pad_to(frames, 128, 256);
    ASSERT_EQ(padded.sizes(), at::IntArrayRef({2, 3, 128, 256}));
    for (int64_t y : {0, 1, 2, 77, 127})
        for (int64_t x : {0, 1, 2, 128, 255})
            EXPECT_TRUE(
                at::equal(padded.select(2, y).select(2, x),
                          frames.select(2, std::min<int64_t>(y, 1)).select(2, std::min<int64_t>(x, 1))));
}

TEST(PadTo, NothingToDoIsTheSamePictureAndLessIsRefused) {
    const at::Tensor frames = at::rand({3, 4, 5});
    EXPECT_TRUE(at::equal(pad_to(frames, 4, 5), frames));
    EXPECT_EQ(pad_to(frames, 4, 6).sizes(), at::IntArrayRef({3, 4, 6}));
    EXPECT_THROW(pad_to(frames, 3, 5), Error);
    EXPECT_THROW(pad_to(frames, 4, 4), Error);
}

TEST(OutputSize, ProductsAreRoundedToTheNearestPixelTiesToEven) {
    EXPECT_EQ(output_size(settings_of(320, 180, 4)), (Size{1280, 720}));
    EXPECT_EQ(output_size(settings_of(37, 21, 1.5)), (Size{56, 32}));     // 55.5, 31.5
    EXPECT_EQ(output_size(settings_of(129, 127, 1.5)), (Size{194, 190})); // 193.5, 190.5
    EXPECT_EQ(output_size(settings_of(2, 2, 1)), (Size{2, 2}));
    EXPECT_EQ(output_size(settings_of(1, 1, 8)), (Size{8, 8}));
}

TEST(OutputSize, GivenSidesOverrideTheScaleEachInItsDirection) {
    EXPECT_EQ(output_size(settings_of(100, 50, 4, 250)), (Size{250, 200}));
    EXPECT_EQ(output_size(settings_of(100, 50, 4, 0, 50)), (Size{400, 50}));
    EXPECT_EQ(output_size(settings_of(100, 50, 4, 800, 400)), (Size{800, 400}));
}

TEST(OutputSize, WhatIsOutOfRangeIsRefusedWithItsNameAndValue) {
    const auto expect = [](const char *part, const FlashVSRSettings &settings) {
        EXPECT_NE(sentence_of(settings).find(part), std::string::npos)
            << part << " is not in: " << sentence_of(settings);
    };
    expect("scale is 0,", settings_of(10, 10, 0));
    expect("scale is 9,", settings_of(10, 10, 9));
    expect("scale is 0.99,", settings_of(10, 10, 0.99));
    expect("scale is -2,", settings_of(10, 10, -2));
    expect("scale is nan,", settings_of(10, 10, std::numeric_limits<double>::quiet_NaN()));
    expect("scale is inf,", settings_of(10, 10, std::numeric_limits<double>::infinity()));
    expect("width is 0,", settings_of(0, 10, 4));
    expect("height is -1,", settings_of(10, -1, 4));
    expect("width is 40000,", settings_of(40000, 10, 1));
    expect("scale is 4, which makes a width of 20000 into 80000", settings_of(20000, 10, 4));
    expect("out_width is 99,", settings_of(100, 100, 4, 99));
    expect("out_width is 801,", settings_of(100, 100, 4, 801));
    expect("out_height is -5,", settings_of(100, 100, 4, 0, -5));
    expect("out_height is 32769,", settings_of(100, 30000, 1, 0, 32769));
}

TEST(TargetSize, IsTheNextMultipleOf128) {
    EXPECT_EQ(target_size({2, 128}), (Size{128, 128}));
    EXPECT_EQ(target_size({129, 1280}), (Size{256, 1280}));
    EXPECT_EQ(target_size({720, 1281}), (Size{768, 1408}));
}

} // namespace
