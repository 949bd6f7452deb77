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

constexpr int64_t mib = int64_t{1} << 20;
// Tiles of which adaptive batches have 8 at most.
constexpr Size usual = BatchPlanner::usual_tile;

TEST(BatchPlanner, FollowsFreeMemory) {
    int64_t free_mib = 2048 + 78 * 3 + 10;
    const auto memory = [&] { return DeviceMemory{free_mib * mib, 65536 * mib}; };
    BatchOptions options;
    options.adaptive = true;
    const Log log;
    BatchPlanner planner(options, usual, 78 * mib, memory, log);
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
        options, usual, mib,
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

// A device of 65536 MiB and tiles of 78 MiB.
TEST(BatchPlanner, KeepsWithinTheLimitAndTheMargin) {
    constexpr int64_t total = 65536;
    const Log log;
    for (const LimitCase &c :
         {LimitCase{0, 0, 8}, LimitCase{0, total - 2048 - 78 * 3, 3}, LimitCase{0, total - 2000, 1},
          LimitCase{78 * 5, 0, 5}, LimitCase{1000, 1000 - 78 * 2, 2}, LimitCase{1000, 5000, 1},
          LimitCase{total, total - 2048 - 78 * 4, 4}, LimitCase{77, 0, 1}}) {
        BatchOptions options;
        options.adaptive = true;
        options.limit = static_cast<double>(c.limit_mib * mib);
        const auto memory = [&] { return DeviceMemory{(total - c.used_mib) * mib, total * mib}; };
        EXPECT_EQ(BatchPlanner(options, usual, 78 * mib, memory, log).batch(), c.expected)
            << "limit " << c.limit_mib << " MiB, " << c.used_mib << " MiB in use";
    }
}

// A fraction is of each device's own memory, whatever another one has.
TEST(BatchPlanner, AFractionIsOfTheDevicesOwnMemory) {
    for (const int64_t total_mib : {81920, 24576})
        EXPECT_EQ(usable_memory(0.5, {(total_mib - 1000) * mib, total_mib * mib}),
                  (total_mib / 2 - 1000) * mib);
    EXPECT_EQ(usable_memory(1, {10000 * mib, 24576 * mib}), (10000 - 2048) * mib);
    EXPECT_EQ(usable_memory(1e300, {10000 * mib, 24576 * mib}), (10000 - 2048) * mib);
}

// Weights of 1000 MiB visit the device at each step. Where a batch is seen to take more than what its tiles
// were taken to need, that may be them or the tiles; the tiles are what is safe to assume.
TEST(BatchPlanner, LeavesRoomForVisitingWeights) {
    int64_t usable_mib = 78 * 3 + 10;
    const auto memory = [&] { return DeviceMemory{(2048 + 1000 + usable_mib) * mib, 65536 * mib}; };
    BatchOptions options;
    options.adaptive = true;
    options.visiting = 1000 * mib;
    const Log log;
    BatchPlanner planner(options, usual, 78 * mib, memory, log);
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
    BatchOptions options;
    options.adaptive = true;
    const Log log;
    BatchPlanner planner(
        options, usual, 78 * mib,
        [] {
            return DeviceMemory{(2048 + 500) * mib, 65536 * mib};
        },
        log);
    planner.succeeded(2, 2 * 400 * mib);
    EXPECT_TRUE(planner.out_of_memory(3));
    EXPECT_EQ(planner.batch(), 1);
    planner.use_tiles(usual, 39 * mib);
    EXPECT_EQ(planner.batch(), 8);
    EXPECT_EQ(planner.shortage(), "about 39 MiB (estimated) needed, 2548 of 65536 MiB free");
}

struct SmallTilesCase {
    Size tile;
    int64_t expected;
};

TEST(BatchPlanner, TakesMoreOfSmallTiles) {
    int64_t free_bytes = int64_t{1} << 40;
    const auto memory = [&] { return DeviceMemory{free_bytes, free_bytes}; };
    BatchOptions options;
    options.adaptive = true;
    const Log log;
    for (const SmallTilesCase &c :
         {SmallTilesCase{{128, 128}, 64}, SmallTilesCase{{256, 256}, 32}, SmallTilesCase{{384, 256}, 21},
          SmallTilesCase{{512, 512}, 8}, SmallTilesCase{{1024, 768}, 8}}) {
        BatchPlanner planner(options, c.tile, mib, memory, log);
        EXPECT_EQ(planner.batch(), c.expected) << c.tile.width << "x" << c.tile.height;
        // Halved from there, and afresh with tiles of another size.
        EXPECT_TRUE(planner.out_of_memory(planner.batch()));
        EXPECT_EQ(planner.batch(), c.expected / 2);
        planner.use_tiles({256, 256}, mib);
        EXPECT_EQ(planner.batch(), 32);
    }
    free_bytes = BatchPlanner::margin_bytes + 78 * 20 * mib;
    EXPECT_EQ(BatchPlanner(options, {256, 256}, 78 * mib, memory, log).batch(), 20);
}

TEST(BatchPlanner, KeepsARecordUntilItIsTaken) {
    BatchOptions options;
    options.batch = 4;
    const Log log;
    BatchPlanner planner(options, usual, mib, host_memory, log);
    planner.succeeded(4, 0);
    planner.out_of_memory(4);
    planner.succeeded(2, 0);
    planner.succeeded(2, 0);
    const BatchRecord record = planner.take_record();
    EXPECT_EQ(record.batches, (std::map<int64_t, int64_t>{{2, 2}, {4, 1}}));
    EXPECT_EQ(record.out_of_memory, 1);
    EXPECT_TRUE(planner.take_record().batches.empty());
}

constexpr int64_t gib = int64_t{1} << 30;

std::vector<int64_t> sides_for(const MemoryModel &memory, int64_t free_bytes, int64_t workers = 1,
                               const TurnBytes &turns = {}) {
    return choose_tiles(memory, {7680, 4352}, 4, 24, {free_bytes, workers, false, turns}).sides;
}

TEST(MemoryModel, PrefersWholePicturesThenTheLargestTilesThatFit) {
    const MemoryModel memory(official_shape(), 3, 4);
    EXPECT_EQ(sides_for(memory, 4000 * gib).front(), 0);
    std::vector<int64_t> sides = sides_for(memory, 400 * gib);
    for (int64_t free_gib : {300, 150, 80, 60, 1}) {
        const std::vector<int64_t> fewer = sides_for(memory, free_gib * gib);
        ASSERT_FALSE(fewer.empty());
        EXPECT_GT(fewer.front(), 48);
        EXPECT_LE(fewer.front(), sides.front());
        EXPECT_TRUE(std::is_sorted(fewer.rbegin(), fewer.rend()));
        sides = fewer;
    }
}

// Every tile is a stream, whose state stays while the others have their turns. The whole picture's is smaller
// than that of tiles that overlap, but its steps take more.
TEST(MemoryModel, CountsTheStatesOfAllTilesThatAWorkerGets) {
    const MemoryModel memory(miniature_shape(), 3, 4);
    const Size target = {3840, 2176}, tile = {1024, 1024};
    const int64_t tiles = 12; // 4 x 3 that share 48 pixels
    const int64_t all =
        tiles * memory.state_bytes(tile) + memory.work_bytes(tile) + MemoryModel::picture_bytes(target);
    ASSERT_LT(all,
              memory.state_bytes(target) + memory.work_bytes(target) + MemoryModel::picture_bytes(target));
    const auto first = [&](int64_t bytes, int64_t workers) {
        return choose_tiles(memory, target, 2, 24, {bytes, workers}).sides.front();
    };
    EXPECT_EQ(first(all, 1), 512);
    EXPECT_LT(first(all - 1, 1), 512);
    EXPECT_EQ(first(all - 6 * memory.state_bytes(tile), 2), 512);
}

// Where the host's memory is another, one tile at a time is enough.
TEST(MemoryModel, LetsStatesWaitInHostMemory) {
    const MemoryModel memory(official_shape(), 3, 2);
    const Size target = {3840, 2176}, tile = {1024, 1024};
    const int64_t one =
        memory.state_bytes(tile) + memory.work_bytes(tile) + MemoryModel::picture_bytes(target);
    const auto choice = [&](int64_t bytes, bool host_beside) {
        return choose_tiles(memory, target, 2, 24, {bytes, 1, host_beside});
    };
    EXPECT_EQ(choice(one, true).sides, (std::vector<int64_t>{512, 384, 256, 192, 128, 64}));
    EXPECT_TRUE(choice(one, true).states_aside);
    EXPECT_LT(choice(one - 1, true).sides.front(), 512);
    EXPECT_EQ(choice(one, false).sides, std::vector<int64_t>{64});
    EXPECT_FALSE(choice(one, false).states_aside);
    EXPECT_EQ(choice(0, true).sides, std::vector<int64_t>{64});
    EXPECT_FALSE(choice(4000 * gib, true).states_aside);
}

// The first chunk takes most: measured on a GPU at 1408x768 in bf16, 8.0 GiB beside the weights.
TEST(MemoryModel, IsNotFarFromWhatWasMeasured) {
    const MemoryModel memory(official_shape(), 3, 2);
    const Size target = {1408, 768};
    const double estimate =
        static_cast<double>(memory.tile_bytes(target) + MemoryModel::picture_bytes(target));
    EXPECT_GT(estimate / gib, 8.0);
    EXPECT_LT(estimate / gib, 8.0 * 1.2);
}

// The decoder's own need is the larger one at this size, and its weights are the smaller ones.
TEST(MemoryModel, CountsTheWeightsOfOnePartAtATime) {
    const MemoryModel memory(official_shape(), 3, 2);
    const Size target = {1408, 768};
    const int64_t resident = memory.work_bytes(target);
    const int64_t in_turns = memory.work_bytes(target, {3 * gib, gib / 8});
    EXPECT_GT(in_turns, resident);
    EXPECT_LT(in_turns, resident + 3 * gib + gib / 8);
    EXPECT_EQ(memory.work_bytes(target, {0, gib}) - resident, gib) << "the decoder's turn is the larger one";
    EXPECT_EQ(memory.work_bytes(target, {gib / 8, gib}) - resident, gib);

    // Free memory before and after the weights of both parts lie on the device.
    EXPECT_GE(sides_for(memory, 60 * gib, 1, {3 * gib, gib / 8}).front(),
              sides_for(memory, 57 * gib - gib / 8).front());
}

} // namespace
} // namespace flashvsr
