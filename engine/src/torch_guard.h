// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "log.h"

#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

namespace flashvsr {

/// While it lives, this thread computes without autograd, and LibTorch's warnings go to the log.
class TorchGuard {
public:
    explicit TorchGuard(const Log &log) : handler_(log), warnings_(&handler_) {}

private:
    class Handler : public c10::WarningHandler {
    public:
        explicit Handler(const Log &log) : log_(log) {}
        void process(const c10::Warning &warning) override {
            log_(LogLevel::warning, "LibTorch: ", warning.msg());
        }

    private:
        const Log &log_;
    };

    Handler handler_;
    c10::WarningUtils::WarningHandlerGuard warnings_;
    c10::InferenceMode inference_;
};

/// How many processors this thread's operations use from now on, if the environment (OMP_NUM_THREADS) allows
/// so many; other threads' stay as they are.
void use_processors(int64_t count);

/// The exception in flight as a code and a sentence; only in a catch block.
Error current_error();

} // namespace flashvsr
