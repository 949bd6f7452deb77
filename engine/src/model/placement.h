// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <ATen/core/Tensor.h>

namespace flashvsr {

/// Where a model computes, and in what precision.
struct Placement {
    at::Device device = at::kCPU;
    at::ScalarType dtype = at::kFloat;

    /// The tensor as the model uses it; the tensor itself where nothing changes (mapped fp32 weights).
    at::Tensor operator()(const at::Tensor &weight) const { return weight.to(device, dtype).contiguous(); }
};

} // namespace flashvsr
