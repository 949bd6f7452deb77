// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cstdint>

namespace flashvsr {

/// Which frames and latents belong to chunk c of a stream. The first chunk takes 25
/// frames and gives 21; each later one takes 8 and gives 8, four frames behind.
namespace schedule {

constexpr int64_t first_frames_in = 25, first_frames_out = 21, frames_per_chunk = 8, look_ahead = 4;
constexpr int64_t first_latents = 6, latents_per_chunk = 2;

constexpr int64_t frames_in(int64_t chunk) {
    return chunk == 0 ? first_frames_in : frames_per_chunk;
}
constexpr int64_t frames_out(int64_t chunk) {
    return chunk == 0 ? first_frames_out : frames_per_chunk;
}
constexpr int64_t latents(int64_t chunk) {
    return chunk == 0 ? first_latents : latents_per_chunk;
}
constexpr int64_t first_latent(int64_t chunk) {
    return chunk == 0 ? 0 : first_latents + (chunk - 1) * latents_per_chunk;
}

/// Chunks whose output covers a clip of that many frames, at least one.
constexpr int64_t chunks_for(int64_t frames) {
    return frames <= first_frames_out
               ? 1
               : 1 + (frames - first_frames_out + frames_per_chunk - 1) / frames_per_chunk;
}

} // namespace schedule

} // namespace flashvsr
