// SPDX-License-Identifier: LGPL-2.1-or-later
#include "frame/picture_converter.h"
#include "pipeline/segment_planner.h"
#include "pipeline_support.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <random>
#include <stop_token>
#include <thread>

namespace flashvsr {
namespace {

size_t workers_for(MultiGpu mode) {
    return mode == MultiGpu::off ? 1 : 2;
}

using test::difference;

constexpr Size input_size = {8, 6};

std::vector<Segment> plan(int64_t frames, int64_t length, int64_t overlap,
                          const std::vector<int64_t> &cuts = {}) {
    SegmentPlanner planner(length, overlap);
    std::vector<Segment> segments;
    for (int64_t i = 0; i < frames; i++) {
        const bool cut = std::find(cuts.begin(), cuts.end(), i) != cuts.end();
        if (const auto begun = planner.begin_at(i, cut, segments.empty() ? nullptr : &segments.back()))
            segments.push_back(*begun);
    }
    if (segments.size() > 1 && segments.back().fade > 0 && frames <= segments[segments.size() - 2].end)
        segments.pop_back();
    for (Segment &segment : segments)
        segment.end = std::min(segment.end, frames);
    return segments;
}

/// Output frame i comes from one segment, or is mixed of two that follow each other with weights that sum
/// to 1.
void expect_cover(const std::vector<Segment> &segments, int64_t frames, int64_t overlap) {
    ASSERT_EQ(segments.front().begin, 0);
    ASSERT_EQ(segments.front().fade, 0);
    ASSERT_EQ(segments.back().end, frames);
    for (size_t i = 1; i < segments.size(); i++) {
        ASSERT_EQ(segments[i].begin, segments[i - 1].end - overlap);
        ASSERT_EQ(segments[i].fade, overlap);
        ASSERT_GT(segments[i].end, segments[i - 1].end);
        if (i > 1) {
            ASSERT_GE(segments[i].begin, segments[i - 2].end) << "three segments at one frame";
        }
    }
}

TEST(SegmentPlanner, NeighboursShareTheOverlapAndNothingIsLeftOut) {
    for (const int64_t overlap : {0, 1, 10, 25})
        for (const int64_t length : {std::max<int64_t>(1, 2 * overlap), 2 * overlap + 1, 2 * overlap + 8,
                                     2 * overlap + 30, int64_t{100}, int64_t{256}})
            for (int64_t frames = 1; frames <= 300; frames++) {
                SCOPED_TRACE(concat(frames, " frames, segments of ", length, " that share ", overlap));
                ASSERT_NO_FATAL_FAILURE(expect_cover(plan(frames, length, overlap), frames, overlap));
            }
}

TEST(SegmentPlanner, EndsAtASceneCutThatIsNear) {
    const std::vector<Segment> segments = plan(200, 60, 10, {45, 60});
    EXPECT_EQ(segments[0].end, 45);
    EXPECT_TRUE(segments[0].ends_at_cut);
    EXPECT_EQ(segments[1].begin, 45);
    EXPECT_EQ(segments[1].fade, 0);
    EXPECT_EQ(segments[1].end, 105) << "a cut early in a segment changes nothing";
}

TEST(SegmentPlanner, RefusesSegmentsShorterThanTwoOverlaps) {
    EXPECT_THROW(SegmentPlanner(19, 10), Error);
    EXPECT_NO_THROW(SegmentPlanner(20, 10));
}

TEST(SegmentPlanner, ChosenLengthsKeepLatentsAlignedAndFollowMemory) {
    for (const int64_t overlap : {0, 1, 10, 25}) {
        int64_t before = 1000;
        for (const int64_t free_gib : {1000, 100, 10, 1, 0}) {
            const int64_t length = choose_segment_length(overlap, 512, int64_t{3} << 26, 0, free_gib << 30);
            EXPECT_EQ((length - overlap) % 4, 0);
            EXPECT_GT(length, 2 * overlap);
            EXPECT_LE(length, before);
            before = length;
        }
    }
    const auto length = [](int64_t fixed_bytes) {
        return choose_segment_length(10, 512, int64_t{1} << 26, fixed_bytes, int64_t{100} << 30);
    };
    EXPECT_EQ(length(0), length(int64_t{25} << 30));
    EXPECT_EQ(length(0) - length(int64_t{35} << 30), 160);
    EXPECT_EQ(length(int64_t{50} << 30), choose_segment_length(10, 512, 1, 0, 0));
}

/// The segments of a clip, planned in rounds as frames come.
std::vector<Segment> plan_rounds(int64_t frames, int64_t length, int64_t overlap, int64_t workers,
                                 const std::vector<int64_t> &cuts = {}) {
    RoundPlanner planner(length, overlap, workers);
    std::vector<Segment> segments;
    const auto add = [&](int64_t seen, bool ended) {
        for (const Segment &segment : planner.plan(seen - planner.begin(), ended))
            segments.push_back(segment);
    };
    for (int64_t i = 0; i < frames; i++) {
        if (std::find(cuts.begin(), cuts.end(), i) != cuts.end())
            planner.add_cut(i);
        if (i + 1 - planner.begin() >= planner.frames_wanted())
            add(i + 1, false);
    }
    while (planner.begin() < frames)
        add(frames, true);
    return segments;
}

TEST(RoundPlanner, NeighboursShareTheOverlapAndNothingIsLeftOut) {
    for (const int64_t workers : {2, 3, 8})
        for (const int64_t overlap : {0, 1, 10, 25})
            for (const int64_t length :
                 {choose_segment_length(overlap, 0, 1, 0, 0), overlap + 64, overlap + 200})
                for (int64_t frames = 1; frames <= 1000; frames++) {
                    SCOPED_TRACE(concat(frames, " frames, ", workers, " workers, segments of ", length,
                                        " that share ", overlap));
                    const std::vector<Segment> segments = plan_rounds(frames, length, overlap, workers);
                    ASSERT_NO_FATAL_FAILURE(expect_cover(segments, frames, overlap));
                    for (const Segment &segment : segments)
                        ASSERT_EQ(segment.shared_from,
                                  segment.end == frames ? frames : segment.end - overlap);
                }
}

/// Segments costs: its frames, and about eight for the cold start. Workers take them in turn.
TEST(RoundPlanner, WorkersEndTogether) {
    constexpr int64_t overlap = 10, cold_start = 8;
    for (const int64_t workers : {2, 4, 8})
        for (int64_t frames = workers * 150; frames <= 20000; frames += 37) {
            std::vector<int64_t> work(workers);
            for (const Segment &segment : plan_rounds(frames, 1022, overlap, workers))
                *std::min_element(work.begin(), work.end()) += segment.end - segment.begin + cold_start;
            const int64_t longest = *std::max_element(work.begin(), work.end());
            EXPECT_LE(static_cast<double>(longest * workers),
                      1.15 * static_cast<double>(frames) + 4 * workers)
                << frames << " frames, " << workers << " workers";
        }
}

TEST(RoundPlanner, ACutThatIsNearBecomesTheBorder) {
    // Two parts of 100 frames each would meet at 96 or so; the cut at 104 is nearer than the one at 85.
    const std::vector<Segment> segments = plan_rounds(200, 1022, 10, 2, {20, 85, 104});
    ASSERT_EQ(segments.size(), 2U);
    EXPECT_EQ(segments[0].end, 104);
    EXPECT_TRUE(segments[0].ends_at_cut);
    EXPECT_EQ(segments[1].begin, 104);
    EXPECT_EQ(segments[1].fade, 0);
    EXPECT_EQ(segments[1].end, 200);
    // Whatever the cuts, every frame has its place, and no three segments meet.
    std::mt19937 random(5);
    for (int round = 0; round < 200; round++) {
        const auto frames = static_cast<int64_t>(1 + random() % 1500),
                   workers = static_cast<int64_t>(2 + round % 3);
        std::vector<int64_t> cuts;
        for (int64_t i = 1; i < frames; i++)
            if (random() % 40 == 0)
                cuts.push_back(i);
        const std::vector<Segment> planned = plan_rounds(frames, 74, 10, workers, cuts);
        ASSERT_EQ(planned.front().begin, 0);
        ASSERT_EQ(planned.back().end, frames);
        for (size_t i = 1; i < planned.size(); i++) {
            ASSERT_EQ(planned[i].begin, planned[i - 1].end - planned[i].fade);
            ASSERT_EQ(planned[i].fade, planned[i - 1].ends_at_cut ? 0 : 10);
            ASSERT_GT(planned[i].end, planned[i - 1].end);
            ASSERT_TRUE(i < 2 || planned[i].begin >= planned[i - 2].end);
        }
    }
}

/// What segments are to give: each frame its own segment's stream, the overlaps mixed linearly.
std::vector<at::Tensor> expected_segments(const PipelineOptions &options,
                                          const std::vector<PicturePtr> &pictures,
                                          const std::vector<Segment> &segments) {
    std::vector<at::Tensor> all(pictures.size());
    for (const Segment &segment : segments) {
        const auto frames = static_cast<int64_t>(pictures.size());
        const int64_t read =
            segment.ends_at_cut ? segment.end : std::min(frames, segment.end + schedule::look_ahead);
        const std::vector<at::Tensor> own =
            test::run_stream(options.stream, pictures, segment.begin, read, segment.end - segment.begin);
        for (int64_t i = segment.begin; i < segment.end; i++) {
            const at::Tensor &pixels = own[i - segment.begin];
            const double weight =
                static_cast<double>(i - segment.begin + 1) / static_cast<double>(segment.fade + 1);
            all[i] = i < segment.begin + segment.fade ? all[i] * (1 - weight) + pixels * weight : pixels;
        }
    }
    return all;
}

void expect_segments(const std::vector<at::Tensor> &got, const std::vector<at::Tensor> &expected,
                     const std::vector<Segment> &segments) {
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); i++) {
        const auto frame = static_cast<int64_t>(i);
        const bool mixed = std::any_of(segments.begin(), segments.end(), [&](const Segment &s) {
            return frame >= s.begin && frame < s.begin + s.fade;
        });
        if (mixed)
            EXPECT_LE(difference(got[i], expected[i]), 1e-6) << "frame " << i;
        else
            EXPECT_TRUE(at::equal(got[i], expected[i])) << "frame " << i;
    }
}

