// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "model/observer.h"
#include "model/placement.h"
#include "ops/conv.h"
#include "weights/network_shape.h"
#include "weights/tensor_map.h"

#include <ATen/core/Tensor.h>

#include <array>
#include <vector>

namespace flashvsr {

/// What the decoder's nine memory blocks saw last: (B, C, h, w) each, undefined before the first latent.
struct TcDecoderState {
    std::array<at::Tensor, 9> memory;

    bool first() const { return !memory[0].defined(); }
};

/// The small conditional decoder: latents and the low-quality frames they belong to, to frames.
/// Upstream examples/WanVSR/utils/TCDecoder.py. Immutable: any thread may use it.
class TcDecoder {
public:
    TcDecoder(const TensorMap &weights, const NetworkShape &shape, const Placement &place);

    /// @param latents   (B, 16, T, h, w)
    /// @param condition (B, 3, F, 8h, 8w) in [-1, 1]; F = 4T, or 4T - 3 on a stream's first call
    /// @param state     the stream's state; replaced
    /// @return (B, 3, F, 8h, 8w), about [-1, 1], not clamped
    at::Tensor decode(const at::Tensor &latents, const at::Tensor &condition, TcDecoderState &state,
                      const Observer &observer = {}) const;

    /// Every tensor that it keeps; some are undefined.
    std::vector<at::Tensor> weights() const;

private:
    struct MemoryBlock {
        std::array<ConvWeights, 3> convs;
    };
    /// Three memory blocks, then twice the size and `growth` times the frames.
    struct Stage {
        std::array<MemoryBlock, 3> blocks;
        UpsampleConvWeights upsample;
        ConvWeights
            grow; ///< (growth*C, C, 1, 1), part of `upsample`; for those who want to see what it gives
    };

    /// A stage's blocks: (B*n, C, h, w) -> the same.
    at::Tensor run_blocks(size_t index, at::Tensor x, int64_t batch, TcDecoderState &state,
                          const Observer &observer) const;
    /// The layers of full size.
    /// @param x      (N, C, h, w)
    /// @param frames (N*growth of the last stage, 3, 2h, 2w); overwritten
    void paint(const at::Tensor &x, const at::Tensor &frames, const Observer &observer) const;

    ConvWeights input_, input2_, output1_, output2_;
    std::array<Stage, 3> stages_;
};

} // namespace flashvsr
