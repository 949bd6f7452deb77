// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/linear.h"

#include "error.h"
#include "model/placement.h"
#include "ops/norm.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace flashvsr {
namespace {

constexpr double greatest_e4m3 = 448, half_step_e4m3 = 0x1p-4; // of a number's own power of two

at::Tensor meaning(const Rows &rows) {
    return rows.values.to(at::kDouble) * rows.scales.to(at::kDouble).view({-1, 1});
}

/// Each within half a step of e4m3, or of its least step where a row's numbers are small against its
/// greatest.
void expect_near(const at::Tensor &got, const at::Tensor &x) {
    const at::Tensor exact = x.to(at::kDouble), greatest = exact.abs().amax(-1, true);
    const at::Tensor allowed = at::maximum(exact.abs() * half_step_e4m3, greatest / greatest_e4m3 * 0x1p-10);
    EXPECT_TRUE(((got - exact).abs() <= allowed * (1 + 1e-6)).all().item<bool>());
}

TEST(QuantizedRows, AreNearTheirNumbers) {
    at::manual_seed(1);
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
        at::Tensor x = (at::randn({7, 128}) * at::logspace(-3, 3, 7).unsqueeze(1)).to(type);
        x[5].zero_();
        const Rows rows = quantize_rows(x);
        EXPECT_EQ(rows.values.scalar_type(), at::kFloat8_e4m3fn);
        EXPECT_EQ(rows.scales.sizes(), at::IntArrayRef{7});
        expect_near(meaning(rows), x);
        EXPECT_EQ(rows.values.to(at::kFloat).abs().amax().item<double>(), greatest_e4m3);
    }
}

TEST(QuantizedRows, OfANormAreThoseOfItsResult) {
    at::manual_seed(2);
    const at::Tensor x = at::randn({2, 3, 64}), gain = at::randn({64}), offset = at::randn({64});
    const LinearWeights plain{at::randn({32, 64}), at::randn({32})};
    EXPECT_FALSE(layer_norm_for(plain, x, gain, offset).scales.defined());
    const Rows weight = quantize_rows(plain.weight);
    const Rows rows = layer_norm_for({weight.values, plain.bias, weight.scales}, x, gain, offset);
    ASSERT_TRUE(rows.scales.defined());
    EXPECT_EQ(rows.values.sizes(), x.sizes());
    expect_near(meaning({rows.values.view({6, 64}), rows.scales}), layer_norm(x, gain, offset).view({6, 64}));
}

TEST(QuantizedLinear, IsTheProductOfWhatTheRowsStandFor) {
    at::manual_seed(3);
    const at::Tensor x = at::randn({2, 5, 96}), bias = at::randn({32});
    const Rows rows = quantize_rows(x), weight = quantize_rows(at::randn({32, 96}) * 0.1);
    const LinearWeights layer{weight.values, bias, weight.scales};
    const at::Tensor exact =
        at::linear(meaning({rows.values.view({10, 96}), rows.scales}), meaning(weight), bias.to(at::kDouble))
            .view({2, 5, 32});
    const auto error = [&](const at::Tensor &got, const at::Tensor &wanted) {
        return (got.to(at::kDouble) - wanted).abs().max().item<double>();
    };
    EXPECT_LT(error(linear(x, layer), exact), 1e-5);
    EXPECT_LT(error(linear(rows, layer), exact), 1e-5);
    EXPECT_LT(error(linear(x, layer, Activation::gelu), at::gelu(exact, "tanh")), 1e-5);
    const at::Tensor sum = at::randn({2, 5, 32}), before = sum.clone();
    linear_add(sum, x, layer);
    EXPECT_LT(error(sum, before.to(at::kDouble) + exact), 1e-5);
}

TEST(Placement, OfTheCpuIsInFp32Alone) {
    EXPECT_STREQ(precision_name(placement_in("auto", at::kCPU)), "fp32");
    EXPECT_STREQ(precision_name(placement_in("fp32", at::kCPU)), "fp32");
    for (const char *name : {"bf16", "fp16", "fp8", "int4"})
        EXPECT_THROW(placement_in(name, at::kCPU), Error) << name;
}

TEST(Placement, MakesLayersOfE4m3WhereItIsToldTo) {
    const at::Tensor weight = at::randn({32, 64}), bias = at::randn({32});
    const LinearWeights plain = Placement{}.layer(weight, bias);
    EXPECT_TRUE(plain.weight.is_same(weight));
    EXPECT_FALSE(plain.scales.defined());
    const LinearWeights small = Placement{at::kCPU, at::kFloat, true}.layer(weight, bias);
    EXPECT_EQ(small.weight.scalar_type(), at::kFloat8_e4m3fn);
    EXPECT_EQ(small.scales.numel(), 32);
}

} // namespace
} // namespace flashvsr
