// SPDX-License-Identifier: LGPL-2.1-or-later
#include "kernel_trace.h"

#include "error.h"

#include <kineto/ActivityType.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <algorithm>
#include <map>

namespace flashvsr::bench {

namespace {

namespace profiler = torch::autograd::profiler;
using libkineto::ActivityType;

constexpr double nanoseconds_per_millisecond = 1e6;

bool is_kernel(const profiler::KinetoEvent &event) {
    const auto type = static_cast<ActivityType>(event.activityType());
    return type == ActivityType::CONCURRENT_KERNEL || type == ActivityType::GPU_MEMSET;
}

bool is_copy(const profiler::KinetoEvent &event) {
    return static_cast<ActivityType>(event.activityType()) == ActivityType::GPU_MEMCPY;
}

/// Between host and device: work of a copy engine, beside which kernels can run.
bool crosses_the_bus(const std::string &copy) {
    return copy.find("HtoD") != std::string::npos || copy.find("DtoH") != std::string::npos;
}

struct Span {
    uint64_t begin, end; ///< nanoseconds
};

/// Nanoseconds that at least one of the spans covers.
uint64_t covered(std::vector<Span> spans) {
    std::sort(spans.begin(), spans.end(), [](const Span &a, const Span &b) { return a.begin < b.begin; });
    uint64_t sum = 0, end = 0;
    for (const Span &span : spans) {
        sum += span.end > end ? span.end - std::max(span.begin, end) : 0;
        end = std::max(end, span.end);
    }
    return sum;
}

} // namespace

TraceFigures trace_kernels(const std::function<void()> &work, const std::string &file) {
    const profiler::ProfilerConfig config(profiler::ProfilerState::KINETO);
    const std::set<profiler::ActivityType> activities = {profiler::ActivityType::CUDA};
    profiler::prepareProfiler(config, activities);
    profiler::enableProfiler(config, activities);
    work();
    const std::unique_ptr<profiler::ProfilerResult> result = profiler::disableProfiler();

    std::map<std::string, KernelFigures> by_name;
    std::vector<Span> kernels;
    Span all{UINT64_MAX, 0};
    for (const profiler::KinetoEvent &event : result->events()) {
        if (!is_kernel(event) && !is_copy(event))
            continue;
        const Span span{event.startNs(), event.startNs() + event.durationNs()};
        const std::string name = event.name();
        if (is_kernel(event) || !crosses_the_bus(name))
            kernels.push_back(span);
        all = {std::min(all.begin, span.begin), std::max(all.end, span.end)};
        KernelFigures &figures = by_name[name];
        figures.name = name;
        figures.calls++;
        figures.milliseconds += static_cast<double>(event.durationNs()) / nanoseconds_per_millisecond;
    }
    if (by_name.empty())
        fail(EIO, "the profiler saw no kernel: its library of CUDA (CUPTI) does not work here");
    result->save(file);

    TraceFigures figures;
    for (auto &[name, kernel] : by_name)
        figures.kernels.push_back(std::move(kernel));
    std::sort(figures.kernels.begin(), figures.kernels.end(),
              [](const KernelFigures &a, const KernelFigures &b) { return a.milliseconds > b.milliseconds; });
    figures.milliseconds = static_cast<double>(all.end - all.begin) / nanoseconds_per_millisecond;
    figures.busy_milliseconds = static_cast<double>(covered(kernels)) / nanoseconds_per_millisecond;
    return figures;
}

} // namespace flashvsr::bench
