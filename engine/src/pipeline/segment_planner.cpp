// SPDX-License-Identifier: LGPL-2.1-or-later
#include "pipeline/segment_planner.h"

#include "error.h"
#include "stream/chunk_schedule.h"

#include <algorithm>
#include <cmath>

namespace flashvsr {

namespace {

// How far before its regular end a segment may end for the sake of a cut, as a part of its length.
constexpr int64_t cut_window_divisor = 4;
// Long enough that 25 frames of warm-up and the overlap are a small part, short enough to spread a short
// clip.
constexpr int64_t longest_segment = 256, shortest_steps = 4;

} // namespace

bool SceneDetector::is_cut(double difference) {
    const double score = std::min(difference, std::abs(difference - before_));
    before_ = difference;
    return score >= cut_score;
}

SegmentPlanner::SegmentPlanner(int64_t length, int64_t overlap) : length_(length), overlap_(overlap) {
    if (overlap < 0)
        fail(EINVAL, "overlap ", overlap, " is below 0");
    if (length < 0)
        fail(EINVAL, "segment ", length, " is below 0");
    if (length > 0 && length < std::max<int64_t>(1, 2 * overlap))
        fail(EINVAL, "segment ", length, " is less than two overlaps of ", overlap, " frames");
}

std::optional<Segment> SegmentPlanner::begin_at(int64_t frame, bool scene_cut, Segment *current) {
    const auto segment = [&](int64_t fade) {
        return Segment{frame, length_ > 0 ? frame + length_ : Segment::open_end, fade, false};
    };
    if (!current)
        return segment(0);
    if (length_ == 0)
        return std::nullopt;
    const int64_t next = current->begin + length_ - overlap_;
    if (scene_cut && frame <= next && frame >= next - length_ / cut_window_divisor &&
        frame > current->begin + current->fade) {
        current->end = frame;
        current->ends_at_cut = true;
        return segment(0);
    }
    return frame == next ? std::optional(segment(overlap_)) : std::nullopt;
}

int64_t choose_segment_length(int64_t overlap, int64_t workers, int64_t picture_bytes, int64_t free_bytes) {
    const int64_t budget = free_bytes / 4 / std::max<int64_t>(1, workers * picture_bytes);
    // Whole chunks, and a stride that is a multiple of four frames keeps the latents of all segments aligned.
    const int64_t shortest = std::max(2 * overlap, overlap + shortest_steps * schedule::frames_per_chunk);
    const int64_t stride =
        (std::clamp(budget, shortest, std::max(shortest, longest_segment)) - overlap) / 4 * 4;
    return std::max(stride, (overlap + 3) / 4 * 4) + overlap;
}

} // namespace flashvsr
