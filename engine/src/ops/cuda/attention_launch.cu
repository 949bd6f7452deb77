// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/attention_kernels.cuh"

#include <initializer_list>
#include <limits>

namespace flashvsr::cuda {

namespace {

bool are_aligned(std::initializer_list<const void *> pointers) {
    for (const void *pointer : pointers)
        if (pointer == nullptr || reinterpret_cast<uintptr_t>(pointer) % 16 != 0)
            return false;
    return true;
}

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
    return are_aligned({args.q, args.k, args.v, args.out}) && args.counts != nullptr &&
           args.indices != nullptr && args.counters != nullptr;
}

bool is_valid(const CrossAttentionArgs &args) {
    for (const int size : {args.batch, args.heads, args.query_blocks, args.keys})
        if (size <= 0)
            return false;
    const int64_t rows = int64_t(args.batch) * args.heads * args.query_blocks;
    return args.element != Element::f32 && rows <= std::numeric_limits<int>::max() / window_tokens &&
           are_aligned({args.q, args.k, args.v, args.out});
}

/// By the kernel that the device and the element allow.
cudaError_t attend(const AttentionArgs &args, Attention kind, AttentionKernel kernel, cudaStream_t stream) {
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
        return attention_hopper(args, kind, stream);
    return attention_portable(args, kind, stream);
}

} // namespace

cudaError_t block_sparse_attention(const AttentionArgs &args, cudaStream_t stream, AttentionKernel kernel) {
    return is_valid(args) ? attend(args, Attention::sparse, kernel, stream) : cudaErrorInvalidValue;
}

cudaError_t cross_attention(const CrossAttentionArgs &args, cudaStream_t stream, AttentionKernel kernel) {
    if (!is_valid(args))
        return cudaErrorInvalidValue;
    AttentionArgs all{};
    all.element = args.element;
    all.batch = args.batch;
    all.heads = args.heads;
    all.query_windows = args.query_blocks;
    all.key_windows = (args.keys + window_tokens - 1) / window_tokens;
    all.key_head_stride = int64_t(args.keys) * head_dim;
    all.q = args.q;
    all.k = args.k;
    all.v = args.v;
    all.out = args.out;
    return attend(all, Attention::cross, kernel, stream);
}

} // namespace flashvsr::cuda
