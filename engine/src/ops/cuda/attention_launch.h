// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace flashvsr::cuda {

enum class Element { f32, f16, bf16 };

/// Which kernel runs. `fastest` is what the device and the element allow; `portable` is the kernel of every
/// device since sm_80, for tests and comparisons.
enum class AttentionKernel { fastest, portable };

/// All pointers are device memory, 16-byte aligned, and must live until the stream has passed the call.
struct AttentionArgs {
    Element element;
    int batch, heads, query_windows;
    int key_windows;         ///< the row length of `indices`; every index is below it
    int64_t key_head_stride; ///< elements between heads in k and v, a multiple of 8, >= key_windows*128*128
    const void *q;           ///< (batch, heads, query_windows, 128, 128)
    const void *k, *v;       ///< (batch, heads, key_windows, 128, 128), batch stride heads*key_head_stride
    const int32_t *counts;   ///< (batch, heads, query_windows), each 0..key_windows
    const int32_t *indices;  ///< (batch, heads, query_windows, key_windows), the first counts[row] ascending
    void *out;               ///< (batch, tokens, heads*128) in token order, tokens = query_windows*128
    int32_t *counters;       ///< two zeros, which no other call uses meanwhile; left zero
    int groups, block_rows, block_cols; ///< query_windows = groups*block_rows*block_cols
};

/// softmax(q k^T / sqrt(128)) v per head, each query window over the tokens of its listed key windows. A
/// window with an empty list gives zeros. Window (group, by, bx) holds the tokens [2*group, 2*group + 2) x
/// [8*by, 8*by + 8) x [8*bx, 8*bx + 8) of the grid (2*groups, 8*block_rows, 8*block_cols).
///
/// Enqueues one kernel on `stream` of the current device: no allocation, no host synchronisation, no global
/// state, so it may be captured into a graph and called from any number of threads. Equal inputs give equal
/// bits.
/// @return cudaErrorInvalidValue for shapes, strides or alignments other than the above,
///         cudaErrorNotSupported below sm_80, or what the launch says
cudaError_t block_sparse_attention(const AttentionArgs &args, cudaStream_t stream,
                                   AttentionKernel kernel = AttentionKernel::fastest);

/// All pointers are device memory, 16-byte aligned, and must live until the stream has passed the call.
struct CrossAttentionArgs {
    Element element; ///< f16 or bf16
    int batch, heads;
    int query_blocks;  ///< of 128 tokens
    int keys;          ///< at least 1
    const void *q;     ///< (batch, query_blocks*128, heads*128)
    const void *k, *v; ///< (heads, keys, 128), for the whole batch
    void *out;         ///< as q
};

/// softmax(q k^T / sqrt(128)) v per head, each token over all keys, by the kernels of
/// block_sparse_attention(), whose promises hold here too.
/// @return cudaErrorInvalidValue for other elements, shapes or alignments, cudaErrorNotSupported below
///         sm_80, or what the launch says
cudaError_t cross_attention(const CrossAttentionArgs &args, cudaStream_t stream,
                            AttentionKernel kernel = AttentionKernel::fastest);

} // namespace flashvsr::cuda
