// SPDX-License-Identifier: LGPL-2.1-or-later
#include "failing_allocator.h"
#include "pipeline_support.h"
#include "torch_guard.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <map>

namespace flashvsr {
namespace {

using test::difference;
using test::FailingAllocator;

/// The error that a body ends with, or none.
template <typename Body> std::optional<Error> error_of(Body &&body) {
    try {
        body();
    } catch (...) {
        return current_error();
    }
    return std::nullopt;
}

/// Which of a run's events are made to fail.
struct Failing {
    int64_t first = 0, step = 1;
    bool share = false; ///< other processes have the others

    /// Most failures come out; oneDNN gets over few of them by itself. A share may hold more of those than
    /// others do: scripts/test-allocations.sh looks at the sum.
    void expect_most(std::string_view where, int64_t tried, int64_t failed) const {
        std::printf("%" PRId64 " of %" PRId64 " failures came out: %.*s\n", failed, tried,
                    static_cast<int>(where.size()), where.data());
        if (!share) {
            EXPECT_GE(failed, tried * 7 / 10) << where;
        }
    }
};

/// Those in a test's usual distance, or of FLASHVSR_TEST_EVERY_ALLOCATION=K/N number K and each Nth after it:
/// with 0/1 every single one, which N processes with K from 0 to N - 1 share.
Failing failing_of(int64_t usual) {
    const char *asked = std::getenv("FLASHVSR_TEST_EVERY_ALLOCATION");
    if (!asked)
        return {0, usual};
    Failing share;
    if (std::sscanf(asked, "%" SCNd64 "/%" SCNd64, &share.first, &share.step) != 2 || share.first < 0 ||
        share.first >= share.step)
        fail(EINVAL, "FLASHVSR_TEST_EVERY_ALLOCATION=", asked, " is not K/N with K below N");
    share.share = share.step > 1;
    return share;
}

/// A state whose rings of keys and values, which steps write in place, are its own.
StreamState with_own_rings(StreamState state) {
    for (KvCache &cache : state.dit.blocks)
        cache = {cache.key.clone(), cache.value.clone(), cache.pooled_key.clone()};
    return state;
}

/// A stream of one 128x128 tile with random pictures.
class OneStream {
public:
    explicit OneStream(int64_t chunks) {
        at::manual_seed(11);
        for (int64_t c = 0; c < chunks; c++) {
            frames_.push_back(at::rand({1, 3, schedule::frames_in(c), 128, 128}).mul_(2).sub_(1));
            noise_.push_back(at::randn({1, 16, schedule::latents(c), 16, 16}));
        }
    }

