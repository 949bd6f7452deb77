// SPDX-License-Identifier: LGPL-2.1-or-later
#include "model/lq_projector.h"

#include "ops/norm.h"

#include <ATen/ATen.h>

namespace flashvsr {

namespace {

constexpr int64_t unshuffle = 16;
constexpr int64_t clip_frames = 4, kernel_frames = 4;

/// (out, in, 4, 3, 3) -> (out, 4*in, 3, 3), time outermost, channels-last.
at::Tensor stack_time(const at::Tensor &weight) {
    return weight.transpose(1, 2)
        .reshape({weight.size(0), kernel_frames * weight.size(1), 3, 3})
        .contiguous(at::MemoryFormat::ChannelsLast);
}

/// (B, 3, T, H, W) -> (B, T, H/16, W/16, 768), channel = (colour*16 + y)*16 + x.
at::Tensor unshuffle_frames(const at::Tensor &frames) {
    const int64_t batch = frames.size(0), count = frames.size(2), height = frames.size(3) / unshuffle,
                  width = frames.size(4) / unshuffle;
    return frames.reshape({batch, 3, count, height, unshuffle, width, unshuffle})
        .permute({0, 2, 3, 5, 1, 4, 6})
        .reshape({batch, count, height, width, 3 * unshuffle * unshuffle});
}

/// Which frames a kernel of four sees at each of its places in time, two frames apart, over clips of `length`
/// frames, the first two of `stride` frames being those before the first clip: those of the clip and before
/// them two of the clip before it (v1.1), or of the clip itself (v1, whose published code overwrites its
/// cache before reading it; the weights were trained with that).
/// @return (batch*clips*length/2, 4) int64
at::Tensor kernel_sources(int64_t batch, int64_t clips, int64_t length, Version version) {
    const int64_t places = length / 2, stride = 2 + clips * length;
    at::Tensor sources = at::empty({batch * clips * places, kernel_frames}, at::kLong);
    int64_t *out = sources.mutable_data_ptr<int64_t>();
    for (int64_t b = 0; b < batch; b++)
        for (int64_t clip = 0; clip < clips; clip++)
            for (int64_t place = 0; place < places; place++)
                for (int64_t i = 0; i < kernel_frames; i++) {
                    int64_t frame = 2 * place + i - 2; // in the clip
                    if (frame < 0 && version == Version::v1)
                        frame += length;
                    *out++ = b * stride + 2 + clip * length + frame;
                }
    return sources;
}

/// (B, F, h, w, C) -> channels-last (B*F', C', h, w) -> (B, F', h, w, C')
at::Tensor convolve(const at::Tensor &frames, const at::Tensor &sources, const ConvWeights &conv) {
    const at::Tensor y = conv2d_of_bordered(stack_frames(frames, sources), conv);
    return y.permute({0, 2, 3, 1}).view({frames.size(0), -1, frames.size(2), frames.size(3), y.size(1)});
}

} // namespace

LqProjector::LqProjector(const TensorMap &weights, const NetworkShape &shape, Version version,
                         const Placement &place)
    : version_(version), conv1_{stack_time(place(weights.at("conv1.weight"))),
                                place(weights.at("conv1.bias"))},
      conv2_{stack_time(place(weights.at("conv2.weight"))), place(weights.at("conv2.bias"))},
      norm1_gamma_(place.wide(weights.at("norm1.gamma")).flatten()),
      norm2_gamma_(place.wide(weights.at("norm2.gamma")).flatten()) {
    for (int64_t i = 0; i < shape.lq_layers; i++) {
        const std::string name = concat("linear_layers.", i);
        linear_.push_back({place(weights.at(name + ".weight")), place(weights.at(name + ".bias"))});
    }
}

std::vector<at::Tensor> LqProjector::step(const at::Tensor &frames, LqProjectorState &state,
                                          const Observer &observer) const {
    const bool first = state.first();
    at::Tensor x = unshuffle_frames(frames);
    const int64_t batch = x.size(0), height = x.size(2), width = x.size(3);
    if (observer.listens())
        observer("unshuffle", x.permute({0, 1, 4, 2, 3}));

    // The first frame is a clip of its own four times, and comes before that clip too.
    x = first ? at::cat({x.narrow(1, 0, 1).expand({-1, 2 + clip_frames, -1, -1, -1}),
                         x.narrow(1, 1, x.size(1) - 1)},
                        1)
              : at::cat({state.conv1_tail, x}, 1);
    const int64_t clips = (x.size(1) - 2) / clip_frames;

    // Stride 2 in time: two places in a clip.
    at::Tensor y = convolve(x, kernel_sources(batch, clips, clip_frames, version_), conv1_);
    y = channel_norm(y, norm1_gamma_);
    if (observer.listens())
        observer("act1", y.view({batch, clips, 2, height, width, -1}).permute({0, 1, 2, 5, 3, 4}));
    observer.between_layers();

    LqProjectorState after;
    after.conv1_tail = x.narrow(1, x.size(1) - 2, 2).clone();
    after.conv2_tail = y.narrow(1, y.size(1) - 2, 2).clone();

    std::vector<at::Tensor> tokens(linear_.size());
    // A stream's first clip yields no tokens.
    if (const int64_t groups = first ? clips - 1 : clips; groups > 0) {
        const at::Tensor activations = first ? y : at::cat({state.conv2_tail, y}, 1);
        at::Tensor z = convolve(activations, kernel_sources(batch, groups, 2, version_), conv2_);
        z = channel_norm(z, norm2_gamma_).view({batch, groups * height * width, -1});
        for (size_t i = 0; i < linear_.size(); i++)
            tokens[i] = linear(z, linear_[i]);
        observer.between_layers();
    }
    state = std::move(after);
    return tokens;
}

std::vector<at::Tensor> LqProjector::weights() const {
    std::vector<at::Tensor> all = {conv1_.weight, conv1_.bias,  conv2_.weight,
                                   conv2_.bias,   norm1_gamma_, norm2_gamma_};
    for (const LinearWeights &layer : linear_)
        all.insert(all.end(), {layer.weight, layer.bias});
    return all;
}

} // namespace flashvsr
