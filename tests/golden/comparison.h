// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "manifest.h"

#include <ATen/core/Tensor.h>

#include <string>

namespace flashvsr::golden {

/// How a tensor compares with its golden.
struct Comparison {
    bool passed = false;
    /// Share of the allowed error that was used: at most 1 where it passed. Infinite for what cannot be
    /// compared, for a NaN, and for any difference where none is allowed.
    double used = 0.0;
    /// The worst value, where it is, and what it should be; or why the two cannot be compared.
    std::string text;
};

/// Compare `got` with `golden`. Another shape, another kind of type (bool, integer, floating) or a NaN on
/// either side never passes. A float64 golden may be met by a float32 tensor that is the golden rounded:
/// half a unit in the last place is then allowed besides.
Comparison compare(const at::Tensor &got, const at::Tensor &golden, const Tolerance &tolerance);

} // namespace flashvsr::golden
