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

/// Tell compute-sanitizer's initcheck that the work queued so far on this thread's stream writes all of a
/// dense tensor: it does not follow stores by the copy engine, as kernels of cuBLASLt and cuDNN make them.
/// Does nothing where no tool listens.
void mark_written(const at::Tensor &tensor);

} // namespace flashvsr::cuda
