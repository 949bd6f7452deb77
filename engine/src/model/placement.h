// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/device.h"

#include <ATen/core/Tensor.h>

namespace flashvsr {

/// Where a model computes, and in what precision.
struct Placement {
    at::Device device = at::kCPU;
    at::ScalarType dtype = at::kFloat;

    /// The tensor as the model uses it; the tensor itself where nothing changes (mapped fp32 weights).
    at::Tensor operator()(const at::Tensor &tensor) const { return tensor.to(device, dtype).contiguous(); }

    /// The tensor on the device in fp32.
    at::Tensor wide(const at::Tensor &tensor) const { return tensor.to(device, at::kFloat).contiguous(); }

    /// A tensor of the host on the device, in its own type. Queued: neither waits for the other.
    at::Tensor upload(const at::Tensor &host) const { return flashvsr::upload(host, device); }
};

} // namespace flashvsr
