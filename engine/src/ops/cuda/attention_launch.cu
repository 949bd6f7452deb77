// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/attention_kernels.cuh"

#include <limits>

namespace flashvsr::cuda {

namespace {

bool is_valid(const AttentionArgs &args) {
    for (const int size : {args.batch, args.heads, args.query_windows, args.key_windows, args.groups,
                           args.block_rows, args.block_cols})
        if (size <= 0)
            return false;
    const int64_t rows = int64_t(args.batch) * args.heads * args.query_windows;
    if (rows > std::numeric_limits<int>::max() / window_tokens ||
        int64_t(args.groups) * args.block_rows * args.block_cols != args.query_windows ||
        args.key_head_stride < int64_t(args.key_windows) * window_elements || args.key_head_stride % 8 != 0)
        return false;
    for (const void *pointer : {args.q, args.k, args.v, static_cast<const void *>(args.out)})
        if (pointer == nullptr || reinterpret_cast<uintptr_t>(pointer) % 16 != 0)
            return false;
    return args.counts != nullptr && args.indices != nullptr && args.counters != nullptr;
}

} // namespace

cudaError_t block_sparse_attention(const AttentionArgs &args, cudaStream_t stream, AttentionKernel kernel) {
    if (!is_valid(args))
        return cudaErrorInvalidValue;
    int device = 0, major = 0;
    if (const cudaError_t error = cudaGetDevice(&device))
        return error;
    if (const cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device))
        return error;
    if (major < 8)
        return cudaErrorNotSupported;
    if (args.element == Element::f32)
        return attention_f32(args, stream);
    if (major == 9 && kernel == AttentionKernel::fastest)
        return attention_hopper(args, stream);
    return attention_portable(args, stream);
}

} // namespace flashvsr::cuda
