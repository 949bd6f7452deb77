// SPDX-License-Identifier: LGPL-2.1-or-later

// The GPU's implementation of each operation beside the CPU's. What is computed in floating point is held to
// twice the error of the same formula in ATen's own operations and the same precision, on the same data.

#include "error.h"
#include "frame/held_picture.h"
#include "frame/noise.h"
#include "frame/picture_converter.h"
#include "ops/attention.h"
#include "ops/block_mask.h"
#include "ops/color_fix.h"
#include "ops/conv.h"
#include "ops/cuda/linear_launch.h"
#include "ops/device.h"
#include "ops/levels.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/resample.h"
#include "ops/windows.h"
#include "ops/yuv.h"
#include "unit/fresh_memory.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContextLight.h>
#include <c10/core/InferenceMode.h>
#include <c10/cuda/CUDAStream.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <limits>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

namespace flashvsr {
namespace {

const at::Device gpu(at::kCUDA, 0);
constexpr std::array precisions = {at::kFloat, at::kHalf, at::kBFloat16};

class CudaOps : public testing::Test {
protected:
    void SetUp() override {
        if (gpu_count() == 0)
            GTEST_SKIP() << "there is no GPU";
        check_gpu(0);
        at::manual_seed(1);
    }

    c10::InferenceMode inference_;
};

/// What `make` makes on poisoned memory.
template <typename Make> auto poisoned(const Make &make) {
    const test::FreshMemory poison(true);
    return make();
}

at::Tensor wide(const at::Tensor &x) {
    return x.to(at::kCPU).to(at::kDouble);
}

double greatest(const at::Tensor &x) {
    return x.numel() == 0 ? 0.0 : x.abs().max().item<double>();
}

/// Unit in the last place of 1.
double resolution(at::ScalarType type) {
    return type == at::kBFloat16 ? 0x1p-7 : type == at::kHalf ? 0x1p-10 : 0x1p-23;
}

/// At most twice the plain computation's error, and what rounding the greatest value to the precision costs.
/// Compared where the exact result is.
void expect_as_exact(const at::Tensor &ours, const at::Tensor &plain, const at::Tensor &exact,
                     const std::string &what) {
    ASSERT_EQ(ours.sizes(), exact.sizes()) << what;
    const auto there = [&](const at::Tensor &x) { return x.to(exact.device()).to(at::kDouble); };
    const at::Tensor wanted = there(exact), error = there(ours) - wanted;
    ASSERT_FALSE(error.isnan().any().item<bool>()) << what << ": NaN";
    const double rounding = resolution(ours.scalar_type()) / 2 * greatest(wanted),
                 allowed = 2 * greatest(there(plain) - wanted) + rounding, worst = greatest(error);
    EXPECT_LE(worst, allowed) << what << ": " << worst / allowed
                              << " of the allowed error, the worst in place "
                              << error.abs().argmax().item<int64_t>();
}

std::string name(at::ScalarType type) {
    return c10::toString(type);
}

/// Random values of about N(offset, scale^2) that a precision holds.
at::Tensor normal(at::IntArrayRef sizes, at::ScalarType type, double scale = 1, double offset = 0) {
    return (at::randn(sizes) * scale + offset).to(gpu, type);
}

struct Norm {
    std::string name;
    at::Tensor (*ours)(const at::Tensor &x, const at::Tensor &gain, const at::Tensor &offset);
    /// All arguments and the result of one type.
    at::Tensor (*plain)(const at::Tensor &x, const at::Tensor &gain, const at::Tensor &offset);
};

at::Tensor plain_channel_norm(const at::Tensor &x, const at::Tensor &gain) {
    constexpr double above_zero = 0x1p-24; // in every precision
    const at::Tensor length = at::linalg_vector_norm(x, 2, at::IntArrayRef{-1}, true).clamp_min(above_zero);
    return x / length * std::sqrt(static_cast<double>(x.size(-1))) * gain;
}

const std::vector<Norm> norms = {
    {"layer",
     [](const at::Tensor &x, const at::Tensor &gain, const at::Tensor &offset) {
         return layer_norm(x, gain, offset);
     },
     [](const at::Tensor &x, const at::Tensor &gain, const at::Tensor &offset) {
         return at::layer_norm(x, {x.size(-1)}, gain, offset, 1e-6);
     }},
    {"rms", [](const at::Tensor &x, const at::Tensor &gain, const at::Tensor &) { return rms_norm(x, gain); },
     [](const at::Tensor &x, const at::Tensor &gain, const at::Tensor &) {
         return x * (x.square().mean(-1, true) + 1e-6).rsqrt() * gain;
     }},
    {"channel",
     [](const at::Tensor &x, const at::Tensor &gain, const at::Tensor &) {
         return channel_norm(x, gain, false);
     },
     [](const at::Tensor &x, const at::Tensor &gain, const at::Tensor &) {
         return plain_channel_norm(x, gain);
     }},
    {"channel and SiLU",
     [](const at::Tensor &x, const at::Tensor &gain, const at::Tensor &) { return channel_norm(x, gain); },
     [](const at::Tensor &x, const at::Tensor &gain, const at::Tensor &) {
         return at::silu(plain_channel_norm(x, gain));
     }}};

TEST_F(CudaOps, NormsOfRowsOfAnyWidth) {
    for (const at::ScalarType type : precisions)
        for (const int64_t width : {3, 37, 128, 255, 384, 512, 767, 1024, 1536, 2048, 3072})
            for (const Norm &norm : norms) {
                at::Tensor x = normal({2, 19, width}, type, 2, 0.5);
                x[1][18].zero_();
                const at::Tensor gain = normal({width}, type, 0.5, 1), offset = normal({width}, type);
                const at::Tensor ours =
                    poisoned([&] { return norm.ours(x, gain.to(at::kFloat), offset.to(at::kFloat)); });
                EXPECT_EQ(ours.scalar_type(), type);
                expect_as_exact(ours, norm.plain(x, gain, offset),
                                norm.plain(wide(x), wide(gain), wide(offset)),
                                concat(norm.name, " norm of ", width, " values of ", name(type)));
            }
}

TEST_F(CudaOps, ARowTooWideForANormIsRefused) {
    const at::Tensor x = at::ones({2, 8192}, gpu), gain = at::ones({8192}, gpu);
    EXPECT_THROW(rms_norm(x, gain), Error);
}

TEST_F(CudaOps, RowsOfE4m3AreThoseOfTheCpu) {
    for (const at::ScalarType type : precisions)
        for (const int64_t width : {16, 128, 1536, 1552, 8960, 16384}) {
            at::Tensor x = normal({2, 5, width}, type, 3);
            x[1][2].zero_();
            const Rows ours = poisoned([&] { return quantize_rows(x); }), cpu = quantize_rows(x.to(at::kCPU));
            EXPECT_TRUE(at::allclose(ours.scales.to(at::kCPU), cpu.scales, 1e-6, 0)) << width;
            // The factor is rounded once here and once there: a few numbers lie on either side of a step.
            const at::Tensor differ = ours.values.to(at::kCPU).to(at::kFloat) != cpu.values.to(at::kFloat);
            EXPECT_LE(differ.to(at::kDouble).mean().item<double>(), 1e-3) << width << " of " << name(type);
        }
}

TEST_F(CudaOps, RowsOfANormInE4m3AreThoseOfItsResult) {
    for (const int64_t width : {128, 1536}) {
        const at::Tensor x = normal({3, 19, width}, at::kBFloat16, 2, 0.5),
                         gain = normal({width}, at::kFloat, 0.5, 1), offset = normal({width}, at::kFloat);
        const Rows weight = quantize_rows(normal({128, width}, at::kBFloat16));
        const LinearWeights next{weight.values, normal({128}, at::kBFloat16), weight.scales};
        const Rows ours = poisoned([&] { return layer_norm_for(next, x, gain, offset); });
        const at::Tensor exact = at::layer_norm(wide(x), {width}, wide(gain), wide(offset), 1e-6),
                         got = wide(ours.values.to(at::kFloat)) * wide(ours.scales).view({3, 19, 1}),
                         greatest = exact.abs().amax(-1, true);
        const at::Tensor allowed = at::maximum(exact.abs() * 0x1p-4, greatest / 448 * 0x1p-10) * (1 + 1e-3);
        EXPECT_TRUE(((got - exact).abs() <= allowed).all().item<bool>()) << width;
    }
}

// Twice the error of bf16 factors that stand for the same numbers.
TEST_F(CudaOps, ProductsOfE4m3) {
    if (at::cuda::getCurrentDeviceProperties()->major != 9)
        GTEST_SKIP() << "the GPU does not multiply e4m3";
    for (const auto &[rows, in, out] :
         {std::array<int64_t, 3>{64, 128, 384}, std::array<int64_t, 3>{1000, 1536, 256},
          std::array<int64_t, 3>{256, 8960, 1536}})
        for (const bool gelu : {false, true}) {
            const at::Tensor x = normal({rows, in}, at::kBFloat16), bias = normal({out}, at::kBFloat16);
            const Rows weight = quantize_rows(normal({out, in}, at::kBFloat16, 0.03)),
                       left = quantize_rows(x);
            const LinearWeights layer{weight.values, bias, weight.scales};
            const auto meaning = [](const Rows &r) {
                return wide(r.values.to(at::kFloat)) * wide(r.scales).view({-1, 1});
            };
            const at::Tensor a = meaning(left), b = meaning(weight);
            const auto product = [&](const at::Tensor &p, const at::Tensor &q, const at::Tensor &r) {
                const at::Tensor y = at::linear(p, q, r);
                return gelu ? at::gelu(y, "tanh") : y;
            };
            const at::Tensor exact = product(a, b, wide(bias)),
                             plain = product(a.to(x.options()), b.to(x.options()), bias);
            const std::string what = concat(rows, "x", in, " by ", out, gelu ? " with GELU" : "");
            expect_as_exact(
                poisoned([&] { return linear(x, layer, gelu ? Activation::gelu : Activation::none); }), plain,
                exact, what);
            if (gelu)
                continue;
            const at::Tensor sum = normal({rows, out}, at::kBFloat16), before = wide(sum);
            linear_add(sum, x, layer);
            expect_as_exact(sum, plain + before.to(x.options()), exact + before, what + ", added");
        }
}

/// A linear layer with random weights and rows for it, all on the GPU.
struct LinearCase {
    cuda::LinearElement element;
    int64_t rows, in, out;
    Rows x, weight;
    at::Tensor bias;

