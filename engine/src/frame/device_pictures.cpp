// SPDX-License-Identifier: LGPL-2.1-or-later
#include "frame/device_pictures.h"

#include <ATen/ops/empty.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <utility>

namespace flashvsr {

DevicePictures::DevicePictures(const at::Device &device)
    : device_(device), stream_(device, StreamLease::Use::copies), store_(std::make_shared<Store>()) {}

void DevicePictures::Buffer::mark_read() {
    const c10::impl::VirtualGuardImpl backend(bytes_.device().type());
    c10::Event read(bytes_.device().type());
    read.record(backend.getStream(bytes_.device()));
    const std::lock_guard lock(mutex_);
    reads_.push_back(std::move(read));
}

/// Whether all that read it are done.
bool DevicePictures::Buffer::is_idle() {
    const std::lock_guard lock(mutex_);
    std::erase_if(reads_, [](const c10::Event &read) { return read.query(); });
    return reads_.empty();
}

std::unique_ptr<DevicePictures::Buffer> DevicePictures::take(int64_t bytes) {
    {
        const std::lock_guard lock(store_->mutex);
        const auto found = std::find_if(store_->free.begin(), store_->free.end(), [&](const auto &buffer) {
            return buffer->bytes().numel() == bytes && buffer->is_idle();
        });
        if (found != store_->free.end()) {
            std::unique_ptr<Buffer> buffer = std::move(*found);
            store_->free.erase(found);
            return buffer;
        }
    }
    return std::make_unique<Buffer>(at::empty({bytes}, at::TensorOptions(device_).dtype(at::kByte)));
}

std::shared_ptr<DevicePictures::Buffer> DevicePictures::read(const Surface &surface, int64_t bytes) {
    const c10::StreamGuard stream(stream_.stream());
    std::unique_ptr<Buffer> buffer = take(bytes);
    read_surface(surface, buffer->bytes());
    const auto give_back = [store = store_](Buffer *used) {
        std::unique_ptr<Buffer> free(used);
        const std::lock_guard lock(store->mutex);
        store->free.push_back(std::move(free));
    };
    return {buffer.release(), give_back};
}

} // namespace flashvsr
