// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace flashvsr::bench {

/// Calls of one kernel, or copies of one kind.
struct KernelFigures {
    std::string name;
    int64_t calls = 0;
    double milliseconds = 0;
};

struct TraceFigures {
    std::vector<KernelFigures> kernels; ///< the longest first
    double milliseconds = 0;            ///< from the first's begin to the last's end
    double busy_milliseconds = 0; ///< of these, with a kernel at work; copies from and to the host are none
};

/// What a GPU does for a piece of work, as LibTorch's profiler sees it.
/// @param work returns when the GPU has done it
/// @param file where the events are written to, as Chrome's trace viewer and Perfetto read them
TraceFigures trace_kernels(const std::function<void()> &work, const std::string &file);

} // namespace flashvsr::bench
