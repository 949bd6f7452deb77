// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/cuda/linear_launch.h"

#include <cutlass/cutlass.h>
#include <cutlass/device_kernel.h>
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/epilogue/fusion/sm90_callbacks_tma_warpspecialized.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/kernel/gemm_universal.hpp>

#include <type_traits>

/// Linear layers as matrix products of CUTLASS 3: a block of the grid stays and takes one tile of y after
/// another, a warp loads rows of x and of W (TMA), and groups of four warps multiply (WGMMA). What becomes of
/// the sums is a tree of CUTLASS's nodes, computed in registers before a tile is written.
namespace flashvsr::cuda::hopper::linear {

using bf16 = cutlass::bfloat16_t;

/// Elements of 16 bytes, which all pointers and rows begin at a multiple of.
template <class T> constexpr int alignment = 16 / sizeof(T);

/// The instruction's tanh is off by at most 2^-11, so the result by x * 2^-12: an eighth of what rounding to
/// bf16 does to a number near x.
CUTLASS_DEVICE float gelu_tanh(float x) {
    constexpr float scale = 0.7978845608028654F, cubic = 0.044715F; // sqrt(2 / pi)
    float tanh;
    asm("tanh.approx.f32 %0, %1;" : "=f"(tanh) : "f"(x * fmaf(scale * cubic * x, x, scale)));
    const float half = 0.5F * x;
    return fmaf(half, tanh, half);
}

/// As CUTLASS wants its functions: of an array.
template <class T> struct Gelu;
template <int N> struct Gelu<cutlass::Array<float, N>> {
    CUTLASS_DEVICE cutlass::Array<float, N> operator()(const cutlass::Array<float, N> &x) const {
        cutlass::Array<float, N> y;
        CUTLASS_PRAGMA_UNROLL
        for (int i = 0; i < N; ++i)
            y[i] = gelu_tanh(x[i]);
        return y;
    }
};

/// What is computed of a tile's sums, in fp32, and rounded once.
template <LinearElement element, LinearEpilogue epilogue, class Tile> struct Tree {
    template <class Node, class... Children>
    using Evt = cutlass::epilogue::fusion::Sm90EVT<Node, Children...>;
    template <template <class> class Function, class Result>
    using Compute = cutlass::epilogue::fusion::Sm90Compute<Function, Result, float,
                                                           cutlass::FloatRoundStyle::round_to_nearest>;

    using Sums = cutlass::epilogue::fusion::Sm90AccFetch;
    using Y = cutlass::epilogue::fusion::Sm90SrcFetch<bf16>; ///< as it was
    template <class T>
    using PerColumn = cutlass::epilogue::fusion::Sm90RowBroadcast<
        0, Tile, T, float, cute::Stride<cute::_0, cute::_1, cute::_0>, alignment<T>, false>;
    using Bias = PerColumn<bf16>;
    using WeightScales = PerColumn<float>;
    using RowScales = cutlass::epilogue::fusion::Sm90ColBroadcast<
        0, Tile, float, float, cute::Stride<cute::_1, cute::_0, cute::_0>, alignment<float>, false>;

    template <class Result> using OfBf16 = Evt<Compute<cutlass::plus, Result>, Sums, Bias>;
    template <class Result>
    using OfE4m3 = Evt<Compute<cutlass::homogeneous_multiply_add, Result>, RowScales,
                       Evt<Compute<cutlass::multiplies, float>, WeightScales, Sums>, Bias>;
    template <class Result>
    using Linear = std::conditional_t<element == LinearElement::bf16, OfBf16<Result>, OfE4m3<Result>>;

    using WithGelu = Evt<Compute<Gelu, bf16>, Linear<float>>;
    using Added = Evt<Compute<cutlass::plus, bf16>, Y, Linear<float>>;
    using Root = std::conditional_t<epilogue == LinearEpilogue::bias, Linear<bf16>,
                                    std::conditional_t<epilogue == LinearEpilogue::gelu, WithGelu, Added>>;

    template <class Result>
    static typename Linear<Result>::Arguments linear_arguments(const LinearArgs &args) {
        const typename Bias::Arguments bias{static_cast<const bf16 *>(args.bias), bf16(0), {}};
        if constexpr (element == LinearElement::bf16)
            return {{}, bias, {}};
        else
            return {{args.x_scales, 0.0F, {}}, {{args.weight_scales, 0.0F, {}}, {}, {}}, bias, {}};
    }

    static typename Root::Arguments arguments(const LinearArgs &args) {
        if constexpr (epilogue == LinearEpilogue::bias)
            return linear_arguments<bf16>(args);
        else if constexpr (epilogue == LinearEpilogue::gelu)
            return {linear_arguments<float>(args), {}};
        else
            return {{}, linear_arguments<float>(args), {}};
    }
};

/// Two groups, each with a tile of its own: while one multiplies, the other finishes. Sums of e4m3's products
/// stay as the tensor cores make them: their error is far below e4m3's own.
struct PingPong {
    using Epilogue = cutlass::epilogue::TmaWarpSpecialized;
    template <LinearElement element>
    using Main =
        std::conditional_t<element == LinearElement::bf16, cutlass::gemm::KernelTmaWarpSpecializedPingpong,
                           cutlass::gemm::KernelTmaWarpSpecializedPingpongFP8FastAccum>;
};

/// The order in which blocks take tiles: columns of them or rows first, so many columns (rows) side by side.
struct Walk {
    bool down;
    int beside;
};

/// Tiles of tile_rows x tile_columns of y; cluster_rows x cluster_columns blocks load together what they
/// share. One step of the sum is 128 bytes of a row of x and of W. As many steps are under way as shared
/// memory has room for.
template <LinearElement element, LinearEpilogue epilogue, class Schedule, int tile_rows, int tile_columns,
          int cluster_rows, int cluster_columns,
          class EpilogueTile = cutlass::epilogue::collective::EpilogueTileAuto>
class Kernel {
    using Element = std::conditional_t<element == LinearElement::bf16, bf16, cutlass::float_e4m3_t>;
    using Tile = cute::Shape<cute::Int<tile_rows>, cute::Int<tile_columns>, cute::Int<128 / sizeof(Element)>>;
    using Cluster = cute::Shape<cute::Int<cluster_rows>, cute::Int<cluster_columns>, cute::_1>;
    using ByRows = cutlass::layout::RowMajor;
    using ByColumns = cutlass::layout::ColumnMajor;
    using Epilogue = Tree<element, epilogue, Tile>;
    using Source = std::conditional_t<epilogue == LinearEpilogue::add, bf16, void>;
    using CollectiveEpilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
        cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, Cluster, EpilogueTile, float, float,
        Source, ByRows, alignment<bf16>, bf16, ByRows, alignment<bf16>, typename Schedule::Epilogue,
        typename Epilogue::Root>::CollectiveOp;
    using CollectiveMainloop = typename cutlass::gemm::collective::CollectiveBuilder<
        cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Element, ByRows, alignment<Element>, Element,
        ByColumns, alignment<Element>, float, Tile, Cluster,
        cutlass::gemm::collective::StageCountAutoCarveout<int(
            sizeof(typename CollectiveEpilogue::SharedStorage))>,
        typename Schedule::template Main<element>>::CollectiveOp;
    using Gemm = cutlass::gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, CollectiveMainloop,
                                                      CollectiveEpilogue>;
    static constexpr int shared_bytes = Gemm::SharedStorageSize;
    static_assert(shared_bytes <= 227 * 1024);

public:
    using Params = typename Gemm::Params;

