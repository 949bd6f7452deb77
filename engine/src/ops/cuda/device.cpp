// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/device.h"

#include "error.h"
#include "ops/cuda/backend.h"

#include <ATen/Context.h>
#include <ATen/core/CachingHostAllocator.h>
#include <c10/core/AllocatorConfig.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>

#include <cstdlib>
#include <mutex>

namespace flashvsr::cuda {

namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

constexpr auto all_pools = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);

} // namespace

int device_count() {
    int count = 0;
    // Without a driver, or with one that is too old, there are none; report_of() says why.
    if (cudaGetDeviceCount(&count) != cudaSuccess) {
        static_cast<void>(cudaGetLastError());
        return 0;
    }
    return count;
}

GpuReport report_of(int index) {
    GpuReport report;
    if (const cudaError_t error = cudaGetDeviceCount(&report.gpus); error != cudaSuccess) {
        static_cast<void>(cudaGetLastError());
        return {.failure = cudaGetErrorString(error)};
    }
    if (index >= report.gpus)
        return report;
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, index), "the properties of a GPU");
    report.name = properties.name;
    report.major = properties.major;
    report.minor = properties.minor;
    return report;
}

/// How LibTorch's own operations are to compute: fp32 as fp32, and convolutions by what cuDNN's heuristics
/// name first. Trying all ways out costs each thread a second at its first chunk, was not faster, and two
/// devices might choose two ways that round differently.
void set_up_libtorch() {
    static std::once_flag once;
    std::call_once(once, [] {
        // Pinning memory page by page in one thread takes a second for each gigabyte.
        if (!std::getenv("PYTORCH_CUDA_ALLOC_CONF") && !std::getenv("PYTORCH_ALLOC_CONF"))
            c10::CachingAllocator::setAllocatorSettings(
                "pinned_use_cuda_host_register:True,pinned_num_register_threads:8");
    });
    at::globalContext().setAllowTF32CuDNN(false);
    at::globalContext().setBenchmarkCuDNN(false);
    at::globalContext().lazyInitDevice(at::kCUDA);
}

DeviceMemory device_memory(int index) {
    const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(index));
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "the free memory of a GPU");
    const auto stats = allocator::getDeviceStats(static_cast<c10::DeviceIndex>(index));
    const int64_t reserve =
        stats.reserved_bytes[all_pools].current - stats.allocated_bytes[all_pools].current;
    return {static_cast<int64_t>(free) + reserve, static_cast<int64_t>(total)};
}

int64_t allocated_bytes(int index) {
    return allocator::getDeviceStats(static_cast<c10::DeviceIndex>(index)).allocated_bytes[all_pools].current;
}

int64_t peak_allocated_bytes(int index) {
    return allocator::getDeviceStats(static_cast<c10::DeviceIndex>(index)).allocated_bytes[all_pools].peak;
}

void reset_peak(int index) {
    allocator::resetPeakStats(static_cast<c10::DeviceIndex>(index));
}

std::string failure() {
    int current = 0;
    bool moved = false;
    static_cast<void>(cudaGetDevice(&current));
    std::string sentence;
    for (int index = 0, count = device_count(); index < count && sentence.empty(); index++) {
        if (!c10::cuda::hasPrimaryContext(static_cast<c10::DeviceIndex>(index)))
            continue;
        // A failure stays: every later call returns it.
        moved = true;
        cudaError_t error = cudaSetDevice(index);
        if (error == cudaSuccess)
            error = cudaDeviceSynchronize();
        if (error != cudaSuccess)
            sentence = cudaGetErrorString(error);
    }
    if (moved)
        static_cast<void>(cudaSetDevice(current));
    static_cast<void>(cudaGetLastError()); // not what the next kernel is asked about
    return sentence;
}

void release_pinned_memory() {
    at::getHostAllocator(at::kCUDA)->empty_cache();
}

void copy(const at::Tensor &to, const at::Tensor &from, const c10::Stream &stream, int64_t dim) {
    const c10::cuda::CUDAGuard guard(stream.device());
    // Rows that lie some way apart, each of all that comes after the dimension.
    int64_t rows = 1;
    for (int64_t d = 0; d < dim; d++)
        rows *= from.size(d);
    const auto row_bytes = from.nbytes() / static_cast<size_t>(rows);
    const auto pitch = [&](const at::Tensor &x) {
        return static_cast<size_t>(x.stride(dim - 1)) * x.element_size();
    };
    const cudaStream_t queue = c10::cuda::CUDAStream(stream);
    // A pitch is 2 GiB at most.
    check(rows == 1 ? cudaMemcpyAsync(to.mutable_data_ptr(), from.const_data_ptr(), row_bytes,
                                      cudaMemcpyDefault, queue)
                    : cudaMemcpy2DAsync(to.mutable_data_ptr(), pitch(to), from.const_data_ptr(), pitch(from),
                                        row_bytes, static_cast<size_t>(rows), cudaMemcpyDefault, queue),
          from.is_cuda() ? "a download" : "an upload");
}

} // namespace flashvsr::cuda
