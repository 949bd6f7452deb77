// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/token_grid.h"

namespace flashvsr {

/// Rotary angles of a chunk whose first latent frame is at absolute position first_latent: pair j of an
/// axis with n real dimensions (44, 42, 42) turns by position * 10000^(-2j/n). Angles, cos and sin are
/// computed in double, so positions have no end.
RopeTable make_rope_table(const TokenGrid &grid, int64_t first_latent);

/// The time axis of such a table alone.
at::Tensor rope_times(int64_t frames, int64_t first_latent);

} // namespace flashvsr
