// SPDX-License-Identifier: LGPL-2.1-or-later
#include "model/tc_decoder.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace flashvsr {

namespace {

constexpr int64_t frames_per_latent = 4, dropped_first_frames = 3, unshuffle = 8;
// Of full size, at a time: the layers there are most of the decoder's memory, and this many pixels keep a
// device busy.
constexpr int64_t painted_pixels = 1 << 20;

/// (B, 3, 4T, 8h, 8w) -> (B, T, 768, h, w), channel = ((colour*4 + t)*8 + y)*8 + x.
at::Tensor unshuffle_frames(const at::Tensor &frames) {
    const int64_t batch = frames.size(0), groups = frames.size(2) / frames_per_latent,
                  height = frames.size(3) / unshuffle, width = frames.size(4) / unshuffle;
    return frames.view({batch, 3, groups, frames_per_latent, height, unshuffle, width, unshuffle})
        .permute({0, 2, 1, 3, 5, 7, 4, 6})
        .reshape({batch, groups, 3 * frames_per_latent * unshuffle * unshuffle, height, width});
}

// Activations stay channels-last from the first convolution to the last: oneDNN and cuDNN are several times
// faster on narrow layers of large pictures that way, and every change of layout is a copy.
constexpr at::MemoryFormat layout = at::MemoryFormat::ChannelsLast;

/// [-1, 1] -> [0, 1], the network's own range of frames.
at::Tensor to_unit_range(const at::Tensor &frames) {
    return frames.add(1).div(2);
}

/// A (B*n, ...) tensor frame by frame, as the golden files visit it.
void report_frames(const Observer &observer, int64_t layer, const at::Tensor &x, int64_t batch,
                   int64_t frames_per_visit = 1) {
    if (!observer.listens())
        return;
    const std::string name = concat("layer", layer < 10 ? "0" : "", layer);
    const int64_t visits = x.size(0) / batch / frames_per_visit;
    std::vector<int64_t> shape = {batch, visits, frames_per_visit};
    shape.insert(shape.end(), x.sizes().begin() + 1, x.sizes().end());
    for (const at::Tensor &visit : x.view(shape).unbind(1))
        observer(name, visit.flatten(0, 1));
}

/// What a 1x1 convolution gives, (B*n, growth*C, h, w), as the published network has it: frames of twice the
/// size.
void report_growth(const Observer &observer, int64_t layer, const at::Tensor &x, int64_t batch,
                   int64_t growth) {
    const at::Tensor frames =
        x.contiguous().view({x.size(0) * growth, x.size(1) / growth, x.size(2), x.size(3)});
    report_frames(observer, layer, at::upsample_nearest2d(frames, {2 * x.size(2), 2 * x.size(3)}), batch,
                  growth);
}

} // namespace

TcDecoder::TcDecoder(const TensorMap &weights, const NetworkShape &shape, const Placement &place) {
    const auto conv = [&](const std::string &name) {
        ConvWeights result;
        result.weight = place(weights.at(name + ".weight")).contiguous(layout);
        if (const auto bias = weights.find(name + ".bias"); bias != weights.end())
            result.bias = place(bias->second);
        return result;
    };
    // Two convolutions that the published loader leaves at their identity start where a file lacks them.
    const auto conv_or_identity = [&](const std::string &name, int64_t channels) {
        if (weights.contains(name + ".weight"))
            return conv(name);
        at::Tensor identity = at::zeros({channels, channels, 3, 3}, at::kFloat);
        identity.select(2, 1).select(2, 1).copy_(at::eye(channels, at::kFloat));
        return ConvWeights{place(identity).contiguous(layout), {}};
    };

    input_ = conv("decoder.1");
    input2_ = conv_or_identity("decoder.3", shape.decoder_channels[0]);
    for (size_t i = 0; i < stages_.size(); i++) {
        Stage &stage = stages_[i];
        const size_t first = 5 + 6 * i;
        for (size_t j = 0; j < stage.blocks.size(); j++)
            for (size_t k = 0; k < 3; k++)
                stage.blocks[j].convs[k] = conv(concat("decoder.", first + j, ".conv.", 2 * k));
        stage.grow = conv(concat("decoder.", first + 4, ".conv"));
        stage.upsample =
            fold_upsampling(place.wide(weights.at(concat("decoder.", first + 4, ".conv.weight"))),
                            place.wide(weights.at(concat("decoder.", first + 5, ".weight"))));
        stage.upsample.weight = place(stage.upsample.weight).contiguous(layout);
    }
    output1_ = conv_or_identity("decoder.24", shape.decoder_channels[3]);
    // To [-1, 1] from the [0, 1] that it was trained to give.
    output2_.weight = place(place.wide(weights.at("decoder.26.weight")).mul(2)).contiguous(layout);
    output2_.bias = place(place.wide(weights.at("decoder.26.bias")).mul(2).sub(1));
}

