// SPDX-License-Identifier: LGPL-2.1-or-later
#include "comparison.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace {

using flashvsr::golden::compare;
using flashvsr::golden::Comparison;
using flashvsr::golden::Tolerance;
using Metric = Tolerance::Metric;

const Tolerance exact{Metric::exact, 0.0, 1.0};
const Tolerance relative{Metric::relative, 0.01, 1.0};
const Tolerance uint8{Metric::uint8, 0.25, 1.0};

TEST(Comparison, EqualTensorsUseNothing) {
    const at::Tensor x = at::rand({3, 4});
    for (const Tolerance &tolerance : {exact, relative}) {
        const Comparison result = compare(x, x.clone(), tolerance);
        EXPECT_TRUE(result.passed);
        EXPECT_EQ(result.used, 0.0);
    }
}

TEST(Comparison, ExactFailsOnOneBitAndSaysWhere) {
    const at::Tensor golden = at::zeros({2, 3}, at::kBool);
    at::Tensor got = golden.clone();
    got[1][2] = true;
    const Comparison result = compare(got, golden, exact);
    EXPECT_FALSE(result.passed);
    EXPECT_NE(result.text.find("[1, 2]"), std::string::npos) << result.text;
    EXPECT_NE(result.text.find("1 of 6 differ"), std::string::npos) << result.text;
}

TEST(Comparison, RelativeIsToTheLargestMagnitude) {
    const at::Tensor golden = at::tensor({-10.0f, 1.0f, 0.0f});
    at::Tensor got = golden.clone();
    got[2] = 0.05f; // allowed: 0.01 * 10
    const Comparison half = compare(got, golden, relative);
    EXPECT_TRUE(half.passed);
    EXPECT_NEAR(half.used, 0.5, 1e-6);
    EXPECT_NE(half.text.find("[2]"), std::string::npos) << half.text;
    got[2] = 0.11f;
    EXPECT_FALSE(compare(got, golden, relative).passed);
    EXPECT_FALSE(compare(at::full({3}, 1e-3f), at::zeros({3}), relative).passed);
}

TEST(Comparison, Uint8AllowsOneLevelInAFractionOfTheValues) {
    const at::Tensor golden = at::full({8}, 100, at::kByte);
    at::Tensor got = golden.clone();
    got[0] = 101;
    got[1] = 99;
    EXPECT_TRUE(compare(got, golden, uint8).passed);
    EXPECT_NEAR(compare(got, golden, uint8).used, 1.0, 1e-9);
    got[2] = 101;
    EXPECT_FALSE(compare(got, golden, uint8).passed);
    got = golden.clone();
    got[5] = 102;
    EXPECT_FALSE(compare(got, golden, uint8).passed);
}

TEST(Comparison, NanAndInfinityNeverPass) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const float infinity = std::numeric_limits<float>::infinity();
    const at::Tensor good = at::ones({2});
    for (const float value : {nan, infinity}) {
        at::Tensor bad = good.clone();
        bad[1] = value;
        for (const Tolerance &tolerance : {exact, relative}) {
            EXPECT_FALSE(compare(bad, good, tolerance).passed);
            EXPECT_FALSE(compare(good, bad, tolerance).passed);
            EXPECT_FALSE(compare(bad, bad, tolerance).passed);
        }
    }
}

TEST(Comparison, ShapesAndKindsMustAgree) {
    EXPECT_FALSE(compare(at::zeros({2, 3}), at::zeros({3, 2}), relative).passed);
    EXPECT_FALSE(compare(at::zeros({1, 6}), at::zeros({6}), relative).passed);
    EXPECT_FALSE(compare(at::zeros({2}), at::zeros({2}, at::kByte), exact).passed);
    EXPECT_FALSE(compare(at::zeros({2}, at::kBool), at::zeros({2}, at::kByte), exact).passed);
    EXPECT_FALSE(compare(at::zeros({2}), at::zeros({2}), uint8).passed);
    EXPECT_FALSE(compare(at::Tensor(), at::zeros({2}), relative).passed);
    EXPECT_FALSE(compare(at::zeros({0}), at::zeros({0}), relative).passed);
}

TEST(Comparison, AFloatTensorMayBeADoubleGoldenRoundedAndNoMore) {
    const Tolerance fine{Metric::relative, 1e-12, 1.0};
    const at::Tensor golden = at::rand({1000}, at::kDouble) * 2 - 1;
    const at::Tensor rounded = golden.to(at::kFloat);
    EXPECT_TRUE(compare(rounded, golden, fine).passed);
    at::Tensor off = rounded.clone();
    const float value = off[7].item<float>();
    off[7] = std::nextafter(std::nextafter(value, 2.0f), 2.0f);
    EXPECT_FALSE(compare(off, golden, fine).passed);
    EXPECT_FALSE(compare(rounded.to(at::kDouble), golden, fine).passed);
}

} // namespace
