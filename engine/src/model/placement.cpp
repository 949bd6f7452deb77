// SPDX-License-Identifier: LGPL-2.1-or-later
#include "model/placement.h"

#include "error.h"

#include <ATen/ATen.h>

namespace flashvsr {

LinearWeights Placement::layer(const at::Tensor &weight, const at::Tensor &bias) const {
    if (!fp8)
        return {(*this)(weight), (*this)(bias), {}};
    const Rows rows = quantize_rows(wide(weight));
    return {rows.values, (*this)(bias), rows.scales};
}

Placement placement_in(std::string_view precision, const at::Device &device) {
    if (precision == "auto")
        return {device, device.is_cpu() ? at::kFloat : at::kBFloat16};
    if (precision == "fp32")
        return {device, at::kFloat};
    if (precision != "bf16" && precision != "fp16" && precision != "fp8")
        fail(EINVAL, "precision '", precision, "' is not known; auto, fp32, bf16, fp16 and fp8 are");
    if (device.is_cpu())
        fail(EINVAL, "precision ", precision, " needs a GPU; the CPU computes in fp32");
    if (precision == "fp8")
        check_gpu_for_fp8(device.index());
    return {device, precision == "fp16" ? at::kHalf : at::kBFloat16, precision == "fp8"};
}

const char *precision_name(const Placement &placement) {
    if (placement.fp8)
        return "fp8";
    return placement.dtype == at::kBFloat16 ? "bf16" : placement.dtype == at::kHalf ? "fp16" : "fp32";
}

} // namespace flashvsr