    at::Tensor step(StreamState &state) const {
        const int64_t chunk = state.chunk;
        return run_chunk(*test::miniature_model(), {}, frames_[chunk], noise_[chunk], state).frames;
    }

private:
    std::vector<at::Tensor> frames_, noise_;
};

// The first chunk makes the ring, the third writes to the slot of a group that has left it.
TEST(Faults, AChunkStepCanBeRunAgainWhateverAllocationFailed) {
    const c10::InferenceMode guard;
    FailingAllocator &allocator = FailingAllocator::installed();
    const OneStream stream(5);
    StreamState before;
    for (int64_t chunk = 0; chunk < 4; chunk++) {
        if (chunk != 0 && chunk != 3) {
            stream.step(before);
            continue;
        }
        StreamState expected_state = with_own_rings(before);
        allocator.start();
        const at::Tensor expected = stream.step(expected_state);
        const int64_t allocations = allocator.stop();
        const at::Tensor expected_next = stream.step(expected_state);
        ASSERT_GT(allocations, 100);
        int64_t tried = 0, failed = 0;
        const Failing some = failing_of(chunk == 0 ? 37 : 5);
        for (int64_t failing = some.first; failing < allocations; failing += some.step, tried++) {
            SCOPED_TRACE(concat("allocation ", failing, " of ", allocations, " of chunk ", chunk));
            StreamState state = with_own_rings(before);
            at::Tensor out;
            allocator.start(failing);
            const std::optional<Error> error = error_of([&] { out = stream.step(state); });
            allocator.stop();
            if (error) {
                failed++;
                ASSERT_EQ(error->code(), ENOMEM) << error->what();
                ASSERT_EQ(state.chunk, chunk);
                out = stream.step(state);
            }
            ASSERT_TRUE(at::equal(out, expected));
            ASSERT_TRUE(at::equal(stream.step(state), expected_next)) << "the chunk after it";
        }
        some.expect_most(concat("chunk ", chunk), tried, failed);
        stream.step(before);
    }
}

// The first allocation of each turn is that of the weights: what left for it comes back later.
TEST(Faults, WeightsThatDoNotFitTheirTurnComeInTheNext) {
    const c10::InferenceMode guard;
    FailingAllocator &allocator = FailingAllocator::installed();
    const Model model(random_weights(miniature_shape(), at::kFloat, 7), Placement{}, true);
    const std::array<Part, 2> parts = {Part::transformer, Part::decoder};
    for (int round = 0; round < 2; round++)
        for (const Part part : parts) {
            allocator.start(0);
            const std::optional<Error> error = error_of([&] { static_cast<void>(model.turn(part)); });
            allocator.stop();
            ASSERT_TRUE(error);
            EXPECT_EQ(error->code(), ENOMEM) << error->what();
            EXPECT_NO_THROW(static_cast<void>(model.turn(part)));
        }
    EXPECT_NE(model.decoder.weights().front().storage().data(), nullptr);
    EXPECT_EQ(model.dit.weights().front().storage().data(), nullptr);
}

/// Four tiles in a row, two at a time, over several chunks.
struct TiledRun {
    std::vector<at::Tensor> pictures; ///< a chunk's each
    BatchRecord record;
    int64_t allocations = 0; ///< of the chunk that may fail

    /// @param batch   tiles in a batch to begin with
    /// @param faulty  chunk in which allocation `failing` fails, if one is to
    /// @param refused the batch of that chunk, counted in all that are begun, that is refused before anything
    ///                of it is computed
    TiledRun(int64_t batch, int64_t faulty, int64_t failing, int64_t refused) {
        constexpr Size input = {72, 24};
        StreamOptions options = test::stream_options(input);
        options.tile = 128;
        options.tile_overlap = 16;
        options.batch.batch = batch;
        const Log log;
        const auto model = test::miniature_model();
        const std::vector<Tile> grid = stream_grid(options);
        ChunkPictures source(options);
        const Feather feather(grid, source.target());
        TileBatches tiles(model, options.sparse, grid, 0, grid.size(),
                          make_batch_planner(options, grid, *model, host_memory, log), false);
        const std::vector<PicturePtr> clip = test::moving_pictures(input, chunks * 8 + 17);
        FailingAllocator &allocator = FailingAllocator::installed();
        for (int64_t c = 0, frame = 0; c < chunks; c++) {
            std::vector<at::Tensor> frames;
            while (static_cast<int64_t>(frames.size()) < schedule::frames_in(c))
                frames.push_back(clip[frame++]->to_tensor());
            const PictureChunk chunk = source.begin(frames);
            Observer observer;
            int64_t begun = 0;
            observer.part = [&](std::string_view name) {
                if (name == "projector" && begun++ == refused && c == faulty)
                    fail(ENOMEM, "refused");
            };
            at::Tensor picture;
            allocator.start(c == faulty ? failing : -1);
            tiles.step(
                chunk, [&](const TileOutput &out) { feather.accumulate(picture, out, chunk.condition); },
                observer);
            const int64_t counted = allocator.stop();
            if (c == faulty)
                allocations = counted;
            pictures.push_back(picture);
        }
        record = tiles.planner().take_record();
    }

