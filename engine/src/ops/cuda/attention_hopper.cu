// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/attention_hopper.cuh"

namespace flashvsr::cuda {

cudaError_t attention_hopper(const AttentionArgs &args, cudaStream_t stream) {
    return args.element == Element::bf16 ? hopper::launch<__nv_bfloat16, hopper::Fastest>(args, stream)
                                         : hopper::launch<__half, hopper::Fastest>(args, stream);
}

} // namespace flashvsr::cuda
