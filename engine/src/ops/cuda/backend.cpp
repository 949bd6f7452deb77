// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/backend.h"

#include "error.h"

#include <c10/cuda/CUDAStream.h>
#if __has_include(<nvtx3/nvToolsExtMemCudaRt.h>) // since CUDA 13
#include <nvtx3/nvToolsExtMemCudaRt.h>
#endif

namespace flashvsr::cuda {

void check(cudaError_t error, const char *what) {
    if (error != cudaSuccess)
        fail(error == cudaErrorMemoryAllocation ? ENOMEM : EIO, what, ": ", cudaGetErrorString(error));
}

Element element_of(const at::Tensor &tensor) {
    switch (tensor.scalar_type()) {
    case at::kFloat:
        return Element::f32;
    case at::kHalf:
        return Element::f16;
    case at::kBFloat16:
        return Element::bf16;
    default:
        fail(EINVAL, "tensors of type ", tensor.scalar_type(), " are not computed with on a GPU");
    }
}

WindowBuffer window_buffer(const at::Tensor &windows) {
    return {windows.data_ptr(), windows.stride(0), windows.stride(1)};
}

cudaStream_t current_stream() {
    return c10::cuda::getCurrentCUDAStream().stream();
}

void mark_written([[maybe_unused]] const at::Tensor &tensor) {
#ifdef NVTX_EXT_COMPATID_MEM
    static const nvtxDomainHandle_t domain = nvtxDomainCreateA("flashvsr");
    const nvtxMemVirtualRangeDesc_t range{tensor.nbytes(), tensor.const_data_ptr()};
    nvtxMemMarkInitializedBatch_t written{};
    written.extCompatID = NVTX_EXT_COMPATID_MEM;
    written.structSize = sizeof(written);
    written.regionType = NVTX_MEM_TYPE_VIRTUAL_ADDRESS;
    written.regionDescCount = 1;
    written.regionDescElementSize = sizeof(range);
    written.regionDescElements = &range;
    nvtxMemCudaMarkInitialized(domain, current_stream(), 0, &written);
#endif
}

} // namespace flashvsr::cuda