    static constexpr int64_t chunks = 3;
};

constexpr int64_t none = -1;

TEST(Faults, ABatchThatRunsOutOfMemoryAnywhereGoesOnHalved) {
    const c10::InferenceMode guard;
    for (const int64_t faulty : {0, 1}) {
        const TiledRun undisturbed(2, faulty, none, none);
        EXPECT_EQ(undisturbed.record.batches, (std::map<int64_t, int64_t>{{2, 6}}));
        // The same batch sizes without a step that was broken off, by the batches of each size.
        std::map<std::map<int64_t, int64_t>, TiledRun> same_sizes;
        for (const int64_t refused : {0, 1}) {
            TiledRun run(2, faulty, none, refused);
            same_sizes.emplace(run.record.batches, std::move(run));
        }
        ASSERT_EQ(same_sizes.size(), 2U);
        // Where oneDNN gets over a failure by itself.
        same_sizes.emplace(undisturbed.record.batches, undisturbed);
        int64_t tried = 0, failed = 0;
        const Failing some = failing_of(undisturbed.allocations / 12);
        for (int64_t failing = some.first; failing < undisturbed.allocations; failing += some.step, tried++) {
            const TiledRun run(2, faulty, failing, none);
            SCOPED_TRACE(
                concat("allocation ", failing, " of ", undisturbed.allocations, " of chunk ", faulty));
            ASSERT_LE(run.record.out_of_memory, 1);
            failed += run.record.out_of_memory;
            const auto same = same_sizes.find(run.record.batches);
            ASSERT_NE(same, same_sizes.end());
            for (size_t c = 0; c < run.pictures.size(); c++) {
                ASSERT_TRUE(at::equal(run.pictures[c], same->second.pictures[c])) << "chunk " << c;
                ASSERT_LE(difference(run.pictures[c], undisturbed.pictures[c]), 2e-4) << "chunk " << c;
            }
        }
        some.expect_most(concat("a batch of chunk ", faulty), tried, failed);
    }
}

TEST(Faults, WhereOneTileDoesNotFitTheSentenceHasTheNumbers) {
    const c10::InferenceMode guard;
    const Log log;
    const StreamOptions options = test::stream_options({24, 24});
    const MemoryProvider memory = [] { return DeviceMemory{int64_t{3} << 30, int64_t{4} << 30}; };
    FrameStream stream(test::miniature_model(), options, memory, log);
    const std::vector<at::Tensor> frames = {test::moving_pictures({24, 24}, 1).front()->to_tensor()};
    Observer observer;
    observer.part = [](std::string_view name) {
        if (name == "projector")
            fail(ENOMEM, "refused");
    };
    const std::optional<Error> error = error_of([&] { stream.step(frames, observer); });
    ASSERT_TRUE(error);
    EXPECT_EQ(error->code(), ENOMEM);
    const std::string sentence = error->what();
    EXPECT_NE(sentence.find("a tile of 128x128 output pixels"), std::string::npos) << sentence;
    EXPECT_NE(sentence.find("about 19 MiB (estimated) needed, 3072 of 4096 MiB free"), std::string::npos)
        << sentence;
}

/// Pictures of two chunks, a chunk each, of a stream of three tiles in batches of two. The allocations of
/// chunk `faulty` in a part of the work around the network are counted, and that of number `failing` fails.
struct StreamRun {
    std::vector<at::Tensor> pictures;
    BatchRecord record;
    int64_t allocations = 0;

