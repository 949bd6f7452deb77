// SPDX-License-Identifier: LGPL-2.1-or-later
#include "frame/upscale.h"
#include "pipeline_support.h"
#include "stream/chunk_pictures.h"
#include "tiles/batch_planner.h"
#include "tiles/memory_model.h"
#include "tiles/tile_grid.h"

#include <gtest/gtest.h>

#include <random>

namespace flashvsr {
namespace {

TEST(TileGrid, CoversEveryPixelWithTilesOfOneSize) {
    for (const Size target : {Size{128, 128}, Size{1280, 768}, Size{384, 2048}})
        for (const int64_t tile : {64, 128, 200, 256, 1024})
            for (const int64_t overlap : {0, 8, 30, 100}) {
                if (overlap * 2 > tile)
                    continue;
                const std::vector<Tile> grid = make_tile_grid(target, tile, overlap);
                at::Tensor covered = at::zeros({target.height, target.width});
                for (const Tile &t : grid) {
                    EXPECT_EQ(t.size, grid.front().size);
                    EXPECT_EQ(t.size.width % 128, 0);
                    EXPECT_EQ(t.x % 8, 0);
                    EXPECT_EQ(t.y % 8, 0);
                    ASSERT_LE(t.x + t.size.width, target.width);
                    ASSERT_LE(t.y + t.size.height, target.height);
                    covered.narrow(0, t.y, t.size.height).narrow(1, t.x, t.size.width).fill_(1);
                }
                EXPECT_TRUE(covered.all().item<bool>());
            }
}

TEST(TileGrid, NeighboursShareAtLeastTheOverlap) {
    const std::vector<Tile> grid = make_tile_grid({1280, 128}, 256, 60);
    ASSERT_GT(grid.size(), 4U);
    for (size_t i = 1; i < grid.size(); i++)
        EXPECT_GE(grid[i - 1].x + 256 - grid[i].x, 60);
}

TEST(Feather, WeightsSumToOneAtEveryPixel) {
    for (const Size target : {Size{512, 384}, Size{1280, 768}, Size{128, 1024}})
        for (const int64_t tile : {128, 256, 384})
            for (const int64_t overlap : {0, 1, 24, 64, 127}) {
                const std::vector<Tile> grid = make_tile_grid(target, tile, overlap);
                const Feather feather(grid, target);
                at::Tensor sum = at::zeros({target.height, target.width}, at::kDouble);
                for (size_t i = 0; i < grid.size(); i++)
                    sum.narrow(0, grid[i].y, grid[i].size.height)
                        .narrow(1, grid[i].x, grid[i].size.width)
                        .add_(feather.weight(i));
                EXPECT_LE((sum - 1).abs().max().item<double>(), 3e-7)
                    << target.width << "x" << target.height << " tile " << tile << " overlap " << overlap;
            }
}

// The network replaced by the identity: what it is given as low quality is what it gives.
TEST(Feather, IdentityGivesBackTheBicubicUpscaleWhateverTheTiles) {
    std::mt19937 random(5);
    for (int round = 0; round < 40; round++) {
        const Size input = {static_cast<int64_t>(2 + random() % 150),
                            static_cast<int64_t>(2 + random() % 150)};
        const double scale = 1 + random() % 300 / 100.0;
        StreamOptions options = test::stream_options(input, scale);
        options.tile = 16 + static_cast<int64_t>(random() % 400);
        options.tile_overlap = static_cast<int64_t>(random() % (options.tile / 2));
        std::vector<at::Tensor> frames;
        for (const PicturePtr &picture : test::moving_pictures(input, 5))
            frames.push_back(picture->to_tensor());

        ChunkPictures pictures(options);
        const PictureChunk chunk = pictures.begin(frames);
        const std::vector<Tile> grid = stream_grid(options);
        const Feather feather(grid, pictures.target());
        at::Tensor blended;
        for (size_t i = 0; i < grid.size(); i++)
            feather.accumulate(blended,
                               {i, chunk.condition.narrow(2, grid[i].y, grid[i].size.height)
                                       .narrow(3, grid[i].x, grid[i].size.width)
                                       .unsqueeze(0)},
                               chunk.condition);
        const std::vector<at::Tensor> out = pictures.finish(chunk, blended).data.unbind(0);
        ASSERT_EQ(out.size(), frames.size());
        for (size_t i = 0; i < out.size(); i++)
            EXPECT_LE(test::difference(
                          out[i], upscale_bicubic(frames[i], options.output.height, options.output.width)),
                      1e-6)
                << input.width << "x" << input.height << " scale " << scale << " tile " << options.tile
                << " overlap " << options.tile_overlap;
    }
}

struct MemoryStep {
    int64_t free_mib; ///< what the device says when asked
    int64_t seen_mib; ///< what a tile is seen to take
    int64_t expected; ///< batch after five batches
};

// 256x256 output pixels in fp32: the formula says 256^2 * 8 * 3 * 4 * 13 bytes = 78 MiB a tile.
TEST(BatchPlanner, FollowsFreeMemory) {
    constexpr int64_t mib = int64_t{1} << 20;
    int64_t free_mib = 2048 + 78 * 3 + 10;
    const auto memory = [&] { return DeviceMemory{free_mib * mib, 65536 * mib}; };
    BatchOptions options;
    options.adaptive = true;
    const Log log;
    BatchPlanner planner(options, 256 * 256, 4, memory, log);
    EXPECT_EQ(planner.batch(), 3);
    for (const MemoryStep &step :
         {MemoryStep{2048 + 1000, 100, 8}, MemoryStep{2048 + 450, 100, 4}, MemoryStep{2048 + 450, 200, 2},
          MemoryStep{2048 + 1700, 50, 8}, MemoryStep{1000, 50, 1}, MemoryStep{1 << 15, 50, 8}}) {
        free_mib = step.free_mib;
        for (int i = 0; i < BatchPlanner::review_interval; i++)
            planner.succeeded(planner.batch(), step.seen_mib * planner.batch() * mib);
        EXPECT_EQ(planner.batch(), step.expected) << step.free_mib << " MiB free";
    }
}

TEST(BatchPlanner, HalvesWhenMemoryRunsOutAndDoesNotTryThatAgain) {
    BatchOptions options;
    options.adaptive = true;
    const Log log;
    BatchPlanner planner(
        options, 128 * 128, 4,
        [] {
            return DeviceMemory{int64_t{1} << 40, int64_t{1} << 40};
        },
        log);
    EXPECT_EQ(planner.batch(), 8);
    EXPECT_TRUE(planner.out_of_memory(8));
    EXPECT_EQ(planner.batch(), 4);
    for (int i = 0; i < 20; i++)
        planner.succeeded(4, 0);
    EXPECT_EQ(planner.batch(), 4);
    EXPECT_TRUE(planner.out_of_memory(4));
    EXPECT_TRUE(planner.out_of_memory(2));
    EXPECT_EQ(planner.batch(), 1);
    EXPECT_FALSE(planner.out_of_memory(1));
}

struct LimitCase {
    int64_t limit_mib, used_mib;
    int64_t expected;
};

// A device of 65536 MiB and tiles of 78 MiB by the formula.
TEST(BatchPlanner, KeepsWithinTheLimitAndTheMargin) {
    constexpr int64_t mib = int64_t{1} << 20, total = 65536;
    const Log log;
    for (const LimitCase &c :
         {LimitCase{0, 0, 8}, LimitCase{0, total - 2048 - 78 * 3, 3}, LimitCase{0, total - 2000, 1},
          LimitCase{78 * 5, 0, 5}, LimitCase{1000, 1000 - 78 * 2, 2}, LimitCase{1000, 5000, 1},
          LimitCase{total, total - 2048 - 78 * 4, 4}, LimitCase{77, 0, 1}}) {
        BatchOptions options;
        options.adaptive = true;
        options.limit = c.limit_mib * mib;
        const auto memory = [&] { return DeviceMemory{(total - c.used_mib) * mib, total * mib}; };
        EXPECT_EQ(BatchPlanner(options, 256 * 256, 4, memory, log).batch(), c.expected)
            << "limit " << c.limit_mib << " MiB, " << c.used_mib << " MiB in use";
    }
}

// Weights of 1000 MiB visit the device at each step. Where a batch is seen to take more than what its tiles
// were taken to need, that may be them or the tiles; the tiles are what is safe to assume.
TEST(BatchPlanner, LeavesRoomForVisitingWeights) {
    constexpr int64_t mib = int64_t{1} << 20;
    int64_t usable_mib = 78 * 3 + 10;
    const auto memory = [&] { return DeviceMemory{(2048 + 1000 + usable_mib) * mib, 65536 * mib}; };
    BatchOptions options;
    options.adaptive = true;
    options.visiting = 1000 * mib;
    const Log log;
    BatchPlanner planner(options, 256 * 256, 4, memory, log);
    EXPECT_EQ(planner.batch(), 3);
    usable_mib = 3000;
    for (int i = 0; i < BatchPlanner::review_interval; i++)
        planner.succeeded(2, (1000 + 2 * 50) * mib);
    EXPECT_EQ(planner.batch(), 5);
    usable_mib = -500;
    for (int i = 0; i < BatchPlanner::review_interval; i++)
        planner.succeeded(2, (1000 + 2 * 50) * mib);
    EXPECT_EQ(planner.batch(), 1);
}

// What was seen of larger tiles, and that too many of them did not fit, says nothing of smaller ones.
TEST(BatchPlanner, EstimatesTilesOfAnotherSizeAfresh) {
    constexpr int64_t mib = int64_t{1} << 20;
    BatchOptions options;
    options.adaptive = true;
    const Log log;
    BatchPlanner planner(
        options, 256 * 256, 4,
        [] {
            return DeviceMemory{(2048 + 500) * mib, 65536 * mib};
        },
        log);
    planner.succeeded(2, 2 * 400 * mib);
    EXPECT_TRUE(planner.out_of_memory(3));
    EXPECT_EQ(planner.batch(), 1);
    planner.use_tiles(128 * 256);
    EXPECT_EQ(planner.batch(), 8);
    EXPECT_EQ(planner.shortage(), "about 39 MiB (estimated) needed, 2548 of 65536 MiB free");
}

TEST(BatchPlanner, KeepsARecordUntilItIsTaken) {
    BatchOptions options;
    options.batch = 4;
    const Log log;
    BatchPlanner planner(options, 128 * 128, 4, host_memory, log);
    planner.succeeded(4, 0);
    planner.out_of_memory(4);
    planner.succeeded(2, 0);
    planner.succeeded(2, 0);
    const BatchRecord record = planner.take_record();
    EXPECT_EQ(record.batches, (std::map<int64_t, int64_t>{{2, 2}, {4, 1}}));
    EXPECT_EQ(record.out_of_memory, 1);
    EXPECT_TRUE(planner.take_record().batches.empty());
}

TEST(MemoryModel, PrefersWholePicturesThenTheLargestTilesThatFit) {
    const NetworkShape shape = official_shape();
    const Size target = {7680, 4352};
    constexpr int64_t gib = int64_t{1} << 30;
    EXPECT_EQ(choose_tile_sizes(shape, target, 4, 24, 3, 4, 4000 * gib).front(), 0);
    int64_t before = 1 << 20;
    for (const int64_t free_gib : {300, 150, 100, 80, 60}) {
        const std::vector<int64_t> sides = choose_tile_sizes(shape, target, 4, 24, 3, 4, free_gib * gib);
        ASSERT_FALSE(sides.empty());
        EXPECT_GT(sides.front(), 48);
        EXPECT_LE(sides.front(), before);
        EXPECT_TRUE(std::is_sorted(sides.rbegin(), sides.rend()));
        before = sides.front();
    }
}

// The decoder's own need is the larger one at this size, and its weights are the smaller ones.
TEST(MemoryModel, CountsTheWeightsOfOnePartAtATime) {
    const NetworkShape shape = official_shape();
    constexpr int64_t gib = int64_t{1} << 30;
    const Size target = {1408, 768};
    const int64_t resident = step_bytes(shape, target, 3, 2);
    const int64_t in_turns = step_bytes(shape, target, 3, 2, {3 * gib, gib / 8});
    EXPECT_GT(in_turns, resident);
    EXPECT_LT(in_turns, resident + 3 * gib + gib / 8);
    EXPECT_EQ(step_bytes(shape, target, 3, 2, {0, gib}) - resident, gib)
        << "the decoder's turn is the larger one";
    EXPECT_EQ(step_bytes(shape, target, 3, 2, {gib / 8, gib}) - resident, gib);

    // Free memory before and after the weights of both parts lie on the device.
    const auto largest = [&](int64_t free, const TurnBytes &turns) {
        return choose_tile_sizes(shape, {7680, 4352}, 4, 24, 3, 2, free, turns).front();
    };
    EXPECT_GE(largest(60 * gib, {3 * gib, gib / 8}), largest(57 * gib - gib / 8, {}));
}

} // namespace
} // namespace flashvsr
