// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/device.h"

#include "error.h"
#include "ops/host_memory.h"
#ifdef FLASHVSR_CUDA
#include "ops/cuda/device.h"
#include "ops/cuda/surface.h"
#endif

#include <ATen/ATen.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace flashvsr {

#ifndef FLASHVSR_CUDA
/// What the functions below call in a build that has no GPUs.
namespace cuda {
namespace {
int device_count() {
    return 0;
}
GpuReport report_of(int) {
    return {.failure = "this library was built without CUDA"};
}
void set_up_libtorch() {}
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
std::string failure() {
    return {};
}
void release_pinned_memory() {}
void copy(const at::Tensor &, const at::Tensor &, const c10::Stream &, int64_t = 0) {}
bool enter_primary_context(int) {
    return false;
}
void leave_primary_context(int) {}
int gpu_of(const Surface &) {
    fail(ENODEV, "pictures in a GPU's memory need a library that was built with CUDA; this one was not");
}
void read_surface(const Surface &surface, const at::Tensor &) {
    cuda::gpu_of(surface);
}
void write_surface(const at::Tensor &, const Surface &surface) {
    cuda::gpu_of(surface);
}
} // namespace
} // namespace cuda
#endif

namespace {

/// Events are asked for again and again: the run time's own wait would keep a processor busy.
constexpr std::chrono::microseconds poll_interval(200);

c10::impl::VirtualGuardImpl backend(const at::Device &device) {
    return c10::impl::VirtualGuardImpl(device.type());
}

} // namespace

DeviceMemory host_memory() {
    return host_memory_by({});
}

DeviceMemory memory_of(const at::Device &device) {
    return device.is_cpu() ? host_memory() : cuda::device_memory(device.index());
}

int gpu_count() {
    return cuda::device_count();
}

void check_report(int index, const GpuReport &report) {
    constexpr int least_major = 8;
    if (!report.failure.empty())
        fail(ENODEV, "device 'cuda:", index, "' cannot be used: ", report.failure);
    if (index >= report.gpus)
        fail(ENODEV, "device 'cuda:", index, "' is not there: this machine has ", report.gpus,
             report.gpus == 1 ? " GPU" : " GPUs");
    if (report.major < least_major)
        fail(ENODEV, "device 'cuda:", index, "' (", report.name, ") has compute capability ", report.major,
             ".", report.minor, ", but ", least_major, ".0 is the least");
}

void check_gpu(int index) {
    check_report(index, cuda::report_of(index));
    cuda::set_up_libtorch();
}

void check_report_for_fp8(int index, const GpuReport &report) {
    constexpr int hopper = 9;
    if (report.major != hopper)
        fail(ENODEV, "precision fp8 is for GPUs of compute capability ", hopper,
             ".0, but device 'cuda:", index, "' (", report.name, ") has ", report.major, ".", report.minor);
}

void check_gpu_for_fp8(int index) {
    check_report_for_fp8(index, cuda::report_of(index));
}

namespace {

/// Streams that were given back, by device and use.
struct FreeStreams {
    std::mutex mutex;
    std::map<std::pair<at::DeviceIndex, StreamLease::Use>, std::vector<c10::Stream>> streams;
};

FreeStreams &free_streams() {
    static auto *const all = new FreeStreams; // outlives threads that end after main()
    return *all;
}

c10::Stream take_stream(const at::Device &device, StreamLease::Use use) {
    FreeStreams &all = free_streams();
    const std::lock_guard lock(all.mutex);
    std::vector<c10::Stream> &free = all.streams[{device.index(), use}];
    if (free.empty())
        // LibTorch has two pools of streams: one by priority for each use.
        return backend(device).getStreamFromGlobalPool(device, use == StreamLease::Use::copies);
    const c10::Stream stream = free.back();
    free.pop_back();
    return stream;
}

} // namespace

StreamLease::StreamLease(const at::Device &device, Use use) : use_(use), stream_(take_stream(device, use)) {}

