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

/// What each of the frames (B*n, C, h, w) has before it: `before` (B, C, h, w), then the frame's predecessor.
at::Tensor previous_frames(const at::Tensor &frames, const at::Tensor &before) {
    const int64_t count = frames.size(0) / before.size(0);
    if (count == 1)
        return before;
    if (before.size(0) == 1)
        return at::cat({before, frames.narrow(0, 0, count - 1)}, 0);
    at::Tensor past = at::empty_like(frames);
    for (int64_t i = 0; i < count; i++)
        past.slice(0, i, std::nullopt, count)
            .copy_(i == 0 ? before : frames.slice(0, i - 1, std::nullopt, count));
    return past;
}

/// Frames whose channels hold `growth` frames each, one after the other: (N, growth*C, h, w) -> (N*growth, C,
/// h, w).
at::Tensor split_frames(const at::Tensor &x, int64_t growth) {
    if (growth == 1)
        return x;
    const int64_t channels = x.size(1) / growth;
    at::Tensor frames =
        at::empty({x.size(0) * growth, channels, x.size(2), x.size(3)}, x.options().memory_format(layout));
    for (int64_t i = 0; i < growth; i++)
        frames.slice(0, i, std::nullopt, growth).copy_(x.narrow(1, i * channels, channels));
    return frames;
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
        stage.conv = conv(concat("decoder.", first + 5));
        stage.growth = i == 0 ? 1 : 2;
    }
    output1_ = conv_or_identity("decoder.24", shape.decoder_channels[3]);
    output2_ = conv("decoder.26");
}

at::Tensor TcDecoder::run_stage(size_t index, at::Tensor x, int64_t batch, TcDecoderState &state,
                                const Observer &observer) const {
    const Stage &stage = stages_[index];
    const int64_t first_layer = static_cast<int64_t>(5 + 6 * index);
    for (size_t i = 0; i < stage.blocks.size(); i++) {
        at::Tensor &memory = state.memory[3 * index + i];
        const int64_t count = x.size(0) / batch;
        const at::Tensor last = x.slice(0, count - 1, std::nullopt, count);
        // Frame t's past is frame t-1 as it came into this block.
        const at::Tensor past = previous_frames(x, memory.defined() ? memory : at::zeros_like(last));
        const auto &convs = stage.blocks[i].convs;
        at::Tensor y = conv2d(at::cat({x, past}, 1), convs[0], true);
        y = conv2d(y, convs[1], true);
        y = conv2d(y, convs[2], true, x);
        memory = count == 1 ? x : last.clone(layout);
        x = y;
        report_frames(observer, first_layer + static_cast<int64_t>(i), x, batch);
        observer.check_stop();
    }
    // A 1x1 convolution commutes with nearest-neighbour upsampling: a quarter of the work before it.
    x = conv2d(x, stage.grow);
    if (observer.listens())
        report_frames(
            observer, first_layer + 4,
            at::upsample_nearest2d(x.contiguous().view({-1, x.size(1) / stage.growth, x.size(2), x.size(3)}),
                                   {2 * x.size(2), 2 * x.size(3)}),
            batch, stage.growth);
    return split_frames(x, stage.growth);
}

at::Tensor TcDecoder::paint(const at::Tensor &x, const Observer &observer) const {
    const int64_t count = x.size(0), height = 2 * x.size(2), width = 2 * x.size(3),
                  at_once = std::max<int64_t>(1, painted_pixels / (height * width));
    at::Tensor out = at::empty({count, 3, height, width}, x.options());
    for (int64_t begin = 0; begin < count; begin += at_once) {
        const int64_t frames = std::min(at_once, count - begin);
        at::Tensor y = at::upsample_nearest2d(x.narrow(0, begin, frames), {height, width});
        if (observer.listens())
            report_frames(observer, 22, conv2d(y, stages_.back().conv), 1);
        y = conv2d(y, stages_.back().conv, true);
        y = conv2d(y, output1_, true);
        report_frames(observer, 25, y, 1);
        out.narrow(0, begin, frames).copy_(conv2d(y, output2_));
        observer.check_stop();
    }
    report_frames(observer, 26, out, 1);
    return out;
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
    std::vector<at::Tensor> decoded;
    // One latent frame at a time: at full size its four frames are most of the memory there is.
    for (int64_t t = 0; t < latents.size(2); t++) {
        observer.check_stop();
        at::Tensor x = at::cat({frames.select(1, t), latents.select(2, t)}, 1).div_(3).tanh_().mul_(3);
        report_frames(observer, 0, x, batch);
        x = conv2d(x.contiguous(layout), input_, true);
        report_frames(observer, 2, x, batch);
        x = conv2d(x, input2_, true);
        report_frames(observer, 4, x, batch);
        for (size_t i = 0; i < stages_.size(); i++) {
            x = run_stage(i, x, batch, after, observer);
            if (i + 1 == stages_.size())
                break;
            x = conv2d(at::upsample_nearest2d(x, {2 * x.size(2), 2 * x.size(3)}), stages_[i].conv);
            report_frames(observer, static_cast<int64_t>(10 + 6 * i), x, batch);
        }
        x = paint(x, observer);
        decoded.push_back(x.view({batch, frames_per_latent, 3, x.size(2), x.size(3)}));
    }
    at::Tensor out = at::cat(decoded, 1);
    if (first)
        out = out.narrow(1, dropped_first_frames, out.size(1) - dropped_first_frames);
    observer("out", out);
    state = std::move(after);
    return out.transpose(1, 2).mul(2).sub_(1);
}

} // namespace flashvsr
