// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <type_traits>

/// Hopper's instructions (PTX ISA, sm_90a) as functions. Shared-memory addresses are 32-bit.
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

/// Make barriers' initialisation visible to the copy engine.
__device__ inline void fence_barrier_init() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// Start copying a box of a 3-D tensor map to shared memory; its bytes arrive at `barrier`.
__device__ inline void copy_box(uint32_t to, const void *map, const Barrier &barrier, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, "
                 "{%3, %4, %5}], [%2];" ::"r"(to),
                 "l"(map), "r"(barrier.address()), "r"(x), "r"(y), "r"(z)
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

/// Matrix descriptor of a tile in 128-byte swizzled rows of 64 16-bit elements, groups of 8 rows 1024 bytes
/// apart.
/// @param column_bytes between the first 64 columns and the next; unused where rows are the product's N or M
__device__ inline uint64_t swizzled_tile(uint32_t address, uint32_t column_bytes) {
    constexpr uint64_t swizzle_128 = 1;
    return uint64_t((address & 0x3FFFF) >> 4) | uint64_t(column_bytes >> 4) << 16 |
           uint64_t(1024 >> 4) << 32 | swizzle_128 << 62;
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

} // namespace flashvsr::cuda::hopper
