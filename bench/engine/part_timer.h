// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <c10/core/Device.h>
#include <c10/core/Event.h>

#include <chrono>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace flashvsr::bench {

/// How long a device is at each part of its work, from marks that are queued with the work.
class PartTimer {
public:
    explicit PartTimer(const at::Device &device) : device_(device) {}

    /// From here on the work belongs to that part; "" to none.
    void enter(std::string_view part);

    /// Milliseconds by part since the last call, when all is done.
    std::map<std::string, double> take_milliseconds();

private:
    struct Mark {
        std::string part;
        std::chrono::steady_clock::time_point time;
        c10::Event event;
    };
    at::Device device_;
    std::vector<Mark> marks_;
};

} // namespace flashvsr::bench
