// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/device.h"

#include <filesystem>

namespace flashvsr {

/// Where Linux tells of memory; tests put files of their own there.
struct MemoryFiles {
    std::filesystem::path processes = "/proc", groups = "/sys/fs/cgroup";
};

/// What this process can still have: of the machine's memory, and of what each of its control groups
/// (version 2), such as a container or a cluster's job, is allowed. Their pages of files count as free, as
/// the machine's do, since they can be read again.
DeviceMemory host_memory_by(const MemoryFiles &files);

} // namespace flashvsr
