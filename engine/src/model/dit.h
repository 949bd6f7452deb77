// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "model/block_mask.h"
#include "model/observer.h"
#include "model/placement.h"
#include "ops/linear.h"
#include "ops/windows.h"
#include "weights/network_shape.h"
#include "weights/tensor_map.h"

#include <ATen/core/Tensor.h>

#include <vector>

namespace flashvsr {

/// Keys (after RoPE) and values of a block's latest temporal groups, in the slots of a ring; undefined before
/// the first chunk.
struct KvCache {
    at::Tensor key, value; ///< (B, heads, slots*group_windows, 128, 128)
    at::Tensor pooled_key; ///< (B, heads, slots*group_windows, 128) fp32
};

/// What a stream remembers. A step writes to slots that this state does not refer to, so that it can be run
/// again from here until it has succeeded.
struct DitState {
    std::vector<KvCache> blocks;
    int64_t kept = 0, oldest = 0;          ///< groups in the ring, slot of the first
    at::Tensor rope_y, rope_x, local_mask; ///< of the stream's size, made by its first chunk

    /// Slots that a step of one group reads or writes, the first of the ring; and the one that it writes.
    int64_t slots_of_step() const { return kept + 1; }
    int64_t slot_to_write() const { return (oldest + kept) % slots_of_step(); }
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

    /// Every tensor that it keeps.
    std::vector<at::Tensor> weights() const;

private:
    struct Block {
        LinearWeights qkv, self_out, cross_q, cross_out, ffn_in, ffn_out; ///< gates folded into the outputs
        QkvNorm norm;
        at::Tensor cross_norm_q;                   ///< (dim) fp32, as those up to gate1
        at::Tensor norm3_weight, norm3_bias;       ///< (dim)
        at::Tensor shift1, scale1, shift2, scale2; ///< (dim); scales are 1 + the modulation
        at::Tensor gate1;                          ///< (dim)
        at::Tensor context_key, context_value;     ///< (heads, S, 128)
    };

    struct Step;

    at::Tensor self_attention(const Block &block, size_t index, const at::Tensor &x, const Step &step,
                              KvCache &cache) const;
    void make_tables(const TokenGrid &grid, const SparseOptions &sparse, DitState &state) const;
    at::Tensor head(const at::Tensor &x, const TokenGrid &grid, const Observer &observer) const;

    int64_t dim_;
    Placement place_;
    LinearWeights patch_, head_; ///< (dim, 64), (64, dim)
    at::Tensor head_shift_, head_scale_;
    at::Tensor sinusoid_, time_, time_modulation_, context_; ///< (1, freq), (1, dim), (6, dim), (1, S, dim)
    std::vector<Block> blocks_;
};

} // namespace flashvsr
