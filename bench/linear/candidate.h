// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/cuda/linear_launch.h"

#include <cuda_runtime.h>

#include <memory>
#include <vector>

namespace linear_bench {

using flashvsr::cuda::LinearArgs;
using flashvsr::cuda::LinearElement;
using flashvsr::cuda::LinearEpilogue;

/// The order in which the blocks walk over the tiles, as that of hopper::linear.
struct Walk {
    bool down;
    int beside;
};

/// A kernel with its arguments.
class Launch {
public:
    virtual ~Launch() = default;
    virtual bool run(cudaStream_t stream) = 0;
};

struct Candidate {
    const char *name;
    LinearElement element;
    LinearEpilogue epilogue;
    int tile_rows, tile_columns, cluster_rows, cluster_columns;
    /// Null where the kernel cannot compute the product.
    std::unique_ptr<Launch> (*prepare)(const LinearArgs &args, Walk walk, int multiprocessors);
};

std::vector<Candidate> &candidates();

} // namespace linear_bench
