// SPDX-License-Identifier: LGPL-2.1-or-later
#include "unwritten_memory.h"

namespace flashvsr {
namespace {

TEST(UninitializedMemory, IsFilledWhereItIsToBe) {
    const test::FreshMemory memory(true);
    EXPECT_TRUE(at::empty({1000}, at::kFloat).isnan().all().item<bool>());
}

TEST(UninitializedMemory, OfAWholePictureIsNotRead) {
    test::expect_unread_by_whole_pictures(test::cpu_workers(1).front());
}

TEST(UninitializedMemory, OfTilesIsNotRead) {
    test::expect_unread_by_tiles(test::cpu_workers(1).front());
}

} // namespace
} // namespace flashvsr
