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
// A first chunk and some more, of which the cold start is not most.
constexpr int64_t shortest_stride = 32;
// Of strides: they keep the latents of all segments aligned, which hold four frames each.
constexpr int64_t alignment = 4;
// How far from its regular place a border may be for the sake of a cut, as a part of a segment's length: what
// one worker may do more than another.
constexpr int64_t cut_distance_divisor = 8;
// How much shorter the first round is. Its workers wait until the frames of that round and of half another
// have come.
constexpr int64_t first_round_divisor = 4;

int64_t round_up(int64_t value, int64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

/// A stride at which no three segments share a frame, whatever cuts do to borders.
int64_t least_stride(int64_t overlap) {
    return round_up(std::max(shortest_stride, 2 * overlap), alignment);
}

/// Frames of the first round's segments.
int64_t first_length(int64_t longest, int64_t overlap) {
    const int64_t stride = (longest - overlap) / first_round_divisor / alignment * alignment;
    return std::max(stride, std::min(longest - overlap, least_stride(overlap))) + overlap;
}

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
        if (length_ == 0)
            return Segment{};
        return Segment{frame, frame + length_, fade, frame + length_ - overlap_, false};
    };
    if (!current)
        return segment(0);
    if (length_ == 0)
        return std::nullopt;
    const int64_t next = current->begin + length_ - overlap_;
    if (scene_cut && frame <= next && frame >= next - length_ / cut_window_divisor &&
        frame > current->begin + current->fade) {
        current->end = current->shared_from = frame;
        current->ends_at_cut = true;
        return segment(0);
    }
    return frame == next ? std::optional(segment(overlap_)) : std::nullopt;
}

RoundPlanner::RoundPlanner(int64_t length, int64_t overlap, int64_t workers)
    : longest_(length), length_(first_length(length, overlap)), overlap_(overlap), workers_(workers) {}

/// Frames from a segment's begin to the next one's, where the clip ends after `frames`.
int64_t RoundPlanner::stride(int64_t frames) const {
    if (frames >= frames_wanted())
        return length_ - overlap_;
    return std::max(round_up((frames - overlap_ + workers_ - 1) / workers_, alignment),
                    least_stride(overlap_));
}

std::optional<int64_t> RoundPlanner::cut_near(int64_t frame, int64_t distance) const {
    std::optional<int64_t> nearest;
    for (const int64_t cut : cuts_)
        if (std::abs(cut - frame) <= (nearest ? std::abs(*nearest - frame) - 1 : distance))
            nearest = cut;
    return nearest;
}

std::vector<Segment> RoundPlanner::plan(int64_t frames, bool ended) {
    const bool last = ended && frames < frames_wanted();
    const int64_t end = begin_ + frames, first = begin_, stride = this->stride(frames);
    std::vector<Segment> segments;
    for (int64_t i = 1; i <= workers_; i++) {
        const int64_t regular = first + i * stride;
        // A segment that ends the clip has more than the overlap of its own.
        const bool ends_clip =
            last && (i == workers_ || end - regular <= least_stride(overlap_) / 2 + overlap_);
        if (ends_clip) {
            segments.push_back({begin_, end, fade_, end, false});
            begin_ = end;
            fade_ = 0;
            break;
        }
        const std::optional<int64_t> cut = cut_near(regular, stride / cut_distance_divisor);
        const int64_t border = cut.value_or(regular);
        segments.push_back({begin_, cut ? border : border + overlap_, fade_, border, cut.has_value()});
        begin_ = border;
        fade_ = cut ? 0 : overlap_;
    }
    length_ = longest_;
    while (!cuts_.empty() && cuts_.front() <= begin_)
        cuts_.pop_front();
    return segments;
}

int64_t choose_segment_length(int64_t overlap, int64_t longest, int64_t bytes_per_frame, int64_t fixed_bytes,
                              int64_t free_bytes) {
    const int64_t affordable = std::max<int64_t>(0, std::min(free_bytes / 4, free_bytes / 2 - fixed_bytes)) /
                               std::max<int64_t>(1, bytes_per_frame),
                  stride = (std::min(longest, affordable) - overlap) / alignment * alignment;
    return std::max(stride, least_stride(overlap)) + overlap;
}

} // namespace flashvsr
