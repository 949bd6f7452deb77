// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "stream/chunk_step.h"

#include <span>

namespace flashvsr {

/// Streams that stand at the same chunk as one batch, in order.
StreamState join_states(std::span<const StreamState> states);

/// Streams begin .. begin+count-1 of a batch, as a batch of their own with its own memory.
StreamState slice_state(const StreamState &state, int64_t begin, int64_t count);

} // namespace flashvsr
