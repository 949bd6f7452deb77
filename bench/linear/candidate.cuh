// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "candidate.h"

#include "ops/cuda/linear_hopper.cuh"

namespace linear_bench {

using flashvsr::cuda::hopper::linear::PingPong;

/// Two groups, each with half of the rows of one tile.
struct Cooperative {
    using Epilogue = cutlass::epilogue::TmaWarpSpecializedCooperative;
    template <LinearElement element>
    using Main =
        std::conditional_t<element == LinearElement::bf16, cutlass::gemm::KernelTmaWarpSpecializedCooperative,
                           cutlass::gemm::KernelTmaWarpSpecializedCooperativeFP8FastAccum>;
};

template <class Kernel> class KernelLaunch : public Launch {
public:
    static std::unique_ptr<Launch> prepare(const LinearArgs &args, Walk walk, int multiprocessors) {
        auto launch = std::make_unique<KernelLaunch>();
        if (Kernel::prepare(args, {walk.down, walk.beside}, multiprocessors, launch->params_) != cudaSuccess)
            return nullptr;
        return launch;
    }

    bool run(cudaStream_t stream) override { return Kernel::launch(params_, stream) == cudaSuccess; }

private:
    typename Kernel::Params params_;
};

/// A kernel with each epilogue.
template <LinearElement element, class Schedule, int tile_rows, int tile_columns, int cluster_rows,
          int cluster_columns, class EpilogueTile = cutlass::epilogue::collective::EpilogueTileAuto>
struct Family {
    template <LinearEpilogue epilogue>
    using Of = flashvsr::cuda::hopper::linear::Kernel<element, epilogue, Schedule, tile_rows, tile_columns,
                                                      cluster_rows, cluster_columns, EpilogueTile>;
    template <LinearEpilogue epilogue> static Candidate candidate(const char *name) {
        return {name,         element,      epilogue,        tile_rows,
                tile_columns, cluster_rows, cluster_columns, KernelLaunch<Of<epilogue>>::prepare};
    }

    explicit Family(const char *name) {
        candidates().push_back(candidate<LinearEpilogue::bias>(name));
        candidates().push_back(candidate<LinearEpilogue::gelu>(name));
        candidates().push_back(candidate<LinearEpilogue::add>(name));
    }
};

} // namespace linear_bench
