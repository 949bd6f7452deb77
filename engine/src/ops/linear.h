// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <ATen/core/Tensor.h>

namespace flashvsr {

struct LinearWeights {
    at::Tensor weight, bias; ///< (out, in), (out)
};

enum class Activation {
    none,
    gelu ///< in its tanh form
};

/// activation(x W^T + b). x (..., in) -> (..., out).
at::Tensor linear(const at::Tensor &x, const LinearWeights &weights,
                  Activation activation = Activation::none);

/// sum += x W^T + b, in place. sum (..., out), contiguous.
void linear_add(const at::Tensor &sum, const at::Tensor &x, const LinearWeights &weights);

} // namespace flashvsr
