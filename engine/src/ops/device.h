// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

namespace flashvsr {

/// Bytes of a device's memory.
struct DeviceMemory {
    int64_t free = 0, total = 0;
};

/// Asked for a device's memory; tests put their own in place of the device's.
using MemoryProvider = std::function<DeviceMemory()>;

/// The machine's memory that this process can still have, as the system counts it.
DeviceMemory host_memory();

/// The device's memory; what LibTorch's allocator holds in reserve counts as free.
DeviceMemory memory_of(const at::Device &device);

/// What a driver says about a GPU.
struct GpuReport {
    std::string failure = {}; ///< why no GPU can be asked, if none can
    int gpus = 0;             ///< of this machine
    std::string name = {};    ///< this and what follows: where there is a GPU of that index
    int major = 0, minor = 0; ///< compute capability
};

/// @throws Error ENODEV with one sentence for a GPU that is not there or not able
void check_report(int index, const GpuReport &report);

/// GPUs of this machine; 0 in a build without CUDA or where the driver finds none.
int gpu_count();

/// @throws Error ENODEV where there is no such GPU (any more), or none that is able: compute capability 8.0
/// or more, a driver that is new enough
void check_gpu(int index);

/// @throws Error ENODEV for a GPU that does not multiply matrices of e4m3 with factors for each row: neither
/// our kernels nor cuBLASLt do so before Hopper, nor after it
void check_report_for_fp8(int index, const GpuReport &report);
void check_gpu_for_fp8(int index);

/// A GPU's stream that nobody else has meanwhile. It is taken again by those who come later: what LibTorch
/// keeps for each stream, memory in reserve and workspaces, does not grow with their number.
class StreamLease {
public:
    enum class Use { work, copies };

    StreamLease(const at::Device &device, Use use);
    ~StreamLease();
    StreamLease(const StreamLease &) = delete;
    StreamLease &operator=(const StreamLease &) = delete;

    const c10::Stream &stream() const { return stream_; }

private:
    Use use_;
    c10::Stream stream_;
};

/// While it lives, this thread queues its work on the device, in a stream of its own.
class DeviceScope {
public:
    explicit DeviceScope(const at::Device &device);

private:
    std::optional<StreamLease> lease_;
    c10::OptionalDeviceGuard device_;
    c10::OptionalStreamGuard stream_;
};

/// While it lives, this thread's current context is the GPU's primary one, LibTorch's own, whichever the
/// program has made current; after it, that one is again. Nothing for the CPU, or for a GPU that has failed:
/// what is asked of that says so.
class PrimaryContext {
public:
    explicit PrimaryContext(const at::Device &device) noexcept;
    ~PrimaryContext();
    PrimaryContext(const PrimaryContext &) = delete;
    PrimaryContext &operator=(const PrimaryContext &) = delete;

private:
    std::optional<int> gpu_;
};

/// What a GPU that this process has used says it failed with, all that was queued done; "" where none failed.
std::string gpu_failure();

/// Wait until a device has done all that was queued on it.
void synchronize(const at::Device &device);

/// Wait until a device has done what this thread queued on it.
void synchronize_stream(const at::Device &device);

/// The most memory that was in use on a device since its making above what was before; 0 on the CPU, where
/// nobody counts.
class MemoryMeter {
public:
    explicit MemoryMeter(const at::Device &device);
    int64_t peak_bytes() const;

private:
    at::Device device_;
    int64_t before_ = 0;
};

/// How long the steps of one thread take on a device that works through them later.
class StepTimer {
public:
    explicit StepTimer(const at::Device &device) : device_(device) {}

    void begin();
    void end();

    /// Seconds of the steps that ended and were not counted by an earlier call.
    double take_seconds();

private:
    struct Step {
        c10::Event begin, end;
    };
    at::Device device_;
    std::chrono::steady_clock::time_point began_;
    double seconds_ = 0;
    std::deque<Step> steps_;
};

/// Keeps one thread from queueing much more on a GPU than it does in a third of a second, or than three
/// layers: what is queued cannot be cancelled. Nothing on the CPU.
class Pacer {
public:
    explicit Pacer(const at::Device &device) : device_(device) {}

