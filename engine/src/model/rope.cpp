// SPDX-License-Identifier: LGPL-2.1-or-later
#include "model/rope.h"

#include <ATen/ATen.h>

#include <cmath>

namespace flashvsr {

namespace {

constexpr int64_t space_dims = 2 * (head_dim / 2 / 3), time_dims = head_dim - 2 * space_dims;

/// (positions, dims/2, 2)
at::Tensor axis_table(int64_t first, int64_t positions, int64_t dims) {
    at::Tensor table = at::empty({positions, dims / 2, 2}, at::kFloat);
    float *out = table.mutable_data_ptr<float>();
    for (int64_t p = 0; p < positions; p++) {
        for (int64_t j = 0; j < dims / 2; j++) {
            const double angle = static_cast<double>(first + p) * std::pow(10000.0, -2.0 * j / dims);
            *out++ = static_cast<float>(std::cos(angle));
            *out++ = static_cast<float>(std::sin(angle));
        }
    }
    return table;
}

} // namespace

at::Tensor rope_times(int64_t frames, int64_t first_latent) {
    return axis_table(first_latent, frames, time_dims);
}

RopeTable make_rope_table(const TokenGrid &grid, int64_t first_latent) {
    return {rope_times(grid.frames, first_latent), axis_table(0, grid.height, space_dims),
            axis_table(0, grid.width, space_dims)};
}

} // namespace flashvsr
