// SPDX-License-Identifier: LGPL-2.1-or-later

// Speed of the decoder's layers at published sizes: the engine's operations beside the same layers as
// LibTorch and cuDNN have them, which take turns. A multiply-add of the published layer counts as two
// operations for both, also where the engine needs fewer.

#include "ops/conv.h"
#include "ops/device.h"
#include "weights/random_weights.h"

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/InferenceMode.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace {

using namespace flashvsr;

constexpr int exit_failed = 1, exit_bad_arguments = 2, exit_skipped = 77;
constexpr int64_t height = 768, width = 1408; // of the output
constexpr int latents = 2;                    // of a steady chunk
constexpr at::MemoryFormat layout = at::MemoryFormat::ChannelsLast;

struct Layer {
    std::string name;
    int times;         ///< for a latent
    double operations; ///< of one time
    std::function<at::Tensor()> engine, rival;
};

at::Tensor relu_convolution(const at::Tensor &x, const ConvWeights &weights) {
    const std::array<int64_t, 2> ones = {1, 1};
    const std::optional<at::Tensor> bias =
        weights.bias.defined() ? std::optional(weights.bias) : std::nullopt;
    return at::cudnn_convolution_relu(x, weights.weight, bias, ones, ones, ones, 1);
}

at::Tensor residual_convolution(const at::Tensor &x, const ConvWeights &weights) {
    const std::array<int64_t, 2> ones = {1, 1};
    return at::cudnn_convolution_add_relu(x, weights.weight, x, std::nullopt, weights.bias, ones, ones, ones,
                                          1);
}

/// Layers of a decoder of given channels in one precision.
class Layers {
public:
    explicit Layers(at::ScalarType dtype) : options_(at::TensorOptions(at::kCUDA).dtype(dtype)) {}

    void add_convolution(const std::string &name, int times, int64_t in, int64_t out, int64_t images,
                         int64_t shrink) {
        const at::Tensor x = pixels(images, in, shrink);
        const ConvWeights w = weights(in, out);
        add(
            name, times, x, w, [=] { return conv2d(x, w, true); }, [=] { return relu_convolution(x, w); });
    }

    /// The three convolutions of a memory block.
    void add_block(int64_t channels, int64_t images, int64_t shrink) {
        constexpr int blocks = 3;
        const std::string name = "memory block " + std::to_string(channels) + ", ";
        const at::Tensor x = pixels(images, channels, shrink), memory = pixels(1, channels, shrink);
        const ConvWeights first = weights(2 * channels, channels), third = weights(channels, channels);
        add(
            name + "first", blocks, x, first, [=] { return conv2d_with_past(x, memory, first); },
            [=] {
                const at::Tensor past =
                    images == 1 ? memory : at::cat({memory, x.narrow(0, 0, images - 1)}, 0);
                return relu_convolution(at::cat({x, past}, 1), first);
            });
        add_convolution(name + "second", blocks, channels, channels, images, shrink);
        add(
            name + "third", blocks, x, third, [=] { return conv2d(x, third, true, x); },
            [=] { return residual_convolution(x, third); });
    }

    /// @param shrink of the size before
    void add_upsampling(int times, int64_t in, int64_t out, int64_t growth, int64_t images, int64_t shrink,
                        bool relu) {
        const at::Tensor x = pixels(images, in, shrink);
        const ConvWeights grow = weights(in, growth * in, 1), conv = weights(in, out, 3, false);
        UpsampleConvWeights folded = fold_upsampling(grow.weight.to(at::kFloat), conv.weight.to(at::kFloat));
        folded.weight = folded.weight.to(x.dtype());
        const int64_t rows = 2 * x.size(2), cols = 2 * x.size(3);
        layers_.push_back(
            {"upsample " + std::to_string(in) + " to " + std::to_string(growth) + " x " + std::to_string(out),
             times, 2.0 * static_cast<double>(x.numel()) * static_cast<double>(growth * (in + 4 * 9 * out)),
             [=] { return upsample_conv2d(x, folded, relu); },
             [=] {
                 const at::Tensor mixed = at::conv2d(x, grow.weight);
                 at::Tensor frames = mixed;
                 if (growth > 1) {
                     frames = at::empty({images * growth, in, x.size(2), x.size(3)},
                                        x.options().memory_format(layout));
                     for (int64_t i = 0; i < growth; i++)
                         frames.slice(0, i, std::nullopt, growth).copy_(mixed.narrow(1, i * in, in));
                 }
                 const at::Tensor larger = at::upsample_nearest2d(frames, {rows, cols});
                 return relu ? relu_convolution(larger, conv) : at::conv2d(larger, conv.weight, {}, 1, 1);
             }});
    }

    void add_planes(int times, int64_t in) {
        const at::Tensor x = pixels(1, in, 1), frame = at::empty({1, 3, height, width}, options_);
        const ConvWeights w = weights(in, 3);
        add(
            "planes " + std::to_string(in) + " to 3", times, x, w,
            [=] {
                conv2d_to_planes(frame, x, w);
                return frame;
            },
            [=] { return frame.copy_(at::conv2d(x, w.weight, w.bias, 1, 1)).mul_(2).sub_(1); });
    }

    const std::vector<Layer> &all() const { return layers_; }

private:
    void add(const std::string &name, int times, const at::Tensor &x, const ConvWeights &w,
             std::function<at::Tensor()> engine, std::function<at::Tensor()> rival) {
        const auto places = static_cast<double>(x.size(0) * x.size(2) * x.size(3));
        layers_.push_back({name, times, 2 * places * static_cast<double>(w.weight.numel()), std::move(engine),
                           std::move(rival)});
    }

    at::Tensor pixels(int64_t images, int64_t channels, int64_t shrink) const {
        return at::randn({images, channels, height / shrink, width / shrink}, options_).contiguous(layout);
    }

    ConvWeights weights(int64_t in, int64_t out, int64_t kernel = 3, bool bias = true) const {
        const double keep = 1 / std::sqrt(static_cast<double>(in * kernel * kernel));
        return {(at::randn({out, in, kernel, kernel}, options_) * keep).contiguous(layout),
                bias ? at::randn({out}, options_) : at::Tensor()};
    }

    at::TensorOptions options_;
    std::vector<Layer> layers_;
};

Layers decoder_layers(at::ScalarType dtype) {
    constexpr int64_t input_channels = 784;
    const auto &c = official_shape().decoder_channels;
    Layers layers(dtype);
    layers.add_convolution("input", 1, input_channels, c[0], 1, 8);
    layers.add_convolution("input, second", 1, c[0], c[0], 1, 8);
    layers.add_block(c[0], 1, 8);
    layers.add_upsampling(1, c[0], c[1], 1, 1, 8, false);
    layers.add_block(c[1], 1, 4);
    layers.add_upsampling(1, c[1], c[2], 2, 1, 4, false);
    layers.add_block(c[2], 2, 2);
    // A frame at a time from here.
    layers.add_upsampling(4, c[2], c[3], 1, 1, 2, true);
    layers.add_convolution("full size", 4, c[3], c[3], 1, 1);
    layers.add_planes(4, c[3]);
    return layers;
}

/// Milliseconds of one run, of several back to back.
double time(const std::function<at::Tensor()> &run, int runs) {
    const c10::Stream stream = c10::cuda::getCurrentCUDAStream();
    c10::Event begin(at::kCUDA, c10::EventFlag::BACKEND_DEFAULT),
        end(at::kCUDA, c10::EventFlag::BACKEND_DEFAULT);
    begin.record(stream);
    for (int i = 0; i < runs; i++)
        run();
    end.record(stream);
    end.synchronize();
    return begin.elapsedTime(end) / runs;
}

struct Times {
    double engine, rival;
};

/// Medians of rounds in which the two take turns.
Times measure(const Layer &layer) {
    constexpr int rounds = 7;
    const int runs = std::clamp(static_cast<int>(3e12 / layer.operations), 3, 20);
    time(layer.engine, 2);
    time(layer.rival, 2);
    std::vector<double> engine, rival;
    for (int i = 0; i < rounds; i++) {
        engine.push_back(time(layer.engine, runs));
        rival.push_back(time(layer.rival, runs));
    }
    const auto median = [](std::vector<double> &values) {
        std::nth_element(values.begin(), values.begin() + rounds / 2, values.end());
        return values[rounds / 2];
    };
    return {median(engine), median(rival)};
}

int run(at::ScalarType dtype) {
    if (gpu_count() == 0) {
        std::fputs("flashvsr_decoder_bench: no CUDA device\n", stderr);
        return exit_skipped;
    }
    check_gpu(0);
    const DeviceScope scope(at::Device(at::kCUDA, 0));
    const c10::InferenceMode inference;
    std::printf("%-28s %-9s %-20s %s\n", "layer, ms (TFLOP/s)", "a latent", "engine", "LibTorch");
    Times chunk{};
    double operations = 0;
    const Layers layers = decoder_layers(dtype);
    for (const Layer &layer : layers.all()) {
        const Times ms = measure(layer);
        const int times = latents * layer.times;
        std::printf("%-28s %-9d %7.4f (%5.1f)      %7.4f (%5.1f)\n", layer.name.c_str(), layer.times,
                    ms.engine, layer.operations / ms.engine * 1e-9, ms.rival,
                    layer.operations / ms.rival * 1e-9);
        chunk.engine += times * ms.engine;
        chunk.rival += times * ms.rival;
        operations += times * layer.operations;
    }
    std::printf("%-28s %-9s %7.2f (%5.1f)      %7.2f (%5.1f)\n", "a chunk of 8 frames", "", chunk.engine,
                operations / chunk.engine * 1e-9, chunk.rival, operations / chunk.rival * 1e-9);
    return 0;
}

} // namespace

/// flashvsr_decoder_bench [bf16|fp16]
int main(int argc, char **argv) {
    const std::string_view precision = argc > 1 ? argv[1] : "bf16";
    if (argc > 2 || (precision != "bf16" && precision != "fp16")) {
        std::fputs("usage: flashvsr_decoder_bench [bf16|fp16]\n", stderr);
        return exit_bad_arguments;
    }
    try {
        return run(precision == "fp16" ? at::kHalf : at::kBFloat16);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "flashvsr_decoder_bench: %s\n", error.what());
        return exit_failed;
    }
}
