// SPDX-License-Identifier: LGPL-2.1-or-later
#include "model/dit.h"

#include "model/rope.h"
#include "ops/attention.h"
#include "ops/block_mask.h"
#include "ops/norm.h"

#include <ATen/ATen.h>

#include <cmath>

namespace flashvsr {

namespace {

constexpr double timestep = 1000;
constexpr int64_t latent_channels = 16, patch_side = 2;
// Slots of a new ring: the first chunk's three groups, and one more where a later chunk will want it at once.
constexpr int64_t first_groups = 3, usual_slots = 4;

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

/// Grow a ring of groups, (B, heads, slots*n, ...), to `slots` slots; a new one is made `like` another
/// tensor.
at::Tensor with_slots(const at::Tensor &ring, int64_t slots, int64_t n, const at::Tensor &like) {
    const int64_t missing = slots * n - (ring.defined() ? ring.size(2) : 0);
    if (missing <= 0)
        return ring;
    std::vector<int64_t> shape = like.sizes().vec();
    shape[2] = missing;
    const at::Tensor more = at::empty(shape, like.options());
    return ring.defined() ? at::cat({ring, more}, 2) : more;
}

} // namespace

/// What the blocks of one call share.
struct Dit::Step {
    TokenGrid grid;
    RopeTable rope;
    at::Tensor local_mask;
    int64_t budget;
    int64_t oldest;   ///< slot of the oldest group
    int64_t slot;     ///< where this chunk's groups go
    int64_t attended; ///< groups, this chunk's included
    int64_t dropped;  ///< groups that leave afterwards
    int64_t slots;    ///< least size of the ring
    const Observer &observer;

