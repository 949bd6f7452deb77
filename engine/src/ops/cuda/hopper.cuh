// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/cuda/attention_launch.h"

#include <cuda.h>
#include <cuda_bf16.h>

#include <array>
#include <cstdint>
#include <type_traits>

/// Hopper's instructions (PTX ISA, sm_90a) as functions, and what its kernels share. Shared-memory addresses
/// are 32-bit.
namespace flashvsr::cuda::hopper {

__device__ inline uint32_t shared_address(const void *pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// A phase-counting barrier in shared memory. A wait for parity 1 passes on a fresh barrier.
class Barrier {
public:
    __device__ void init(int arrivals) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address()), "r"(arrivals) : "memory");
    }

    __device__ void arrive() {
        asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address()) : "memory");
    }

    /// Arrive, and let the phase wait for `bytes` of copies too.
    __device__ void arrive_and_expect(int bytes) {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address()), "r"(bytes)
                     : "memory");
    }

    __device__ void wait(uint32_t parity) {
        asm volatile("{\n"
                     ".reg .pred done;\n"
                     "again:\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                     "@!done bra again;\n"
                     "}" ::"r"(address()),
                     "r"(parity)
                     : "memory");
    }

    __device__ uint32_t address() const { return shared_address(&state_); }

private:
    uint64_t state_;
};

/// Where a warp is in a ring of slots; parity is that of the slot's filling.
template <int slots> struct Position {
    int slot = 0;
    uint32_t parity = 0;

    __device__ void advance() {
        if (++slot == slots) {
            slot = 0;
            parity ^= 1;
        }
    }
};

/// The warp is done with what the barrier guards.
__device__ inline void release(Barrier &barrier) {
    __syncwarp();
    if (threadIdx.x % 32 == 0)
        barrier.arrive();
}

/// Make this thread's writes to shared memory, initialised barriers too, visible to the copy engine.
__device__ inline void fence_shared() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// Start copying a box of a 3-D tensor map to shared memory; its bytes arrive at `barrier`.
__device__ inline void copy_box(uint32_t to, const void *map, const Barrier &barrier, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, "
                 "{%3, %4, %5}], [%2];" ::"r"(to),
                 "l"(map), "r"(barrier.address()), "r"(x), "r"(y), "r"(z)
                 : "memory");
}

/// The same for a 4-D tensor map.
__device__ inline void copy_box(uint32_t to, const void *map, const Barrier &barrier, int x, int y, int z,
                                int w) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, "
                 "{%3, %4, %5, %6}], [%2];" ::"r"(to),
                 "l"(map), "r"(barrier.address()), "r"(x), "r"(y), "r"(z), "r"(w)
                 : "memory");
}

/// Start copying from shared memory to a box of a 4-D tensor map; what lies beyond its edges is left out.
/// Writes to that shared memory must have been fenced for the copy engine.
__device__ inline void store_box(const void *map, uint32_t from, int x, int y, int z, int w) {
    asm volatile(
        "cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
        "r"(from), "r"(x), "r"(y), "r"(z), "r"(w)
        : "memory");
}
__device__ inline void commit_stores() {
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
/// Wait until shared memory has been read by all of this thread's committed stores.
__device__ inline void wait_stores_read() {
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

/// Store four 8x8 matrices, one register each, to the rows that the lanes point to.
__device__ inline void store_matrices(uint32_t row_address, const uint32_t (&r)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row_address),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}

__device__ inline void prefetch_map(const void *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/// Named barriers of the block. `threads` counts those that sync and those that arrive.
__device__ inline void named_sync(int barrier, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
__device__ inline void named_arrive(int barrier, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

template <int registers> __device__ inline void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}
template <int registers> __device__ inline void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}

/// Order earlier register and shared-memory accesses before the products that follow.
__device__ inline void product_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ inline void commit_products() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/// Wait until at most `pending` committed groups run.
template <int pending> __device__ inline void wait_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

/// Keep the compiler from moving accesses of registers that a running product owns.
template <class T, int n> __device__ inline void pin(T (&registers)[n]) {
#pragma unroll
    for (int i = 0; i < n; i++)
        if constexpr (std::is_same_v<T, float>)
            asm volatile("" : "+f"(registers[i])::"memory");
        else
            asm volatile("" : "+r"(registers[i])::"memory");
}

/// Matrix descriptor of a tile in 128-byte swizzled rows of 64 16-bit elements. The swizzle is a function of
/// the address, so a tile may begin at any row of what one copy wrote.
/// @param column_bytes between the first 64 columns and the next; unused where rows are the product's N or M
/// @param group_bytes  between groups of 8 rows
__device__ inline uint64_t swizzled_tile(uint32_t address, uint32_t column_bytes,
                                         uint32_t group_bytes = 1024) {
    constexpr uint64_t swizzle_128 = 1;
    return uint64_t((address & 0x3FFFF) >> 4) | uint64_t(column_bytes >> 4) << 16 |
           uint64_t(group_bytes >> 4) << 32 | swizzle_128 << 62;
}

#define FLASHVSR_ACCUMULATORS_8(d, i)                                                                        \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),              \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define FLASHVSR_ACCUMULATORS(d)                                                                             \
    FLASHVSR_ACCUMULATORS_8(d, 0), FLASHVSR_ACCUMULATORS_8(d, 8), FLASHVSR_ACCUMULATORS_8(d, 16),            \
        FLASHVSR_ACCUMULATORS_8(d, 24), FLASHVSR_ACCUMULATORS_8(d, 32), FLASHVSR_ACCUMULATORS_8(d, 40),      \
        FLASHVSR_ACCUMULATORS_8(d, 48), FLASHVSR_ACCUMULATORS_8(d, 56)
#define FLASHVSR_WGMMA(type)                                                                                 \
    "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " "                                         \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                       \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                       \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "

/// d (64 x 128) = a (64 x 16) b^T (16 x 128) + (accumulate ? d : 0); b's rows are columns of d.
template <class T>
__device__ inline void multiply_shared(float (&d)[64], uint64_t a, uint64_t b, int accumulate) {
    if constexpr (std::is_same_v<T, __nv_bfloat16>)
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n" FLASHVSR_WGMMA(
                         "bf16") "%64, %65, add, 1, 1, 0, 0;\n}"
                     : FLASHVSR_ACCUMULATORS(d)
                     : "l"(a), "l"(b), "r"(accumulate));
    else
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n" FLASHVSR_WGMMA(
                         "f16") "%64, %65, add, 1, 1, 0, 0;\n}"
                     : FLASHVSR_ACCUMULATORS(d)
                     : "l"(a), "l"(b), "r"(accumulate));
}