    /// @return cudaErrorInvalidValue for a shape that it cannot compute
    static cudaError_t prepare(const LinearArgs &args, Walk walk, int multiprocessors, Params &params) {
        typename Gemm::Arguments arguments{};
        arguments.mode = cutlass::gemm::GemmUniversalMode::kGemm;
        arguments.problem_shape = {args.rows, args.out, args.in, 1};
        arguments.mainloop.ptr_A = static_cast<const Element *>(args.x);
        arguments.mainloop.dA = {int64_t(args.in), {}, {}};
        arguments.mainloop.ptr_B = static_cast<const Element *>(args.weight);
        arguments.mainloop.dB = {int64_t(args.in), {}, {}};
        arguments.epilogue.thread = Epilogue::arguments(args);
        // Written where it was read: a tile is read by the block that will write it, before it does.
        if constexpr (epilogue == LinearEpilogue::add)
            arguments.epilogue.ptr_C = static_cast<const bf16 *>(args.y);
        arguments.epilogue.dC = {int64_t(args.out), {}, {}};
        arguments.epilogue.ptr_D = static_cast<bf16 *>(args.y);
        arguments.epilogue.dD = {int64_t(args.out), {}, {}};
        arguments.hw_info.sm_count = multiprocessors;
        using Raster = cute::remove_cvref_t<decltype(arguments.scheduler.raster_order)>;
        arguments.scheduler.raster_order = walk.down ? Raster::AlongM : Raster::AlongN;
        arguments.scheduler.max_swizzle_size = walk.beside;
        if (!Gemm::can_implement(arguments) || Gemm::get_workspace_size(arguments) != 0)
            return cudaErrorInvalidValue;
        params = Gemm::to_underlying_arguments(arguments, nullptr);
        return cudaSuccess;
    }

    static cudaError_t launch(const Params &params, cudaStream_t stream) {
        const auto kernel = cutlass::device_kernel<Gemm>;
        if (const cudaError_t error =
                cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes))
            return error;
        cudaLaunchAttribute cluster{};
        cluster.id = cudaLaunchAttributeClusterDimension;
        cluster.val.clusterDim.x = cluster_rows;
        cluster.val.clusterDim.y = cluster_columns;
        cluster.val.clusterDim.z = 1;
        cudaLaunchConfig_t config{};
        config.gridDim = Gemm::get_grid_shape(params);
        config.blockDim = Gemm::get_block_shape();
        config.dynamicSmemBytes = shared_bytes;
        config.stream = stream;
        config.attrs = &cluster;
        config.numAttrs = cluster_rows * cluster_columns > 1 ? 1 : 0;
        cudaLaunchKernelEx(&config, kernel, params);
        return cudaGetLastError();
    }
};

} // namespace flashvsr::cuda::hopper::linear
