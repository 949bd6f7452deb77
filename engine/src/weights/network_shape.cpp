// SPDX-License-Identifier: LGPL-2.1-or-later
#include "weights/network_shape.h"

#include "error.h"
#include "weights/describe.h"

#include <algorithm>
#include <charconv>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

namespace flashvsr {

namespace {

constexpr int64_t unshuffled_channels = 768; // 3 colours of 16x16 pixels, or of 4 frames of 8x8
constexpr int64_t max_layers = 10000;        // of a numbered kind, so that a lying name costs nothing

/// The tensors of one file, for checks whose sentences name it.
struct File {
    const TensorMap &tensors;
    const std::string &name;

    at::IntArrayRef shape(const std::string &tensor) const {
        const auto found = tensors.find(tensor);
        if (found == tensors.end())
            fail(EBADMSG, name, ": tensor ", quote(tensor), " is missing");
        return found->second.sizes();
    }

    [[noreturn]] void wrong_shape(const std::string &tensor, const std::string &expected) const {
        fail(EBADMSG, name, ": tensor ", quote(tensor), " has the shape ", shape_text(shape(tensor)),
             ", expected ", expected);
    }

    /// One of the sizes that the network's shape is read from. expected is the tensor's whole shape in
    /// letters, for the sentence.
    int64_t size(const std::string &tensor, size_t rank, size_t axis, const char *expected) const {
        const at::IntArrayRef found = shape(tensor);
        if (found.size() != rank || found[axis] < 1)
            wrong_shape(tensor, expected);
        return found[axis];
    }

    /// One more than the largest number that follows the prefix in a name.
    int64_t count(std::string_view prefix) const {
        int64_t count = 0;
        for (auto it = tensors.lower_bound(std::string(prefix)); it != tensors.end(); ++it) {
            const std::string_view tensor = it->first;
            if (!tensor.starts_with(prefix))
                break;
            const std::string_view rest = tensor.substr(prefix.size());
            int64_t number = 0;
            const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), number);
            if (error != std::errc() || end == rest.data() + rest.size() || *end != '.' || number < 0)
                continue;
            if (number >= max_layers)
                fail(EBADMSG, name, ": tensor ", quote(tensor), " has a number above ", max_layers - 1);
            count = std::max(count, number + 1);
        }
        return count;
    }

    void check(const std::vector<TensorSpec> &expected) const {
        for (const TensorSpec &spec : expected)
            if (shape(spec.name) != at::IntArrayRef(spec.shape))
                wrong_shape(spec.name, shape_text(spec.shape));
    }

    void refuse_others(const std::vector<TensorSpec> &expected) const {
        std::set<std::string_view> known;
        for (const TensorSpec &spec : expected)
            known.insert(spec.name);
        for (const auto &[tensor, value] : tensors)
            if (!known.contains(tensor))
                fail(EBADMSG, name, ": tensor ", quote(tensor), " is not one of this network");
    }
};

void add_layer(std::vector<TensorSpec> &specs, const std::string &name, std::vector<int64_t> weight) {
    specs.push_back({name + ".bias", {weight.front()}});
    specs.push_back({name + ".weight", std::move(weight)});
}

} // namespace

std::vector<TensorSpec> dit_tensors(const NetworkShape &shape) {
    const int64_t d = shape.dim;
    std::vector<TensorSpec> specs;
    add_layer(specs, "patch_embedding", {d, NetworkShape::latent_channels, 1, 2, 2});
    add_layer(specs, "text_embedding.0", {d, shape.text_dim});
    add_layer(specs, "text_embedding.2", {d, d});
    add_layer(specs, "time_embedding.0", {d, shape.freq_dim});
    add_layer(specs, "time_embedding.2", {d, d});
    add_layer(specs, "time_projection.1", {6 * d, d});
    for (int64_t i = 0; i < shape.blocks; i++) {
        const std::string block = "blocks." + std::to_string(i) + ".";
        specs.push_back({block + "modulation", {1, 6, d}});
        for (const char *attention : {"self_attn.", "cross_attn."}) {
            for (const char *layer : {"q", "k", "v", "o"})
                add_layer(specs, block + attention + layer, {d, d});
            specs.push_back({block + attention + "norm_q.weight", {d}});
            specs.push_back({block + attention + "norm_k.weight", {d}});
        }
        add_layer(specs, block + "norm3", {d});
        add_layer(specs, block + "ffn.0", {shape.ffn_dim, d});
        add_layer(specs, block + "ffn.2", {d, shape.ffn_dim});
    }
    specs.push_back({"head.modulation", {1, 2, d}});
    add_layer(specs, "head.head", {4 * NetworkShape::latent_channels, d});
    return specs;
}

std::vector<TensorSpec> lq_projector_tensors(const NetworkShape &shape) {
    std::vector<TensorSpec> specs;
    add_layer(specs, "conv1", {shape.lq_hidden1, unshuffled_channels, 4, 3, 3});
    specs.push_back({"norm1.gamma", {shape.lq_hidden1, 1, 1, 1}});
    add_layer(specs, "conv2", {shape.lq_hidden2, shape.lq_hidden1, 4, 3, 3});
    specs.push_back({"norm2.gamma", {shape.lq_hidden2, 1, 1, 1}});
    for (int64_t i = 0; i < shape.lq_layers; i++)
        add_layer(specs, "linear_layers." + std::to_string(i), {shape.dim, shape.lq_hidden2});
    return specs;
}