    LinearCase(cuda::LinearElement type, int64_t count, int64_t width, int64_t results)
        : element(type), rows(count), in(width), out(results), x(random({rows, in}, 1)),
          weight(random({out, in}, 1 / std::sqrt(static_cast<double>(in)))),
          bias(at::randn({out}, gpu).to(at::kBFloat16)) {}

    LinearWeights layer() const { return {weight.values, bias, weight.scales}; }

    cuda::LinearArgs args(cuda::LinearEpilogue epilogue, int64_t count, const at::Tensor &y) const {
        cuda::LinearArgs args{};
        args.element = element;
        args.epilogue = epilogue;
        args.rows = static_cast<int>(count);
        args.in = static_cast<int>(in);
        args.out = static_cast<int>(out);
        args.x = x.values.const_data_ptr();
        args.weight = weight.values.const_data_ptr();
        if (x.scales.defined()) {
            args.x_scales = x.scales.const_data_ptr<float>();
            args.weight_scales = weight.scales.const_data_ptr<float>();
        }
        args.bias = bias.const_data_ptr();
        args.y = y.mutable_data_ptr();
        return args;
    }

    /// What the Hopper kernel makes of the first `count` rows in a copy of `before`.
    at::Tensor made(cuda::LinearEpilogue epilogue, int64_t count, const at::Tensor &before) const {
        at::Tensor y = before.clone();
        EXPECT_EQ(cuda::linear_hopper(args(epilogue, count, y), c10::cuda::getCurrentCUDAStream().stream()),
                  cudaSuccess);
        return y;
    }

