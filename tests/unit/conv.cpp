// SPDX-License-Identifier: LGPL-2.1-or-later

// Every kind of convolution on every device and in every precision, against doubles. The error is held to
// twice that of LibTorch's own operations in the same precision.

#include "ops/conv.h"
#include "ops/device.h"
#ifdef FLASHVSR_CUDA
#include "ops/cuda/conv_launch.h"
#endif

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace flashvsr {
namespace {

constexpr at::MemoryFormat layout = at::MemoryFormat::ChannelsLast;

struct Variant {
    at::DeviceType device;
    at::ScalarType dtype;
};

std::string variant_name(const testing::TestParamInfo<Variant> &info) {
    const std::string device = info.param.device == at::kCPU ? "Cpu" : "Cuda";
    return device + (info.param.dtype == at::kFloat ? "F32" : info.param.dtype == at::kHalf ? "F16" : "Bf16");
}

struct Case {
    int64_t images, height, width, in, out;
    bool bias = true, relu = false, residual = false;
};

std::string describe(const Case &c) {
    return testing::PrintToString(
        std::vector<int64_t>{c.images, c.height, c.width, c.in, c.out, c.bias, c.relu, c.residual});
}

at::Tensor relu_if(bool relu, const at::Tensor &x) {
    return relu ? at::relu(x) : x;
}

class Convolutions : public testing::TestWithParam<Variant> {
protected:
    void SetUp() override {
        if (GetParam().device == at::kCUDA && gpu_count() == 0)
            GTEST_SKIP() << "no CUDA device";
        if (GetParam().device == at::kCUDA)
            check_gpu(0); // fp32 is fp32 from here on
    }

    /// Normal values, exact in the variant's precision, on its device.
    at::Tensor normal(at::IntArrayRef shape, double deviation = 1) {
        return at::empty(shape, at::kFloat)
            .normal_(0, deviation, generator_)
            .to(GetParam().device, GetParam().dtype);
    }
    at::Tensor pixels(at::IntArrayRef shape) { return normal(shape).contiguous(layout); }
    /// (out, in, k, k) that keep the second moment of what goes through them.
    at::Tensor weight(at::IntArrayRef shape) {
        const double fan_in = static_cast<double>(shape[1] * shape[2] * shape[3]);
        return normal(shape, 1 / std::sqrt(fan_in)).contiguous(layout);
    }
    ConvWeights weights(at::IntArrayRef shape, bool bias) {
        return {weight(shape), bias ? normal({shape[0]}) : at::Tensor()};
    }

    /// Leave NaN where the allocator will put the next tensor of that size.
    void poison(at::IntArrayRef shape) const {
        at::full(shape, std::numeric_limits<double>::quiet_NaN(),
                 at::TensorOptions(GetParam().device).dtype(GetParam().dtype));
    }

    at::Generator generator_ = at::make_generator<at::CPUGeneratorImpl>(11);
};

void expect_close(const at::Tensor &got, const at::Tensor &plain, const at::Tensor &exact) {
    ASSERT_EQ(got.sizes(), exact.sizes());
    const at::Tensor error = (got.to(at::kDouble) - exact).abs(),
                     plain_error = (plain.to(at::kDouble) - exact).abs();
    ASSERT_TRUE(at::isfinite(error).all().item<bool>()) << "a value was not written";
    const double norm = error.norm().item<double>(), plain_norm = plain_error.norm().item<double>(),
                 greatest = error.max().item<double>(), plain_greatest = plain_error.max().item<double>();
    EXPECT_LE(norm, 2 * plain_norm) << "norm of the error";
    EXPECT_LE(greatest, 2 * plain_greatest)
        << "largest error, at element " << error.argmax().item<int64_t>() << " of " << error.numel();
}

at::Tensor in_doubles(const at::Tensor &x) {
    return x.defined() ? x.to(at::kDouble) : x;
}

ConvWeights in_doubles(const ConvWeights &weights) {
    return {in_doubles(weights.weight), in_doubles(weights.bias)};
}

at::Tensor plain_conv(const at::Tensor &x, const ConvWeights &weights, bool relu,
                      const at::Tensor &residual) {
    at::Tensor y = at::conv2d(x, weights.weight, weights.bias, 1, weights.weight.size(2) / 2);
    return relu_if(relu, residual.defined() ? y + residual : y);
}

/// Sizes around those of a tile, channels around those of a step.
const std::vector<Case> small_cases = {
    {1, 16, 16, 64, 128},
    {1, 5, 3, 64, 64, false},
    {5, 1, 1, 64, 64, true, false, true},
    {1, 31, 65, 24, 40, true, true},
    {2, 9, 20, 6, 3},
};
/// Enough channels and tiles for our own kernel; too much in doubles on a CPU.
const std::vector<Case> large_cases = {
    {3, 97, 113, 784, 264, false, true, true},  {1, 150, 130, 136, 200, true, true, true},
    {2, 160, 144, 128, 128, true, true},        {2, 160, 144, 128, 128, true, true, true},
    {11, 50, 50, 192, 136, false, false, true}, {140, 1, 1, 128, 128},
};

std::vector<Case> cases_for(at::DeviceType device) {
    std::vector<Case> cases = small_cases;
    if (device == at::kCUDA)
        cases.insert(cases.end(), large_cases.begin(), large_cases.end());
    return cases;
}

TEST_P(Convolutions, OfManyShapesAreAsExactAsLibTorchs) {
    for (const Case &c : cases_for(GetParam().device)) {
        SCOPED_TRACE(describe(c));
        const at::Tensor x = pixels({c.images, c.in, c.height, c.width});
        const ConvWeights w = weights({c.out, c.in, 3, 3}, c.bias);
        const std::vector<int64_t> shape = {c.images, c.out, c.height, c.width};
        const at::Tensor residual = c.residual ? pixels(shape) : at::Tensor();
        poison(shape);
        const at::Tensor got = conv2d(x, w, c.relu, residual);
        EXPECT_TRUE(got.is_contiguous(layout));
        expect_close(got, plain_conv(x, w, c.relu, residual),
                     plain_conv(in_doubles(x), in_doubles(w), c.relu, in_doubles(residual)));
    }
}

TEST_P(Convolutions, OfPicturesThatBringTheirBorder) {
    std::vector<Case> cases = small_cases;
    if (GetParam().device == at::kCUDA)
        // Whole tiles, as our own kernel wants them, and others.
        cases.insert(cases.end(),
                     {{4, 48, 80, 768, 256}, {16, 48, 64, 128, 136, false}, {9, 50, 63, 128, 256}});
    for (const Case &c : cases) {
        SCOPED_TRACE(describe(c));
        const at::Tensor x = pixels({c.images, c.in, c.height + 2, c.width + 2});
        const ConvWeights w = weights({c.out, c.in, 3, 3}, c.bias);
        poison({c.images, c.out, c.height, c.width});
        const at::Tensor got = conv2d_of_bordered(x, w);
        EXPECT_TRUE(got.is_contiguous(layout));
        expect_close(got, at::conv2d(x, w.weight, w.bias),
                     at::conv2d(in_doubles(x), in_doubles(w.weight), in_doubles(w.bias)));
    }
}

TEST_P(Convolutions, OfFramesWithTheFrameBefore) {
    for (const int64_t count : {1, 2, 3})
        for (const Case &c : cases_for(GetParam().device)) {
            SCOPED_TRACE(describe(c) + " frames " + std::to_string(count));
            const at::Tensor x = pixels({c.images * count, c.in, c.height, c.width}),
                             memory = pixels({c.images, c.in, c.height, c.width});
            const ConvWeights w = weights({c.out, 2 * c.in, 3, 3}, c.bias);
            const std::vector<int64_t> by_member = {c.images, count, c.in, c.height, c.width};
            const at::Tensor frames = x.view(by_member);
            const at::Tensor past = at::cat({memory.unsqueeze(1), frames.narrow(1, 0, count - 1)}, 1)
                                        .reshape({c.images * count, c.in, c.height, c.width});
            const at::Tensor both = at::cat({x, past}, 1).contiguous(layout);
            poison({c.images * count, c.out, c.height, c.width});
            expect_close(conv2d_with_past(x, memory, w), plain_conv(both, w, true, {}),
                         plain_conv(in_doubles(both), in_doubles(w), true, {}));
        }
}

TEST_P(Convolutions, ToPlanesWriteEveryOneOfThem) {
    for (const Case &c : cases_for(GetParam().device)) {
        SCOPED_TRACE(describe(c));
        const at::Tensor x = pixels({c.images, c.in, c.height, c.width});
        const ConvWeights w = weights({3, c.in, 3, 3}, c.bias);
        // Frames of a larger tensor, as the decoder has them.
        const at::Tensor all = at::full({2, c.images, 3, c.height, c.width},
                                        std::numeric_limits<double>::quiet_NaN(), x.options());
        conv2d_to_planes(all.select(0, 1), x, w);
        EXPECT_TRUE(all.select(0, 0).isnan().all().item<bool>());
        expect_close(all.select(0, 1), plain_conv(x, w, false, {}),
                     plain_conv(in_doubles(x), in_doubles(w), false, {}));
    }
}

TEST_P(Convolutions, OfUpsampledPicturesAreThoseOfTheLargerPicture) {
    const auto plain = [](const at::Tensor &x, const at::Tensor &grow, const at::Tensor &conv, bool relu) {
        const int64_t growth = grow.size(0) / conv.size(1);
        const at::Tensor frames =
            at::conv2d(x, grow).contiguous().view({x.size(0) * growth, conv.size(1), x.size(2), x.size(3)});
        return relu_if(
            relu, at::conv2d(at::upsample_nearest2d(frames, {2 * x.size(2), 2 * x.size(3)}), conv, {}, 1, 1));
    };
    for (const int64_t growth : {1, 2})
        for (const Case &c : cases_for(GetParam().device)) {
            SCOPED_TRACE(describe(c) + " growth " + std::to_string(growth));
            const at::Tensor x = pixels({c.images, c.in, c.height, c.width}),
                             grow = weight({growth * c.in, c.in, 1, 1}), conv = weight({c.out, c.in, 3, 3});
            UpsampleConvWeights folded = fold_upsampling(grow.to(at::kFloat), conv.to(at::kFloat));
            ASSERT_EQ(folded.growth, growth);
            ASSERT_EQ(folded.out_channels(), c.out);
            folded.weight = folded.weight.to(x.dtype());
            poison({c.images * growth, c.out, 2 * c.height, 2 * c.width});
            const at::Tensor got = upsample_conv2d(x, folded, c.relu);
            EXPECT_TRUE(got.is_contiguous(layout));
            expect_close(got, plain(x, grow, conv, c.relu),
                         plain(in_doubles(x), in_doubles(grow), in_doubles(conv), c.relu));
        }
}

TEST_P(Convolutions, GiveEqualBitsForEqualInputs) {
    // Of a size that our own kernel takes on a GPU.
    const std::vector<int64_t> shape = GetParam().device == at::kCUDA ? std::vector<int64_t>{2, 128, 160, 144}
                                                                      : std::vector<int64_t>{2, 128, 70, 40};
    const at::Tensor x = pixels(shape), residual = pixels(shape);
    const ConvWeights w = weights({128, 128, 3, 3}, true);
    const at::Tensor first = conv2d(x, w, true, residual);
    for (int i = 0; i < 10; i++)
        ASSERT_TRUE(at::equal(conv2d(x, w, true, residual), first)) << "run " << i;
}

INSTANTIATE_TEST_SUITE_P(, Convolutions,
                         testing::Values(Variant{at::kCPU, at::kFloat}, Variant{at::kCUDA, at::kFloat},
                                         Variant{at::kCUDA, at::kHalf}, Variant{at::kCUDA, at::kBFloat16}),
                         variant_name);

#ifdef FLASHVSR_CUDA

TEST(HopperConvolution, RefusesWhatItCannotDo) {
    // Of no GPU's memory: it is never read.
    alignas(16) static char memory[16];
    cuda::ConvArgs args{};
    args.kind = cuda::ConvKind::same;
    args.element = cuda::Element::bf16;
    args.images = args.frames = args.growth = 1;
    args.height = args.width = 16;
    args.in_channels = args.out_channels = 64;
    args.x = args.weight = args.out = memory;
    int device = 0, major = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
        major != 9)
        GTEST_SKIP() << "no Hopper GPU";
    ASSERT_TRUE(cuda::conv_hopper_can(args));
    const auto refuses = [&](auto change) {
        cuda::ConvArgs changed = args;
        change(changed);
        return !cuda::conv_hopper_can(changed) &&
               cuda::conv_hopper(changed, nullptr) == cudaErrorNotSupported;
    };
    EXPECT_TRUE(refuses([](cuda::ConvArgs &a) { a.element = cuda::Element::f32; }));
    EXPECT_TRUE(refuses([](cuda::ConvArgs &a) { a.images = 0; }));
    EXPECT_TRUE(refuses([](cuda::ConvArgs &a) { a.in_channels = 60; }));
    EXPECT_TRUE(refuses([](cuda::ConvArgs &a) { a.out_channels = 3; }));
    EXPECT_TRUE(refuses([](cuda::ConvArgs &a) { a.growth = 2; }));
    EXPECT_TRUE(refuses([](cuda::ConvArgs &a) { a.images = 3, a.frames = 2; }));
    EXPECT_TRUE(refuses([](cuda::ConvArgs &a) { a.x = memory + 2; }));
    EXPECT_TRUE(refuses([](cuda::ConvArgs &a) { a.residual = memory + 8; }));
    EXPECT_TRUE(refuses([](cuda::ConvArgs &a) { a.height = a.width = 1 << 15; }));
    EXPECT_TRUE(refuses([](cuda::ConvArgs &a) {
        a.kind = cuda::ConvKind::planar;
        a.out_channels = 9;
    }));
}

#endif

} // namespace
} // namespace flashvsr
