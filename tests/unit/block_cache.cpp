// SPDX-License-Identifier: LGPL-2.1-or-later
#include "block_cache.h"

#include <ATen/ATen.h>
#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

namespace flashvsr {
namespace {

constexpr size_t mebibyte = size_t{1} << 20;

TEST(BlockCache, GivesAFreedBlockToTheNextOfItsSize) {
    BlockCache cache;
    void *const first = cache.allocate(3 * mebibyte);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % 64, 0U);
    cache.free(first);
    EXPECT_GE(cache.kept(), 3 * mebibyte);
    EXPECT_EQ(cache.allocate(3 * mebibyte - 100), first);
    EXPECT_EQ(cache.kept(), 0U);
    cache.free(first);
    cache.release();
    EXPECT_EQ(cache.kept(), 0U);
}

TEST(BlockCache, DoesNotGiveALargeBlockForASmallRequest) {
    BlockCache cache;
    void *const large = cache.allocate(8 * mebibyte);
    cache.free(large);
    void *const small = cache.allocate(mebibyte);
    EXPECT_NE(small, large);
    cache.free(small);
}

TEST(BlockCache, KeepsNoMoreThanWasInUseAtOnce) {
    BlockCache cache;
    for (size_t size = 1; size <= 16; size++)
        cache.free(cache.allocate(size * mebibyte));
    // The largest alone was in use at once.
    EXPECT_LE(cache.kept(), 17 * mebibyte);
}

TEST(BlockCache, KeepsNoSmallBlocks) {
    BlockCache cache;
    cache.free(cache.allocate(1000));
    EXPECT_EQ(cache.kept(), 0U);
}

// With its header such a block reaches the size from which blocks are kept.
TEST(BlockCache, KeepsOneBlockOfASizeJustBelowTheLeastOne) {
    BlockCache cache;
    for (size_t bytes = 127 * 1024; bytes <= 129 * 1024; bytes += 16)
        for (int round = 0; round < 3; round++) {
            cache.free(cache.allocate(bytes));
            ASSERT_LE(cache.kept(), 140 * 1024U) << "after blocks of " << bytes;
        }
}

TEST(BlockCache, SaysWhereThereIsNoMemory) {
    BlockCache cache;
    cache.free(cache.allocate(mebibyte));
    EXPECT_EQ(cache.allocate(size_t{1} << 60), nullptr);
    EXPECT_EQ(cache.kept(), 0U); // given back before giving up
}

TEST(BlockCache, BlocksOfThreadsDoNotOverlap) {
    BlockCache cache;
    std::vector<int> wrong(4);
    {
        std::vector<std::jthread> threads;
        for (size_t thread = 0; thread < wrong.size(); thread++)
            threads.emplace_back([&, thread] {
                std::mt19937 random(static_cast<unsigned>(thread));
                for (int round = 0; round < 200; round++) {
                    const size_t bytes = 100 + random() % mebibyte;
                    auto *const block = static_cast<unsigned char *>(cache.allocate(bytes));
                    const auto mark = static_cast<unsigned char>(16 * thread + round % 16);
                    std::memset(block, mark, bytes);
                    std::this_thread::yield();
                    wrong[thread] += block[0] != mark || block[bytes / 2] != mark || block[bytes - 1] != mark;
                    cache.free(block);
                }
            });
    }
    EXPECT_EQ(wrong, std::vector<int>(4));
}

TEST(BlockCache, ServesLibTorch) {
    cache_host_memory();
    EXPECT_NE(c10::GetCPUAllocator(), c10::GetDefaultCPUAllocator());
    const at::Tensor small = at::ones({10}), large = at::ones({mebibyte}), empty = at::empty({0});
    EXPECT_EQ(small.sum().item<float>(), 10);
    EXPECT_EQ(large.sum().item<float>(), static_cast<float>(mebibyte));
    EXPECT_EQ(empty.numel(), 0);
    release_host_memory();
}

} // namespace
} // namespace flashvsr
