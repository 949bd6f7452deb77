// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cstdint>
#include <limits>
#include <optional>

namespace flashvsr {

/// Output frames begin .. end-1 of one stream that starts cold.
struct Segment {
    static constexpr int64_t open_end = std::numeric_limits<int64_t>::max() / 2;

    int64_t begin = 0, end = open_end;
    int64_t fade = 0;         ///< frames from begin on that it shares with the segment before
    bool ends_at_cut = false; ///< what comes after is another scene: not even look-ahead is taken from it
};

/// How FFmpeg measures scene changes: the mean absolute frame difference, or its change from frame to frame
/// where that is less, which motion that goes on keeps low.
class SceneDetector {
public:
    static constexpr double cut_score = 10; ///< percent, FFmpeg's default threshold

    /// @param difference mean absolute difference to the frame before, percent of white
    bool is_cut(double difference);

private:
    double before_ = 0;
};

/// Splits a frame sequence of unknown length into segments, frame by frame. A segment that ends near a scene
/// cut ends at it, with nothing shared. Not thread-safe.
class SegmentPlanner {
public:
    /// @param length  frames of a segment; 0: one endless segment
    /// @param overlap frames that neighbours share
    /// @throws Error EINVAL where a segment is shorter than two overlaps
    SegmentPlanner(int64_t length, int64_t overlap);

    /// Whether scene cuts matter, or there is but one segment.
    bool splits() const { return length_ > 0; }

    /// The next frame, counted from 0.
    /// @param[in,out] current the segment that began last; a cut may end it
    /// @return the segment that begins with this frame, if one does
    std::optional<Segment> begin_at(int64_t frame, bool scene_cut, Segment *current);

private:
    int64_t length_, overlap_;
};

/// Frames of a segment where the user names none: the memory of `workers` segments of finished pictures stays
/// under a quarter of what is free, and a segment is long against its overlap and its cold start.
int64_t choose_segment_length(int64_t overlap, int64_t workers, int64_t picture_bytes, int64_t free_bytes);

} // namespace flashvsr
