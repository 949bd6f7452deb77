// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/device.h"

#include "error.h"
#ifdef FLASHVSR_CUDA
#include "ops/cuda/device.h"
#endif

#include <ATen/ATen.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <fstream>
#include <string>
#include <thread>

namespace flashvsr {

#ifndef FLASHVSR_CUDA
/// What the functions below call in a build that has no GPUs.
namespace cuda {
namespace {
int device_count() {
    return 0;
}
void check_device(int index) {
    fail(ENODEV, "device 'cuda:", index, "' needs a library that was built with CUDA; this one was not");
}
DeviceMemory device_memory(int) {
    return {};
}
int64_t allocated_bytes(int) {
    return 0;
}
int64_t peak_allocated_bytes(int) {
    return 0;
}
void reset_peak(int) {}
} // namespace
} // namespace cuda
#endif

namespace {

c10::impl::VirtualGuardImpl backend(const at::Device &device) {
    return c10::impl::VirtualGuardImpl(device.type());
}

} // namespace

DeviceMemory host_memory() {
    DeviceMemory memory;
    std::ifstream file("/proc/meminfo");
    std::string name, unit;
    for (int64_t value = 0; file >> name >> value && std::getline(file, unit);) {
        if (name == "MemTotal:")
            memory.total = value << 10;
        else if (name == "MemAvailable:")
            memory.free = value << 10;
    }
    return memory;
}

DeviceMemory memory_of(const at::Device &device) {
    return device.is_cpu() ? host_memory() : cuda::device_memory(device.index());
}

int gpu_count() {
    return cuda::device_count();
}

void check_gpu(int index) {
    cuda::check_device(index);
}

DeviceScope::DeviceScope(const at::Device &device) {
    if (device.is_cpu())
        return;
    device_.reset_device(device);
    stream_.reset_stream(backend(device).getStreamFromGlobalPool(device));
}

void synchronize(const at::Device &device) {
    if (!device.is_cpu())
        backend(device).synchronizeDevice(device.index());
}

MemoryMeter::MemoryMeter(const at::Device &device) : device_(device) {
    if (device_.is_cpu())
        return;
    cuda::reset_peak(device_.index());
    before_ = cuda::allocated_bytes(device_.index());
}

int64_t MemoryMeter::peak_bytes() const {
    return device_.is_cpu() ? 0 : cuda::peak_allocated_bytes(device_.index()) - before_;
}

void StepTimer::begin() {
    began_ = std::chrono::steady_clock::now();
    if (device_.is_cpu())
        return;
    steps_.push_back({c10::Event(device_.type(), c10::EventFlag::BACKEND_DEFAULT),
                      c10::Event(device_.type(), c10::EventFlag::BACKEND_DEFAULT)});
    steps_.back().begin.record(backend(device_).getStream(device_));
}

void StepTimer::end() {
    if (device_.is_cpu())
        seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count();
    else
        steps_.back().end.record(backend(device_).getStream(device_));
}

double StepTimer::take_seconds() {
    constexpr double milliseconds = 1000;
    while (!steps_.empty() && steps_.front().end.was_marked_for_recording() && steps_.front().end.query()) {
        seconds_ += steps_.front().begin.elapsedTime(steps_.front().end) / milliseconds;
        steps_.pop_front();
    }
    return std::exchange(seconds_, 0.0);
}

Download::Download(const at::Tensor &tensor) {
    if (tensor.is_cpu()) {
        host_ = tensor;
        return;
    }
    source_ = tensor;
    host_ = at::empty(tensor.sizes(), tensor.options().device(at::kCPU).pinned_memory(true));
    host_.copy_(source_, true);
    done_ = std::make_shared<c10::Event>(tensor.device().type());
    done_->record(backend(tensor.device()).getStream(tensor.device()));
}

at::Tensor Download::wait() const {
    // Asked for again and again: the run time's own wait would keep a processor busy.
    constexpr std::chrono::microseconds pause(200);
    while (done_ && !done_->query())
        std::this_thread::sleep_for(pause);
    return host_;
}

} // namespace flashvsr