at::Tensor TcDecoder::run_blocks(size_t index, at::Tensor x, int64_t batch, TcDecoderState &state,
                                 const Observer &observer) const {
    const Stage &stage = stages_[index];
    const int64_t first_layer = static_cast<int64_t>(5 + 6 * index);
    for (size_t i = 0; i < stage.blocks.size(); i++) {
        at::Tensor &memory = state.memory[3 * index + i];
        const int64_t count = x.size(0) / batch;
        const at::Tensor last = x.slice(0, count - 1, std::nullopt, count);
        const auto &convs = stage.blocks[i].convs;
        // Frame t's past is frame t-1 as it came into this block.
        at::Tensor y = conv2d_with_past(x, memory.defined() ? memory : at::zeros_like(last), convs[0]);
        y = conv2d(y, convs[1], true);
        y = conv2d(y, convs[2], true, x);
        memory = count == 1 ? x : last.clone(layout);
        x = y;
        report_frames(observer, first_layer + static_cast<int64_t>(i), x, batch);
        observer.between_layers();
    }
    if (observer.listens())
        report_growth(observer, first_layer + 4, conv2d(x, stage.grow), batch, stage.upsample.growth);
    return x;
}

void TcDecoder::paint(const at::Tensor &x, const at::Tensor &frames, const Observer &observer) const {
    const UpsampleConvWeights &all = stages_.back().upsample;
    const int64_t height = frames.size(2), width = frames.size(3),
                  at_once = std::max<int64_t>(1, painted_pixels / (height * width)),
                  images = std::max<int64_t>(1, at_once / all.growth),
                  growth = at_once < all.growth ? 1 : all.growth, out = all.out_channels();
    for (int64_t begin = 0; begin < x.size(0); begin += images) {
        const at::Tensor some = x.narrow(0, begin, std::min(images, x.size(0) - begin));
        for (int64_t frame = 0; frame < all.growth; frame += growth) {
            const UpsampleConvWeights upsample = {all.weight.narrow(0, frame * 4 * out, growth * 4 * out),
                                                  growth};
            if (observer.listens())
                report_frames(observer, 22, upsample_conv2d(some, upsample), 1);
            at::Tensor y = upsample_conv2d(some, upsample, true);
            y = conv2d(y, output1_, true);
            report_frames(observer, 25, y, 1);
            conv2d_to_planes(frames.narrow(0, begin * all.growth + frame, y.size(0)), y, output2_);
            observer.between_layers();
        }
    }
    if (observer.listens())
        report_frames(observer, 26, to_unit_range(frames), 1);
}

at::Tensor TcDecoder::decode(const at::Tensor &latents, const at::Tensor &condition, TcDecoderState &state,
                             const Observer &observer) const {
    const int64_t batch = latents.size(0);
    const bool first = state.first();
    const int64_t missing = latents.size(2) * frames_per_latent - condition.size(2);
    const at::Tensor frames = unshuffle_frames(
        missing > 0 ? at::cat({condition.narrow(2, 0, 1).expand({-1, -1, missing, -1, -1}), condition}, 2)
                    : condition);
    observer("pixel_shuffle", frames);

    TcDecoderState after = state;
    const int64_t count = latents.size(2), height = condition.size(3), width = condition.size(4);
    const at::Tensor decoded =
        at::empty({count, batch * frames_per_latent, 3, height, width}, condition.options());
    // One latent frame at a time: at full size its four frames are most of the memory there is.
    for (int64_t t = 0; t < count; t++) {
        observer.between_layers();
        at::Tensor x = at::cat({frames.select(1, t), latents.select(2, t)}, 1).div_(3).tanh_().mul_(3);
        report_frames(observer, 0, x, batch);
        x = conv2d(x.contiguous(layout), input_, true);
        report_frames(observer, 2, x, batch);
        x = conv2d(x, input2_, true);
        report_frames(observer, 4, x, batch);
        for (size_t i = 0; i < stages_.size(); i++) {
            x = run_blocks(i, x, batch, after, observer);
            if (i + 1 == stages_.size())
                break;
            x = upsample_conv2d(x, stages_[i].upsample);
            report_frames(observer, static_cast<int64_t>(10 + 6 * i), x, batch);
        }
        paint(x, decoded.select(0, t), observer);
    }
    at::Tensor out = decoded.view({count, batch, frames_per_latent, 3, height, width})
                         .permute({1, 3, 0, 2, 4, 5})
                         .reshape({batch, 3, count * frames_per_latent, height, width});
    if (first)
        out = out.narrow(2, dropped_first_frames, out.size(2) - dropped_first_frames);
    if (observer.listens())
        observer("out", to_unit_range(out.transpose(1, 2)));
    state = std::move(after);
    return out;
}

std::vector<at::Tensor> TcDecoder::weights() const {
    std::vector<ConvWeights> convs = {input_, input2_, output1_, output2_};
    for (const Stage &stage : stages_) {
        for (const MemoryBlock &block : stage.blocks)
            convs.insert(convs.end(), block.convs.begin(), block.convs.end());
        convs.insert(convs.end(), {stage.grow, {stage.upsample.weight, {}}});
    }
    std::vector<at::Tensor> all;
    for (const ConvWeights &conv : convs)
        all.insert(all.end(), {conv.weight, conv.bias});
    return all;
}

} // namespace flashvsr