/// d (64 x 8) = a (64 x 16) b^T (16 x 8) + (accumulate ? d : 0)
template <class T>
__device__ inline void multiply_shared(float (&d)[4], uint64_t a, uint64_t b, int accumulate) {
    if constexpr (std::is_same_v<T, __nv_bfloat16>)
        asm volatile(
            "{\n.reg .pred add;\nsetp.ne.b32 add, %6, 0;\n"
            "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, add, 1, 1, 0, "
            "0;\n}"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "l"(a), "l"(b), "r"(accumulate));
    else
        asm volatile(
            "{\n.reg .pred add;\nsetp.ne.b32 add, %6, 0;\n"
            "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%0, %1, %2, %3}, %4, %5, add, 1, 1, 0, "
            "0;\n}"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "l"(a), "l"(b), "r"(accumulate));
}

/// d (64 x 128) += a (64 x 16) b (16 x 128), a in registers.
template <class T> __device__ inline void multiply_registers(float (&d)[64], const uint32_t *a, uint64_t b) {
    if constexpr (std::is_same_v<T, __nv_bfloat16>)
        asm volatile(FLASHVSR_WGMMA("bf16") "{%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
                     : FLASHVSR_ACCUMULATORS(d)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
    else
        asm volatile(FLASHVSR_WGMMA("f16") "{%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
                     : FLASHVSR_ACCUMULATORS(d)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef FLASHVSR_WGMMA
#undef FLASHVSR_ACCUMULATORS
#undef FLASHVSR_ACCUMULATORS_8

/// The driver's encoder of tensor maps, found at run time so that nothing links against the driver.
using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

inline EncodeTiled find_encoder() {
    void *function = nullptr;
    cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                               cudaEnableDefault, &found);
#else
    const cudaError_t error =
        cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
    return error == cudaSuccess && found == cudaDriverEntryPointSuccess
               ? reinterpret_cast<EncodeTiled>(function)
               : nullptr;
}

/// Map of a 16-bit tensor of 64-element rows that the copy engine swizzles, zeros beyond its edges.
/// @param sizes, box innermost first
/// @param strides    elements, of all dimensions but the innermost
template <size_t rank>
cudaError_t encode_map(CUtensorMap &map, const void *base, Element element, std::array<int64_t, rank> sizes,
                       std::array<int64_t, rank - 1> strides, std::array<int, rank> box) {
    static const EncodeTiled encode_tiled = find_encoder();
    if (encode_tiled == nullptr)
        return cudaErrorNotSupported;
    cuuint64_t lengths[rank], stride_bytes[rank - 1];
    cuuint32_t box_lengths[rank], steps[rank];
    for (size_t i = 0; i < rank; i++) {
        lengths[i] = static_cast<cuuint64_t>(sizes[i]);
        box_lengths[i] = static_cast<cuuint32_t>(box[i]);
        steps[i] = 1;
        if (i + 1 < rank)
            stride_bytes[i] = static_cast<cuuint64_t>(strides[i]) * 2;
    }
    const CUresult result = encode_tiled(
        &map, element == Element::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        rank, const_cast<void *>(base), lengths, stride_bytes, box_lengths, steps,
        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

} // namespace flashvsr::cuda::hopper
