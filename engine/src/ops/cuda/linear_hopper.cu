// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/linear_hopper.cuh"

#include <cstdint>

namespace flashvsr::cuda {

namespace {

using hopper::linear::Kernel;
using hopper::linear::PingPong;
using hopper::linear::Walk;

struct Tiling {
    int rows, columns;   ///< of y that are made at a time
    int cluster_columns; ///< blocks side by side that load their rows of x together
    Walk walk;
};

constexpr bool down = true, across = false;

/// By element and epilogue: the fastest of bench/linear, with 128 columns or 192. The sums of a tile take 128
/// or 192 of a thread's 232 registers; what the epilogue needs lies in the others.
constexpr Tiling tilings[2][3] = {
    {
        {128, 192, 1, {across, 1}}, // bias: 1 to 2 % faster than 128 columns
        {128, 128, 2, {down, 1}},   // GELU: 2 % faster than 192 columns, 0.4 % than blocks that load alone
        {128, 128, 1, {across, 2}}, // add: 2 to 8 % faster than 192 columns
    },
    {
        {128, 192, 1, {across, 1}}, // bias: 2 to 5 % faster than 128 columns
        {128, 192, 2, {across, 1}}, // GELU: 5 % faster than 128 columns, 1.5 % than blocks that load alone
        {128, 128, 1, {across, 2}}, // add: within 1 % of 192 columns
    },
};

constexpr Tiling tiling_of(LinearElement element, LinearEpilogue epilogue) {
    return tilings[static_cast<int>(element)][static_cast<int>(epilogue)];
}

int attribute(cudaDeviceAttr which) {
    int device = 0, value = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
                   cudaDeviceGetAttribute(&value, which, device) == cudaSuccess
               ? value
               : 0;
}

bool is_aligned(const void *pointer) {
    return pointer != nullptr && reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

template <LinearElement element, LinearEpilogue epilogue>
cudaError_t launch(const LinearArgs &args, cudaStream_t stream) {
    constexpr Tiling tiling = tiling_of(element, epilogue);
    using Best = Kernel<element, epilogue, PingPong, tiling.rows, tiling.columns, 1, tiling.cluster_columns>;
    typename Best::Params params;
    if (const cudaError_t error =
            Best::prepare(args, tiling.walk, attribute(cudaDevAttrMultiProcessorCount), params))
        return error;
    return Best::launch(params, stream);
}

template <LinearElement element> cudaError_t launch(const LinearArgs &args, cudaStream_t stream) {
    switch (args.epilogue) {
    case LinearEpilogue::bias:
        return launch<element, LinearEpilogue::bias>(args, stream);
    case LinearEpilogue::gelu:
        return launch<element, LinearEpilogue::gelu>(args, stream);
    case LinearEpilogue::add:
        return launch<element, LinearEpilogue::add>(args, stream);
    }
    return cudaErrorInvalidValue;
}

} // namespace

bool linear_hopper_can(const LinearArgs &args) {
    const bool e4m3 = args.element == LinearElement::e4m3;
    if (args.rows <= 0 || args.in <= 0 || args.out <= 0 || args.in % (e4m3 ? 16 : 8) != 0 ||
        args.out % 8 != 0)
        return false;
    for (const void *pointer : {args.x, args.weight, args.bias, static_cast<const void *>(args.y)})
        if (!is_aligned(pointer))
            return false;
    if (e4m3 && (!is_aligned(args.x_scales) || !is_aligned(args.weight_scales)))
        return false;
    return attribute(cudaDevAttrComputeCapabilityMajor) == 9;
}

bool linear_hopper_pays(const LinearArgs &args) {
    // A block needs two tiles for one to be multiplied while the other is finished.
    constexpr int fewest_rounds = 2;
    // Of the results that the tiles of all rounds have room for.
    constexpr double least_filled = 0.8;
    if (!linear_hopper_can(args))
        return false;
    const Tiling tiling = tiling_of(args.element, args.epilogue);
    const auto round_up = [](int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; };
    const int64_t multiprocessors = attribute(cudaDevAttrMultiProcessorCount),
                  cluster_columns = int64_t{tiling.columns} * tiling.cluster_columns,
                  tile = int64_t{tiling.rows} * tiling.columns,
                  covered = round_up(args.rows, tiling.rows) * round_up(args.out, cluster_columns),
                  room = round_up(covered, multiprocessors * tile);
    return room >= fewest_rounds * multiprocessors * tile &&
           static_cast<double>(args.rows) * args.out >= least_filled * static_cast<double>(room);
}

cudaError_t linear_hopper(const LinearArgs &args, cudaStream_t stream) {
    if (!linear_hopper_can(args))
        return cudaErrorNotSupported;
    return args.element == LinearElement::bf16 ? launch<LinearElement::bf16>(args, stream)
                                               : launch<LinearElement::e4m3>(args, stream);
}

} // namespace flashvsr::cuda
