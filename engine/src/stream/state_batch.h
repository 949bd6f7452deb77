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

/// The same streams on another device.
StreamState state_on(const StreamState &state, at::Device device);

} // namespace flashvsr