StreamLease::~StreamLease() {
    FreeStreams &all = free_streams();
    const std::lock_guard lock(all.mutex);
    all.streams[{stream_.device_index(), use_}].push_back(stream_);
}

DeviceScope::DeviceScope(const at::Device &device) {
    if (device.is_cpu())
        return;
    lease_.emplace(device, StreamLease::Use::work);
    device_.reset_device(device);
    stream_.reset_stream(lease_->stream());
}

PrimaryContext::PrimaryContext(const at::Device &device) noexcept {
    if (!device.is_cpu() && cuda::enter_primary_context(device.index()))
        gpu_ = device.index();
}

PrimaryContext::~PrimaryContext() {
    if (gpu_)
        cuda::leave_primary_context(*gpu_);
}

std::string gpu_failure() {
    return cuda::failure();
}

void synchronize(const at::Device &device) {
    if (!device.is_cpu())
        backend(device).synchronizeDevice(device.index());
}

void synchronize_stream(const at::Device &device) {
    if (!device.is_cpu())
        backend(device).getStream(device).synchronize();
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

/// Let go of marks that are done but for the last of them.
void Pacer::settle() {
    constexpr double forget = 0.98, milliseconds = 1000;
    while (marks_.size() > 1 && marks_[1].query()) {
        seconds_ = std::max(forget * seconds_, marks_[0].elapsedTime(marks_[1]) / milliseconds);
        marks_.pop_front();
    }
}

void Pacer::wait(const std::stop_token &stop) {
    if (device_.is_cpu())
        return;
    constexpr double most_seconds = 0.3;
    constexpr size_t least_marks = 3; // keep a device at work while the next are queued
    settle();
    if (marks_.size() == 1 && marks_.front().query())
        marks_.clear(); // it stood still since
    c10::Event mark(device_.type(), c10::EventFlag::BACKEND_DEFAULT);
    mark.record(backend(device_).getStream(device_));
    marks_.push_back(std::move(mark));
    const auto enough = [&] {
        const size_t queued = marks_.size() - 1;
        return queued <= least_marks ||
               (seconds_ > 0 && static_cast<double>(queued) * seconds_ <= most_seconds);
    };
    while (!enough() && !stop.stop_requested()) {
        std::this_thread::sleep_for(poll_interval);
        settle();
    }
}

namespace {

/// Pinned memory from which a copy to a GPU is or was under way.
struct Staging {
    at::Device device;
    at::Tensor bytes;
    c10::Event copied;
};

/// Staging buffers that no call has just now, those of unfinished copies among them.
class StagingPool {
public:
    static StagingPool &instance() {
        static auto *const pool = new StagingPool; // outlives threads that end after main()
        return *pool;
    }

    std::unique_ptr<Staging> take(int64_t bytes, const at::Device &device) {
        const std::lock_guard lock(mutex_);
        for (auto at = free_.begin(); at != free_.end(); ++at) {
            if ((*at)->device != device || (*at)->bytes.numel() != bytes || !(*at)->copied.query())
                continue;
            std::unique_ptr<Staging> staging = std::move(*at);
            free_.erase(at);
            return staging;
        }
        const auto options = at::TensorOptions(at::kByte).pinned_memory(true);
        return std::make_unique<Staging>(
            Staging{device, at::empty({bytes}, options), c10::Event(device.type())});
    }

    void give_back(std::unique_ptr<Staging> staging) {
        const std::lock_guard lock(mutex_);
        free_.push_back(std::move(staging));
    }

    void release() {
        const std::lock_guard lock(mutex_);
        std::erase_if(free_, [](const auto &staging) {
            try {
                return staging->copied.query();
            } catch (...) { // a device that failed copies no more
                return true;
            }
        });
    }

private:
    std::mutex mutex_;
    std::vector<std::unique_ptr<Staging>> free_;
};

} // namespace

at::Tensor upload(const at::Tensor &host, const at::Device &device) {
    if (device.is_cpu() || host.numel() == 0)
        return host.to(device);
    const at::Tensor from = host.contiguous();
    at::Tensor to = at::empty(from.sizes(), from.options().device(device));
    StagingPool &pool = StagingPool::instance();
    std::unique_ptr<Staging> staging = pool.take(static_cast<int64_t>(from.nbytes()), device);
    std::memcpy(staging->bytes.mutable_data_ptr(), from.const_data_ptr(), from.nbytes());
    const c10::Stream stream = backend(device).getStream(device);
    cuda::copy(to, staging->bytes, stream);
    staging->copied.record(stream);
    pool.give_back(std::move(staging));
    return to;
}

namespace {

/// Whichever of two devices is a GPU.
at::Device whichever_gpu(const at::Device &a, const at::Device &b) {
    return a.is_cuda() ? a : b;
}

} // namespace

at::Tensor queue_copy(const at::Tensor &tensor, const at::Device &to) {
    if (tensor.device() == to)
        return tensor;
    if (tensor.is_cuda() && to.is_cuda())
        return tensor.to(to);
    const at::Tensor from = tensor.contiguous();
    at::Tensor copy = empty_beside(from, to);
    const at::Device gpu = whichever_gpu(from.device(), to);
    if (copy.numel() > 0)
        cuda::copy(copy, from, backend(gpu).getStream(gpu));
    return copy;
}

at::Tensor empty_beside(const at::Tensor &tensor, const at::Device &to) {
    const at::TensorOptions options = tensor.options().device(to);
    return at::empty(tensor.sizes(), to.is_cpu() && tensor.is_cuda() ? options.pinned_memory(true) : options);
}

void queue_copy(const at::Tensor &to, const at::Tensor &from, int64_t dim) {
    const at::Device gpu = whichever_gpu(from.device(), to.device());
    if (gpu.is_cpu())
        to.copy_(from);
    else if (from.numel() > 0)
        cuda::copy(to, from, backend(gpu).getStream(gpu), dim);
}

void release_pinned_memory() noexcept {
    StagingPool::instance().release();
    try {
        cuda::release_pinned_memory();
    } catch (...) { // NOLINT(bugprone-empty-catch): the process's end gives the rest back
    }
}

namespace {

/// What comes when a stream has done all that it was given.
std::shared_ptr<const c10::Event> record_event(const c10::Stream &stream) {
    auto event = std::make_shared<c10::Event>(stream.device_type());
    event->record(stream);
    return event;
}

} // namespace

Unfinished::Unfinished(const at::Tensor &tensor)
    : Unfinished(tensor, tensor.is_cpu()
                             ? nullptr
                             : record_event(backend(tensor.device()).getStream(tensor.device()))) {}

at::Tensor Unfinished::wait() const {
    while (finished_ && !finished_->query())
        std::this_thread::sleep_for(poll_interval);
    return tensor_;
}

Downloads::Downloads(const at::Device &device) {
    if (!device.is_cpu())
        stream_ = std::make_unique<StreamLease>(device, StreamLease::Use::copies);
}

Downloads::~Downloads() {
    try {
        for (const Copy &copy : under_way_)
            copy.done->synchronize();
    } catch (...) { // NOLINT(bugprone-empty-catch): a device that failed copies no more
    }
}

Unfinished Downloads::begin(const at::Tensor &tensor) {
    if (tensor.is_cpu())
        return Unfinished(tensor);
    while (!under_way_.empty() && under_way_.front().done->query())
        under_way_.pop_front();
    const at::Tensor from = tensor.contiguous(), to = empty_beside(from, at::kCPU);
    const Unfinished made(from);
    const c10::Stream &stream = stream_->stream();
    made.finished_->block(stream);
    cuda::copy(to, from, stream);
    under_way_.push_back({from, to, record_event(stream)});
    return {to, under_way_.back().done};
}

int gpu_of(const Surface &surface) {
    return cuda::gpu_of(surface);
}

void read_surface(const Surface &surface, const at::Tensor &packed) {
    cuda::read_surface(surface, packed);
}

void write_surface(const at::Tensor &packed, const Surface &surface) {
    cuda::write_surface(packed, surface);
}

} // namespace flashvsr