TEST(SegmentPipeline, EveryFrameIsItsSegmentsOrTheLinearMix) {
    const c10::InferenceMode guard;
    const Log log;
    for (const auto &[frames, length, overlap, workers] :
         {std::tuple<int64_t, int64_t, int64_t, size_t>{75, 30, 10, 2},
          {75, 30, 0, 3},
          {60, 21, 1, 2},
          {130, 60, 25, 3},
          {31, 30, 10, 2},
          {30, 30, 10, 2},
          {20, 30, 10, 3}}) {
        PipelineOptions options;
        options.stream = test::stream_options(input_size);
        options.multi_gpu = MultiGpu::frames;
        options.overlap = overlap;
        options.segment = length;
        const std::vector<PicturePtr> pictures = test::moving_pictures(input_size, frames);
        const std::vector<Segment> segments = plan(frames, length, overlap);
        SCOPED_TRACE(concat(frames, " frames, segments of ", length, " overlap ", overlap));
        expect_segments(test::run_pipeline(options, workers, pictures, log),
                        expected_segments(options, pictures, segments), segments);
    }
}

TEST(SegmentPipeline, CutsAtScenesNeedNoMix) {
    const c10::InferenceMode guard;
    const Log log;
    PipelineOptions options;
    options.stream = test::stream_options(input_size);
    options.multi_gpu = MultiGpu::frames;
    options.segment = 40;
    const std::vector<PicturePtr> pictures = test::moving_pictures(input_size, 90, {26});
    const std::vector<Segment> segments = plan(90, 40, 10, {26});
    ASSERT_EQ(segments[0].end, 26);
    expect_segments(test::run_pipeline(options, 2, pictures, log),
                    expected_segments(options, pictures, segments), segments);
}

