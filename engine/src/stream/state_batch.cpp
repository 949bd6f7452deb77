// SPDX-License-Identifier: LGPL-2.1-or-later
#include "stream/state_batch.h"

#include <ATen/ATen.h>

namespace flashvsr {

namespace {

/// Every tensor of the states, in one order; all have the batch as their first dimension.
std::vector<at::Tensor *> tensors(StreamState &state) {
    std::vector<at::Tensor *> all = {&state.projector.conv1_tail, &state.projector.conv2_tail,
                                     &state.look_ahead};
    for (KvCache &cache : state.dit.blocks) {
        all.push_back(&cache.key);
        all.push_back(&cache.value);
        all.push_back(&cache.pooled_key);
    }
    for (at::Tensor &memory : state.decoder.memory)
        all.push_back(&memory);
    return all;
}

} // namespace

StreamState join_states(std::span<const StreamState> states) {
    if (states.size() == 1)
        return states.front();
    std::vector<StreamState> sources(states.begin(), states.end());
    StreamState joined = states.front();
    const std::vector<at::Tensor *> to = tensors(joined);
    for (size_t i = 0; i < to.size(); i++) {
        if (!to[i]->defined())
            continue;
        std::vector<at::Tensor> parts;
        parts.reserve(sources.size());
        for (StreamState &source : sources)
            parts.push_back(*tensors(source)[i]);
        *to[i] = at::cat(parts, 0);
    }
    return joined;
}

StreamState slice_state(const StreamState &state, int64_t begin, int64_t count) {
    StreamState slice = state;
    for (at::Tensor *tensor : tensors(slice))
        if (tensor->defined() && tensor->size(0) != count)
            *tensor = tensor->narrow(0, begin, count);
    return slice;
}

StreamState state_on(const StreamState &state, at::Device device) {
    StreamState moved = state;
    std::vector<at::Tensor *> all = tensors(moved);
    all.insert(all.end(), {&moved.dit.rope_y, &moved.dit.rope_x, &moved.dit.local_mask});
    for (at::Tensor *tensor : all)
        if (tensor->defined())
            *tensor = tensor->to(device);
    return moved;
}

} // namespace flashvsr
