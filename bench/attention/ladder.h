// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/cuda/attention_launch.h"

#include <vector>

namespace flashvsr::bench {

/// A version of the kernel, from the first to the one in the library.
struct Rung {
    const char *name;
    cudaError_t (*run)(const cuda::AttentionArgs &args, cudaStream_t stream);
};

const std::vector<Rung> &ladder();

} // namespace flashvsr::bench