    StreamRun(int64_t faulty, std::string_view part, int64_t failing) {
        constexpr Size input = {72, 24};
        StreamOptions options = test::stream_options(input);
        options.color_fix = ColorFix::adain;
        options.tile = 128;
        options.tile_overlap = 16;
        options.batch.batch = 2;
        const Log log;
        FrameStream stream(test::miniature_model(), options, host_memory, log);
        const std::vector<PicturePtr> clip = test::moving_pictures(input, 33);
        FailingAllocator &allocator = FailingAllocator::installed();
        for (int64_t c = 0, frame = 0; c < 2; c++) {
            std::vector<at::Tensor> frames;
            while (static_cast<int64_t>(frames.size()) < stream.frames_wanted())
                frames.push_back(clip[frame++]->to_tensor());
            enum { before, counting, after } phase = before;
            const auto stop = [&] {
                allocations = allocator.stop();
                phase = after;
            };
            Observer observer;
            observer.part = [&](std::string_view name) {
                if (phase == counting)
                    return stop();
                if (c != faulty || phase == after || name != part)
                    return;
                phase = counting;
                allocator.start(failing);
            };
            pictures.push_back(stream.step(frames, observer).data);
            if (phase == counting)
                stop();
        }
        record = stream.planner().take_record();
    }
};

TEST(Faults, MemoryThatRunsOutAroundTheNetworkHalvesTheBatch) {
    const c10::InferenceMode guard;
    for (const int64_t faulty : {0, 1})
        for (const std::string_view part : {"input", "color fix"}) {
            const StreamRun undisturbed(faulty, part, none);
            ASSERT_GT(undisturbed.allocations, 20);
            int64_t failed = 0, tried = 0;
            const Failing some = failing_of(undisturbed.allocations / 4);
            for (int64_t failing = some.first; failing < undisturbed.allocations;
                 failing += some.step, tried++) {
                SCOPED_TRACE(concat("allocation ", failing, " of ", undisturbed.allocations, " of the ", part,
                                    " of chunk ", faulty));
                const StreamRun run(faulty, part, failing);
                failed += run.record.out_of_memory;
                ASSERT_LE(run.record.out_of_memory, 1);
                for (size_t c = 0; c < run.pictures.size(); c++)
                    ASSERT_LE(difference(run.pictures[c], undisturbed.pictures[c]), 2e-4) << "chunk " << c;
            }
            some.expect_most(concat("the ", part, " of chunk ", faulty), tried, failed);
        }
}

/// Options for whole pictures of three by one blocks, with tiles of one block to go over to.
PipelineOptions whole_then_tiles() {
    PipelineOptions options;
    options.stream = test::stream_options({72, 24});
    options.stream.tile_overlap = 16;
    options.stream.fallback_tiles = {128};
    return options;
}

TEST(Faults, WherePicturesDoNotFitWorkersGoOverToTilesForGood) {
    const c10::InferenceMode guard;
    FailingAllocator &allocator = FailingAllocator::installed();
    const std::vector<PicturePtr> clip = test::moving_pictures({72, 24}, 60);
    PipelineOptions whole = whole_then_tiles();
    whole.segment = 30;
    PipelineOptions tiles = whole;
    tiles.stream.tile = 128;
    tiles.stream.fallback_tiles.clear();
    const auto expected = test::run_pipeline(tiles, 1, clip, Log());

    int64_t first_chunk = 0; // its allocations
    PipelineOptions counting = whole;
    counting.before_step = [&](size_t, int64_t step) {
        if (step == 1)
            first_chunk = allocator.count();
    };
    allocator.start_elsewhere();
    test::run_pipeline(counting, 1, clip, Log());
    allocator.stop();
    ASSERT_GT(first_chunk, 500);

    // oneDNN gets over a few failures by itself: then the next allocation is tried.
    int64_t switches = 0;
    for (int64_t failing = first_chunk / 2; switches == 0 && failing < first_chunk; failing++) {
        const Log log([&](LogLevel, const std::string &line) {
            switches += line.find("starting again with tiles of 128") != std::string::npos;
        });
        allocator.start_elsewhere(failing);
        const auto got = test::run_pipeline(whole, 1, clip, log);
        allocator.stop();
        if (switches == 0)
            continue;
        ASSERT_EQ(got.size(), expected.size());
        for (size_t i = 0; i < got.size(); i++)
            ASSERT_TRUE(at::equal(got[i], expected[i])) << "allocation " << failing << ", frame " << i;
    }
    EXPECT_EQ(switches, 1);
}

/// Options for segments of one tile, and for one segment of several tiles.
PipelineOptions in_segments() {
    PipelineOptions options;
    options.stream = test::stream_options({8, 6});
    options.multi_gpu = MultiGpu::frames;
    options.segment = 28;
    return options;
}
PipelineOptions in_tiles() {
    PipelineOptions options;
    options.stream = test::stream_options({72, 24});
    options.stream.tile = 128;
    options.stream.tile_overlap = 16;
    options.multi_gpu = MultiGpu::tiles;
    return options;
}

void expect_equal(const std::vector<at::Tensor> &got, const std::vector<at::Tensor> &expected) {
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); i++)
        ASSERT_TRUE(at::equal(got[i], expected[i])) << "frame " << i;
}

