// SPDX-License-Identifier: LGPL-2.1-or-later
#include "part_timer.h"

#include "ops/device.h"

#include <c10/core/impl/VirtualGuardImpl.h>

namespace flashvsr::bench {

void PartTimer::enter(std::string_view part) {
    marks_.push_back({std::string(part), std::chrono::steady_clock::now(),
                      c10::Event(device_.type(), c10::EventFlag::BACKEND_DEFAULT)});
    if (!device_.is_cpu())
        marks_.back().event.record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
}

std::map<std::string, double> PartTimer::take_milliseconds() {
    synchronize(device_);
    std::map<std::string, double> result;
    for (size_t i = 0; i + 1 < marks_.size(); i++) {
        const Mark &mark = marks_[i], &next = marks_[i + 1];
        const double milliseconds =
            device_.is_cpu() ? std::chrono::duration<double, std::milli>(next.time - mark.time).count()
                             : mark.event.elapsedTime(next.event);
        if (!mark.part.empty())
            result[mark.part] += milliseconds;
    }
    marks_.clear();
    return result;
}

} // namespace flashvsr::bench