    /// By ATen, each step in a precision. before (rows, out).
    at::Tensor plain(cuda::LinearEpilogue epilogue, at::ScalarType type, const at::Tensor &before) const {
        const auto meaning = [&](const Rows &r) {
            if (!r.scales.defined())
                return r.values.to(type);
            return (r.values.to(at::kFloat).to(at::kDouble) * r.scales.to(at::kDouble).view({-1, 1}))
                .to(type);
        };
        const at::Tensor y = at::linear(meaning(x), meaning(weight), bias.to(type));
        if (epilogue == cuda::LinearEpilogue::add)
            return y + before.to(type);
        return epilogue == cuda::LinearEpilogue::gelu ? at::gelu(y, "tanh") : y;
    }

private:
    Rows random(at::IntArrayRef sizes, double scale) const {
        const at::Tensor values = (at::randn(sizes, gpu) * scale).to(at::kBFloat16);
        return element == cuda::LinearElement::e4m3 ? quantize_rows(values) : Rows(values);
    }
};

constexpr std::array linear_elements = {cuda::LinearElement::bf16, cuda::LinearElement::e4m3};
constexpr std::array linear_epilogues = {cuda::LinearEpilogue::bias, cuda::LinearEpilogue::gelu,
                                         cuda::LinearEpilogue::add};

std::string name(cuda::LinearElement element, cuda::LinearEpilogue epilogue) {
    const char *const after = epilogue == cuda::LinearEpilogue::bias   ? ""
                              : epilogue == cuda::LinearEpilogue::gelu ? " with GELU"
                                                                       : ", added";
    return concat(element == cuda::LinearElement::bf16 ? "bf16" : "e4m3", after);
}

bool has_hopper() {
    return at::cuda::getCurrentDeviceProperties()->major == 9;
}

TEST_F(CudaOps, LinearLayersOnHopper) {
    if (!has_hopper())
        GTEST_SKIP() << "the GPU is not of Hopper's kind";
    constexpr int64_t rows_behind = 200; // more than a tile
    for (const cuda::LinearElement element : linear_elements)
        for (const auto &[in, out] : {std::array<int64_t, 2>{1536, 1536}, std::array<int64_t, 2>{1536, 4608},
                                      std::array<int64_t, 2>{1536, 8960}, std::array<int64_t, 2>{8960, 1536},
                                      std::array<int64_t, 2>{80, 200}})
            for (const int64_t rows : {25344, 8448, 8392, 129, 1}) {
                const LinearCase layer(element, rows, in, out);
                for (const cuda::LinearEpilogue epilogue : linear_epilogues) {
                    const std::string what =
                        concat(rows, "x", in, " by ", out, " of ", name(element, epilogue));
                    const bool add = epilogue == cuda::LinearEpilogue::add;
                    const at::TensorOptions options = layer.bias.options();
                    const at::Tensor before = add ? at::randn({rows + rows_behind, out}, options)
                                                  : at::full({rows + rows_behind, out}, NAN, options);
                    ASSERT_TRUE(cuda::linear_hopper_can(layer.args(epilogue, rows, before))) << what;
                    const at::Tensor y = layer.made(epilogue, rows, before), sum = before.narrow(0, 0, rows);
                    expect_as_exact(y.narrow(0, 0, rows), layer.plain(epilogue, at::kBFloat16, sum),
                                    layer.plain(epilogue, at::kDouble, sum), what);
                    const auto behind = [&](const at::Tensor &t) {
                        return t.narrow(0, rows, rows_behind).view(at::kShort);
                    };
                    EXPECT_TRUE(at::equal(behind(y), behind(before))) << what << ": rows behind the last";

                    // The same again, by the engine's operation.
                    if (!cuda::linear_hopper_pays(layer.args(epilogue, rows, before)))
                        continue;
                    at::Tensor engine = sum.clone();
                    if (add)
                        linear_add(engine, layer.x, layer.layer());
                    else
                        engine = poisoned([&] {
                            return linear(layer.x, layer.layer(),
                                          epilogue == cuda::LinearEpilogue::gelu ? Activation::gelu
                                                                                 : Activation::none);
                        });
                    EXPECT_TRUE(at::equal(engine, y.narrow(0, 0, rows))) << what << ": the engine's";
                }
            }
}

TEST_F(CudaOps, ARowsBitsOnHopperDoNotDependOnTheOthers) {
    if (!has_hopper())
        GTEST_SKIP() << "the GPU is not of Hopper's kind";
    constexpr int64_t most = 25344;
    for (const cuda::LinearElement element : linear_elements)
        for (const auto &[in, out] : {std::array<int64_t, 2>{1536, 4608}, std::array<int64_t, 2>{1536, 8960},
                                      std::array<int64_t, 2>{8960, 1536}}) {
            const LinearCase layer(element, most, in, out);
            const at::Tensor before = at::randn({most, out}, layer.bias.options());
            for (const cuda::LinearEpilogue epilogue : linear_epilogues) {
                const std::string what = concat(in, " to ", out, " of ", name(element, epilogue));
                const at::Tensor all = layer.made(epilogue, most, before);
                EXPECT_TRUE(at::equal(all, layer.made(epilogue, most, before))) << what << ", again";
                for (const int64_t rows : {8448, 8392, 129})
                    EXPECT_TRUE(at::equal(all.narrow(0, 0, rows),
                                          layer.made(epilogue, rows, before).narrow(0, 0, rows)))
                        << what << ", " << rows << " rows";
            }
        }
}

TEST_F(CudaOps, LinearLayersThatHoppersKernelLeavesAlone) {
    const LinearCase layer(cuda::LinearElement::bf16, 8448, 1536, 1536);
    const at::Tensor y = at::empty({8448, 1536}, layer.bias.options());
    const cuda::LinearArgs right = layer.args(cuda::LinearEpilogue::bias, 8448, y);
    EXPECT_EQ(cuda::linear_hopper_can(right), has_hopper());
    const auto refused = [&](auto change) {
        cuda::LinearArgs args = right;
        change(args);
        return !cuda::linear_hopper_can(args) &&
               cuda::linear_hopper(args, c10::cuda::getCurrentCUDAStream().stream()) == cudaErrorNotSupported;
    };
    EXPECT_TRUE(refused([](cuda::LinearArgs &args) { args.rows = 0; }));
    EXPECT_TRUE(refused([](cuda::LinearArgs &args) { args.in = 1532; }));
    EXPECT_TRUE(refused([](cuda::LinearArgs &args) { args.out = 1530; }));
    EXPECT_TRUE(refused([](cuda::LinearArgs &args) { args.bias = nullptr; }));
    EXPECT_TRUE(refused([](cuda::LinearArgs &args) { args.y = static_cast<char *>(args.y) + 2; }));
    EXPECT_TRUE(refused([](cuda::LinearArgs &args) { args.element = cuda::LinearElement::e4m3; }))
        << "no scales";
    // Too few tiles.
    EXPECT_FALSE(cuda::linear_hopper_pays(layer.args(cuda::LinearEpilogue::bias, 1, y)));
    EXPECT_FALSE(cuda::linear_hopper_pays(layer.args(cuda::LinearEpilogue::bias, 512, y)));
}

RopeTable random_angles(const TokenGrid &grid) {
    const auto axis = [](int64_t length, int64_t pairs) {
        const at::Tensor angle = at::rand({length, pairs}) * 100;
        return at::stack({angle.cos(), angle.sin()}, 2);
    };
    return {axis(grid.frames, 22), axis(grid.height, 21), axis(grid.width, 21)};
}

/// RMS norm and rotary embedding of (B, L, D) tokens, every step rounded to their type.
at::Tensor plain_norm_and_rope(const at::Tensor &x, const at::Tensor &gain, const RopeTable &rope,
                               const TokenGrid &grid) {
    const auto along = [&](const at::Tensor &axis, at::IntArrayRef shape) {
        return axis.view(shape).expand({grid.frames, grid.height, grid.width, -1, 2});
    };
    const at::Tensor table =
        at::cat({along(rope.time, {grid.frames, 1, 1, -1, 2}), along(rope.y, {1, grid.height, 1, -1, 2}),
                 along(rope.x, {1, 1, grid.width, -1, 2})},
                3)
            .reshape({1, grid.tokens(), 1, head_dim / 2, 2})
            .to(x.options());
    const at::Tensor normed = x * (x.square().mean(-1, true) + 1e-6).rsqrt() * gain,
                     pairs = normed.view({x.size(0), x.size(1), -1, head_dim / 2, 2});
    const at::Tensor re = pairs.select(4, 0), im = pairs.select(4, 1), cosine = table.select(4, 0),
                     sine = table.select(4, 1);
    return at::stack({re * cosine - im * sine, re * sine + im * cosine}, 4).view(x.sizes());
}

/// (B, heads, windows, ...) at the head of each head's share of a larger buffer that is full of NaN.
at::Tensor in_ring(at::IntArrayRef sizes, at::ScalarType type, int64_t spare) {
    std::vector<int64_t> ring = sizes.vec();
    ring[2] += spare;
    return at::full(ring, NAN, at::TensorOptions(gpu).dtype(type)).narrow(2, 0, sizes[2]);
}

TEST_F(CudaOps, QkvInWindowOrder) {
    struct Case {
        int64_t batch, heads;
        TokenGrid grid;
    };
    for (const at::ScalarType type : precisions)
        for (const auto &[batch, heads, grid] :
             {Case{1, 1, {2, 8, 8}}, Case{2, 3, {4, 8, 16}}, Case{1, 12, {6, 16, 24}}}) {
            const int64_t dim = heads * head_dim;
            const at::Tensor qkv = normal({batch, grid.tokens(), 3 * dim}, type, 2);
            const at::Tensor query_gain = normal({dim}, type, 0.5, 1), key_gain = normal({dim}, type, 0.5, 1);
            const RopeTable rope = random_angles(grid);
            const std::vector<int64_t> sizes = {batch, heads, grid.windows(), window_tokens, head_dim};
            const QkvWindows ours{in_ring(sizes, type, 0), in_ring(sizes, type, 3), in_ring(sizes, type, 3)};
            qkv_to_windows(qkv, {query_gain.to(at::kFloat), key_gain.to(at::kFloat)},
                           {rope.time.to(gpu), rope.y.to(gpu), rope.x.to(gpu)}, grid, ours);

            const QkvWindows exact{at::empty(sizes), at::empty(sizes), at::empty(sizes)};
            const auto host = [](const at::Tensor &x) { return x.to(at::kCPU, at::kFloat); };
            qkv_to_windows(host(qkv), {host(query_gain), host(key_gain)}, rope, grid, exact);
            const std::vector<at::Tensor> parts = qkv.chunk(3, 2);
            const std::string what = concat(heads, " heads, ", batch, " in a batch, ", name(type));
            expect_as_exact(ours.query,
                            to_windows(plain_norm_and_rope(parts[0], query_gain, rope, grid), grid),
                            exact.query, "queries, " + what);
            expect_as_exact(ours.key, to_windows(plain_norm_and_rope(parts[1], key_gain, rope, grid), grid),
                            exact.key, "keys, " + what);
            EXPECT_TRUE(at::equal(host(ours.value), exact.value)) << "values, " << what;
        }
}

TEST_F(CudaOps, MeanTokensOfWindows) {
    for (const at::ScalarType type : precisions)
        for (const int64_t batch : {1, 2}) {
            const at::Tensor windows = in_ring({batch, 3, 5, window_tokens, head_dim}, type, 2),
                             pooled = in_ring({batch, 3, 5, head_dim}, at::kFloat, 4);
            windows.copy_(normal(windows.sizes(), type, 1, 0.25));
            pool_windows(windows, pooled);
            expect_as_exact(pooled, windows.mean(3), wide(windows).mean(3),
                            concat("windows of ", name(type), ", ", batch, " in a batch"));
        }
}

/// Blocks of which each sees itself and some others.
at::Tensor random_local_mask(int64_t n) {
    return at::rand({n, n}).lt(0.6).logical_or(at::eye(n, at::kBool));
}

TEST_F(CudaOps, DraftProbabilities) {
    struct Case {
        int64_t batch, heads, group_windows, query_groups, key_groups;
    };
    // Key counts for which a block takes six queries, two, and one; query counts that these do not divide.
    for (const auto &[batch, heads, n, query_groups, key_groups] :
         {Case{2, 3, 1, 1, 1}, Case{2, 2, 7, 1, 4}, Case{1, 12, 66, 1, 4}, Case{1, 2, 66, 3, 3},
          Case{1, 2, 451, 1, 4}, Case{1, 1, 1251, 1, 4}}) {
        const at::Tensor q = at::randn({batch, heads, query_groups * n, head_dim}),
                         ring = at::randn({batch, heads, (key_groups + 1) * n, head_dim}),
                         k = ring.narrow(2, 0, key_groups * n), local = random_local_mask(n);
        const at::Tensor on_gpu = ring.to(gpu).narrow(2, 0, key_groups * n);
        const at::Tensor ours =
            poisoned([&] { return draft_probabilities(q.to(gpu), on_gpu, local.to(gpu)); });
        const auto plain = [&](const at::Tensor &query, const at::Tensor &key) {
            const at::Tensor hidden = local.logical_not().repeat({query_groups, key_groups}).to(key.device());
            return (at::matmul(query, key.transpose(2, 3)) / std::sqrt(static_cast<double>(head_dim)))
                .masked_fill(hidden, -INFINITY)
                .softmax(-1);
        };
        const std::string what = concat(query_groups * n, " queries, ", key_groups * n, " keys");
        expect_as_exact(ours, plain(q.to(gpu), on_gpu), plain(wide(q), wide(k)), what);
        EXPECT_LE(greatest(wide(ours) - wide(draft_probabilities(q, k, local))), 0x1p-24) << what;
    }
}

TEST_F(CudaOps, EqualWindowsHaveEqualProbabilities) {
    constexpr int64_t n = 66, groups = 4;
    const at::Tensor q = at::randn({1, 2, 1, head_dim}).expand({1, 2, n, head_dim}).contiguous(),
                     k = at::randn({1, 2, 1, head_dim}).expand({1, 2, groups * n, head_dim}).contiguous();
    const at::Tensor ours =
        draft_probabilities(q.to(gpu), k.to(gpu), at::ones({n, n}, at::kBool).to(gpu)).to(at::kCPU);
    EXPECT_TRUE(at::equal(ours, ours[0][0][0][0].expand_as(ours)));
}

TEST_F(CudaOps, ChosenBlocksAreTheCpusBitForBit) {
    struct Case {
        int64_t batch, heads, group_windows, groups, keys;
        double levels; ///< values that are told apart: few make many ties
    };
    for (const auto &[batch, heads, n, groups, keys, levels] :
         {Case{1, 1, 1, 1, 1, 4}, Case{2, 3, 6, 1, 24, 5}, Case{1, 12, 66, 1, 264, 1e9},
          Case{1, 12, 66, 1, 264, 30}, Case{2, 2, 66, 3, 198, 1e4}, Case{1, 2, 451, 1, 1804, 1e9}}) {
        at::Tensor probabilities =
            (at::randn({batch, heads, groups * n, keys}) * 3).softmax(-1).mul(levels).round().div(levels);
        probabilities.select(2, 0).zero_();                                     // a row without a block
        probabilities.masked_fill_(at::rand(probabilities.sizes()).lt(0.3), 0); // masked ones
        const int64_t list = n * keys;
        for (const int64_t budget : {int64_t{0}, int64_t{1}, list / 7, list / 2, list - 1, 10 * list}) {
            const BlockLists wanted = select_blocks(probabilities, n, budget);
            const at::Tensor on_gpu = probabilities.to(gpu);
            const BlockLists ours = poisoned([&] { return select_blocks(on_gpu, n, budget); });
            const std::string what = concat(n, "x", keys, " blocks, budget ", budget, ", levels ", levels);
            EXPECT_TRUE(at::equal(ours.counts.to(at::kCPU), wanted.counts)) << what;
            EXPECT_TRUE(at::equal(ours.indices.to(at::kCPU), wanted.indices)) << what;
        }
    }
}

at::Tensor plain_sparse_attention(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
                                  const at::Tensor &mask, const TokenGrid &grid) {
    const auto tokens = [](const at::Tensor &windows) { return windows.flatten(2, 3); };
    const at::Tensor kept = mask.repeat_interleave(window_tokens, 2).repeat_interleave(window_tokens, 3);
    const at::Tensor scores = at::matmul(tokens(q), tokens(k).transpose(2, 3))
                                  .div(std::sqrt(static_cast<double>(head_dim)))
                                  .masked_fill(kept.logical_not(), -INFINITY);
    const at::Tensor weights = at::where(kept.any(3, true), scores.softmax(-1), at::zeros_like(scores));
    return from_windows(at::matmul(weights, tokens(v)).view(q.sizes()), grid);
}

TEST_F(CudaOps, BlockSparseAttentionWithRowsThatKeepNothing) {
    const TokenGrid grid{2, 16, 24};
    constexpr int64_t batch = 2, heads = 3, groups = 3;
    const int64_t queries = grid.windows(), keys = groups * queries;
    for (const at::ScalarType type : precisions) {
        at::Tensor probabilities = at::rand({batch, heads, queries, keys});
        probabilities.select(2, 1).zero_();
        const BlockLists lists = select_blocks(probabilities, queries, queries * keys / 3);
        const at::Tensor q = normal({batch, heads, queries, window_tokens, head_dim}, type),
                         k = in_ring({batch, heads, keys, window_tokens, head_dim}, type, 2),
                         v = in_ring({batch, heads, keys, window_tokens, head_dim}, type, 2);
        k.copy_(normal(k.sizes(), type));
        v.copy_(normal(v.sizes(), type));
        const BlockLists on_gpu{lists.counts.to(gpu), lists.indices.to(gpu)};
        const at::Tensor ours = poisoned([&] { return block_sparse_attention(q, k, v, on_gpu, grid); });
        const at::Tensor mask = to_mask(lists);
        expect_as_exact(ours, plain_sparse_attention(q, k, v, mask.to(gpu), grid),
                        plain_sparse_attention(wide(q), wide(k), wide(v), mask, grid), name(type));
        const at::Tensor empty = to_windows(ours, grid).select(2, 1);
        EXPECT_EQ(greatest(wide(empty)), 0) << name(type);
    }
}

struct CrossCase {
    int64_t batch, length, context;
};

TEST_F(CudaOps, CrossAttention) {
    constexpr int64_t heads = 3;
    for (const at::ScalarType type : precisions)
        for (const auto &[batch, length, context] :
             {CrossCase{1, 256, 512}, CrossCase{3, 384, 128}, CrossCase{2, 256, 77}, CrossCase{1, 128, 1},
              CrossCase{2, 128, 321}}) {
            const at::Tensor q = normal({batch, length, heads * head_dim}, type),
                             k = normal({heads, context, head_dim}, type),
                             v = normal({heads, context, head_dim}, type);
            const auto plain = [&](const at::Tensor &query, const at::Tensor &key, const at::Tensor &value) {
                const at::Tensor split = query.view({batch, -1, heads, head_dim}).transpose(1, 2);
                const at::Tensor weights =
                    (at::matmul(split, key.transpose(1, 2)) / std::sqrt(static_cast<double>(head_dim)))
                        .softmax(-1);
                return at::matmul(weights, value).transpose(1, 2).reshape(query.sizes());
            };
            expect_as_exact(poisoned([&] { return cross_attention(q, k, v); }), plain(q, k, v),
                            plain(wide(q), wide(k), wide(v)),
                            concat(batch, " x ", length, ", context of ", context, ", ", name(type)));
        }
}

TEST_F(CudaOps, StackedFramesAreCopies) {
    for (const at::ScalarType type : precisions)
        for (const int64_t channels : {1, 3, 16, 24}) {
            const at::Tensor frames = at::randn({2, 3, 5, 7, channels}).to(type);
            const at::Tensor sources = at::randint(6, {4, 3}, at::kLong);
            const at::Tensor wanted = stack_frames(frames.to(at::kFloat), sources);
            const at::Tensor ours = poisoned([&] { return stack_frames(frames.to(gpu), sources); });
            EXPECT_TRUE(at::equal(ours.to(at::kCPU, at::kFloat), wanted)) << name(type) << ", " << channels;
        }
}

/// Random taps, and the same as a matrix (out, in).
std::pair<ResampleTaps, at::Tensor> random_taps(int64_t in, int64_t out, int64_t count) {
    const ResampleTaps taps{at::randint(in - count + 1, {out}, at::kLong), at::randn({out, count})};
    at::Tensor matrix = at::zeros({out, in});
    matrix.scatter_(1, taps.first.unsqueeze(1) + at::arange(count, at::kLong), taps.weight);
    return {taps, matrix};
}

ResampleTaps on_gpu(const ResampleTaps &taps) {
    return {taps.first.to(gpu), taps.weight.to(gpu)};
}

TEST_F(CudaOps, ResampledColumnsAndRows) {
    constexpr int64_t planes = 3, height = 19, width = 45;
    for (const int64_t count : {1, 4, 17}) {
        const at::Tensor picture = at::randn({planes * height, width});
        const auto [columns, columns_matrix] = random_taps(width, 131, count);
        const at::Tensor wider = poisoned([&] { return resample_columns(picture.to(gpu), on_gpu(columns)); });
        expect_as_exact(wider, at::matmul(picture.to(gpu), columns_matrix.t().to(gpu)),
                        at::matmul(wide(picture), wide(columns_matrix).t()),
                        concat("columns, ", count, " taps"));

        const auto [rows, rows_matrix] = random_taps(height, 77, count);
        const at::Tensor higher =
            poisoned([&] { return resample_rows(picture.to(gpu), planes, on_gpu(rows)); });
        const auto plain = [&](const at::Tensor &x, const at::Tensor &matrix) {
            return at::matmul(matrix, x.view({planes, height, width})).clamp(-1, 1).flatten(0, 1);
        };
        expect_as_exact(higher, plain(picture.to(gpu), rows_matrix.to(gpu)),
                        plain(wide(picture), wide(rows_matrix)), concat("rows, ", count, " taps"));
    }
}

// The integers, and every rounding after them, are the same: so are the bits.
TEST_F(CudaOps, NoiseHasTheCpusBits) {
    struct Case {
        uint64_t seed;
        int64_t first_latent, latents;
        Rect region;
    };
    for (const auto &[seed, first, latents, region] :
         {Case{0, 0, 6, {0, 0, 96, 176}}, Case{0x0123456789ABCDEF, (int64_t{3} << 32) - 1, 3, {7, 5, 33, 67}},
          Case{~uint64_t{0}, 11, 1, {(int64_t{1} << 32) - 9, (int64_t{1} << 32) - 300, 9, 300}},
          Case{5, 1, 2, {4, 4, 0, 8}}})
        EXPECT_TRUE(at::equal(
            poisoned([&] { return position_noise(seed, first, latents, region, gpu); }).to(at::kCPU),
            position_noise(seed, first, latents, region)))
            << "seed " << seed << ", latent frame " << first;
}

at::Tensor all_levels(int depth) {
    if (depth == float_depth) {
        constexpr float infinity = std::numeric_limits<float>::infinity();
        return at::cat({at::tensor({0.0F, 1.0F, -3.0F, 7.0F, NAN, infinity, -infinity}), at::rand({1000})});
    }
    // Words beyond the depth's range too.
    const int64_t count = depth == 8 ? 256 : 65536;
    return at::arange(count, at::kInt).to(component_type(depth));
}

TEST_F(CudaOps, EveryLevelOfEveryDepthIsTheCpusPixelAndBack) {
    for (const int depth : {8, 9, 10, 11, 12, 13, 14, 15, 16, float_depth}) {
        const at::Tensor stored = all_levels(depth), pixels = pixels_from_levels(stored, depth);
        EXPECT_TRUE(at::equal(pixels_from_levels(stored.to(gpu), depth).to(at::kCPU), pixels)) << depth;
        EXPECT_TRUE(at::equal(levels_from_pixels(pixels.to(gpu), depth).to(at::kCPU).view(at::kByte),
                              levels_from_pixels(pixels, depth).view(at::kByte)))
            << depth;
        // Pixels between the levels, outside their range, none at all, and from an odd place on.
        const at::Tensor any = at::cat({at::tensor({NAN, -7.0F, 7.0F}), at::rand({100'003}) * 2.2 - 1.1});
        EXPECT_TRUE(at::equal(levels_from_pixels(any.to(gpu).slice(0, 1), depth).to(at::kCPU).view(at::kByte),
                              levels_from_pixels(any.slice(0, 1), depth).view(at::kByte)))
            << depth;
    }
}

/// A picture whose planes are a tensor's.
FlashVSRFrame frame_of(const at::Tensor &planes, int depth) {
    FlashVSRFrame frame{};
    frame.width = static_cast<int>(planes.size(2));
    frame.height = static_cast<int>(planes.size(1));
    frame.format = FLASHVSR_PIXEL_FORMAT_RGB;
    frame.depth = depth;
    for (int plane = 0; plane < 3; plane++) {
        frame.data[plane] = planes.select(0, plane).data_ptr();
        frame.stride[plane] =
            static_cast<ptrdiff_t>(planes.size(2)) * static_cast<ptrdiff_t>(planes.element_size());
    }
    return frame;
}

TEST_F(CudaOps, APictureHasTheCpusBitsThereAndBack) {
    for (const int depth : {8, 10, 16, float_depth}) {
        const at::Tensor planes = (at::rand({3, 11, 37}) * white_level(depth)).to(component_type(depth)),
                         back = at::empty_like(planes);
        const at::Tensor pixels = HeldPicture(frame_of(planes, depth)).to_tensor(gpu);
        EXPECT_TRUE(at::equal(pixels.to(at::kCPU), picture_to_tensor(frame_of(planes, depth)))) << depth;
        const PictureConverter converter(format_of(frame_of(planes, depth)), {37, 11}, gpu);
        const at::Tensor packed = at::empty({picture_bytes(converter.format(), converter.size())},
                                            at::TensorOptions(gpu).dtype(at::kByte));
        converter.from_pixels(pixels, packed);
        unpack_picture(Downloads(gpu).begin(packed).wait(), frame_of(back, depth));
        EXPECT_LE(greatest(wide(back) - wide(planes)), depth == float_depth ? 0x1p-24 : 0) << depth;
    }
}

/// Y'CbCr of every layout: the CPU's colours but for what fp32 sums in another order are apart, and levels
/// that are at most one apart, and then seldom.
TEST_F(CudaOps, YuvIsConvertedAsOnTheCpu) {
    const FlashVSRYuv bt709{0.2126, 0.0722, 0, 1, 1, 0, 128, 0, 0};
    for (const int depth : {8, 10, 16})
        for (const auto &[log2_w, log2_h] : {std::pair{0, 0}, std::pair{1, 0}, std::pair{1, 1}})
            for (const int interleaved : {0, 1}) {
                PictureFormat format{FLASHVSR_PIXEL_FORMAT_YUV, depth, bt709};
                format.yuv.log2_chroma_w = log2_w;
                format.yuv.log2_chroma_h = log2_h;
                format.yuv.chroma_y = 128 * log2_h;
                format.yuv.interleaved = interleaved;
                format.yuv.shift = depth == 10 ? 6 : 0;
                const Size size{37, 23};
                const PictureConverter host(format, size, at::kCPU), device(format, size, gpu);
                const at::Tensor pixels = at::rand({3, size.height, size.width}) * 2 - 1,
                                 here = at::empty({picture_bytes(format, size)}, at::kByte),
                                 there = at::empty_like(here, at::TensorOptions(gpu));
                host.from_pixels(pixels, here);
                device.from_pixels(pixels.to(gpu), there);
                const at::ScalarType type = component_type(depth);
                const at::Tensor apart = (wide(there.to(at::kCPU).view(type)) - wide(here.view(type))).abs();
                const std::string what = concat(depth, " bits, ", log2_w, log2_h, interleaved);
                EXPECT_LE(greatest(apart), 1 << format.yuv.shift) << what;
                EXPECT_LE(wide(apart.gt(0)).mean().item<double>(), 0.01) << what;
                EXPECT_LE(greatest(wide(device.to_pixels(here.to(gpu))) - wide(host.to_pixels(here))), 4e-6)
                    << what;
            }
}

/// What is computed pixel by pixel, in memory at any place; the resampling between may be contracted.
TEST_F(CudaOps, LevelsAndSamplesOfYuvHaveTheCpusBits) {
    struct Words {
        int depth, shift;
    };
    for (const Size size : {Size{64, 6}, Size{37, 23}, Size{2, 5}, Size{1, 1}})
        for (const auto &[depth, shift] : {Words{8, 0}, Words{10, 6}, Words{12, 0}, Words{16, 0}})
            for (const int log2 : {0, 1})
                for (const int interleaved : {0, 1})
                    for (const int64_t components_before : {0, 1}) {
                        const PictureFormat format{
                            FLASHVSR_PIXEL_FORMAT_YUV,
                            depth,
                            {0.2126, 0.0722, depth == 12, log2, log2, 0, 0, shift, interleaved}};
                        const std::string what =
                            concat(size.width, "x", size.height, ", ", depth, " bits, ", log2, interleaved,
                                   ", from component ", components_before);
                        const YuvConversion by = yuv_conversion(format.yuv, depth);
                        const int64_t before = components_before * component_bytes(format);
                        const at::Tensor here =
                            at::randint(256, {before + picture_bytes(format, size)}, at::kByte);
                        const at::Tensor there = here.to(gpu);
                        const YuvPlanes host = yuv_planes(here.slice(0, before), format, size),
                                        device = yuv_planes(there.slice(0, before), format, size);
                        const auto same = [](const at::Tensor &on_gpu, const at::Tensor &on_cpu) {
                            return at::equal(on_gpu.to(at::kCPU), on_cpu);
                        };

                        const at::Tensor samples = samples_from_chroma(host, by);
                        EXPECT_TRUE(same(poisoned([&] { return samples_from_chroma(device, by); }), samples))
                            << what;
                        const at::Tensor chroma = at::rand({2 * size.height, size.width}) - 0.5;
                        EXPECT_TRUE(
                            same(poisoned([&] { return pixels_from_yuv(device, chroma.to(gpu), by); }),
                                 pixels_from_yuv(host, chroma, by)))
                            << what;
                        if (log2 == 0) {
                            EXPECT_TRUE(same(poisoned([&] { return pixels_from_yuv(device, {}, by); }),
                                             pixels_from_yuv(host, {}, by)))
                                << what;
                        }

                        at::Tensor pixels = at::rand({3, size.height, size.width}) * 2.2 - 1.1;
                        pixels.masked_fill_(at::rand_like(pixels).lt(0.05), NAN);
                        const at::Tensor chroma_there = chroma.to(gpu);
                        yuv_from_pixels(pixels, host, chroma, by);
                        yuv_from_pixels(pixels.to(gpu), device, chroma_there, by);
                        EXPECT_TRUE(same(chroma_there, chroma)) << what;
                        EXPECT_TRUE(same(there, here)) << what << ", luma";
                        const at::Tensor any = at::rand(samples.sizes()) * 1.4 - 0.7;
                        chroma_from_samples(any, host, by);
                        chroma_from_samples(any.to(gpu), device, by);
                        EXPECT_TRUE(same(there, here)) << what << ", chroma";
                        if (log2 == 0) {
                            yuv_from_pixels(pixels, host, {}, by);
                            yuv_from_pixels(pixels.to(gpu), device, {}, by);
                            EXPECT_TRUE(same(there, here)) << what << ", both";
                        }
                    }
}

at::Tensor plain_adain(const at::Tensor &content, const at::Tensor &style) {
    const auto mean = [](const at::Tensor &x) { return x.mean(at::IntArrayRef{3, 4}, true); };
    const auto deviation = [&](const at::Tensor &x) { return (mean((x - mean(x)).square()) + 1e-5).sqrt(); };
    return ((content - mean(content)) / deviation(content) * deviation(style) + mean(style)).clamp(-1, 1);
}

at::Tensor plain_wavelet(const at::Tensor &content, const at::Tensor &style) {
    const at::Tensor line = at::tensor({1.0, 2.0, 1.0}).to(content.options()),
                     kernel = at::outer(line, line).div(16).view({1, 1, 3, 3});
    const auto blurred = [&](const at::Tensor &x) {
        at::Tensor y = x.reshape({-1, 1, x.size(3), x.size(4)});
        for (const int64_t d : {1, 2, 4, 8, 16})
            y = at::conv2d(at::replication_pad2d(y, {d, d, d, d}), kernel, std::nullopt,
                           at::IntArrayRef{1, 1}, at::IntArrayRef{0, 0}, at::IntArrayRef{d, d});
        return y.view(x.sizes());
    };
    return (content - blurred(content) + blurred(style)).clamp(-1, 1);
}

/// Drafts of several lengths at a time: the limit of shared memory is the kernel's, not a launch's.
TEST_F(CudaOps, DraftsOfSeveralThreadsDoNotDisturbEachOther) {
    std::array<std::optional<std::string>, 3> failures;
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < failures.size(); i++)
        threads.emplace_back([&failures, i] {
            try {
                const c10::InferenceMode inference;
                const auto options = at::TensorOptions(gpu).dtype(at::kFloat);
                const at::Tensor query = at::rand({1, 2, 12, 128}, options),
                                 key =
                                     at::rand({1, 2, 12 * (40 + 60 * static_cast<int64_t>(i)), 128}, options),
                                 local = at::ones({12, 12}, options.dtype(at::kBool));
                const at::Tensor first = draft_probabilities(query, key, local);
                for (int round = 0; round < 300; round++)
                    if (!at::equal(draft_probabilities(query, key, local), first))
                        failures[i] = "another draft";
            } catch (const std::exception &error) {
                failures[i] = error.what();
            }
        });
    threads.clear();
    for (const std::optional<std::string> &failure : failures)
        EXPECT_FALSE(failure) << *failure;
}

TEST_F(CudaOps, ColorFixes) {
    struct Case {
        int64_t batch, frames, height, width;
    };
    for (const at::ScalarType type : precisions)
        for (const auto &[batch, frames, height, width] :
             {Case{1, 8, 90, 160}, Case{2, 3, 45, 77}, Case{3, 16, 1, 1}}) {
            // Crops of larger pictures, as the network's are; one channel of one colour.
            const auto crop = [&](const at::Tensor &x) { return x.narrow(3, 0, height).narrow(4, 0, width); };
            const std::vector<int64_t> padded = {batch, 3, frames, height + 6, width + 8};
            const at::Tensor content = crop(normal(padded, type, 0.3, 0.1)),
                             style = crop(normal(padded, at::kFloat, 0.4, -0.2));
            content.select(1, 2).fill_(0.5);
            const std::string what =
                concat(batch, " of ", frames, " frames ", width, "x", height, ", ", name(type));
            const at::Tensor upcast = content.to(at::kFloat);
            expect_as_exact(poisoned([&] { return adain(content, style); }), plain_adain(upcast, style),
                            plain_adain(wide(content), wide(style)), "adain, " + what);
            expect_as_exact(poisoned([&] { return wavelet(content, style); }), plain_wavelet(upcast, style),
                            plain_wavelet(wide(content), wide(style)), "wavelet, " + what);
        }
}

TEST_F(CudaOps, DownloadsKeepWhatTheyCopyAndNoLonger) {
    const DeviceScope scope(gpu);
    Downloads downloads(gpu);
    const auto numbers = [](const at::Device &device) {
        return at::arange(1 << 24, at::TensorOptions(device).dtype(at::kInt));
    };
    at::Tensor source = numbers(gpu);
    const c10::weak_intrusive_ptr<at::TensorImpl> memory(source.getIntrusivePtr());
    const Unfinished download = downloads.begin(source);
    source.reset();
    at::full({1 << 24}, -1, at::TensorOptions(gpu).dtype(at::kInt)); // where the source was, if it were free
    EXPECT_TRUE(at::equal(download.wait(), numbers(at::kCPU)));
    const Unfinished other = downloads.begin(at::zeros({1}, gpu));
    EXPECT_TRUE(memory.expired());
    EXPECT_TRUE(downloads.begin(other.wait()).wait().is_same(other.wait()));
}

TEST_F(CudaOps, APacerKeepsTheQueueShort) {
    const c10::InferenceMode guard;
    const DeviceScope scope(gpu);
    const at::Tensor a = at::rand({16384, 16384}, gpu), b = at::rand({16384, 16384}, gpu);
    at::Tensor product = at::empty_like(a);
    at::mm_out(product, a, b);
    synchronize(gpu);
    const auto seconds_of = [](const auto &body) {
        const auto start = std::chrono::steady_clock::now();
        body();
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    const double one = seconds_of([&] {
        at::mm_out(product, a, b);
        synchronize(gpu);
    });
    constexpr int products = 30;
    Pacer pacer(gpu);
    const std::stop_source running;
    for (int i = 0; i < products; i++) {
        at::mm_out(product, a, b);
        pacer.wait(running.get_token());
    }
    const double left = seconds_of([&] { synchronize(gpu); });
    EXPECT_LT(left, std::max(0.3, 4 * one) + one) << one << " s each";
    // Who is to stop does not wait.
    std::stop_source stopped;
    stopped.request_stop();
    const double queueing = seconds_of([&] {
        for (int i = 0; i < products; i++) {
            at::mm_out(product, a, b);
            pacer.wait(stopped.get_token());
        }
    });
    EXPECT_LT(queueing, products * one / 2);
    synchronize(gpu);
}

} // namespace
} // namespace flashvsr
