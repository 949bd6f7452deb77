// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/attention_kernels.cuh"

namespace flashvsr::cuda {

namespace {

constexpr int threads = 256; // 8 warps of 16 query rows
constexpr int tile_keys = 64, row_bytes = head_dim * 2;

/// Two stages of K and V tiles. The first stage's successor is also where the queries pass through.
struct Shared {
    struct Stage {
        unsigned char k[tile_keys * row_bytes], v[tile_keys * row_bytes];
    } stages[2];
};
static_assert(sizeof(Shared::Stage) == window_elements * 2, "the queries fill one stage");

/// Byte of a 16-byte chunk in a tile whose rows are swizzled, so that eight rows of a column of chunks lie on
/// distinct banks.
__device__ int swizzled(int row, int chunk) {
    return row * row_bytes + ((chunk ^ row % 8) * 16);
}

/// Start copying `rows` rows of 256 bytes, which lie `pitch` bytes apart; zeros from row `present` on.
template <int rows>
__device__ void copy_tile(void *to, const void *from, int64_t pitch = row_bytes, int present = rows) {
    const uint32_t base = __cvta_generic_to_shared(to);
    for (int i = threadIdx.x; i < rows * 16; i += threads) {
        const int row = min(i / 16, max(present - 1, 0)), bytes = i / 16 < present ? 16 : 0;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(base + swizzled(i / 16, i % 16)),
                     "l"(static_cast<const char *>(from) + row * pitch + i % 16 * 16), "r"(bytes)
                     : "memory");
    }
}

__device__ void commit_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
__device__ void wait_copies() {
    asm volatile("cp.async.wait_group 0;" ::: "memory");
}

__device__ void load_matrices_transposed(uint32_t (&r)[4], uint32_t row_address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row_address));
}

/// d (16 x 8) += a (16 x 16) b (16 x 8)
template <class T> __device__ void multiply_add(float *d, const uint32_t *a, uint32_t b0, uint32_t b1) {
    if constexpr (std::is_same_v<T, __nv_bfloat16>)
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
            "{%8, %9}, {%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                     "{%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// s (16 x 64) = q (16 x 128) k^T
template <class T> __device__ void scores(float (&s)[32], const uint32_t (&q)[32], const void *k) {
    const int lane = threadIdx.x % 32;
    const uint32_t base = __cvta_generic_to_shared(k);
#pragma unroll
    for (int n = 0; n < tile_keys; n += 16) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            s[n / 2 + i] = 0;
#pragma unroll
        for (int d = 0; d < 8; d++) {
            uint32_t b[4];
            load_matrices(b, base + swizzled(n + lane / 16 * 8 + lane % 8, d * 2 + lane / 8 % 2));
            multiply_add<T>(s + n / 2, q + 4 * d, b[0], b[1]);
            multiply_add<T>(s + n / 2 + 4, q + 4 * d, b[2], b[3]);
        }
    }
}

/// o (16 x 128) += weights (16 x 64) v
template <class T> __device__ void accumulate(float (&o)[64], const float (&weights)[32], const void *v) {
    const int lane = threadIdx.x % 32;
    const uint32_t base = __cvta_generic_to_shared(v);
#pragma unroll
    for (int key = 0; key < tile_keys; key += 16) {
        uint32_t a[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            a[i] = pack<T>(weights[key / 2 + 2 * i], weights[key / 2 + 2 * i + 1]);
#pragma unroll
        for (int n = 0; n < 8; n++) {
            uint32_t b[4];
            load_matrices_transposed(b, base + swizzled(key + lane % 16, n * 2 + lane / 16));
            multiply_add<T>(o + 8 * n, a, b[0], b[1]);
            multiply_add<T>(o + 8 * n + 4, a, b[2], b[3]);
        }
    }
}

/// One query window per block.
template <class T, Attention kind>
__global__ void __launch_bounds__(threads, 1) attend(const AttentionArgs args) {
    constexpr bool cross = kind == Attention::cross;
    extern __shared__ uint4 shared_memory[];
    Shared &shared = *reinterpret_cast<Shared *>(shared_memory);
    const int index = blockIdx.x, lane = threadIdx.x % 32, first_token = threadIdx.x / 32 * 16;
    const QueryRow<kind> row(args, index);
    const T *k = static_cast<const T *>(args.k) + row.key_offset(args);
    const T *v = static_cast<const T *>(args.v) + row.key_offset(args);
    const int32_t *list = cross ? nullptr : args.indices + int64_t(index) * args.key_windows;
    const int keys = cross ? int(args.key_head_stride / head_dim) : args.counts[index] * window_tokens;
    const int tiles = (keys + tile_keys - 1) / tile_keys;

    const auto copy_keys = [&](int tile) {
        const int64_t window = cross ? tile / 2 : list[tile / 2];
        const int64_t offset = window * window_elements + tile % 2 * (tile_keys * head_dim);
        const int present = min(keys - tile * tile_keys, tile_keys);
        copy_tile<tile_keys>(shared.stages[tile % 2].k, k + offset, row_bytes, present);
        copy_tile<tile_keys>(shared.stages[tile % 2].v, v + offset, row_bytes, present);
        commit_copies();
    };

    float o[64] = {};
    OnlineSoftmax softmax;
    if (tiles > 0) {
        const int64_t queries = cross ? row.out_offset(args, 0) : int64_t(index) * window_elements;
        copy_tile<window_tokens>(&shared.stages[1], static_cast<const T *>(args.q) + queries,
                                 cross ? int64_t(args.heads) * row_bytes : row_bytes);
        copy_keys(0);
        wait_copies();
        __syncthreads();
        uint32_t q[32];
        const uint32_t base = __cvta_generic_to_shared(&shared.stages[1]);
#pragma unroll
        for (int d = 0; d < 8; d++) {
            uint32_t a[4];
            load_matrices(a, base + swizzled(first_token + lane % 16, d * 2 + lane / 16));
#pragma unroll
            for (int i = 0; i < 4; i++)
                q[4 * d + i] = a[i];
        }
        for (int tile = 0; tile < tiles; tile++) {
            wait_copies();
            __syncthreads();
            if (tile + 1 < tiles)
                copy_keys(tile + 1);
            float s[32], keep[2];
            scores<T>(s, q, shared.stages[tile % 2].k);
            if (cross && tile + 1 == tiles)
                mask_scores(s, keys - tile * tile_keys);
            if (softmax.update(s, keep))
#pragma unroll
                for (int i = 0; i < 64; i++)
                    o[i] *= keep[i / 2 % 2];
            accumulate<T>(o, s, shared.stages[tile % 2].v);
        }
    }
    store_rows<T>(args, row, first_token, o, softmax);
}

template <class T, Attention kind> cudaError_t launch(const AttentionArgs &args, cudaStream_t stream) {
    if (const cudaError_t error = cudaFuncSetAttribute(
            attend<T, kind>, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared)))
        return error;
    attend<T, kind><<<args.batch * args.heads * args.query_windows, threads, sizeof(Shared), stream>>>(args);
    return cudaGetLastError();
}

template <Attention kind> cudaError_t launch(const AttentionArgs &args, cudaStream_t stream) {
    return args.element == Element::bf16 ? launch<__nv_bfloat16, kind>(args, stream)
                                         : launch<__half, kind>(args, stream);
}

} // namespace

cudaError_t attention_portable(const AttentionArgs &args, Attention kind, cudaStream_t stream) {
    return kind == Attention::cross ? launch<Attention::cross>(args, stream)
                                    : launch<Attention::sparse>(args, stream);
}

} // namespace flashvsr::cuda
