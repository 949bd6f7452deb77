// SPDX-License-Identifier: LGPL-2.1-or-later
#include "weights/random_weights.h"

#include "error.h"
#include "weights/describe.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>

#include <cmath>
#include <string_view>

namespace flashvsr {

namespace {

struct Distribution {
    double mean, deviation;
};

/// FNV-1a, so that a tensor's values do not depend on which others are drawn.
uint64_t hash(std::string_view text) {
    uint64_t value = 0xcbf29ce484222325;
    for (const unsigned char c : text)
        value = (value ^ c) * 0x100000001b3;
    return value;
}

double fan_in(const TensorSpec &spec) {
    double product = 1;
    for (size_t i = 1; i < spec.shape.size(); i++)
        product *= static_cast<double>(spec.shape[i]);
    return product;
}

/// Layers keep the second moment of what goes through them; norms stay near 1.
Distribution layer_distribution(const TensorSpec &spec) {
    const std::string_view name = spec.name;
    if (name.ends_with(".modulation"))
        return {0, 0.1};
    if (name.ends_with(".bias"))
        return {0, 0.02};
    if (name.ends_with(".gamma") || spec.shape.size() == 1)
        return {1, 0.1};
    return {0, 1 / std::sqrt(fan_in(spec))};
}

Distribution decoder_distribution(const TensorSpec &spec) {
    const std::string_view name = spec.name;
    const double keep = 1 / std::sqrt(fan_in(spec));
    if (name == "decoder.26.bias")
        return {0.5, 0.02}; // the middle of the output's range
    if (name == "decoder.26.weight")
        return {0, 0.15 * keep};
    if (name.ends_with(".bias"))
        return {0, 0.02};
    if (name.ends_with(".conv.4.weight"))
        return {0, 0.5 * keep}; // nine residual branches add up
    if (name.ends_with(".conv.weight") || name == "decoder.10.weight" || name == "decoder.16.weight")
        return {0, keep};              // no activation follows
    return {0, std::sqrt(2.0) * keep}; // a ReLU follows, which halves the second moment
}

at::Tensor draw(const TensorSpec &spec, Distribution distribution, at::ScalarType dtype, uint64_t seed) {
    auto generator = at::make_generator<at::CPUGeneratorImpl>(seed ^ hash(spec.name));
    at::Tensor values = at::empty(spec.shape, at::kFloat);
    values.normal_(distribution.mean, distribution.deviation, generator);
    return values.to(dtype);
}

void check(const NetworkShape &shape) {
    const auto require = [](bool right, const char *name, int64_t value, const char *expected) {
        if (!right)
            fail(EINVAL, name, " is ", value, ", expected ", expected);
    };
    constexpr int64_t limit = 1 << 20;
    constexpr const char *range = "1 to 1048576";
    const auto in_range = [&](const char *name, int64_t value) {
        require(value >= 1 && value <= limit, name, value, range);
    };
    in_range("dim", shape.dim);
    require(shape.dim % NetworkShape::head_dim == 0, "dim", shape.dim, "a multiple of 128");
    in_range("ffn_dim", shape.ffn_dim);
    require(shape.blocks >= 1 && shape.blocks <= 1000, "blocks", shape.blocks, "1 to 1000");
    in_range("text_dim", shape.text_dim);
    in_range("text_length", shape.text_length);
    in_range("freq_dim", shape.freq_dim);
    require(shape.freq_dim % 2 == 0, "freq_dim", shape.freq_dim, "an even number");
    in_range("lq_hidden1", shape.lq_hidden1);
    in_range("lq_hidden2", shape.lq_hidden2);
    require(shape.lq_layers >= 1 && shape.lq_layers <= shape.blocks, "lq_layers", shape.lq_layers,
            "1 to the number of blocks");
    for (const int64_t channels : shape.decoder_channels)
        in_range("decoder_channels", channels);
}

} // namespace

NetworkShape official_shape() {
    NetworkShape shape;
    shape.dim = 1536;
    shape.ffn_dim = 8960;
    shape.blocks = 30;
    shape.text_dim = 4096;
    shape.freq_dim = 256;
    shape.text_length = 512;
    shape.lq_hidden1 = 2048;
    shape.lq_hidden2 = 3072;
    shape.lq_layers = 1;
    shape.decoder_channels = {512, 256, 128, 128};
    return shape;
}

NetworkShape miniature_shape() {
    NetworkShape shape;
    shape.dim = 128;
    shape.ffn_dim = 128;
    shape.blocks = 2;
    shape.text_dim = 32;
    shape.freq_dim = 64;
    shape.text_length = 16;
    shape.lq_hidden1 = 8;
    shape.lq_hidden2 = 8;
    shape.lq_layers = 1;
    shape.decoder_channels = {16, 8, 8, 8};
    return shape;
}

ModelWeights random_weights(const NetworkShape &shape, at::ScalarType dtype, uint64_t seed) {
    if (!is_weight_type(dtype))
        fail(EINVAL, "weights of type ", c10::toString(dtype),
             " were asked for; Float, Half and BFloat16 exist");
    check(shape);

    ModelWeights weights;
    weights.shape = shape;
    weights.name = "random weights";
    for (const TensorSpec &spec : dit_tensors(shape))
        weights.dit.emplace(spec.name, draw(spec, layer_distribution(spec), dtype, seed));
    for (const TensorSpec &spec : lq_projector_tensors(shape))
        weights.lq_projector.emplace(spec.name, draw(spec, layer_distribution(spec), dtype, seed));
    for (const TensorSpec &spec : decoder_tensors(shape))
        weights.decoder.emplace(spec.name, draw(spec, decoder_distribution(spec), dtype, seed));
    weights.prompt = draw({"prompt", {1, shape.text_length, shape.text_dim}}, {0, 1}, dtype, seed);
    return weights;
}

} // namespace flashvsr
