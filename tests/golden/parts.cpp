// SPDX-License-Identifier: LGPL-2.1-or-later
#include "parts.h"

#include "error.h"
#include "model/block_mask.h"
#include "model/color_fix.h"
#include "model/rope.h"
#include "npy.h"
#include "ops/block_mask.h"
#include "ops/norm.h"
#include "ops/windows.h"
#include "published_steps.h"
#include "stream/chunk_schedule.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <map>
#include <regex>
#include <vector>

namespace flashvsr::golden {
namespace {

/// What a part's run has at hand.
struct Part {
    const std::string &group;
    const PartsGroup &name;
    ModelCache &models;
    Report &report;

    at::Tensor input(const std::string &tensor) const {
        return read_npy(report.manifest().folder / entry(tensor).file);
    }

    /// As the engine takes it: where the models are, in their precision.
    at::Tensor placed_input(const std::string &tensor) const { return models.placement()(input(tensor)); }
    at::Tensor placed(const at::Tensor &tensor) const { return models.placement()(tensor); }

    const Entry &entry(const std::string &tensor) const {
        const Entry *const found = report.manifest().find(group, tensor);
        if (!found)
            fail(EBADMSG, "the manifest has no tensor '", tensor, "' in ", group);
        return *found;
    }

    /// The group's tensors whose name is a match for the pattern, with its parts.
    std::vector<std::pair<const Entry *, std::smatch>> matching(const std::string &pattern) const {
        const std::regex regex(pattern);
        std::vector<std::pair<const Entry *, std::smatch>> found;
        for (const Entry &e : report.manifest().files) {
            std::smatch match;
            if (e.group == group && std::regex_match(e.name, match, regex))
                found.emplace_back(&e, match);
        }
        return found;
    }

    void check(const std::string &tensor, const at::Tensor &got, const std::string &note = "") const {
        report.check(group, tensor, got, note);
    }

