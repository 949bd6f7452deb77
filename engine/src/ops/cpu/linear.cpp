// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cpu/ops.h"

#include <ATen/ATen.h>

namespace flashvsr::cpu {

at::Tensor linear(const at::Tensor &x, const LinearWeights &weights, Activation activation) {
    at::Tensor y = at::linear(x, weights.weight, weights.bias);
    if (activation == Activation::gelu)
        at::gelu_(y, "tanh");
    return y;
}

void linear_add(const at::Tensor &sum, const at::Tensor &x, const LinearWeights &weights) {
    sum.add_(at::linear(x, weights.weight, weights.bias));
}

} // namespace flashvsr::cpu
