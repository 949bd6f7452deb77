// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "stream/chunk_step.h"

#include <span>

namespace flashvsr {

/// Streams that stand at the same chunk as one batch, in order.
StreamState join_states(std::span<const StreamState> states);

/// Streams begin .. begin+count-1 of a batch, as a batch of their own. They stay where they are in the
/// batch's memory, so that a batch can be taken apart where no memory is left.
StreamState slice_state(const StreamState &state, int64_t begin, int64_t count);

/// The same streams on another device; the host's memory is pinned. Waits until they are there.
StreamState state_on(const StreamState &state, at::Device device);

/// Streams that wait in host memory on the device, for a step after the first: of the rings of keys and
/// values only what that step reads. What is on the device already stays as it is.
StreamState state_for_step(const StreamState &waiting, at::Device device);

/// Streams back in host memory after that step. `waiting`, from where they came, gives its rings' memory up
/// to what is returned, but stays true until the next step.
StreamState state_after_step(const StreamState &stepped, const StreamState &waiting);

} // namespace flashvsr
