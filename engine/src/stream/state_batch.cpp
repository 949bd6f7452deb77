// SPDX-License-Identifier: LGPL-2.1-or-later
#include "stream/state_batch.h"

#include "ops/device.h"

#include <ATen/ATen.h>

#include <optional>

namespace flashvsr {

namespace {

/// A tensor of a state that has the batch as its first dimension.
struct StatePart {
    at::Tensor *tensor;
    bool ring; ///< of keys or values, which alone are large
};

/// Every such tensor of the states, in one order.
std::vector<StatePart> parts_of(StreamState &state) {
    std::vector<StatePart> all = {{&state.projector.conv1_tail, false},
                                  {&state.projector.conv2_tail, false},
                                  {&state.look_ahead, false}};
    for (KvCache &cache : state.dit.blocks)
        all.insert(all.end(), {{&cache.key, true}, {&cache.value, true}, {&cache.pooled_key, false}});
    for (at::Tensor &memory : state.decoder.memory)
        all.push_back({&memory, false});
    return all;
}

} // namespace

StreamState join_states(std::span<const StreamState> states) {
    if (states.size() == 1)
        return states.front();
    std::vector<StreamState> sources(states.begin(), states.end());
    StreamState joined = states.front();
    const std::vector<StatePart> to = parts_of(joined);
    for (size_t i = 0; i < to.size(); i++) {
        if (!to[i].tensor->defined())
            continue;
        std::vector<at::Tensor> parts;
        parts.reserve(sources.size());
        for (StreamState &source : sources)
            parts.push_back(*parts_of(source)[i].tensor);
        *to[i].tensor = at::cat(parts, 0);
    }
    return joined;
}

StreamState slice_state(const StreamState &state, int64_t begin, int64_t count) {
    StreamState slice = state;
    for (const auto &[tensor, ring] : parts_of(slice))
        if (tensor->defined() && tensor->size(0) != count)
            *tensor = tensor->narrow(0, begin, count);
    return slice;
}

namespace {

constexpr int64_t slot_dim = 2;

/// Replace every part of a state that is not on the device by what `copy` makes of it and its place among the
/// parts, and wait for what was queued.
template <typename Copy> void move_parts(StreamState &state, const at::Device &device, const Copy &copy) {
    std::vector<StatePart> all = parts_of(state);
    for (at::Tensor *table : {&state.dit.rope_y, &state.dit.rope_x, &state.dit.local_mask})
        all.push_back({table, false});
    std::vector<at::Tensor> copies(all.size()); // until the copying is done, also where memory runs out
    std::optional<at::Device> gpu;
    const auto wait = [&] {
        if (gpu)
            synchronize_stream(*gpu);
    };
    try {
        for (size_t i = 0; i < all.size(); i++) {
            const at::Tensor &tensor = *all[i].tensor;
            if (!tensor.defined() || tensor.device() == device)
                continue;
            gpu = device.is_cpu() ? tensor.device() : device;
            copies[i] = all[i].ring ? copy(tensor, i) : queue_copy(tensor, device);
        }
    } catch (...) {
        wait();
        throw;
    }
    wait();
    for (size_t i = 0; i < all.size(); i++)
        if (copies[i].defined())
            *all[i].tensor = copies[i];
}

/// Windows of a ring's slot.
int64_t group_windows(const StreamState &state) {
    constexpr int64_t window_pixels = 128;
    const at::Tensor &frames = state.look_ahead;
    return frames.size(3) / window_pixels * (frames.size(4) / window_pixels);
}

} // namespace

StreamState state_on(const StreamState &state, at::Device device) {
    StreamState moved = state;
    move_parts(moved, device, [&](const at::Tensor &ring, size_t) { return queue_copy(ring, device); });
    return moved;
}

StreamState state_for_step(const StreamState &waiting, at::Device device) {
    StreamState moved = waiting;
    const int64_t slots = waiting.dit.slots_of_step(), written = waiting.dit.slot_to_write();
    move_parts(moved, device, [&](const at::Tensor &host, size_t) {
        const int64_t n = group_windows(waiting);
        if (host.size(slot_dim) < slots * n || !host.is_contiguous())
            return queue_copy(host, device);
        at::Tensor ring = empty_beside(host, device);
        const auto copy = [&](int64_t first, int64_t count) {
            queue_copy(ring.narrow(slot_dim, first * n, count * n),
                       host.narrow(slot_dim, first * n, count * n), slot_dim);
        };
        copy(0, written);
        copy(written + 1, slots - written - 1);
        return ring;
    });
    return moved;
}

StreamState state_after_step(const StreamState &stepped, const StreamState &waiting) {
    StreamState back = stepped, before = waiting;
    const std::vector<StatePart> parts = parts_of(before);
    const int64_t written = waiting.dit.slot_to_write(), n = group_windows(stepped);
    move_parts(back, at::kCPU, [&](const at::Tensor &ring, size_t i) {
        // Before the first step there were no blocks, and so none of their parts.
        const at::Tensor host = waiting.chunk > 0 ? *parts[i].tensor : at::Tensor();
        if (!host.defined() || !host.is_cpu() || !host.is_contiguous() || host.sizes() != ring.sizes())
            return queue_copy(ring, at::kCPU);
        queue_copy(host.narrow(slot_dim, written * n, n), ring.narrow(slot_dim, written * n, n), slot_dim);
        return host;
    });
    return back;
}

} // namespace flashvsr