TEST(SegmentPipeline, SegmentsThatAreChosenAreThoseOfTheRounds) {
    const c10::InferenceMode guard;
    const Log log;
    // Lengths such that there are no whole round, one, and two.
    for (const auto &[frames, workers, cuts] : {std::tuple<int64_t, size_t, std::vector<int64_t>>{20, 2, {}},
                                                {90, 2, {}},
                                                {100, 3, {40}},
                                                {150, 2, {46}},
                                                {240, 2, {}}}) {
        PipelineOptions options;
        options.stream = test::stream_options(input_size);
        options.multi_gpu = MultiGpu::frames;
        options.longest_segment = 50;
        const std::vector<PicturePtr> pictures = test::moving_pictures(input_size, frames, cuts);
        const std::vector<Segment> segments =
            plan_rounds(frames, 50, options.overlap, static_cast<int64_t>(workers), cuts);
        SCOPED_TRACE(concat(frames, " frames on ", workers, " workers in ", segments.size(), " segments"));
        expect_segments(test::run_pipeline(options, workers, pictures, log),
                        expected_segments(options, pictures, segments), segments);
    }
}

TEST(SegmentPipeline, EveryLengthComesBackWholeFromSeveralWorkers) {
    const c10::InferenceMode guard;
    const Log log;
    PipelineOptions options;
    options.stream = test::stream_options(input_size);
    options.multi_gpu = MultiGpu::frames;
    for (const int64_t segment : {22, 0}) {
        options.segment = segment;
        for (int64_t frames = 0; frames <= 60; frames += 3)
            EXPECT_EQ(test::run_pipeline(options, 2, test::moving_pictures(input_size, frames), log).size(),
                      static_cast<size_t>(frames));
    }
}