// 91 frames are five segments of 28 that share 10; the fifth is short.
TEST(Faults, AWorkerKilledAtAnyStepOfFiveSegmentsChangesNothing) {
    const c10::InferenceMode guard;
    const std::vector<PicturePtr> clip = test::moving_pictures({8, 6}, 91);
    for (const size_t workers : {2U, 3U}) {
        PipelineOptions options = in_segments();
        std::atomic<int64_t> steps = 0;
        options.before_step = [&](size_t, int64_t) { steps++; };
        const auto expected = test::run_pipeline(options, workers, clip, Log());
        ASSERT_EQ(steps, 9);
        for (int64_t killed = 0, all = steps; killed < all; killed++) {
            int warnings = 0;
            const Log log(
                [&](LogLevel level, const std::string &) { warnings += level == LogLevel::warning; });
            steps = 0;
            options.before_step = [&](size_t, int64_t) {
                if (steps++ == killed)
                    fail(EIO, "injected");
            };
            SCOPED_TRACE(concat("step ", killed, " of ", all, ", ", workers, " workers"));
            expect_equal(test::run_pipeline(options, workers, clip, log), expected);
            EXPECT_EQ(warnings, 1);
        }
    }
}

// A GPU's failure may show only where its pictures are waited for; its thread then goes on for a while.
TEST(Faults, AWorkerWhosePicturesAreLostAtAnyFrameChangesNothing) {
    const c10::InferenceMode guard;
    const std::vector<PicturePtr> clip = test::moving_pictures({8, 6}, 91);
    PipelineOptions options = in_segments();
    int64_t waits = 0;
    options.before_wait = [&](size_t) { waits++; };
    const auto expected = test::run_pipeline(options, 2, clip, Log());
    ASSERT_EQ(waits, 91 + 4 * 10) << "frames, and those that are mixed of two";
    const Failing some = failing_of(13);
    for (int64_t lost = some.first, all = waits; lost < all; lost += some.step) {
        int warnings = 0;
        const Log log([&](LogLevel level, const std::string &) { warnings += level == LogLevel::warning; });
        std::optional<size_t> dead;
        waits = 0;
        options.before_wait = [&](size_t worker) {
            if (waits++ == lost)
                dead = worker;
            if (dead == worker)
                fail(EIO, "injected");
        };
        SCOPED_TRACE(concat("wait ", lost, " of ", all));
        expect_equal(test::run_pipeline(options, 2, clip, log), expected);
        EXPECT_EQ(warnings, 1);
    }
}

TEST(Faults, PicturesOfTheOnlyWorkerThatAreLostAreAnError) {
    const c10::InferenceMode guard;
    PipelineOptions options;
    options.stream = test::stream_options({8, 6});
    int waits = 0;
    options.before_wait = [&](size_t) {
        if (waits++ == 5)
            fail(EIO, "injected");
    };
    const auto pipeline = make_pipeline(options, test::cpu_workers(1), Log());
    for (const PicturePtr &picture : test::moving_pictures({8, 6}, 30))
        pipeline->send(picture);
    pipeline->flush();
    OutputPicture picture;
    for (int64_t i = 0; i < 5; i++) {
        ASSERT_EQ(pipeline->receive(picture), Pipeline::Received::picture);
        ASSERT_EQ(picture.index, i);
    }
    for (int repeated = 0; repeated < 2; repeated++) {
        const std::optional<Error> error = error_of([&] { pipeline->receive(picture); });
        ASSERT_TRUE(error);
        EXPECT_STREQ(error->what(), "injected");
    }
}

