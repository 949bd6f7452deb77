// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/cuda/attention_launch.h"
#include "ops/cuda/kernels.h"

#include <ATen/core/Tensor.h>

namespace flashvsr::cuda {

/// Throw what a launch or a call of the CUDA run time said, as an Error (ENOMEM or EIO); `what` names the
/// work.
void check(cudaError_t error, const char *what);

/// The kernels' name for a tensor's type.
/// @throws Error EINVAL for a type that they do not know
Element element_of(const at::Tensor &tensor);

/// (B, heads, windows, ...) whose windows are contiguous.
WindowBuffer window_buffer(const at::Tensor &windows);

cudaStream_t current_stream();

} // namespace flashvsr::cuda