// Segments much shorter than what a worker reads ahead among them.
TEST(SegmentPipeline, TakesNoMoreThanItsWorkersNeed) {
    const c10::InferenceMode guard;
    const std::vector<PicturePtr> pictures = test::moving_pictures(input_size, 600);
    const std::vector<std::pair<int64_t, int64_t>> settings = {{0, 1},   {0, 7},   {1, 9},   {10, 20},
                                                               {10, 40}, {25, 57}, {10, 100}};
    for (const auto &[overlap, segment] : settings)
        for (const size_t workers : {1U, 2U, 3U}) {
            SCOPED_TRACE(concat("overlap ", overlap, ", segment ", segment, ", ", workers, " workers"));
            PipelineOptions options;
            options.stream = test::stream_options(input_size);
            options.multi_gpu = workers > 1 ? MultiGpu::frames : MultiGpu::off;
            options.overlap = overlap;
            options.segment = segment;
            test::Gate gate;
            options.before_step = [&](size_t, int64_t) { gate.wait(); };
            const Log log;
            const auto pipeline = make_pipeline(options, test::cpu_workers(workers), log);
            const test::Gate::Opener opener{gate};
            const int64_t most = static_cast<int64_t>(workers) * (segment + schedule::look_ahead) + segment +
                                 std::max(schedule::first_frames_in + schedule::frames_per_chunk,
                                          overlap + schedule::look_ahead + 1);
            size_t sent = 0;
            // Full for good, that is, once each worker has a segment.
            for (int looks = 0; looks < 10; looks++)
                if (pipeline->full()) {
                    std::this_thread::sleep_for(std::chrono::milliseconds(2));
                } else {
                    looks = 0;
                    pipeline->send(pictures[sent++]);
                    ASSERT_LE(sent, static_cast<size_t>(most));
                }
            gate.await(static_cast<int>(workers));
            gate.open();
            const std::vector<PicturePtr> clip(pictures.begin(), pictures.begin() + most);
            EXPECT_EQ(test::run_pipeline(*pipeline, clip, sent).size(), clip.size());
        }
}

TEST(SegmentPipeline, TakesThePictureThatItAskedForAlthoughAWorkerFailsMeanwhile) {
    const c10::InferenceMode guard;
    const std::vector<PicturePtr> pictures = test::moving_pictures(input_size, 230);
    PipelineOptions options;
    options.stream = test::stream_options(input_size);
    options.multi_gpu = MultiGpu::frames;
    options.segment = 100;
    const auto expected = test::run_pipeline(options, 2, pictures, Log());

    test::Gate gate;
    std::promise<void> failed;
    const Log log([&](LogLevel level, const std::string &) {
        if (level == LogLevel::warning)
            failed.set_value();
    });
    options.before_step = [&](size_t, int64_t) {
        if (gate.wait() == 1)
            fail(EIO, "injected");
    };
    const auto pipeline = make_pipeline(options, test::cpu_workers(2), log);
    const test::Gate::Opener opener{gate};
    // The second segment has begun with enough for a start.
    size_t sent = 0;
    while (sent < 140)
        pipeline->send(pictures[sent++]);
    gate.await(2);
    OutputPicture picture;
    ASSERT_EQ(pipeline->receive(picture), Pipeline::Received::send_more);
    gate.release(1);
    failed.get_future().wait();
    ASSERT_FALSE(pipeline->full());
    pipeline->send(pictures[sent++]);
    gate.open();
    const auto got = test::run_pipeline(*pipeline, pictures, sent);
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); i++)
        ASSERT_TRUE(at::equal(got[i], expected[i])) << "frame " << i;
}

TEST(SegmentPipeline, OneEndlessSegmentEqualsItsStream) {
    const c10::InferenceMode guard;
    const Log log;
    PipelineOptions options;
    options.stream = test::stream_options(input_size);
    for (const int64_t frames : {1, 20, 21, 22, 25, 29, 61}) {
        const std::vector<PicturePtr> pictures = test::moving_pictures(input_size, frames);
        const auto got = test::run_pipeline(options, 1, pictures, log);
        const auto expected = test::run_stream(options.stream, pictures, 0, frames, frames);
        ASSERT_EQ(got.size(), expected.size());
        for (size_t i = 0; i < got.size(); i++)
            EXPECT_TRUE(at::equal(got[i], expected[i])) << "frame " << i;
    }
}

/// Packed pictures where they are told to, but pixels where segments are mixed.
TEST(Pictures, ComeInTheFormatThatTheirPlaceHas) {
    const std::vector<PicturePtr> clip = test::moving_pictures({32, 32}, 30);
    const Log log;
    PipelineOptions options;
    options.stream = test::stream_options({32, 32});
    const std::vector<at::Tensor> pixels = test::run_pipeline(options, 1, clip, log);
    const Size size = options.stream.output;
    const FlashVSRYuv bt709{0.2126, 0.0722, 0, 1, 1, 0, 128, 0, 0};
    const PictureFormat yuv{FLASHVSR_PIXEL_FORMAT_YUV, 8, bt709}, rgb{FLASHVSR_PIXEL_FORMAT_RGB, 10, {}};
    options.stream.format_at = [&](int64_t place) { return std::optional(place < 20 ? rgb : yuv); };
    for (const MultiGpu mode : {MultiGpu::off, MultiGpu::tiles}) {
        options.multi_gpu = mode;
        const std::vector<at::Tensor> packed = test::run_pipeline(options, workers_for(mode), clip, log);
        ASSERT_EQ(packed.size(), clip.size());
        for (size_t i = 0; i < packed.size(); i++) {
            const PictureFormat &format = i < 20 ? rgb : yuv;
            const at::Tensor expected = at::empty({picture_bytes(format, size)}, at::kByte);
            PictureConverter(format, size, at::kCPU).from_pixels(pixels[i], expected);
            EXPECT_TRUE(at::equal(packed[i].narrow(0, 0, expected.numel()), expected)) << i;
        }
    }
}