TEST(Faults, AWorkerKilledAtAnyStepOfAnyTileChangesNothing) {
    const c10::InferenceMode guard;
    const std::vector<PicturePtr> clip = test::moving_pictures({72, 24}, 40);
    PipelineOptions options = in_tiles();
    std::atomic<int64_t> steps = 0;
    options.before_step = [&](size_t, int64_t) { steps++; };
    const auto expected = test::run_pipeline(options, 2, clip, Log());
    for (int64_t killed = 0, all = steps; killed < all; killed++) {
        steps = 0;
        options.before_step = [&](size_t, int64_t) {
            if (steps++ == killed)
                fail(EIO, "injected");
        };
        SCOPED_TRACE(concat("step ", killed, " of ", all));
        expect_equal(test::run_pipeline(options, 2, clip, Log()), expected);
    }
}

// Anywhere in a step, in the pictures' conversion and in the blending, on whichever worker's thread.
TEST(Faults, AWorkerThatRunsOutOfMemoryAnywhereIsReplaced) {
    const c10::InferenceMode guard;
    FailingAllocator &allocator = FailingAllocator::installed();
    const std::vector<PicturePtr> clip = test::moving_pictures({8, 6}, 60);
    const PipelineOptions options = in_segments();
    allocator.start_elsewhere();
    const auto expected = test::run_pipeline(options, 2, clip, Log());
    const int64_t allocations = allocator.stop();
    int64_t replaced = 0, runs = 0;
    const Failing some = failing_of(allocations / 20);
    for (int64_t failing = some.first; failing < allocations; failing += some.step, runs++) {
        int warnings = 0;
        const Log log([&](LogLevel level, const std::string &) { warnings += level == LogLevel::warning; });
        allocator.start_elsewhere(failing);
        const auto got = test::run_pipeline(options, 2, clip, log);
        allocator.stop();
        SCOPED_TRACE(concat("allocation ", failing, " of ", allocations));
        expect_equal(got, expected);
        EXPECT_LE(warnings, 1);
        replaced += warnings;
    }
    EXPECT_GE(2 * replaced, runs - 1);
}

// The thread that reads pictures has no other to take over from it.
TEST(Faults, TilesThatRunOutOfMemoryAnywhereComeBackWholeOrAsAnError) {
    const c10::InferenceMode guard;
    FailingAllocator &allocator = FailingAllocator::installed();
    const std::vector<PicturePtr> clip = test::moving_pictures({72, 24}, 29);
    const PipelineOptions options = in_tiles();
    allocator.start_elsewhere();
    const auto expected = test::run_pipeline(options, 2, clip, Log());
    const int64_t allocations = allocator.stop();
    int64_t whole = 0, runs = 0;
    const Failing some = failing_of(allocations / 20);
    for (int64_t failing = some.first; failing < allocations; failing += some.step, runs++) {
        SCOPED_TRACE(concat("allocation ", failing, " of ", allocations));
        allocator.start_elsewhere(failing);
        std::vector<at::Tensor> got;
        const std::optional<Error> error =
            error_of([&] { got = test::run_pipeline(options, 2, clip, Log()); });
        allocator.stop();
        if (error) {
            EXPECT_EQ(error->code(), ENOMEM) << error->what();
            continue;
        }
        whole++;
        expect_equal(got, expected);
    }
    EXPECT_GE(2 * whole, runs) << "most allocations are the workers'";
}

} // namespace
} // namespace flashvsr
