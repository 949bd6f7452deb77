// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/host_memory.h"
#include "temporary_folder.h"

#include <gtest/gtest.h>

namespace flashvsr {
namespace {

constexpr int64_t gib = int64_t{1} << 30;

/// A machine of 64 GiB with 48 free, whose process is in the group job/step.
class HostMemory : public testing::Test {
protected:
    HostMemory() {
        folder_.write("proc/meminfo", "MemTotal:       67108864 kB\n"
                                      "MemFree:         1048576 kB\n"
                                      "MemAvailable:   50331648 kB\n"
                                      "HugePages_Total:       0\n");
        folder_.write("proc/self/cgroup", "4:memory:/old\n0::/job/step\n");
    }

    void group(const std::string &name, const std::string &most, int64_t used, const std::string &stat) {
        const std::string place = "groups" + name + "/memory.";
        folder_.write(place + "max", most + "\n");
        folder_.write(place + "current", std::to_string(used) + "\n");
        folder_.write(place + "stat", stat);
    }

    DeviceMemory memory() const {
        return host_memory_by({.processes = folder_.path() / "proc", .groups = folder_.path() / "groups"});
    }

private:
    TemporaryFolder folder_;
};

TEST_F(HostMemory, IsTheMachinesWhereNoGroupLimitsIt) {
    EXPECT_EQ(memory().total, 64 * gib);
    EXPECT_EQ(memory().free, 48 * gib);
    group("/job/step", "max", 12 * gib, "anon 1024\n");
    EXPECT_EQ(memory().total, 64 * gib);
    EXPECT_EQ(memory().free, 48 * gib);
}

TEST_F(HostMemory, IsTheGroupsWithoutItsFilesWhereThatIsLess) {
    group("/job/step", std::to_string(16 * gib), 12 * gib,
          "anon " + std::to_string(5 * gib) + "\nfile " + std::to_string(7 * gib) + "\nshmem " +
              std::to_string(1 * gib) + "\ninactive_file " + std::to_string(4 * gib) + "\nactive_file " +
              std::to_string(2 * gib) + "\n");
    EXPECT_EQ(memory().total, 16 * gib);
    EXPECT_EQ(memory().free, 10 * gib);
}

TEST_F(HostMemory, IsThatOfTheNarrowestGroupAround) {
    group("/job/step", std::to_string(32 * gib), 8 * gib, "");
    group("/job", std::to_string(40 * gib), 30 * gib, "");
    group("", std::to_string(128 * gib), 100 * gib, "");
    group("/other", std::to_string(1 * gib), 1 * gib, "");
    EXPECT_EQ(memory().total, 32 * gib);
    EXPECT_EQ(memory().free, 10 * gib);
}

TEST_F(HostMemory, IsTheContainersWhoseGroupIsTheRoot) {
    group("", std::to_string(8 * gib), 3 * gib, "");
    EXPECT_EQ(memory().total, 8 * gib);
    EXPECT_EQ(memory().free, 5 * gib);
}

TEST_F(HostMemory, IsNotLessThanNone) {
    group("/job", std::to_string(4 * gib), 4 * gib + 4096, "");
    EXPECT_EQ(memory().free, 0);
}

TEST(HostMemoryOfThisMachine, IsKnown) {
    EXPECT_GT(host_memory().total, 0);
    EXPECT_GT(host_memory().free, 0);
    EXPECT_LE(host_memory().free, host_memory().total);
}

} // namespace
} // namespace flashvsr
