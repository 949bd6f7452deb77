// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "error.h"

#include <functional>
#include <mutex>
#include <new>

namespace flashvsr {

enum class LogLevel { error, warning, info, verbose, debug };

/// Where one context's log lines go. Thread-safe: lines are handed on one at a time.
class Log {
public:
    using Sink = std::function<void(LogLevel, const std::string &)>;

    Log() = default;
    explicit Log(Sink sink) : sink_(std::move(sink)) {}

    template <typename... Args> void operator()(LogLevel level, const Args &...args) const {
        if (!sink_)
            return;
        std::string line;
        try {
            line = concat(args...);
        } catch (const std::bad_alloc &) {
            return; // what could not be done without memory is said by whoever needed it
        }
        const std::lock_guard lock(mutex_);
        sink_(level, line);
    }

private:
    Sink sink_;
    mutable std::mutex mutex_;
};

} // namespace flashvsr
