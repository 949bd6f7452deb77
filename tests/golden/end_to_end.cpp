// SPDX-License-Identifier: LGPL-2.1-or-later
#include "end_to_end.h"

#include "error.h"
#include "model/color_fix.h"
#include "npy.h"
#include "published_steps.h"
#include "stream/chunk_step.h"

#include <ATen/ATen.h>

#include <chrono>
#include <ctime>
#include <vector>

namespace flashvsr::golden {
namespace {

constexpr int64_t token_px = 16;

/// Passes what the network shows of itself on to the goldens of a parts group.
class ChunkRecorder {
public:
    ChunkRecorder(std::string group, Report &report) : group_(std::move(group)), report_(report) {}

    void begin(int64_t chunk) {
        chunk_ = chunk;
        tokens_seen_ = false;
    }

    void operator()(std::string_view name, const at::Tensor &value) {
        if (name != "lq_tokens") {
            report_.check(group_, concat("chunk", chunk_, "_", name), value);
            return;
        }
        // One tensor per linear layer; the goldens are of the first, call by call. The very first call of a
        // stream yields none.
        if (tokens_seen_)
            return;
        tokens_seen_ = true;
        for (const at::Tensor &call : value.chunk(schedule::latents(chunk_), 1))
            report_.check(group_, concat("lq_call", ++call_, "_tokens"), call);
    }

private:
    std::string group_;
    Report &report_;
    int64_t chunk_ = 0, call_ = 0;
    bool tokens_seen_ = false;
};

void check_schedule(const Case &c, Report &report) {
    if (c.schedule.empty())
        return;
    std::vector<ScheduleChunk> ours;
    int64_t frame = 0;
    for (int64_t chunk = 0; frame < c.output_frames; chunk++) {
        const int64_t latent = schedule::first_latent(chunk);
        ours.push_back({{latent, latent + schedule::latents(chunk)},
                        {frame, frame + schedule::frames_out(chunk)},
                        latent});
        frame += schedule::frames_out(chunk);
    }
    report.check_value(c.group(), "schedule", ours == c.schedule,
                       concat(ours.size(), " chunks, ", frame, " frames; the manifest has ",
                              c.schedule.size(), " chunks and ", c.output_frames, " frames"));
}

} // namespace

CaseState case_state(const Case &c) {
    if (c.pipeline == "tiny" || c.pipeline == "tiny-long")
        return CaseState::built;
    return c.pipeline == "full" ? CaseState::not_built : CaseState::unknown;
}

void run_case(const Case &c, ModelCache &models, Report &report) {
    const std::string group = c.group();
    const auto input = [&](const char *name) {
        const Entry *const entry = report.manifest().find(group, name);
        if (!entry)
            fail(EBADMSG, "the manifest has no tensor '", name, "' in ", group);
        return read_npy(report.manifest().folder / entry->file);
    };
    const at::Tensor frames_u8 = prepare_clip(input("in_frames_u8"), c.scale);
    for (int64_t i = 0; i < frames_u8.size(0); i++)
        report.check(group, concat("lq_u8_frame", i), frames_u8[i]);
    const at::Tensor frames = to_network_range(frames_u8);
    const at::Tensor noise = input("noise");
    const Model &model = models.load(c.model).model;
    const Placement &place = model.placement;
    const SparseOptions sparse{c.sparse_ratio, c.kv_ratio, c.local_range};

    check_schedule(c, report);
    if (c.topk) {
        const TokenGrid grid{schedule::latents_per_chunk, frames.size(3) / token_px,
                             frames.size(4) / token_px};
        const int64_t budget = block_budget(c.sparse_ratio, grid);
        report.check_value(group, "topk", budget == *c.topk, concat(budget, ", the manifest has ", *c.topk));
    }

    ChunkRecorder recorder(c.parts_group, report);
    Observer observer;
    if (!c.parts_group.empty() && report.wants(c.parts_group))
        observer.tensor = std::ref(recorder);

    const std::clock_t cpu_begin = std::clock();
    const auto begin = std::chrono::steady_clock::now();
    StreamState state;
    std::vector<at::Tensor> latents;
    std::vector<at::Tensor> decoded;
    int64_t done = 0;
    for (int64_t frame = 0; frame < frames.size(2);) {
        const int64_t chunk = state.chunk;
        recorder.begin(chunk);
        const int64_t count = schedule::frames_in(chunk);
        const ChunkOutput output = run_chunk(
            model, sparse, place(frames.narrow(2, frame, count)),
            place(noise.narrow(2, schedule::first_latent(chunk), schedule::latents(chunk))), state, observer);
        frame += count;
        latents.push_back(output.latents);
        const at::Tensor decoded_frames = output.frames.to(at::kFloat);
        decoded.push_back(
            c.color_fix ? adain(decoded_frames, place.wide(frames.narrow(2, done, decoded_frames.size(2))))
                        : decoded_frames);
        done += decoded_frames.size(2);
    }
    const double cpu_seconds = static_cast<double>(std::clock() - cpu_begin) / CLOCKS_PER_SEC;
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;

    const at::Tensor out = at::cat(decoded, 2)[0].to(at::kCPU); // (3, T, H, W)
    report.check(group, "latents", at::cat(latents, 2));
    report.check_value(group, "output_frames", out.size(1) == c.output_frames,
                       concat(out.size(1), ", the manifest has ", c.output_frames));
    report.check(group, "out_f32", out);
    for (int64_t i = 0; i < out.size(1); i++)
        report.check(group, concat("out_f32_frame", i), out.select(1, i));
    if (report.manifest().find(group, "out_u8")) {
        const at::Tensor stored = at::tensor(c.stored_output_frames, at::kLong);
        report.check(group, "out_u8", truncate_to_u8(out.index_select(1, stored)));
    }
    report.print(concat("      ", group, ": ", out.size(1), " frames of ", out.size(3), "x", out.size(2),
                        " in ", state.chunk, " chunks, ", cpu_seconds, " s CPU, ", seconds.count(), " s"));
}

} // namespace flashvsr::golden