    const LoadedModel &model() const { return models.of_parts(name.version); }
};

int64_t integer(const std::string &text) {
    return std::strtoll(text.c_str(), nullptr, 10);
}

/// The number after "key=" in a tensor's meaning.
int64_t parameter(const Entry &entry, const std::string &key) {
    std::smatch match;
    if (!std::regex_search(entry.meaning, match, std::regex("\\b" + key + "=([0-9]+)\\b")))
        fail(EBADMSG, "the manifest's meaning of ", entry.path(), " has no '", key, "='");
    return integer(match[1]);
}

/// The ranges [a:b] in a tensor's meaning, which say what each call of a stream is given.
std::vector<std::pair<int64_t, int64_t>> ranges(const Entry &entry) {
    static const std::regex range("\\[([0-9]+):([0-9]+)\\]");
    std::vector<std::pair<int64_t, int64_t>> found;
    for (auto it = std::sregex_iterator(entry.meaning.begin(), entry.meaning.end(), range);
         it != std::sregex_iterator(); ++it)
        found.emplace_back(integer((*it)[1]), integer((*it)[2]));
    return found;
}

/// Some goldens hold the first of a long dimension alone.
at::Tensor as_long_as(const at::Tensor &got, const Entry &golden, int64_t dim) {
    if (got.dim() <= dim || static_cast<int64_t>(golden.shape.size()) <= dim)
        return got;
    return got.narrow(dim, 0, std::min(got.size(dim), golden.shape[static_cast<size_t>(dim)]));
}

void run_embed(const Part &part) {
    Observer observer;
    observer.tensor = [&](std::string_view name, const at::Tensor &value) {
        const std::string text(name);
        const Entry *const golden = part.report.manifest().find(part.group, text);
        if (!golden)
            return;
        // The prompt's tokens are many and alike.
        const bool per_token = text == "context" || text.starts_with("cross_");
        part.check(text, per_token ? as_long_as(value, *golden, 1) : value);
    };
    part.model().model.dit.report_constants(observer);
    for (const auto &[entry, match] : part.matching("rope_([thw])_f64")) {
        if (entry->shape.empty())
            continue;
        const int64_t positions = entry->shape[0];
        const RopeTable table = make_rope_table({positions, positions, positions}, 0);
        const std::string axis = match[1];
        part.check(entry->name, axis == "t" ? table.time : axis == "h" ? table.y : table.x);
    }
}

void run_local_mask(const Part &part) {
    for (const auto &[entry, match] : part.matching("bh([0-9]+)_bw([0-9]+)_lr([0-9]+)"))
        part.check(entry->name, local_window_mask(integer(match[1]), integer(match[2]), integer(match[3])));
}

void run_draft_mask(const Part &part) {
    for (const auto &[entry, match] : part.matching("(.+)_pooled_q")) {
        const std::string prefix = match[1];
        const int64_t heads = parameter(*entry, "heads");
        const int64_t rows = parameter(*entry, "bh");
        const int64_t cols = parameter(*entry, "bw");
        const int64_t groups = parameter(*entry, "temporal_q_windows");
        const auto split = [&](const at::Tensor &pooled) { // (windows, heads*128) -> (1, heads, windows, 128)
            return pooled.view({pooled.size(0), heads, -1}).transpose(0, 1).unsqueeze(0).contiguous();
        };
        const at::Tensor q = split(part.models.placement().wide(part.input(prefix + "_pooled_q")));
        const at::Tensor k = split(part.models.placement().wide(part.input(prefix + "_pooled_k")));
        const at::Tensor local =
            part.models.placement().upload(local_window_mask(rows, cols, parameter(*entry, "local_range")));
        const at::Tensor probabilities = draft_probabilities(q, k, local);
        const BlockLists lists = select_blocks(probabilities, rows * cols, parameter(*entry, "topk"));
        part.check(prefix + "_prob", probabilities.view({heads * groups, rows * cols, -1}));
        part.check(prefix + "_mask", to_mask(lists)[0]);
    }
}

void run_bicubic(const Part &part) {
    for (const auto &[entry, match] : part.matching("(up|crop)_([0-9]+x[0-9]+)_x([0-9.]+)")) {
        const at::Tensor image = part.input("in_" + match[2].str());
        const double scale = std::strtod(match[3].str().c_str(), nullptr);
        at::Tensor resized =
            resize_bicubic_u8(image, scaled_side(image.size(0), scale), scaled_side(image.size(1), scale));
        part.check(entry->name, match[1] == "up" ? resized : centre_crop(resized));
    }
}

void run_color(const Part &part) {
    const at::Tensor content = part.placed_input("hq");
    const at::Tensor style = part.placed_input("lq");
    part.check("adain", adain(content, style));
    part.check("wavelet", wavelet(content, style));
}

void run_to_u8(const Part &part) {
    part.check("out", truncate_to_u8(part.input("in")));
}

void run_tc_decoder(const Part &part) {
    const Entry &latents_entry = part.entry("latents");
    const at::Tensor latents = part.placed_input("latents");
    const at::Tensor condition = part.placed(to_network_range(part.input("cond_u8")));
    auto latent_ranges = ranges(latents_entry);
    auto frame_ranges = ranges(part.entry("cond_u8"));
    if (latent_ranges.empty() || latent_ranges.size() != frame_ranges.size()) {
        // Without a word about it: the calls of a stream.
        latent_ranges.clear();
        frame_ranges.clear();
        for (int64_t chunk = 0, frame = 0; schedule::first_latent(chunk + 1) <= latents.size(2); chunk++) {
            latent_ranges.emplace_back(schedule::first_latent(chunk), schedule::first_latent(chunk + 1));
            frame_ranges.emplace_back(frame, frame + schedule::frames_out(chunk));
            frame += schedule::frames_out(chunk);
        }
    }

    std::map<std::string, int> visits;
    size_t call = 0;
    Observer observer;
    observer.tensor = [&](std::string_view name, const at::Tensor &value) {
        if (name.starts_with("layer")) {
            const std::string layer(name);
            part.check(concat(layer, "_visit", visits[layer]++), value);
        } else if (name == "pixel_shuffle" && call == 0) {
            for (const auto &[entry, match] : part.matching("pixel_shuffle_[0-9]+frames"))
                part.check(entry->name, as_long_as(value, *entry, 1));
        }
    };
    TcDecoderState state;
    for (; call < latent_ranges.size(); call++) {
        const auto [first, last] = latent_ranges[call];
        const auto [from, to] = frame_ranges[call];
        const at::Tensor frames = part.model().model.decoder.decode(
            latents.narrow(2, first, last - first), condition.narrow(2, from, to - from).contiguous(), state,
            observer);
        // The decoder's own range is [0, 1], frame by frame.
        part.check(concat("out_call", call), frames.add(1).div(2).transpose(1, 2));
    }
}

void run_lq_projector(const Part &part) {
    const at::Tensor frames = part.placed(to_network_range(part.input("in_u8")));
    LqProjectorState state;
    for (int64_t call = 0, begin = 0; begin < frames.size(2); call++) {
        const int64_t count = call == 0 ? 1 : 4;
        Observer observer;
        observer.tensor = [&](std::string_view name, const at::Tensor &value) {
            // (B, frames, C, h, w), and (B, clips, 2, C, h, w) of the one clip of
            // this call.
            if (name == "unshuffle")
                for (int64_t i = 0; i < value.size(1); i++)
                    part.check(concat("unshuffle_frame", begin + i), value.narrow(1, i, 1).transpose(1, 2));
            else if (name == "act1")
                part.check(concat("act1_call", call), value.select(1, 0).transpose(1, 2));
        };
        const auto tokens =
            part.model().model.lq_projector.step(frames.narrow(2, begin, count), state, observer);
        if (!tokens.empty() && tokens.front().defined())
            part.check(concat("tokens_call", call), tokens.front());
        begin += count;
    }
}

void run_norms(const Part &part) {
    const ModelWeights &weights = part.model().weights;
    const Placement &place = part.models.placement();
    const auto weight = [&](const TensorMap &map, const char *name) { return place.wide(map.at(name)); };
    const at::Tensor rows = part.placed_input("in");
    const int64_t dim = rows.size(1);
    part.check("ln_norm1", layer_norm(rows, place.wide(at::ones({dim})), place.wide(at::zeros({dim}))));
    part.check("ln_norm3", layer_norm(rows, weight(weights.dit, "blocks.0.norm3.weight"),
                                      weight(weights.dit, "blocks.0.norm3.bias")));
    const at::Tensor norm_q = weight(weights.dit, "blocks.0.self_attn.norm_q.weight");
    part.check("rms_norm_q", rms_norm(rows, norm_q));

    // The transformer's own norm is one pass with the rotation: here by angles of 0, on a window of its own.
    const TokenGrid grid{window_frames, window_side, window_side};
    if (rows.size(0) <= window_tokens) {
        RopeTable still = make_rope_table(grid, 0);
        for (at::Tensor *axis : {&still.time, &still.y, &still.x}) {
            axis->select(2, 0).fill_(1);
            axis->select(2, 1).zero_();
            *axis = place.upload(*axis);
        }
        const at::Tensor window =
            at::cat({rows, at::ones({window_tokens - rows.size(0), dim}, rows.options())})
                .unsqueeze(0)
                .contiguous();
        const at::Tensor query = at::empty({1, dim / head_dim, 1, window_tokens, head_dim}, rows.options());
        qkv_to_windows(window.repeat({1, 1, 3}), {norm_q, norm_q}, still, grid,
                       {query, at::empty_like(query), at::empty_like(query)});
        part.check("rms_norm_q", from_windows(query, grid)[0].narrow(0, 0, rows.size(0)), "with RoPE");
    }

    const at::Tensor channels = part.placed_input("chan_in"); // (1, C, T, h, w)
    const at::Tensor gamma = weight(weights.lq_projector, "norm1.gamma").flatten();
    part.check(
        "chan_norm1",
        channel_norm(channels.permute({0, 2, 3, 4, 1}).contiguous(), gamma, false).permute({0, 4, 1, 2, 3}));
    part.check("adain_out", adain(part.placed_input("adain_hq"), part.placed_input("adain_lq")));
}

struct Kind {
    PartState state;
    bool needs_model;
    std::function<void(const Part &)> run;
};

const std::map<std::string, Kind> &kinds() {
    static const std::map<std::string, Kind> table = {
        {"bicubic", {PartState::built, false, run_bicubic}},
        {"color", {PartState::built, false, run_color}},
        {"dit", {PartState::recorded, false, {}}},
        {"draft_mask", {PartState::built, false, run_draft_mask}},
        {"embed", {PartState::built, true, run_embed}},
        {"local_mask", {PartState::built, false, run_local_mask}},
        {"lq_proj", {PartState::built, true, run_lq_projector}},
        {"norms", {PartState::built, true, run_norms}},
        {"tcdecoder", {PartState::built, true, run_tc_decoder}},
        {"to_u8", {PartState::built, false, run_to_u8}},
        {"vae", {PartState::not_built, false, {}}},
    };
    return table;
}

} // namespace

std::optional<PartsGroup> parse_parts_group(const std::string &group) {
    static const std::regex form("parts/([^/]+)/([^/]+)");
    std::smatch match;
    if (!std::regex_match(group, match, form))
        return std::nullopt;
    return PartsGroup{match[1], match[2]};
}

PartState part_state(const std::string &kind) {
    const auto found = kinds().find(kind);
    return found == kinds().end() ? PartState::unknown : found->second.state;
}

bool part_needs_model(const std::string &kind) {
    const auto found = kinds().find(kind);
    return found != kinds().end() && found->second.needs_model;
}

void run_part(const std::string &group, const PartsGroup &part, ModelCache &models, Report &report) {
    kinds().at(part.kind).run({group, part, models, report});
}

} // namespace flashvsr::golden