/// Bytes and words in turns, of odd sizes: every picture begins where words may.
TEST(Pictures, OfBytesAndOfWordsComeInOneChunk) {
    const std::vector<PicturePtr> clip = test::moving_pictures({33, 31}, 21);
    const Log log;
    PipelineOptions options;
    options.stream = test::stream_options({33, 31}, 1);
    const Size size = options.stream.output;
    ASSERT_EQ(size.width * size.height % 2, 1);
    const FlashVSRYuv quarter{0.2126, 0.0722, 0, 2, 2, 0, 128, 0, 0};
    const PictureFormat rgb{FLASHVSR_PIXEL_FORMAT_RGB, 8, {}}, yuv{FLASHVSR_PIXEL_FORMAT_YUV, 10, quarter};
    ASSERT_LT(picture_bytes(yuv, size), picture_bytes(rgb, size));
    options.stream.format_at = [&](int64_t place) { return std::optional(place % 2 == 0 ? rgb : yuv); };
    const std::vector<at::Tensor> packed = test::run_pipeline(options, 1, clip, log);
    options.stream.format_at = nullptr;
    const std::vector<at::Tensor> pixels = test::run_pipeline(options, 1, clip, log);
    ASSERT_EQ(packed.size(), clip.size());
    for (size_t i = 0; i < packed.size(); i++) {
        const PictureFormat &format = i % 2 == 0 ? rgb : yuv;
        const at::Tensor expected = at::empty({picture_bytes(format, size)}, at::kByte);
        PictureConverter(format, size, at::kCPU).from_pixels(pixels[i], expected);
        EXPECT_TRUE(at::equal(packed[i].narrow(0, 0, expected.numel()), expected)) << i;
    }
}

/// Packed pictures, but pixels in the chunks in which segments are mixed.
TEST(Pictures, OfSegmentsAreMixedBeforeTheyArePacked) {
    constexpr int64_t frames = 90;
    const std::vector<PicturePtr> clip = test::moving_pictures({32, 32}, frames);
    const Log log;
    PipelineOptions options;
    options.stream = test::stream_options({32, 32});
    options.multi_gpu = MultiGpu::frames;
    const std::vector<at::Tensor> pixels = test::run_pipeline(options, 2, clip, log);
    const Size size = options.stream.output;
    const PictureFormat rgb{FLASHVSR_PIXEL_FORMAT_RGB, 10, {}};
    options.stream.format_at = [&](int64_t) { return std::optional(rgb); };
    const std::vector<at::Tensor> mixed = test::run_pipeline(options, 2, clip, log);
    ASSERT_EQ(mixed.size(), clip.size());
    const std::vector<Segment> segments = plan_rounds(frames, 1022, options.overlap, 2);
    ASSERT_EQ(segments.size(), 2U);
    int64_t packed = 0;
    for (int64_t i = 0; i < frames; i++) {
        if (mixed[i].scalar_type() == at::kFloat) {
            EXPECT_TRUE(at::equal(mixed[i], pixels[i])) << i;
            continue;
        }
        EXPECT_TRUE(i < segments[1].begin || i >= segments[0].end) << i;
        const at::Tensor expected = at::empty({picture_bytes(rgb, size)}, at::kByte);
        PictureConverter(rgb, size, at::kCPU).from_pixels(pixels[i], expected);
        EXPECT_TRUE(at::equal(mixed[i], expected)) << i;
        packed++;
    }
    EXPECT_GE(packed, 37) << "the chunks outside the overlap";
}

TEST(Faults, WhenNoWorkerIsLeftTheErrorComesOut) {
    const Log log;
    for (const MultiGpu mode : {MultiGpu::off, MultiGpu::frames, MultiGpu::tiles}) {
        PipelineOptions options;
        options.stream = test::stream_options(input_size);
        options.multi_gpu = mode;
        options.before_step = [](size_t, int64_t step) {
            if (step == 1)
                fail(ENOMEM, "injected");
        };
        try {
            test::run_pipeline(options, workers_for(mode), test::moving_pictures(input_size, 300), log);
            FAIL() << "no error came out";
        } catch (const Error &error) {
            EXPECT_EQ(error.code(), ENOMEM);
            EXPECT_STREQ(error.what(), "injected");
        }
    }
}

