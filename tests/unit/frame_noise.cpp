// SPDX-License-Identifier: LGPL-2.1-or-later
#include "error.h"
#include "frame/noise.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <vector>

namespace {

using namespace flashvsr;

at::Tensor noise_of(uint64_t seed, int64_t first, int64_t latents, int64_t y, int64_t x, int64_t h,
                    int64_t w) {
    return position_noise(seed, first, latents, {.y = y, .x = x, .height = h, .width = w});
}

TEST(Philox, GivesThePublishedTestVectors) {
    using Words = std::array<uint32_t, 4>;
    EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
    constexpr uint32_t ones = 0xffffffff;
    EXPECT_EQ(philox4x32({ones, ones, ones, ones}, {ones, ones}),
              (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
    EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
              (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(PositionNoise, IsTheDocumentedFunctionOfItsCoordinates) {
    const uint64_t seed = 0x0123456789abcdef;
    const std::vector<int64_t> firsts = {0, 7, (int64_t{3} << 32) + 5};
    for (const int64_t first : firsts) {
        const at::Tensor noise = noise_of(seed, first, 2, 1000, 77, 3, 70);
        for (int64_t c = 0; c < 16; c++)
            for (int64_t t = 0; t < 2; t++)
                for (const auto &[y, x] :
                     std::vector<std::pair<int64_t, int64_t>>{{0, 0}, {1, 63}, {2, 69}}) {
                    const auto frame = static_cast<uint64_t>(first + t);
                    const auto r = philox4x32(
                        {static_cast<uint32_t>(77 + x), static_cast<uint32_t>(1000 + y),
                         static_cast<uint32_t>(frame), static_cast<uint32_t>(c / 4 + 4 * (frame >> 32))},
                        {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
                    const uint32_t a = r[c % 4 / 2 * 2];
                    const uint32_t b = r[c % 4 / 2 * 2 + 1];
                    const double radius = std::sqrt(-2.0 * std::log((a | 1) / 4294967296.0));
                    const double angle =
                        std::numbers::pi / 2 * ((b >> 30) + static_cast<int32_t>(b << 2) / 4294967296.0);
                    const double wanted = radius * (c % 2 == 0 ? std::cos(angle) : std::sin(angle));
                    EXPECT_NEAR(noise[c][t][y][x].item<float>(), wanted, 2e-6 * std::max(1.0, radius))
                        << "channel " << c << ", latent frame " << first + t << ", y " << y << ", x " << x;
                }
    }
}

TEST(PositionNoise, IsStandardNormal) {
    const at::Tensor noise = noise_of(0, 0, 8, 0, 0, 160, 192).to(at::kDouble);
    const auto n = static_cast<double>(noise.numel()); // 3.9 million
    const auto moment = [&](int k) { return noise.pow(k).mean().item<double>(); };
    // Five standard errors of each sample moment of a standard normal.
    EXPECT_NEAR(moment(1), 0.0, 5 * std::sqrt(1 / n));
    EXPECT_NEAR(moment(2), 1.0, 5 * std::sqrt(2 / n));
    EXPECT_NEAR(moment(3), 0.0, 5 * std::sqrt(15 / n));
    EXPECT_NEAR(moment(4), 3.0, 5 * std::sqrt(96 / n));
    for (const double limit : {0.01, 0.5, 1.0, 2.0, 3.0, 4.0}) {
        const double inside = (noise.abs() < limit).to(at::kDouble).mean().item<double>();
        const double wanted = std::erf(limit / std::numbers::sqrt2);
        EXPECT_NEAR(inside, wanted, 5 * std::sqrt(wanted * (1 - wanted) / n)) << limit;
    }
    const double largest = noise.abs().max().item<double>();
    EXPECT_GT(largest, 4.3);
    EXPECT_LT(largest, 6.7);
}

TEST(PositionNoise, NeighboursChannelsAndFramesAreUncorrelated) {
    const at::Tensor noise = noise_of(5, 0, 4, 0, 0, 128, 128).to(at::kDouble);
    const auto correlation = [](const at::Tensor &a, const at::Tensor &b) {
        return (a * b).mean().item<double>() * std::sqrt(static_cast<double>(a.numel()));
    };
    EXPECT_LT(std::abs(correlation(noise.narrow(3, 0, 127), noise.narrow(3, 1, 127))), 5);
    EXPECT_LT(std::abs(correlation(noise.narrow(2, 0, 127), noise.narrow(2, 1, 127))), 5);
    EXPECT_LT(std::abs(correlation(noise.narrow(1, 0, 3), noise.narrow(1, 1, 3))), 5);
    for (int64_t distance = 1; distance < 16; distance++)
        EXPECT_LT(std::abs(correlation(noise.narrow(0, 0, 16 - distance),
                                       noise.narrow(0, distance, 16 - distance))),
                  5)
            << distance;
}

TEST(PositionNoise, AnyRegionSeesTheSameNoise) {
    const at::Tensor whole = noise_of(42, 3, 6, 10, 20, 45, 150);
    for (const auto &[t, n, y, x, h, w] : std::vector<std::array<int64_t, 6>>{{0, 6, 0, 0, 45, 150},
                                                                              {0, 1, 0, 0, 1, 1},
                                                                              {5, 1, 44, 149, 1, 1},
                                                                              {2, 3, 7, 63, 30, 66},
                                                                              {1, 2, 13, 5, 2, 129}}) {
        const at::Tensor part = noise_of(42, 3 + t, n, 10 + y, 20 + x, h, w);
        EXPECT_TRUE(at::equal(part, whole.narrow(1, t, n).narrow(2, y, h).narrow(3, x, w)))
            << t << " " << n << " " << y << " " << x << " " << h << " " << w;
    }
}

TEST(PositionNoise, EveryBitOfTheSeedMatters) {
    const at::Tensor base = noise_of(0, 0, 1, 0, 0, 8, 8);
    for (int bit = 0; bit < 64; bit++) {
        const at::Tensor other = noise_of(uint64_t{1} << bit, 0, 1, 0, 0, 8, 8);
        EXPECT_GT((base - other).abs().mean().item<double>(), 0.5) << bit;
    }
    EXPECT_TRUE(at::equal(base, noise_of(0, 0, 1, 0, 0, 8, 8)));
}

TEST(PositionNoise, FramesFarIntoAnEndlessStreamDiffer) {
    const int64_t far = int64_t{1} << 32;
    EXPECT_FALSE(at::equal(noise_of(0, 1, 1, 0, 0, 4, 4), noise_of(0, far + 1, 1, 0, 0, 4, 4)));
}

TEST(PositionNoise, AnEmptyRegionIsEmptyAndANegativeOneRefused) {
    EXPECT_EQ(noise_of(0, 0, 0, 0, 0, 4, 4).sizes(), at::IntArrayRef({16, 0, 4, 4}));
    EXPECT_EQ(noise_of(0, 0, 2, 0, 0, 0, 4).sizes(), at::IntArrayRef({16, 2, 0, 4}));
    EXPECT_EQ(noise_of(0, 0, 2, 0, 0, 4, 0).sizes(), at::IntArrayRef({16, 2, 4, 0}));
    EXPECT_THROW(noise_of(0, -1, 1, 0, 0, 4, 4), Error);
    EXPECT_THROW(noise_of(0, 0, 1, -1, 0, 4, 4), Error);
    EXPECT_THROW(noise_of(0, 0, 1, 0, (int64_t{1} << 32) - 3, 4, 4), Error);
}

} // namespace
