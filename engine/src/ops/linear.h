// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <ATen/core/Tensor.h>

namespace flashvsr {

/// Rows of numbers; where there are scales, e4m3 of which row i stands for values[i] * scales[i].
struct Rows {
    at::Tensor values; ///< (..., n)
    at::Tensor scales; ///< (rows) fp32, or undefined

    Rows(at::Tensor rows) : values(std::move(rows)) {} // NOLINT(google-explicit-constructor)
    Rows(at::Tensor rows, at::Tensor factors) : values(std::move(rows)), scales(std::move(factors)) {}
};

/// Each row by its greatest magnitude, which becomes 448, the greatest of e4m3. x (..., n), n a multiple
/// of 16.
Rows quantize_rows(const at::Tensor &x);

struct LinearWeights {
    at::Tensor weight, bias; ///< (out, in), (out)
    at::Tensor scales = {};  ///< of the weight's rows, as Rows'
};

enum class Activation {
    none,
    gelu ///< in its tanh form
};

/// activation(x W^T + b). x (..., in) -> (..., out), of the bias's type. Where the weight has scales, rows
/// without them are quantized first.
at::Tensor linear(const Rows &x, const LinearWeights &weights, Activation activation = Activation::none);

/// sum += x W^T + b, in place. sum (..., out), contiguous.
void linear_add(const at::Tensor &sum, const Rows &x, const LinearWeights &weights);

} // namespace flashvsr
