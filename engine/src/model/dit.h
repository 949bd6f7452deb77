// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "model/block_mask.h"
#include "model/observer.h"
#include "model/placement.h"
#include "weights/network_shape.h"
#include "weights/tensor_map.h"

#include <ATen/core/Tensor.h>

#include <vector>

namespace flashvsr {

/// Keys (after RoPE) and values of the latest temporal groups, oldest first; undefined before the first
/// chunk.
struct KvCache {
    at::Tensor key, value; ///< (B, heads, groups*group_windows, 128, 128)
};

struct DitState {
    std::vector<KvCache> blocks;
};

struct LinearWeights {
    at::Tensor weight, bias; ///< (out, in), (out)
};

/// The diffusion transformer: one step from noise to latents. Upstream
/// diffsynth/models/wan_video_dit.py. Immutable: any thread may use it.
class Dit {
public:
    Dit(const TensorMap &weights, const at::Tensor &prompt, const NetworkShape &shape,
        const Placement &place);

    /// @param latents      noise (B, 16, f, H/8, W/8), f even
    /// @param first_latent position of the first latent frame in its stream
    /// @param lq_tokens    per projector layer (B, L, dim), added at the input of the block of that index
    /// @param state        K/V cache of the stream; replaced
    /// @return predicted velocity (B, 16, f, H/8, W/8); noise less this is the clean latent
    at::Tensor predict(const at::Tensor &latents, int64_t first_latent,
                       const std::vector<at::Tensor> &lq_tokens, const SparseOptions &sparse, DitState &state,
                       const Observer &observer = {}) const;

    /// Report what depends on the weights alone: sinusoidal_1000, t, t_mod, context, cross_k_blockN,
    /// cross_v_blockN.
    void report_constants(const Observer &observer) const;

private:
    struct Block {
        LinearWeights qkv, self_out, cross_q, cross_out, ffn_in, ffn_out;
        at::Tensor norm_q, norm_k, cross_norm_q; ///< (dim)
        at::Tensor norm3_weight, norm3_bias;     ///< (dim)
        at::Tensor shift1, scale1, gate1;        ///< (dim); scales are 1 + the modulation
        at::Tensor shift2, scale2, gate2;        ///< (dim)
        at::Tensor context_key, context_value;   ///< (heads, S, 128)
    };

    struct Step;

    at::Tensor self_attention(const Block &block, size_t index, const at::Tensor &x, const Step &step,
                              KvCache &cache) const;
    at::Tensor head(const at::Tensor &x, const TokenGrid &grid, const Observer &observer) const;

    int64_t dim_;
    LinearWeights patch_, head_; ///< (dim, 64), (64, dim)
    at::Tensor head_shift_, head_scale_;
    at::Tensor sinusoid_, time_, time_modulation_, context_; ///< (1, freq), (1, dim), (6, dim), (1, S, dim)
    std::vector<Block> blocks_;
};

} // namespace flashvsr
