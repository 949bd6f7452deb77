// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/cpu/ops.h"
#ifdef FLASHVSR_CUDA
#include "ops/cuda/ops.h"

/// The implementation of `call` for the device that the tensor is on, or for that device.
#define FLASHVSR_DISPATCH(tensor, call) ((tensor).is_cuda() ? cuda::call : cpu::call)
#else
#define FLASHVSR_DISPATCH(tensor, call) (cpu::call)
#endif