// FLASHVSR_TEST_SCHEDULES=FIRST-END: the schedules of these numbers, END left out.
TEST(Schedules, RandomWorkerSpeedsGiveTheSameFrames) {
    const c10::InferenceMode guard;
    const Log log;
    const std::vector<PicturePtr> pictures = test::moving_pictures(input_size, 60);
    PipelineOptions options;
    options.stream = test::stream_options(input_size);
    options.multi_gpu = MultiGpu::frames;
    options.segment = 22;
    options.overlap = 4;
    const auto expected = test::run_pipeline(options, 2, pictures, log);
    int first = 0, end = 20;
    const char *asked = std::getenv("FLASHVSR_TEST_SCHEDULES");
    if (asked != nullptr) {
        ASSERT_EQ(std::sscanf(asked, "%d-%d", &first, &end), 2) << asked;
    }
    for (int round = first; round < end; round++) {
        options.before_step = [round](size_t worker, int64_t step) {
            std::mt19937 random(static_cast<unsigned>(round * 1000 + static_cast<int>(worker) * 100 + step));
            std::this_thread::sleep_for(std::chrono::microseconds(random() % 20000));
        };
        const auto got = test::run_pipeline(options, 2 + round % 2, pictures, log);
        ASSERT_EQ(got.size(), expected.size());
        for (size_t i = 0; i < got.size(); i++)
            ASSERT_TRUE(at::equal(got[i], expected[i])) << "round " << round << " frame " << i;
    }
}

TEST(TilePipeline, AnyNumberOfWorkersGivesTheSameBits) {
    const c10::InferenceMode guard;
    const Log log;
    const Size size = {70, 40};
    PipelineOptions options;
    options.stream = test::stream_options(size);
    options.stream.tile = 128;
    options.stream.tile_overlap = 16;
    const std::vector<PicturePtr> pictures = test::moving_pictures(size, 30);
    for (const int64_t batch : {1, 2}) {
        options.stream.batch.batch = batch;
        options.multi_gpu = MultiGpu::off;
        const auto expected = test::run_pipeline(options, 1, pictures, log);
        options.multi_gpu = MultiGpu::tiles;
        for (const size_t workers : {2U, 3U}) {
            const auto got = test::run_pipeline(options, workers, pictures, log);
            ASSERT_EQ(got.size(), expected.size());
            for (size_t i = 0; i < got.size(); i++)
                ASSERT_TRUE(at::equal(got[i], expected[i])) << workers << " workers, frame " << i;
        }
    }
}

TEST(TileBatches, BatchSizeChangesNothingButRounding) {
    const c10::InferenceMode guard;
    const Log log;
    const Size size = {70, 40};
    PipelineOptions options;
    options.stream = test::stream_options(size);
    options.stream.tile = 128;
    options.stream.tile_overlap = 16;
    const std::vector<PicturePtr> pictures = test::moving_pictures(size, 30);
    const auto expected = test::run_pipeline(options, 1, pictures, log);
    for (const int64_t batch : {2, 3, 8}) {
        options.stream.batch.batch = batch;
        const auto got = test::run_pipeline(options, 1, pictures, log);
        for (size_t i = 0; i < got.size(); i++)
            EXPECT_LE(difference(got[i], expected[i]), 2e-4) << "batch " << batch << " frame " << i;
    }
}

/// Memory is looked at again after the fifth batch. Where that fails, the batch has gone through: the step
/// that is repeated goes on with the one after it.
TEST(TileBatches, ABatchThatWentThroughIsNotRunAgain) {
    const c10::InferenceMode guard;
    const Log log;
    StreamOptions options = test::stream_options({160, 24});
    options.tile = 128;
    options.tile_overlap = 16;
    options.batch.adaptive = true;
    const std::vector<Tile> grid = stream_grid(options);
    ASSERT_EQ(grid.size(), 6U);
    bool fails = false;
    const auto memory = [&] {
        if (fails)
            fail(EIO, "the memory cannot be asked for");
        return DeviceMemory{0, int64_t{1} << 40};
    };
    const auto batches = [&] {
        return TileBatches(test::miniature_model(), options.sparse, grid, 0, grid.size(),
                           make_batch_planner(options, grid, *test::miniature_model(), memory, log), false);
    };
    ChunkPictures pictures(options);
    std::vector<at::Tensor> frames;
    for (const PicturePtr &picture : test::moving_pictures(options.input, 33))
        frames.push_back(picture->to_tensor());
    const std::span<const at::Tensor> all = frames;
    const PictureChunk first = pictures.begin(all.first(25)), second = pictures.begin(all.subspan(25));

    TileBatches undisturbed = batches(), disturbed = batches();
    std::vector<TileOutput> expected, got;
    const auto keep_in = [](std::vector<TileOutput> &outputs) {
        return [&outputs](const TileOutput &output) { outputs.push_back(output); };
    };
    undisturbed.step(first, keep_in(expected));
    fails = true;
    EXPECT_THROW(disturbed.step(first, keep_in(got)), Error);
    EXPECT_EQ(got.size(), 5U);
    fails = false;
    disturbed.step(first, keep_in(got));
    undisturbed.step(second, keep_in(expected));
    disturbed.step(second, keep_in(got));
    ASSERT_EQ(got.size(), 12U);
    ASSERT_EQ(expected.size(), 12U);
    for (size_t i = 0; i < got.size(); i++) {
        EXPECT_EQ(got[i].first, expected[i].first);
        EXPECT_TRUE(at::equal(got[i].frames, expected[i].frames)) << i;
    }
}

