// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/attention_hopper.cuh"

namespace flashvsr::cuda {

namespace {

template <Attention kind> cudaError_t launch(const AttentionArgs &args, cudaStream_t stream) {
    return args.element == Element::bf16 ? hopper::launch<__nv_bfloat16, hopper::Fastest, kind>(args, stream)
                                         : hopper::launch<__half, hopper::Fastest, kind>(args, stream);
}

} // namespace

cudaError_t attention_hopper(const AttentionArgs &args, Attention kind, cudaStream_t stream) {
    return kind == Attention::cross ? launch<Attention::cross>(args, stream)
                                    : launch<Attention::sparse>(args, stream);
}

} // namespace flashvsr::cuda
