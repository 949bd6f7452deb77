// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "model/model.h"
#include "stream/chunk_schedule.h"

namespace flashvsr {

/// Everything a stream remembers between chunks; constant in size. A copy is a checkpoint until the
/// second step from it: a step writes ring slots that the state before it does not refer to (see DitState).
struct StreamState {
    int64_t chunk = 0; ///< chunks done
    LqProjectorState projector;
    DitState dit;
    TcDecoderState decoder;
    at::Tensor look_ahead; ///< (B, 3, 4, H, W) frames projected but not yet decoded
};

struct ChunkOutput {
    at::Tensor frames;    ///< (B, 3, 21 or 8, H, W), about [-1, 1], without colour fix
    at::Tensor condition; ///< the low-quality frames of the same indices, same shape
    at::Tensor latents;   ///< (B, 16, 6 or 2, H/8, W/8)
};

/// One model step: projector, transformer, decoder.
/// @param frames the stream's next 25 (first chunk) or 8 frames, (B, 3, T, H, W) in [-1, 1], H and W
/// multiples of 128
/// @param noise  (B, 16, 6 or 2, H/8, W/8)
/// @param state  where the stream stands; replaced on success only, so that a failed step can be run again
ChunkOutput run_chunk(const Model &model, const SparseOptions &sparse, const at::Tensor &frames,
                      const at::Tensor &noise, StreamState &state, const Observer &observer = {});

} // namespace flashvsr
