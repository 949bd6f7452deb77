// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ladder.h"

#include "ops/cuda/attention_hopper.cuh"

namespace flashvsr::bench {

namespace {

/// Windows are dealt to the blocks of the grid in turn.
struct Dealt {
    static constexpr bool take_turns = false, longest_first = false;
};

/// The longest list first, and the two groups of a block issue products strictly in turn.
struct Alternating {
    static constexpr bool take_turns = true, longest_first = true;
};

cudaError_t portable(const cuda::AttentionArgs &args, cudaStream_t stream) {
    return cuda::block_sparse_attention(args, stream, cuda::AttentionKernel::portable);
}

template <class Policy> cudaError_t hopper(const cuda::AttentionArgs &args, cudaStream_t stream) {
    return cuda::hopper::launch<__nv_bfloat16, Policy>(args, stream);
}

const std::vector<Rung> rungs = {
    {"portable", portable},
    {"dealt", hopper<Dealt>},
    {"alternating", hopper<Alternating>},
    {"library", hopper<cuda::hopper::Fastest>},
};

} // namespace

const std::vector<Rung> &ladder() {
    return rungs;
}

} // namespace flashvsr::bench