    /// Between layers: waits while there is more, but no longer than until a stop is asked for.
    void wait(const std::stop_token &stop);

private:
    void settle();

    at::Device device_;
    std::deque<c10::Event> marks_; ///< one each time; of those that are done only the last
    double seconds_ = 0;           ///< from one mark to the next, at most, of late
};

/// A tensor of the host on a device, in its own type. Queued: neither waits for the other, and the host's
/// memory may be used again at once.
at::Tensor upload(const at::Tensor &host, const at::Device &device);

/// The tensor on another device, the host's in pinned memory; the tensor itself where it is there already.
/// Queued in this thread's stream: until synchronize_stream() both must stay, and neither may change.
at::Tensor queue_copy(const at::Tensor &tensor, const at::Device &to);

/// A tensor of the same shape and type on another device, the host's in pinned memory.
at::Tensor empty_beside(const at::Tensor &tensor, const at::Device &to);

/// Queue a copy, as above, of a piece of a contiguous tensor along a dimension to such a piece of another.
void queue_copy(const at::Tensor &to, const at::Tensor &from, int64_t dim);

/// Give pinned host memory that nothing uses back to the system; where a GPU has failed, what it lets go of.
void release_pinned_memory() noexcept;

/// A tensor that a device may still be making, or that is on its way from it. Copies of it are of the same
/// tensor.
class Unfinished {
public:
    /// @param tensor what this thread has queued the making of
    explicit Unfinished(const at::Tensor &tensor);

    /// The tensor, finished; waits for it.
    /// @throws Error or c10::Error where the device failed on the way
    at::Tensor wait() const;

private:
    friend class Downloads;
    Unfinished(at::Tensor tensor, std::shared_ptr<const c10::Event> finished)
        : tensor_(std::move(tensor)), finished_(std::move(finished)) {}

    at::Tensor tensor_;
    std::shared_ptr<const c10::Event> finished_; ///< undefined for a tensor of the host
};

/// Tensors on their way from a device to the host, in a stream of their own: beside what the device is given
/// to do next. For one thread at a time. Destroying it waits for those under way.
class Downloads {
public:
    explicit Downloads(const at::Device &device);
    ~Downloads();
    Downloads(Downloads &&) = default;

    /// Queues the copy behind the work of the thread's stream. The device's memory is kept until it is done
    /// and the next begins, however long the host's is. A tensor of the host is there already.
    Unfinished begin(const at::Tensor &tensor);

private:
    /// LibTorch's allocators do not know of the copying. (Where they do, they ask the device about it when
    /// memory is given back, and an exception there would end the process.)
    struct Copy {
        at::Tensor from, to;
        std::shared_ptr<const c10::Event> done;
    };

    std::unique_ptr<StreamLease> stream_; ///< undefined for the host
    std::deque<Copy> under_way_;
};

/// Rows of a program's picture in a GPU's memory, and where they are in a packed one. Bytes.
struct SurfacePlane {
    void *data;
    int64_t stride; ///< row_bytes or more
    int64_t offset, rows, row_bytes;
};

/// A program's picture in the memory of one GPU and one context, not necessarily the primary one.
struct Surface {
    std::vector<SurfacePlane> planes;
    void *stream = nullptr; ///< CUstream of that context; null: its default stream
};

/// The GPU whose memory the planes are in.
/// @throws Error EINVAL where they are in no GPU's memory, ENODEV in a build without CUDA
int gpu_of(const Surface &surface);

/// Copy a surface to a packed picture on a GPU, any of this machine, once what the surface's stream was given
/// is done. The copy is made in the thread's stream, and waited for. Leaves the current context as it was.
/// @param packed uint8, contiguous
/// @throws Error EIO, ENOMEM
void read_surface(const Surface &surface, const at::Tensor &packed);

/// Copy a packed picture on a GPU to a surface, otherwise as read_surface().
void write_surface(const at::Tensor &packed, const Surface &surface);

} // namespace flashvsr
