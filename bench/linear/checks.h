// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "candidate.h"

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <cstddef>
#include <cstdint>

/// Inputs, the reference and what is compared with it, each queued on the default stream.
namespace linear_bench {

using bf16 = __nv_bfloat16;
using e4m3 = __nv_fp8_e4m3;

void queue_normal(bf16 *values, size_t count, uint32_t seed, float scale);
void queue_normal(e4m3 *values, size_t count, uint32_t seed, float scale);
void queue_scales(float *values, size_t count, uint32_t seed, float scale); ///< from scale / 2 to 3 scale / 2

/// Added to `sum` where the epilogue adds; summed in fp32, one product after the other.
void queue_reference(const LinearArgs &args, const bf16 *sum, float *reference);

struct Difference {
    double error_squares, reference_squares;
    unsigned long long not_finite, written_outside;
    unsigned largest_bits, beyond_bits; ///< floats >= 0: |error|, and |error| less bf16's own rounding
};

/// Of the first m rows; those from there to `rows` must be as they were: the sum, or all bits set where it is
/// null.
void queue_comparison(const bf16 *y, const float *reference, const bf16 *sum, int m, int rows, int n,
                      Difference *result);

} // namespace linear_bench