/// The batches of three chunks of four tiles, where memory has room for one tile during the first chunk and
/// for all from then on.
std::map<int64_t, int64_t> batches_as_memory_grows(bool aside) {
    const c10::InferenceMode guard;
    const Log log;
    StreamOptions options = test::stream_options({72, 24});
    options.tile = 128;
    options.tile_overlap = 16;
    options.states_aside = aside;
    options.batch.adaptive = true;
    int64_t free_bytes = BatchPlanner::margin_bytes;
    FrameStream stream(
        test::miniature_model(), options,
        [&] {
            return DeviceMemory{free_bytes, int64_t{1} << 40};
        },
        log);
    const std::vector<PicturePtr> pictures = test::moving_pictures(options.input, 41);
    for (size_t i = 0; i < pictures.size(); free_bytes = int64_t{1} << 40) {
        std::vector<at::Tensor> frames;
        while (static_cast<int64_t>(frames.size()) < stream.frames_wanted())
            frames.push_back(pictures[i++]->to_tensor());
        stream.step(frames);
    }
    return stream.planner().take_record().batches;
}

TEST(TileBatches, GrowWithMemoryUnlessTheirStatesWaitInHostMemory) {
    EXPECT_EQ(batches_as_memory_grows(false), (std::map<int64_t, int64_t>{{1, 5}, {3, 1}, {4, 1}}));
    EXPECT_EQ(batches_as_memory_grows(true), (std::map<int64_t, int64_t>{{1, 12}}));
}

/// A model like miniature_model() whose parts take turns, as on a device that holds one of them.
std::shared_ptr<const Model> model_in_turns() {
    return std::make_shared<const Model>(random_weights(miniature_shape(), at::kFloat, 7), Placement{}, true);
}

/// How many of the tensors have data.
int64_t present(const std::vector<at::Tensor> &tensors) {
    return std::count_if(tensors.begin(), tensors.end(), [](const at::Tensor &tensor) {
        return tensor.defined() && tensor.storage().data() != nullptr;
    });
}

/// Pictures of a clip, a chunk each, by a stream of tiles on that model.
std::vector<at::Tensor> run_tiles(const std::shared_ptr<const Model> &model,
                                  const std::vector<PicturePtr> &pictures, const Observer &observer = {}) {
    const c10::InferenceMode guard;
    const Log log;
    StreamOptions options = test::stream_options({40, 24});
    options.tile = 128;
    options.tile_overlap = 16;
    options.batch.batch = 2;
    FrameStream stream(model, options, host_memory, log);
    std::vector<at::Tensor> out;
    for (size_t i = 0; i < pictures.size();) {
        std::vector<at::Tensor> frames;
        while (static_cast<int64_t>(frames.size()) < schedule::frames_in(static_cast<int64_t>(out.size())))
            frames.push_back(pictures[i++]->to_tensor());
        out.push_back(stream.step(frames, observer).data);
    }
    return out;
}

TEST(Turns, OnePartsWeightsAreThereAtATime) {
    const c10::InferenceMode guard;
    const auto model = model_in_turns();
    const std::vector<at::Tensor> dit = model->dit.weights(), projector = model->lq_projector.weights(),
                                  decoder = model->decoder.weights();
    EXPECT_EQ(present(dit) + present(projector) + present(decoder), 0);
    EXPECT_GT(model->turn_bytes().transformer, 0);
    EXPECT_GT(model->turn_bytes().decoder, 0);

    int turns = 0;
    Observer observer;
    observer.part = [&](std::string_view name) {
        const bool transformer = name == "projector";
        if (!transformer && name != "decoder")
            return;
        turns++;
        EXPECT_EQ(present(dit), transformer ? static_cast<int64_t>(dit.size()) : 0) << name;
        EXPECT_EQ(present(projector), transformer ? static_cast<int64_t>(projector.size()) : 0) << name;
        EXPECT_EQ(present(decoder) > 0, !transformer) << name;
    };
    const std::vector<PicturePtr> pictures = test::moving_pictures({40, 24}, 33);
    const auto got = run_tiles(model, pictures, observer);
    EXPECT_EQ(turns, 2 * 2 * 2) << "two chunks, two parts, three tiles in batches of two";
    const auto expected = run_tiles(test::miniature_model(), pictures);
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); i++)
        EXPECT_TRUE(at::equal(got[i], expected[i])) << "chunk " << i;
}

