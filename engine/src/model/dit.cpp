// SPDX-License-Identifier: LGPL-2.1-or-later
#include "model/dit.h"

#include "model/rope.h"
#include "ops/attention.h"
#include "ops/norm.h"

#include <ATen/ATen.h>

#include <cmath>

namespace flashvsr {

namespace {

constexpr double timestep = 1000;
constexpr int64_t latent_channels = 16, patch_side = 2;

at::Tensor linear(const at::Tensor &x, const LinearWeights &weights) {
    return at::linear(x, weights.weight, weights.bias);
}

/// [cos(a_i), sin(a_i)], a_i = timestep * 10000^(-i/(n/2)): (1, n), cosines first.
at::Tensor sinusoidal_embedding(int64_t n) {
    const int64_t half = n / 2;
    const at::Tensor angles =
        at::pow(10000.0, at::arange(half, at::kDouble).div_(static_cast<double>(half)).neg_()).mul_(timestep);
    return at::cat({angles.cos(), angles.sin()}).unsqueeze(0);
}

/// (S, dim) -> (heads, S, 128)
at::Tensor split_heads(const at::Tensor &x) {
    return x.view({x.size(0), -1, head_dim}).transpose(0, 1).contiguous();
}

/// (heads, S, 128) -> (1, S, dim)
at::Tensor join_heads(const at::Tensor &x) {
    return x.transpose(0, 1).flatten(1).unsqueeze(0);
}

/// The golden files keep windows as (windows, 128, dim).
at::Tensor windows_last(const at::Tensor &x) {
    return x[0].permute({1, 2, 0, 3}).flatten(2);
}

/// (B, 16, f, 2h, 2w) -> (B, f*h*w, 64), a token's channels as (channel, py, px).
at::Tensor patchify(const at::Tensor &latents) {
    const int64_t batch = latents.size(0), frames = latents.size(2), height = latents.size(3) / patch_side,
                  width = latents.size(4) / patch_side;
    return latents.view({batch, latent_channels, frames, height, patch_side, width, patch_side})
        .permute({0, 2, 3, 5, 1, 4, 6})
        .reshape({batch, frames * height * width, latent_channels * patch_side * patch_side});
}

} // namespace

/// What the blocks of one call share.
struct Dit::Step {
    TokenGrid grid;
    RopeTable rope;
    at::Tensor local_mask;
    int64_t budget, kv_groups;
    const Observer &observer;
};

Dit::Dit(const TensorMap &weights, const at::Tensor &prompt, const NetworkShape &shape,
         const Placement &place)
    : dim_(shape.dim) {
    const auto tensor = [&](const std::string &name) { return place(weights.at(name)); };
    const auto layer = [&](const std::string &name) {
        return LinearWeights{tensor(name + ".weight"), tensor(name + ".bias")};
    };

    patch_ = layer("patch_embedding");
    patch_.weight = patch_.weight.view({dim_, -1});
    sinusoid_ = place(sinusoidal_embedding(shape.freq_dim));
    time_ = linear(at::silu(linear(sinusoid_, layer("time_embedding.0"))), layer("time_embedding.2"));
    time_modulation_ = linear(at::silu(time_), layer("time_projection.1")).view({6, dim_});
    context_ =
        linear(at::gelu(linear(place(prompt), layer("text_embedding.0")), "tanh"), layer("text_embedding.2"));

    for (int64_t i = 0; i < shape.blocks; i++) {
        const std::string name = concat("blocks.", i), self = name + ".self_attn.",
                          cross = name + ".cross_attn.";
        Block block;
        // One product for q, k and v.
        block.qkv.weight =
            at::cat({tensor(self + "q.weight"), tensor(self + "k.weight"), tensor(self + "v.weight")});
        block.qkv.bias = at::cat({tensor(self + "q.bias"), tensor(self + "k.bias"), tensor(self + "v.bias")});
        block.self_out = layer(self + "o");
        block.norm_q = tensor(self + "norm_q.weight");
        block.norm_k = tensor(self + "norm_k.weight");
        block.cross_q = layer(cross + "q");
        block.cross_out = layer(cross + "o");
        block.cross_norm_q = tensor(cross + "norm_q.weight");
        block.norm3_weight = tensor(name + ".norm3.weight");
        block.norm3_bias = tensor(name + ".norm3.bias");
        block.ffn_in = layer(name + ".ffn.0");
        block.ffn_out = layer(name + ".ffn.2");
        // There is one timestep, so the modulation is a constant of the weights.
        const at::Tensor modulation = tensor(name + ".modulation")[0] + time_modulation_;
        block.shift1 = modulation[0];
        block.scale1 = modulation[1] + 1;
        block.gate1 = modulation[2];
        block.shift2 = modulation[3];
        block.scale2 = modulation[4] + 1;
        block.gate2 = modulation[5];
        block.context_key =
            split_heads(rms_norm(linear(context_, layer(cross + "k")), tensor(cross + "norm_k.weight"))[0]);
        block.context_value = split_heads(linear(context_, layer(cross + "v"))[0]);
        blocks_.push_back(std::move(block));
    }

    head_ = layer("head.head");
    const at::Tensor modulation = tensor("head.modulation")[0] + time_;
    head_shift_ = modulation[0];
    head_scale_ = modulation[1] + 1;
}

at::Tensor Dit::predict(const at::Tensor &latents, int64_t first_latent,
                        const std::vector<at::Tensor> &lq_tokens, const SparseOptions &sparse,
                        DitState &state, const Observer &observer) const {
    const TokenGrid grid{latents.size(2), latents.size(3) / patch_side, latents.size(4) / patch_side};
    const Step step{grid,
                    make_rope_table(grid, first_latent),
                    local_window_mask(grid.block_rows(), grid.block_cols(), sparse.local_range),
                    block_budget(sparse.sparse_ratio, grid),
                    sparse.kv_groups(),
                    observer};
    DitState after = state;
    after.blocks.resize(blocks_.size());

    at::Tensor x = linear(patchify(latents), patch_);
    observer("patch_embed", x);
    for (size_t i = 0; i < blocks_.size(); i++) {
        const Block &block = blocks_[i];
        observer.check_stop();
        if (i < lq_tokens.size())
            x.add_(lq_tokens[i]);

        at::Tensor y = layer_norm(x, block.scale1, block.shift1);
        x.addcmul_(self_attention(block, i, y, step, after.blocks[i]), block.gate1);

        y = rms_norm(linear(layer_norm(x, block.norm3_weight, block.norm3_bias), block.cross_q),
                     block.cross_norm_q);
        y = linear(cross_attention(y, block.context_key, block.context_value), block.cross_out);
        if (i == 0)
            observer("b0_cross_attn_out", y);
        x.add_(y);
        observer.check_stop();

        y = linear(layer_norm(x, block.scale2, block.shift2), block.ffn_in);
        at::gelu_(y, "tanh");
        x.addcmul_(linear(y, block.ffn_out), block.gate2);
        if (observer.listens())
            observer(concat("block", i, "_out"), x);
    }
    at::Tensor prediction = head(x, grid, observer);
    state = std::move(after);
    return prediction;
}

at::Tensor Dit::self_attention(const Block &block, size_t index, const at::Tensor &x, const Step &step,
                               KvCache &cache) const {
    const Observer &observer = step.observer;
    const auto qkv = linear(x, block.qkv).split(dim_, -1);
    const at::Tensor q = rms_norm_rope_to_windows(qkv[0], block.norm_q, step.rope, step.grid);
    const at::Tensor new_k = rms_norm_rope_to_windows(qkv[1], block.norm_k, step.rope, step.grid);
    const at::Tensor new_v = to_windows(qkv[2], step.grid);
    const at::Tensor k = cache.key.defined() ? at::cat({cache.key, new_k}, 2) : new_k;
    const at::Tensor v = cache.value.defined() ? at::cat({cache.value, new_v}, 2) : new_v;

    const at::Tensor probabilities = draft_probabilities(q.mean(3), k.mean(3), step.local_mask);
    const int64_t n = step.grid.group_windows();
    const at::Tensor mask = select_blocks(probabilities, n, step.budget);
    const at::Tensor attended = block_sparse_attention(q, k, v, to_block_lists(mask));
    at::Tensor out = linear(from_windows(attended, step.grid), block.self_out);

    // At most one group leaves per chunk, as published.
    const int64_t groups = k.size(2) / n, dropped = groups > step.kv_groups ? n : 0;
    cache.key = k.narrow(2, dropped, k.size(2) - dropped);
    cache.value = v.narrow(2, dropped, v.size(2) - dropped);

    if (observer.listens()) {
        if (index == 0) {
            observer("b0_q_rope", from_windows(q, step.grid));
            observer("b0_k_rope", from_windows(new_k, step.grid));
            observer("b0_q_windows", windows_last(q));
            observer("b0_k_windows_cat", windows_last(k));
            observer("b0_attn_core_windowed", windows_last(attended).flatten(0, 1).unsqueeze(0));
            observer("b0_self_attn_out", out);
        }
        observer(concat("block", index, "_draft_prob"), probabilities[0]);
        observer(concat("block", index, "_mask"), mask[0]);
        observer(concat("cache_k_block", index), windows_last(cache.key));
        observer(concat("cache_v_block", index), windows_last(cache.value));
    }
    return out;
}

at::Tensor Dit::head(const at::Tensor &x, const TokenGrid &grid, const Observer &observer) const {
    const at::Tensor y = linear(layer_norm(x, head_scale_, head_shift_), head_);
    observer("head_out", y);
    // A token's channels are (py, px, channel), channel fastest.
    at::Tensor prediction =
        y.view({x.size(0), grid.frames, grid.height, grid.width, patch_side, patch_side, -1})
            .permute({0, 6, 1, 2, 4, 3, 5})
            .reshape(
                {x.size(0), latent_channels, grid.frames, patch_side * grid.height, patch_side * grid.width});
    observer("noise_pred", prediction);
    return prediction;
}

void Dit::report_constants(const Observer &observer) const {
    observer("sinusoidal_1000", sinusoid_);
    observer("t", time_);
    observer("t_mod", time_modulation_.unsqueeze(0));
    observer("context", context_);
    for (size_t i = 0; i < blocks_.size(); i++) {
        observer(concat("cross_k_block", i), join_heads(blocks_[i].context_key));
        observer(concat("cross_v_block", i), join_heads(blocks_[i].context_value));
    }
}

} // namespace flashvsr
