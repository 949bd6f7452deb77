// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "model/observer.h"
#include "model/placement.h"
#include "ops/conv.h"
#include "ops/linear.h"
#include "weights/network_shape.h"
#include "weights/tensor_map.h"
#include "weights/version.h"

#include <ATen/core/Tensor.h>

#include <vector>

namespace flashvsr {

/// Temporal memory of the projector's two convolutions. Empty tensors: no clip was seen yet.
struct LqProjectorState {
    at::Tensor conv1_tail; ///< (B, 2, H/16, W/16, 768) last two unshuffled frames
    at::Tensor conv2_tail; ///< (B, 2, H/16, W/16, hidden1) last two activations of conv1

    bool first() const { return !conv1_tail.defined(); }
};

/// Turns low-quality frames into tokens that are added at the transformer's first blocks.
/// Upstream examples/WanVSR/utils/utils.py. Immutable: any thread may use it.
class LqProjector {
public:
    LqProjector(const TensorMap &weights, const NetworkShape &shape, Version version, const Placement &place);

    /// Project the next frames of a stream.
    /// @param frames (B, 3, T, H, W) in [-1, 1]; T = 4m, and 4m + 1 on a stream's first call, whose
    ///               first frame is a clip of its own that yields no tokens
    /// @param state  the stream's state; replaced
    /// @return per linear layer (B, m*H/16*W/16, dim), clips in temporal order; empty tensors for m = 0
    std::vector<at::Tensor> step(const at::Tensor &frames, LqProjectorState &state,
                                 const Observer &observer = {}) const;

    /// Every tensor that it keeps.
    std::vector<at::Tensor> weights() const;

private:
    Version version_;
    // A (4,3,3) kernel over time as a 3x3 kernel over four frames' stacked channels.
    ConvWeights conv1_, conv2_;            ///< (hidden1, 4*768, 3, 3), (hidden2, 4*hidden1, 3, 3)
    at::Tensor norm1_gamma_, norm2_gamma_; ///< (hidden1), (hidden2) fp32
    std::vector<LinearWeights> linear_;    ///< (dim, hidden2)
};

} // namespace flashvsr
