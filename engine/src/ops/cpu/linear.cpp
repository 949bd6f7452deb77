// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cpu/ops.h"

#include <ATen/ATen.h>

namespace flashvsr::cpu {

namespace {

constexpr float greatest_e4m3 = 448;

/// The numbers that rows stand for.
at::Tensor widened(const at::Tensor &values, const at::Tensor &scales) {
    return scales.defined()
               ? values.to(at::kFloat) * scales.view(values.sizes().slice(0, values.dim() - 1)).unsqueeze(-1)
               : values;
}

at::Tensor product(const Rows &x, const LinearWeights &weights) {
    return at::linear(widened(x.values, x.scales), widened(weights.weight, weights.scales), weights.bias);
}

} // namespace

Rows quantize_rows(const at::Tensor &x) {
    const at::Tensor wide = x.to(at::kFloat), greatest = wide.abs().amax(-1, true);
    const at::Tensor factor = at::where(greatest > 0, greatest_e4m3 / greatest, at::zeros_like(greatest));
    return {(wide * factor).to(at::kFloat8_e4m3fn), (greatest / greatest_e4m3).flatten()};
}

at::Tensor linear(const Rows &x, const LinearWeights &weights, Activation activation) {
    at::Tensor y = product(x, weights);
    if (activation == Activation::gelu)
        at::gelu_(y, "tanh");
    return y;
}

void linear_add(const at::Tensor &sum, const Rows &x, const LinearWeights &weights) {
    sum.add_(product(x, weights));
}

} // namespace flashvsr::cpu
