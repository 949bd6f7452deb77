// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <ATen/Context.h>

namespace flashvsr::test {

/// While it lives, what LibTorch hands out unwritten is full of NaN and of the greatest integers, or as it
/// was found. Operations that can be made to compute in one order do so in both cases.
class FreshMemory {
public:
    explicit FreshMemory(bool filled) : before_(at::globalContext().deterministicFillUninitializedMemory()) {
        at::globalContext().setDeterministicFillUninitializedMemory(filled);
        at::globalContext().setDeterministicAlgorithms(true, true);
    }
    FreshMemory(const FreshMemory &) = delete;
    FreshMemory &operator=(const FreshMemory &) = delete;
    ~FreshMemory() {
        at::globalContext().setDeterministicAlgorithms(false, false);
        at::globalContext().setDeterministicFillUninitializedMemory(before_);
    }

private:
    bool before_;
};

} // namespace flashvsr::test
