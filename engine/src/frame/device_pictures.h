// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/device.h"

#include <memory>
#include <mutex>
#include <vector>

namespace flashvsr {

/// Memory on a GPU for packed pictures that wait there. It is written by one thread, read by others in
/// streams of their own, and used again once all of them are done: LibTorch's allocator knows nothing of
/// their reading. (Where it does, it asks the device about it when memory is given back, and an exception
/// there would end the process.) Thread-safe.
class DevicePictures {
public:
    explicit DevicePictures(const at::Device &device);

    /// A picture's memory while something refers to it.
    class Buffer {
    public:
        explicit Buffer(at::Tensor bytes) : bytes_(std::move(bytes)) {}

        const at::Tensor &bytes() const { return bytes_; }

        /// What this thread has queued on the memory's device until now reads it.
        void mark_read();

    private:
        friend class DevicePictures;
        bool is_idle();

        at::Tensor bytes_; ///< uint8
        std::mutex mutex_;
        std::vector<c10::Event> reads_;
    };

    /// A packed copy of a surface. It is there when the call returns.
    /// @param bytes of the packed picture
    std::shared_ptr<Buffer> read(const Surface &surface, int64_t bytes);

private:
    struct Store {
        std::mutex mutex;
        std::vector<std::unique_ptr<Buffer>> free; ///< of those some may still be read
    };

    std::unique_ptr<Buffer> take(int64_t bytes);

    at::Device device_;
    StreamLease stream_; ///< all memory is allocated and written in it
    std::shared_ptr<Store> store_;
};

} // namespace flashvsr
