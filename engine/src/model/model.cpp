// SPDX-License-Identifier: LGPL-2.1-or-later
#include "model/model.h"

#include <ATen/ATen.h>

namespace flashvsr {

namespace {

int64_t parameters(const TensorMap &weights) {
    int64_t count = 0;
    for (const auto &[name, tensor] : weights)
        count += tensor.numel();
    return count;
}

} // namespace

Model::Model(const ModelWeights &weights, const Placement &place)
    : placement(place), lq_projector(weights.lq_projector, weights.shape, weights.version, place),
      dit(weights.dit, weights.prompt, weights.shape, place), decoder(weights.decoder, weights.shape, place),
      bytes((parameters(weights.dit) + parameters(weights.lq_projector) + parameters(weights.decoder)) *
            static_cast<int64_t>(at::elementSize(place.dtype))) {}

} // namespace flashvsr
