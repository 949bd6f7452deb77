// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/surface.h"

#include "error.h"
#include "ops/cuda/backend.h"

#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda.h>
#include <cuda_runtime_api.h>

namespace flashvsr::cuda {

namespace {

/// The driver's functions that the run time has none for. They are found where the run time found the driver:
/// a library that links to it does not start on machines without one.
class Driver {
public:
    static const Driver &get() {
        static const Driver driver;
        return driver;
    }

    decltype(&::cuGetErrorString) get_error_string = nullptr;
    decltype(&::cuDevicePrimaryCtxRetain) primary_retain = nullptr;
    decltype(&::cuDevicePrimaryCtxRelease) primary_release = nullptr;
    decltype(&::cuCtxPushCurrent) push = nullptr;
    decltype(&::cuCtxPopCurrent) pop = nullptr;
    decltype(&::cuPointerGetAttribute) pointer_attribute = nullptr;
    decltype(&::cuEventCreate) event_create = nullptr;
    decltype(&::cuEventDestroy) event_destroy = nullptr;
    decltype(&::cuEventRecord) event_record = nullptr;
    decltype(&::cuEventSynchronize) event_synchronize = nullptr;
    decltype(&::cuStreamWaitEvent) stream_wait = nullptr;
    decltype(&::cuMemcpy2DAsync) copy_2d = nullptr;
    decltype(&::cuMemcpy3DPeerAsync) copy_3d_peer = nullptr;

private:
    Driver() {
        load("cuGetErrorString", get_error_string);
        load("cuDevicePrimaryCtxRetain", primary_retain);
        load("cuDevicePrimaryCtxRelease", primary_release);
        load("cuCtxPushCurrent", push);
        load("cuCtxPopCurrent", pop);
        load("cuPointerGetAttribute", pointer_attribute);
        load("cuEventCreate", event_create);
        load("cuEventDestroy", event_destroy);
        load("cuEventRecord", event_record);
        load("cuEventSynchronize", event_synchronize);
        load("cuStreamWaitEvent", stream_wait);
        load("cuMemcpy2DAsync", copy_2d);
        load("cuMemcpy3DPeerAsync", copy_3d_peer);
    }

    template <typename Function> static void load(const char *name, Function &function) {
        void *found = nullptr;
        cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
        constexpr unsigned version = 12000; // of the signatures; cuda.h's have not changed since
        check(cudaGetDriverEntryPointByVersion(name, &found, version, cudaEnableDefault, &result), name);
#else
        check(cudaGetDriverEntryPoint(name, &found, cudaEnableDefault, &result), name);
#endif
        if (result != cudaDriverEntryPointSuccess || found == nullptr)
            fail(ENODEV, "the GPU's driver has no function ", name);
        function = reinterpret_cast<Function>(found);
    }
};

/// As check(cudaError_t), of the driver.
void check_driver(CUresult result, const char *what) {
    if (result == CUDA_SUCCESS)
        return;
    const char *reason = nullptr;
    Driver::get().get_error_string(result, &reason);
    fail(result == CUDA_ERROR_OUT_OF_MEMORY ? ENOMEM : EIO, what, ": ",
         reason ? reason : "an unknown failure");
}

/// While it lives, a context is the thread's current one.
class CurrentContext {
public:
    explicit CurrentContext(CUcontext context) {
        check_driver(Driver::get().push(context), "the choice of a CUDA context");
    }
    ~CurrentContext() {
        CUcontext popped = nullptr;
        Driver::get().pop(&popped);
    }
    CurrentContext(const CurrentContext &) = delete;
    CurrentContext &operator=(const CurrentContext &) = delete;
};

/// A mark in a stream of the context that was current at its making.
class Mark {
public:
    Mark() {
        check_driver(Driver::get().event_create(&event_, CU_EVENT_DISABLE_TIMING | CU_EVENT_BLOCKING_SYNC),
                     "an event");
    }
    ~Mark() { Driver::get().event_destroy(event_); }
    Mark(const Mark &) = delete;
    Mark &operator=(const Mark &) = delete;