    /// The windows of the groups from `first` on, oldest first.
    at::Tensor windows_by_age(int64_t first) const {
        const int64_t n = grid.group_windows();
        const at::Tensor groups = at::arange(first, attended, at::kLong).add_(oldest).remainder_(attended);
        return groups.mul(n).unsqueeze(1).add(at::arange(n, at::kLong)).flatten();
    }
};

Dit::Dit(const TensorMap &weights, const at::Tensor &prompt, const NetworkShape &shape,
         const Placement &place)
    : dim_(shape.dim), place_(place) {
    // What depends on the weights alone is computed in fp32, whatever the precision.
    const auto wide = [&](const std::string &name) { return place.wide(weights.at(name)); };
    const auto wide_layer = [&](const std::string &name) {
        return LinearWeights{wide(name + ".weight"), wide(name + ".bias")};
    };
    const auto layer = [&](const std::string &name) {
        return LinearWeights{place(weights.at(name + ".weight")), place(weights.at(name + ".bias"))};
    };
    const auto block_layer = [&](const std::string &name) {
        return place.layer(weights.at(name + ".weight"), weights.at(name + ".bias"));
    };
    const auto gated_layer = [&](const std::string &name, const at::Tensor &gate) {
        return place.layer(wide(name + ".weight") * gate.unsqueeze(1), wide(name + ".bias") * gate);
    };

    patch_ = layer("patch_embedding");
    patch_.weight = patch_.weight.view({dim_, -1});
    sinusoid_ = place.wide(sinusoidal_embedding(shape.freq_dim));
    time_ =
        linear(at::silu(linear(sinusoid_, wide_layer("time_embedding.0"))), wide_layer("time_embedding.2"));
    time_modulation_ = linear(at::silu(time_), wide_layer("time_projection.1")).view({6, dim_});
    context_ = linear(linear(place.wide(prompt), wide_layer("text_embedding.0"), Activation::gelu),
                      wide_layer("text_embedding.2"));

    for (int64_t i = 0; i < shape.blocks; i++) {
        const std::string name = concat("blocks.", i), self = name + ".self_attn.",
                          cross = name + ".cross_attn.";
        // There is one timestep, so the modulation is a constant of the weights.
        const at::Tensor modulation = wide(name + ".modulation")[0] + time_modulation_;
        Block block;
        // One product for q, k and v.
        const LinearWeights q = layer(self + "q"), k = layer(self + "k"), v = layer(self + "v");
        block.qkv = place.layer(at::cat({q.weight, k.weight, v.weight}), at::cat({q.bias, k.bias, v.bias}));
        block.self_out = gated_layer(self + "o", modulation[2]);
        block.norm = {wide(self + "norm_q.weight"), wide(self + "norm_k.weight")};
        block.cross_q = block_layer(cross + "q");
        block.cross_out = block_layer(cross + "o");
        block.cross_norm_q = wide(cross + "norm_q.weight");
        block.norm3_weight = wide(name + ".norm3.weight");
        block.norm3_bias = wide(name + ".norm3.bias");
        block.ffn_in = block_layer(name + ".ffn.0");
        block.ffn_out = gated_layer(name + ".ffn.2", modulation[5]);
        block.shift1 = modulation[0];
        block.scale1 = modulation[1] + 1;
        block.gate1 = modulation[2];
        block.shift2 = modulation[3];
        block.scale2 = modulation[4] + 1;
        block.context_key = place(split_heads(
            rms_norm(linear(context_, wide_layer(cross + "k")), wide(cross + "norm_k.weight"))[0]));
        block.context_value = place(split_heads(linear(context_, wide_layer(cross + "v"))[0]));
        blocks_.push_back(std::move(block));
    }

    head_ = layer("head.head");
    const at::Tensor modulation = wide("head.modulation")[0] + time_;
    head_shift_ = modulation[0];
    head_scale_ = modulation[1] + 1;
}

void Dit::make_tables(const TokenGrid &grid, const SparseOptions &sparse, DitState &state) const {
    const RopeTable rope = make_rope_table(grid, 0);
    state.rope_y = place_.upload(rope.y);
    state.rope_x = place_.upload(rope.x);
    state.local_mask =
        place_.upload(local_window_mask(grid.block_rows(), grid.block_cols(), sparse.local_range));
}

at::Tensor Dit::predict(const at::Tensor &latents, int64_t first_latent,
                        const std::vector<at::Tensor> &lq_tokens, const SparseOptions &sparse,
                        DitState &state, const Observer &observer) const {
    const TokenGrid grid{latents.size(2), latents.size(3) / patch_side, latents.size(4) / patch_side};
    DitState after = state;
    after.blocks.resize(blocks_.size());
    if (!after.local_mask.defined())
        make_tables(grid, sparse, after);

    const int64_t attended = state.kept + grid.groups();
    // At most one group leaves per chunk, as published.
    const int64_t dropped = attended > sparse.kv_groups() ? 1 : 0;
    const Step step{grid,
                    {place_.upload(rope_times(grid.frames, first_latent)), after.rope_y, after.rope_x},
                    after.local_mask,
                    block_budget(sparse.sparse_ratio, grid),
                    state.oldest,
                    (state.oldest + state.kept) % attended,
                    attended,
                    dropped,
                    std::max(attended, std::clamp(sparse.kv_groups() + 1, first_groups, usual_slots)),
                    observer};
    after.oldest = (state.oldest + dropped) % attended;
    after.kept = attended - dropped;

    observer.enter("linear");
    at::Tensor x = linear(patchify(latents), patch_);
    observer("patch_embed", x);
    for (size_t i = 0; i < blocks_.size(); i++) {
        const Block &block = blocks_[i];
        observer.between_layers();
        observer.enter("norm");
        if (i < lq_tokens.size())
            x.add_(lq_tokens[i]);

        at::Tensor y = self_attention(block, i, x, step, after.blocks[i]);
        if (i == 0 && observer.listens())
            observer("b0_self_attn_out", linear(y, block.self_out).div(block.gate1));
        observer.enter("linear");
        linear_add(x, y, block.self_out);

        observer.enter("norm");
        Rows rows = layer_norm_for(block.cross_q, x, block.norm3_weight, block.norm3_bias);
        observer.enter("linear");
        y = linear(rows, block.cross_q);
        observer.enter("norm");
        y = rms_norm(y, block.cross_norm_q);
        observer.enter("cross attention");
        y = cross_attention(y, block.context_key, block.context_value);
        if (i == 0 && observer.listens())
            observer("b0_cross_attn_out", linear(y, block.cross_out));
        observer.enter("linear");
        linear_add(x, y, block.cross_out);
        observer.between_layers();

        observer.enter("norm");
        rows = layer_norm_for(block.ffn_in, x, block.scale2, block.shift2);
        observer.enter("linear");
        linear_add(x, linear(rows, block.ffn_in, Activation::gelu), block.ffn_out);
        if (observer.listens())
            observer(concat("block", i, "_out"), x);
    }
    at::Tensor prediction = head(x, grid, observer);
    state = std::move(after);
    return prediction;
}

/// From the hidden state to before the output projection, (B, L, dim).
at::Tensor Dit::self_attention(const Block &block, size_t index, const at::Tensor &x, const Step &step,
                               KvCache &cache) const {
    const TokenGrid &grid = step.grid;
    const int64_t n = grid.group_windows(), windows = grid.windows(), heads = dim_ / head_dim;
    const Rows rows = layer_norm_for(block.qkv, x, block.scale1, block.shift1);
    const at::Tensor q = at::empty({x.size(0), heads, windows, window_tokens, head_dim}, x.options());
    const at::Tensor pooled_q =
        at::empty({x.size(0), heads, windows, head_dim}, x.options().dtype(at::kFloat));
    cache = {with_slots(cache.key, step.slots, n, q), with_slots(cache.value, step.slots, n, q),
             with_slots(cache.pooled_key, step.slots, n, pooled_q)};

    const auto written = [&](const at::Tensor &ring) { return ring.narrow(2, step.slot * n, windows); };
    const QkvWindows to{q, written(cache.key), written(cache.value)};
    step.observer.enter("linear");
    const at::Tensor qkv = linear(rows, block.qkv);
    step.observer.enter("norm");
    qkv_to_windows(qkv, block.norm, step.rope, grid, to);
    step.observer.enter("block mask");
    pool_windows(q, pooled_q);
    pool_windows(to.key, written(cache.pooled_key));

    // In the ring's order: the sum over keys has none of its own, and the local mask is the same for all
    // groups.
    const auto attended = [&](const at::Tensor &ring) { return ring.narrow(2, 0, step.attended * n); };
    const at::Tensor probabilities =
        draft_probabilities(pooled_q, attended(cache.pooled_key), step.local_mask);
    const BlockLists lists = select_blocks(probabilities, n, step.budget);
    step.observer.enter("attention");
    at::Tensor out = block_sparse_attention(q, attended(cache.key), attended(cache.value), lists, grid);

    if (const Observer &observer = step.observer; observer.listens()) {
        const auto by_age = [&](const at::Tensor &x, int64_t dim, int64_t first) {
            return x.index_select(dim, step.windows_by_age(first).to(x.device()));
        };
        if (index == 0) {
            observer("b0_q_rope", from_windows(q, grid));
            observer("b0_k_rope", from_windows(to.key.contiguous(), grid));
            observer("b0_q_windows", windows_last(q));
            observer("b0_k_windows_cat", windows_last(by_age(cache.key, 2, 0)));
            observer("b0_attn_core_windowed", windows_last(to_windows(out, grid)).flatten(0, 1).unsqueeze(0));
        }
        observer(concat("block", index, "_draft_prob"), by_age(probabilities[0], 2, 0));
        observer(concat("block", index, "_mask"), by_age(to_mask(lists)[0], 2, 0));
        observer(concat("cache_k_block", index), windows_last(by_age(cache.key, 2, step.dropped)));
        observer(concat("cache_v_block", index), windows_last(by_age(cache.value, 2, step.dropped)));
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

std::vector<at::Tensor> Dit::weights() const {
    std::vector<at::Tensor> all = {patch_.weight, patch_.bias, head_.weight, head_.bias,       head_shift_,
                                   head_scale_,   sinusoid_,   time_,        time_modulation_, context_};
    for (const Block &block : blocks_) {
        for (const LinearWeights *layer :
             {&block.qkv, &block.self_out, &block.cross_q, &block.cross_out, &block.ffn_in, &block.ffn_out}) {
            all.insert(all.end(), {layer->weight, layer->bias});
            if (layer->scales.defined())
                all.push_back(layer->scales);
        }
        all.insert(all.end(), {block.norm.query, block.norm.key, block.cross_norm_q, block.norm3_weight,
                               block.norm3_bias, block.shift1, block.scale1, block.shift2, block.scale2,
                               block.gate1, block.context_key, block.context_value});
    }
    return all;
}

} // namespace flashvsr
