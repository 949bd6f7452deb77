// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/device.h"

/// Pictures in other contexts' memory. What these do is said in ops/device.h.
namespace flashvsr::cuda {

/// Make a GPU's primary context the current one.
/// @return whether it is, and leave_primary_context() is to be called
bool enter_primary_context(int index) noexcept;
void leave_primary_context(int index) noexcept;

int gpu_of(const Surface &surface);
void read_surface(const Surface &surface, const at::Tensor &packed);
void write_surface(const at::Tensor &packed, const Surface &surface);

} // namespace flashvsr::cuda
