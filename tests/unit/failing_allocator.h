// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <c10/core/CPUAllocator.h>

#include <atomic>
#include <thread>

namespace flashvsr::test {

/// LibTorch's allocator with allocations that fail, in the words of the real one.
class FailingAllocator final : public c10::Allocator {
public:
    /// The one in place of LibTorch's, put there by the first call, when nothing is under way in other
    /// threads.
    static FailingAllocator &installed() {
        static FailingAllocator *allocator = [] {
            auto *made = new FailingAllocator(c10::GetCPUAllocator()); // LibTorch's from now on
            c10::SetCPUAllocator(made, 1);
            return made;
        }();
        return *allocator;
    }

    /// From now on, let the allocation of that number fail, once; with none, only count.
    void start(int64_t failing = -1) {
        count_ = 0;
        failing_ = failing;
        thread_ = std::this_thread::get_id();
        active_ = true;
    }

    /// The same for every thread but this one.
    void start_elsewhere(int64_t failing = -1) {
        elsewhere_ = true;
        start(failing);
    }

    /// Allocations since the start.
    int64_t count() const { return count_; }

    /// @return count()
    int64_t stop() {
        active_ = elsewhere_ = false;
        return count_;
    }

    c10::DataPtr allocate(size_t bytes) override {
        const bool counted = active_ && (thread_ == std::this_thread::get_id()) != elsewhere_;
        TORCH_CHECK(!(counted && count_++ == failing_),
                    "DefaultCPUAllocator: can't allocate memory: you tried to allocate ", bytes, " bytes.");
        return real_->allocate(bytes);
    }
    c10::DeleterFnPtr raw_deleter() const override { return real_->raw_deleter(); }
    void copy_data(void *to, const void *from, std::size_t bytes) const override {
        default_copy_data(to, from, bytes);
    }

private:
    explicit FailingAllocator(c10::Allocator *real) : real_(real) {}

    c10::Allocator *const real_;
    std::atomic<bool> active_ = false, elsewhere_ = false;
    std::atomic<int64_t> count_ = 0, failing_ = -1;
    std::atomic<std::thread::id> thread_;
};

} // namespace flashvsr::test
