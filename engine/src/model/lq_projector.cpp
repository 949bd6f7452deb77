// SPDX-License-Identifier: LGPL-2.1-or-later
#include "model/lq_projector.h"

#include "ops/norm.h"

#include <ATen/ATen.h>

namespace flashvsr {

namespace {

constexpr int64_t unshuffle = 16;
constexpr int64_t clip_frames = 4;

/// (out, in, 4, 3, 3) -> (out, 4*in, 3, 3), time outermost.
at::Tensor stack_time(const at::Tensor &weight) {
    return weight.transpose(1, 2).reshape({weight.size(0), 4 * weight.size(1), 3, 3}).contiguous();
}

at::Tensor conv_edge_padded(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias) {
    return at::conv2d(at::replication_pad2d(x, {1, 1, 1, 1}), weight, bias);
}

/// The two frames before each clip: of the clip before it (v1.1), or of the clip itself (v1, whose
/// published code overwrites its cache before reading it; the weights were trained with that).
/// clips (B, m, n, C, h, w), tail (B, 2, C, h, w) -> (B, m, 2, C, h, w)
at::Tensor frames_before(const at::Tensor &clips, const at::Tensor &tail, Version version) {
    const at::Tensor last_two = clips.narrow(2, clips.size(2) - 2, 2);
    if (version == Version::v1)
        return last_two;
    return at::cat({tail.unsqueeze(1), last_two.narrow(1, 0, clips.size(1) - 1)}, 1);
}

} // namespace

LqProjector::LqProjector(const TensorMap &weights, const NetworkShape &shape, Version version,
                         const Placement &place)
    : version_(version), place_(place), conv1_weight_(stack_time(place(weights.at("conv1.weight")))),
      conv1_bias_(place(weights.at("conv1.bias"))),
      conv2_weight_(stack_time(place(weights.at("conv2.weight")))),
      conv2_bias_(place(weights.at("conv2.bias"))), norm1_gamma_(place(weights.at("norm1.gamma")).flatten()),
      norm2_gamma_(place(weights.at("norm2.gamma")).flatten()) {
    for (int64_t i = 0; i < shape.lq_layers; i++) {
        const std::string name = concat("linear_layers.", i);
        linear_.emplace_back(place(weights.at(name + ".weight")), place(weights.at(name + ".bias")));
    }
}

std::vector<at::Tensor> LqProjector::step(const at::Tensor &frames, LqProjectorState &state,
                                          const Observer &observer) const {
    const int64_t batch = frames.size(0), height = frames.size(3) / unshuffle,
                  width = frames.size(4) / unshuffle;
    const bool first = state.first();

    // (B, frames, 768, h, w)
    at::Tensor x = at::pixel_unshuffle(frames.transpose(1, 2).flatten(0, 1), unshuffle)
                       .view({batch, frames.size(2), 3 * unshuffle * unshuffle, height, width});
    observer("unshuffle", x);
    if (first)
        x = at::cat({x.narrow(1, 0, 1).expand({-1, clip_frames, -1, -1, -1}), x.narrow(1, 1, x.size(1) - 1)},
                    1);
    const int64_t clips = x.size(1) / clip_frames;
    x = x.view({batch, clips, clip_frames, x.size(2), height, width});

    // Stride 2 in time: outputs over (before0, before1, x0, x1) and (x0, x1, x2, x3).
    const at::Tensor before1 =
        frames_before(x, first ? x.select(1, 0).narrow(1, 0, 2) : state.conv1_tail, version_);
    at::Tensor taps = at::stack({at::cat({before1, x.narrow(2, 0, 2)}, 2), x}, 2);
    at::Tensor y = conv_edge_padded(taps.flatten(0, 2).flatten(1, 2), conv1_weight_, conv1_bias_);
    y = channel_rms_norm_silu(y, norm1_gamma_);
    y = y.view({batch, clips, 2, y.size(1), height, width});
    observer("act1", y);
    observer.check_stop();

    LqProjectorState after;
    after.conv1_tail = x.select(1, clips - 1).narrow(1, 2, 2).contiguous();
    after.conv2_tail = y.select(1, clips - 1).contiguous();

    std::vector<at::Tensor> tokens(linear_.size());
    if (const int64_t groups = first ? clips - 1 : clips; groups > 0) {
        const at::Tensor tail = first ? y.select(1, 0) : state.conv2_tail;
        const at::Tensor yielding = y.narrow(1, clips - groups, groups);
        taps = at::cat({frames_before(yielding, tail, version_), yielding}, 2);
        at::Tensor z = conv_edge_padded(taps.flatten(0, 1).flatten(1, 2), conv2_weight_, conv2_bias_);
        z = channel_rms_norm_silu(z, norm2_gamma_);
        // (B, groups, hidden2, h, w) -> (B, groups*h*w, hidden2)
        z = z.view({batch, groups, z.size(1), height * width}).transpose(2, 3).flatten(1, 2);
        for (size_t i = 0; i < linear_.size(); i++)
            tokens[i] = at::linear(z, linear_[i].first, linear_[i].second);
        observer.check_stop();
    }
    state = std::move(after);
    return tokens;
}

} // namespace flashvsr
