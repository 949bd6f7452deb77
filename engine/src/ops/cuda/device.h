// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/device.h"

/// GPUs as CUDA counts them. What these do is said in ops/device.h.
namespace flashvsr::cuda {

int device_count();
GpuReport report_of(int index);

/// Let LibTorch compute as the engine needs it.
void set_up_libtorch();

DeviceMemory device_memory(int index);

/// Bytes of tensors on a GPU: now, and the most since reset_peak().
int64_t allocated_bytes(int index);
int64_t peak_allocated_bytes(int index);
void reset_peak(int index);

std::string failure();

void release_pinned_memory();

/// Queue a copy between a GPU and pinned memory in a stream of the GPU. Both tensors are of one shape and
/// type and contiguous, or pieces along dimension `dim` of tensors that are; the caller keeps them until it
/// is done.
void copy(const at::Tensor &to, const at::Tensor &from, const c10::Stream &stream, int64_t dim = 0);

} // namespace flashvsr::cuda