std::vector<TensorSpec> decoder_tensors(const NetworkShape &shape) {
    const auto [c0, c1, c2, c3] = shape.decoder_channels;
    std::vector<TensorSpec> specs;
    const auto add_blocks = [&](int first, int64_t c) {
        for (int i = first; i < first + 3; i++) {
            const std::string block = "decoder." + std::to_string(i) + ".conv.";
            add_layer(specs, block + "0", {c, 2 * c, 3, 3});
            add_layer(specs, block + "2", {c, c, 3, 3});
            add_layer(specs, block + "4", {c, c, 3, 3});
        }
    };
    add_layer(specs, "decoder.1", {c0, unshuffled_channels + NetworkShape::latent_channels, 3, 3});
    if (shape.has_decoder_3)
        specs.push_back({"decoder.3.weight", {c0, c0, 3, 3}});
    add_blocks(5, c0);
    specs.push_back({"decoder.9.conv.weight", {c0, c0, 1, 1}});
    specs.push_back({"decoder.10.weight", {c1, c0, 3, 3}});
    add_blocks(11, c1);
    specs.push_back({"decoder.15.conv.weight", {2 * c1, c1, 1, 1}});
    specs.push_back({"decoder.16.weight", {c2, c1, 3, 3}});
    add_blocks(17, c2);
    specs.push_back({"decoder.21.conv.weight", {2 * c2, c2, 1, 1}});
    specs.push_back({"decoder.22.weight", {c3, c2, 3, 3}});
    if (shape.has_decoder_24)
        specs.push_back({"decoder.24.weight", {c3, c3, 3, 3}});
    add_layer(specs, "decoder.26", {3, c3, 3, 3});
    return specs;
}

NetworkShape infer_shape(const TensorMap &dit, const TensorMap &lq_projector, const TensorMap &decoder,
                         const at::Tensor &prompt, const WeightFileNames &files) {
    NetworkShape shape;

    const File transformer{dit, files.dit};
    shape.dim = transformer.size("patch_embedding.weight", 5, 0, "(dim, 16, 1, 2, 2)");
    if (shape.dim % NetworkShape::head_dim != 0)
        fail(EBADMSG, files.dit, ": tensor \"patch_embedding.weight\" gives a width of ", shape.dim,
             ", which is not a multiple of ", NetworkShape::head_dim);
    shape.text_dim = transformer.size("text_embedding.0.weight", 2, 1, "(dim, text_dim)");
    shape.freq_dim = transformer.size("time_embedding.0.weight", 2, 1, "(dim, freq_dim)");
    if (shape.freq_dim % 2 != 0)
        fail(EBADMSG, files.dit, ": tensor \"time_embedding.0.weight\" gives a time embedding of ",
             shape.freq_dim, " numbers, which is not even");
    shape.blocks = std::max<int64_t>(transformer.count("blocks."), 1);
    shape.ffn_dim = transformer.size("blocks.0.ffn.0.weight", 2, 0, "(ffn_dim, dim)");
    const std::vector<TensorSpec> dit_specs = dit_tensors(shape);
    transformer.check(dit_specs);
    transformer.refuse_others(dit_specs);

    const File projector{lq_projector, files.lq_projector};
    shape.lq_hidden1 = projector.size("conv1.weight", 5, 0, "(hidden1, 768, 4, 3, 3)");
    shape.lq_hidden2 = projector.size("conv2.weight", 5, 0, "(hidden2, hidden1, 4, 3, 3)");
    shape.lq_layers = std::max<int64_t>(projector.count("linear_layers."), 1);
    for (int64_t i = 0; i < shape.lq_layers; i++) {
        const std::string name = "linear_layers." + std::to_string(i) + ".weight";
        const int64_t width = projector.size(name, 2, 0, "(dim, hidden2)");
        if (width != shape.dim)
            fail(EBADMSG, files.lq_projector, ": tensor ", quote(name), " gives tokens of width ", width,
                 ", but the transformer in ", files.dit, " has ", shape.dim,
                 ": projector and transformer do not fit together");
    }
    if (shape.lq_layers > shape.blocks)
        fail(EBADMSG, files.lq_projector, ": the projector has ", shape.lq_layers,
             " linear layers, but the transformer in ", files.dit, " has ", shape.blocks,
             " blocks: projector and transformer do not fit together");
    const std::vector<TensorSpec> projector_specs = lq_projector_tensors(shape);
    projector.check(projector_specs);
    projector.refuse_others(projector_specs);

    const File tc_decoder{decoder, files.decoder};
    shape.decoder_channels = {tc_decoder.size("decoder.1.weight", 4, 0, "(c0, 784, 3, 3)"),
                              tc_decoder.size("decoder.10.weight", 4, 0, "(c1, c0, 3, 3)"),
                              tc_decoder.size("decoder.16.weight", 4, 0, "(c2, c1, 3, 3)"),
                              tc_decoder.size("decoder.22.weight", 4, 0, "(c3, c2, 3, 3)")};
    shape.has_decoder_3 = decoder.contains("decoder.3.weight");
    shape.has_decoder_24 = decoder.contains("decoder.24.weight");
    tc_decoder.check(decoder_tensors(shape));

    if (prompt.dim() != 3 || prompt.size(0) != 1 || prompt.size(1) < 1 || prompt.size(2) != shape.text_dim)
        fail(EBADMSG, files.prompt, ": the prompt has the shape ", shape_text(prompt.sizes()),
             ", expected (1, ", "length, ", shape.text_dim, ") for the transformer in ", files.dit);
    shape.text_length = prompt.size(1);
    return shape;
}

} // namespace flashvsr
