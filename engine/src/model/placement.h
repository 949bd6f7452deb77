// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/device.h"
#include "ops/linear.h"

#include <ATen/core/Tensor.h>

#include <string_view>

namespace flashvsr {

/// Where a model computes, and in what precision.
struct Placement {
    at::Device device = at::kCPU;
    at::ScalarType dtype = at::kFloat;
    bool fp8 = false; ///< the linear layers of the transformer's blocks multiply e4m3

    bool operator==(const Placement &) const = default;

    /// The tensor as the model uses it; the tensor itself where nothing changes (mapped fp32 weights).
    at::Tensor operator()(const at::Tensor &tensor) const { return tensor.to(device, dtype).contiguous(); }

    /// The tensor on the device in fp32.
    at::Tensor wide(const at::Tensor &tensor) const { return tensor.to(device, at::kFloat).contiguous(); }

    /// A layer of a block.
    LinearWeights layer(const at::Tensor &weight, const at::Tensor &bias) const;

    /// A tensor of the host on the device, in its own type. Queued: neither waits for the other.
    at::Tensor upload(const at::Tensor &host) const { return flashvsr::upload(host, device); }
};

/// auto, fp32, bf16, fp16 or fp8 on a device.
/// @throws Error EINVAL or ENODEV for what is not known or what the device does not compute in
Placement placement_in(std::string_view precision, const at::Device &device);

const char *precision_name(const Placement &placement);

} // namespace flashvsr