    void record(CUstream stream) {
        check_driver(Driver::get().event_record(event_, stream), "the recording of an event");
    }
    void hold_back(CUstream stream) const {
        check_driver(Driver::get().stream_wait(stream, event_, CU_EVENT_WAIT_DEFAULT), "a wait for an event");
    }
    void wait() const {
        check_driver(Driver::get().event_synchronize(event_), "a copy of a picture in a GPU's memory");
    }

private:
    CUevent event_ = nullptr;
};

CUdeviceptr address(const void *pointer) {
    return reinterpret_cast<CUdeviceptr>(pointer);
}

/// A GPU's primary context, which the run time keeps alive.
CUcontext primary_context(int index) {
    CUcontext context = nullptr;
    check_driver(Driver::get().primary_retain(&context, index), "a GPU's primary context");
    Driver::get().primary_release(index);
    return context;
}

/// The context that memory was allocated in. What belongs to no context every context of its GPU can use.
CUcontext context_of(const Surface &surface) {
    CUcontext context = nullptr;
    const int index = cuda::gpu_of(surface);
    if (Driver::get().pointer_attribute(&context, CU_POINTER_ATTRIBUTE_CONTEXT,
                                        address(surface.planes.front().data)) == CUDA_SUCCESS &&
        context != nullptr)
        return context;
    return primary_context(index);
}

/// One end of the copy of a plane.
struct End {
    CUdeviceptr data;
    size_t pitch;
    CUcontext context;
};

void copy_plane(const End &from, const End &to, const SurfacePlane &plane, CUstream stream) {
    const auto bytes = static_cast<size_t>(plane.row_bytes), rows = static_cast<size_t>(plane.rows);
    constexpr const char *what = "a copy of a picture in a GPU's memory";
    if (from.context == to.context) {
        CUDA_MEMCPY2D copy{};
        copy.srcMemoryType = copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
        copy.srcDevice = from.data;
        copy.srcPitch = from.pitch;
        copy.dstDevice = to.data;
        copy.dstPitch = to.pitch;
        copy.WidthInBytes = bytes;
        copy.Height = rows;
        return check_driver(Driver::get().copy_2d(&copy, stream), what);
    }
    CUDA_MEMCPY3D_PEER copy{};
    copy.srcMemoryType = copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    copy.srcDevice = from.data;
    copy.srcPitch = from.pitch;
    copy.srcHeight = rows;
    copy.srcContext = from.context;
    copy.dstDevice = to.data;
    copy.dstPitch = to.pitch;
    copy.dstHeight = rows;
    copy.dstContext = to.context;
    copy.WidthInBytes = bytes;
    copy.Height = rows;
    copy.Depth = 1;
    check_driver(Driver::get().copy_3d_peer(&copy, stream), what);
}

enum class Direction { from_surface, to_surface };

void copy_surface(const Surface &surface, const at::Tensor &packed, Direction direction) {
    const int index = packed.device().index();
    const CUcontext own = primary_context(index), theirs = context_of(surface);
    const CurrentContext current(own);
    const c10::cuda::CUDAGuard guard(packed.device());
    const CUstream stream = c10::cuda::getCurrentCUDAStream(packed.device().index()).stream();
    std::optional<Mark> ready;
    {
        const CurrentContext theirs_current(theirs);
        ready.emplace();
        ready->record(static_cast<CUstream>(surface.stream));
    }
    ready->hold_back(stream);
    auto *const bytes = static_cast<uint8_t *>(direction == Direction::from_surface
                                                   ? packed.mutable_data_ptr()
                                                   : const_cast<void *>(packed.const_data_ptr()));
    for (const SurfacePlane &plane : surface.planes) {
        const End outside{address(plane.data), static_cast<size_t>(plane.stride), theirs},
            inside{address(bytes + plane.offset), static_cast<size_t>(plane.row_bytes), own};
        if (direction == Direction::from_surface)
            copy_plane(outside, inside, plane, stream);
        else
            copy_plane(inside, outside, plane, stream);
    }
    Mark done;
    done.record(stream);
    done.wait();
}

} // namespace

bool enter_primary_context(int index) noexcept {
    try {
        const Driver &driver = Driver::get();
        CUcontext context = nullptr;
        if (driver.primary_retain(&context, index) != CUDA_SUCCESS)
            return false;
        if (driver.push(context) == CUDA_SUCCESS)
            return true;
        driver.primary_release(index);
    } catch (const Error &) { // NOLINT(bugprone-empty-catch): read_surface() says which function is missing
    }
    return false;
}

void leave_primary_context(int index) noexcept {
    const Driver &driver = Driver::get();
    CUcontext popped = nullptr;
    driver.pop(&popped);
    driver.primary_release(index);
}

int gpu_of(const Surface &surface) {
    const CUdeviceptr data = address(surface.planes.front().data);
    unsigned type = 0;
    int index = 0;
    const Driver &driver = Driver::get();
    if (driver.pointer_attribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, data) != CUDA_SUCCESS ||
        type != CU_MEMORYTYPE_DEVICE ||
        driver.pointer_attribute(&index, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, data) != CUDA_SUCCESS)
        fail(EINVAL, "a frame's plane 0 at ", surface.planes.front().data, " is not in a GPU's memory");
    return index;
}

void read_surface(const Surface &surface, const at::Tensor &packed) {
    copy_surface(surface, packed, Direction::from_surface);
}

void write_surface(const at::Tensor &packed, const Surface &surface) {
    copy_surface(surface, packed, Direction::to_surface);
}

} // namespace flashvsr::cuda
