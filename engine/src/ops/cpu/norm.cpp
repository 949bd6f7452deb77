// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cpu/ops.h"

#include <ATen/ATen.h>

#include <cmath>

namespace flashvsr::cpu {

namespace {

constexpr double norm_eps = 1e-6, channel_norm_floor = 1e-12;

} // namespace

at::Tensor layer_norm(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias) {
    return at::layer_norm(x, {x.size(-1)}, weight, bias, norm_eps);
}

Rows layer_norm_quantized(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias) {
    return quantize_rows(layer_norm(x, weight, bias));
}

at::Tensor rms_norm(const at::Tensor &x, const at::Tensor &weight) {
    const at::Tensor scale = x.square().mean(-1, true).add_(norm_eps).rsqrt_();
    return scale.mul(x).mul_(weight);
}

at::Tensor channel_norm(const at::Tensor &x, const at::Tensor &gamma, bool silu) {
    const at::Tensor norm =
        at::linalg_vector_norm(x, 2, at::IntArrayRef{-1}, true).clamp_min_(channel_norm_floor);
    const double root = std::sqrt(static_cast<double>(x.size(-1)));
    at::Tensor y = (x / norm).mul_(gamma * root);
    return silu ? at::silu_(y) : y;
}

} // namespace flashvsr::cpu
