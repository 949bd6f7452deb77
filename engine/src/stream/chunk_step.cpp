// SPDX-License-Identifier: LGPL-2.1-or-later
#include "stream/chunk_step.h"

#include <ATen/ATen.h>

namespace flashvsr {

namespace {

/// Project a chunk's frames 8 at a time, which bounds the memory of the first, long chunk.
std::vector<at::Tensor> project(const LqProjector &projector, const at::Tensor &frames,
                                LqProjectorState &state, const Observer &observer) {
    std::vector<std::vector<at::Tensor>> parts;
    for (int64_t begin = 0; begin < frames.size(2);) {
        const int64_t count =
            state.first() ? 1 : std::min<int64_t>(schedule::frames_per_chunk, frames.size(2) - begin);
        std::vector<at::Tensor> tokens = projector.step(frames.narrow(2, begin, count), state, observer);
        begin += count;
        if (!tokens.front().defined())
            continue;
        parts.resize(tokens.size());
        for (size_t i = 0; i < tokens.size(); i++)
            parts[i].push_back(std::move(tokens[i]));
    }
    std::vector<at::Tensor> tokens;
    tokens.reserve(parts.size());
    for (const auto &part : parts)
        tokens.push_back(at::cat(part, 1));
    return tokens;
}

} // namespace

ChunkOutput run_chunk(const Model &model, const SparseOptions &sparse, const at::Tensor &frames,
                      const at::Tensor &noise, StreamState &state, const Observer &observer) {
    const int64_t chunk = state.chunk, count = frames.size(2);
    StreamState after = state;
    after.chunk = chunk + 1;

    ChunkOutput output;
    {
        const auto turn = model.turn(Part::transformer);
        observer.enter("projector");
        const std::vector<at::Tensor> tokens = project(model.lq_projector, frames, after.projector, observer);
        for (const at::Tensor &layer : tokens)
            observer("lq_tokens", layer);
        output.latents = noise - model.dit.predict(noise, schedule::first_latent(chunk), tokens, sparse,
                                                   after.dit, observer);
    }
    const at::Tensor ready = frames.narrow(2, 0, count - schedule::look_ahead);
    output.condition = chunk == 0 ? ready : at::cat({state.look_ahead, ready}, 2);
    after.look_ahead = frames.narrow(2, count - schedule::look_ahead, schedule::look_ahead).clone();
    const auto turn = model.turn(Part::decoder);
    observer.enter("decoder");
    output.frames = model.decoder.decode(output.latents, output.condition, after.decoder, observer);
    state = std::move(after);
    return output;
}

} // namespace flashvsr
