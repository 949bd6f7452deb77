// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

/// Before a function that both compilers compile: the host's, and CUDA's for the device too.
#ifdef __CUDACC__
#define FLASHVSR_HOST_DEVICE __host__ __device__
#else
#define FLASHVSR_HOST_DEVICE
#endif
