// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <optional>
#include <vector>

namespace flashvsr {

/// Output frames begin .. end-1 of one stream that starts cold.
struct Segment {
    static constexpr int64_t open_end = std::numeric_limits<int64_t>::max() / 2;

    int64_t begin = 0, end = open_end;
    int64_t fade = 0;          ///< frames from begin on that it shares with the segment before
    int64_t shared_from = end; ///< from here on it shares its frames with the next; end where it does not
    bool ends_at_cut = false;  ///< what comes after is another scene: not even look-ahead is taken from it
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

/// Splits a frame sequence of unknown length into rounds: a segment for each worker, all of a length, so that
/// workers of a speed end together. The first round is short, since workers wait for its frames, and the last
/// is what is left, in equal parts. The plan follows from the frames and that length, not from who was when
/// done. Not thread-safe.
class RoundPlanner {
public:
    /// @param length  frames of a segment at most, those at its ends that it shares included; more than two
    ///                overlaps
    /// @param overlap frames that neighbours share
    RoundPlanner(int64_t length, int64_t overlap, int64_t workers);

    /// The first frame of the next round.
    int64_t begin() const { return begin_; }

    /// Frames from begin() on that the next round is planned from, unless the clip has ended: more than it
    /// takes, so that no round is left with less than a part of a segment for each worker.
    int64_t frames_wanted() const { return (workers_ + 1) * length_; }

    /// A frame that begins a scene: the nearest one to a regular border becomes the border, and nothing is
    /// shared there. Frames come in order.
    void add_cut(int64_t frame) { cuts_.push_back(frame); }

    /// The next round.
    /// @param frames that have come from begin() on: frames_wanted() or more, or all that there are
    /// @param ended  no more will come
    std::vector<Segment> plan(int64_t frames, bool ended);

private:
    int64_t stride(int64_t frames) const;
    std::optional<int64_t> cut_near(int64_t frame, int64_t distance) const;

    int64_t longest_, length_, overlap_, workers_; ///< length_: of the next round
    int64_t begin_ = 0, fade_ = 0;
    std::deque<int64_t> cuts_; ///< from begin() on
};

/// Frames of a segment where the user names none: as many as are allowed and keep what is held for them under
/// a quarter of what is free, with all else under a half, and as many at least as make the overlap and the
/// cold start worth while.
/// @param bytes_per_frame of all that is held for each frame of a segment's length
/// @param fixed_bytes     of what is held however long segments are
int64_t choose_segment_length(int64_t overlap, int64_t longest, int64_t bytes_per_frame, int64_t fixed_bytes,
                              int64_t free_bytes);

} // namespace flashvsr