TEST(Turns, StreamsThatShareTheModelWaitForEachOther) {
    const auto model = model_in_turns();
    const std::vector<PicturePtr> pictures = test::moving_pictures({40, 24}, 33);
    const auto expected = run_tiles(test::miniature_model(), pictures);
    std::vector<std::vector<at::Tensor>> got(3);
    {
        std::vector<std::jthread> threads;
        for (auto &own : got)
            threads.emplace_back([&] { own = run_tiles(model, pictures); });
    }
    for (const auto &own : got) {
        ASSERT_EQ(own.size(), expected.size());
        for (size_t i = 0; i < own.size(); i++)
            EXPECT_TRUE(at::equal(own[i], expected[i])) << "chunk " << i;
    }
}

TEST(Turns, WithoutThemNothingIsMoved) {
    const auto model = test::miniature_model();
    EXPECT_EQ(model->turn_bytes().transformer + model->turn_bytes().decoder, 0);
    const auto one = model->turn(Part::transformer), other = model->turn(Part::decoder);
    EXPECT_FALSE(one.owns_lock() || other.owns_lock());
    EXPECT_GT(present(model->dit.weights()), 0);
    EXPECT_GT(present(model->decoder.weights()), 0);
}

TEST(WorkerStats, AreSummedUpALineForEachWorker) {
    std::vector<std::string> lines;
    const Log log([&](LogLevel, const std::string &line) { lines.push_back(line); });
    WorkerStats busy{"cuda:0", 12, 3.5, true, {256, 128}, {{{1, 8}, {4, 40}}, 2}};
    log_work({busy, WorkerStats{"cuda:1"}}, log);
    EXPECT_EQ(lines,
              (std::vector<std::string>{"device cuda:0 (failed): 12 chunks, 3.5 s at work, tiles of 256x128 "
                                        "output pixels in batches (8 of 1, 40 of 4), 2 times out of memory",
                                        "device cuda:1: no work"}));
}

// Instrumented code takes several times as long.
#ifdef __SANITIZE_THREAD__
constexpr std::chrono::seconds patience(20);
#else
constexpr std::chrono::seconds patience(2);
#endif

TEST(Cancelling, ClosingInTheMiddleTakesNoTime) {
    const c10::InferenceMode guard;
    const Log log;
    for (const MultiGpu mode : {MultiGpu::off, MultiGpu::frames, MultiGpu::tiles}) {
        PipelineOptions options;
        options.stream = test::stream_options({64, 64});
        options.multi_gpu = mode;
        options.segment = mode == MultiGpu::frames ? 40 : 0; // frames are worked on as they come
        std::atomic<int> begun = 0;
        options.before_step = [&](size_t, int64_t) { begun++; };
        auto pipeline = make_pipeline(options, test::cpu_workers(workers_for(mode)), log);
        for (const PicturePtr &picture : test::moving_pictures({64, 64}, 30))
            pipeline->send(picture);
        while (begun == 0)
            std::this_thread::yield();
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        const auto start = std::chrono::steady_clock::now();
        pipeline.reset();
        EXPECT_LT(std::chrono::steady_clock::now() - start, patience);
    }
}

/// Every picture of a chunk may take long: a stop is looked for before each.
TEST(Cancelling, PicturesOfAChunkAreNotMadeAfterIt) {
    const c10::InferenceMode guard;
    StreamOptions options = test::stream_options({32, 32});
    std::stop_source stop;
    std::vector<int64_t> fixed;
    options.color_fix_at = [&](int64_t frame) {
        fixed.push_back(frame);
        if (frame == 3)
            stop.request_stop();
        return ColorFix::adain;
    };
    ChunkPictures pictures(options);
    std::vector<at::Tensor> frames;
    for (const PicturePtr &picture : test::moving_pictures(options.input, pictures.frames_wanted()))
        frames.push_back(picture->to_tensor());
    const PictureChunk chunk = pictures.begin(frames);
    Observer observer;
    observer.stop = stop.get_token();
    const auto code_of = [](const auto &body) {
        try {
            body();
        } catch (const Error &error) {
            return error.code();
        }
        return 0;
    };
    EXPECT_EQ(code_of([&] { pictures.finish(chunk, chunk.condition, observer); }), ECANCELED);
    EXPECT_EQ(fixed, (std::vector<int64_t>{0, 1, 2, 3}));
    const int64_t held = pictures.frames_held();
    EXPECT_EQ(code_of([&] { pictures.begin(frames, observer); }), ECANCELED);
    EXPECT_EQ(pictures.frames_held(), held);
}

} // namespace
} // namespace flashvsr
