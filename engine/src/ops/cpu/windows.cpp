// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cpu/ops.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cmath>

namespace flashvsr::cpu {

namespace {

constexpr float norm_eps = 1e-6F;

/// Row sum of squares in eight running sums, which the compiler keeps in one vector.
float sum_of_squares(const float *x, int64_t n) {
    float lanes[8] = {};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int lane = 0; lane < 8; lane++)
            lanes[lane] += x[i + lane] * x[i + lane];
    float sum = 0;
    for (; i < n; i++)
        sum += x[i] * x[i];
    for (const float lane : lanes)
        sum += lane;
    return sum;
}

/// out = rotation of the normalised pairs by table's angles: (a+ib)*(cos+i sin). Returns past the pairs.
float *rotate(float *out, const float *&x, const float *&weight, float scale, const float *table,
              int64_t pairs) {
    for (int64_t j = 0; j < pairs; j++) {
        const float a = x[2 * j] * scale * weight[2 * j], b = x[2 * j + 1] * scale * weight[2 * j + 1];
        const float cosine = table[2 * j], sine = table[2 * j + 1];
        out[2 * j] = a * cosine - b * sine;
        out[2 * j + 1] = a * sine + b * cosine;
    }
    x += 2 * pairs;
    weight += 2 * pairs;
    return out + 2 * pairs;
}

/// A token's place among windows of one head.
struct Place {
    int64_t t, y, x, window, token;
};

Place place_of(int64_t index, const TokenGrid &grid) {
    Place place{};
    place.t = index / (grid.height * grid.width);
    place.y = index / grid.width % grid.height;
    place.x = index % grid.width;
    place.window = (place.t / window_frames * grid.block_rows() + place.y / window_side) * grid.block_cols() +
                   place.x / window_side;
    place.token =
        (place.t % window_frames * window_side + place.y % window_side) * window_side + place.x % window_side;
    return place;
}

float *token_of(const at::Tensor &windows, int64_t batch, int64_t head, const Place &place) {
    return windows.mutable_data_ptr<float>() + batch * windows.stride(0) + head * windows.stride(1) +
           (place.window * window_tokens + place.token) * head_dim;
}

} // namespace

void qkv_to_windows(const at::Tensor &qkv, const QkvNorm &norm, const RopeTable &rope, const TokenGrid &grid,
                    const QkvWindows &windows) {
    const int64_t batch = qkv.size(0), dim = qkv.size(2) / 3, heads = dim / head_dim;
    const at::Tensor rows = qkv.contiguous();
    const float *in = rows.const_data_ptr<float>();
    const float *time = rope.time.const_data_ptr<float>(), *y_axis = rope.y.const_data_ptr<float>(),
                *x_axis = rope.x.const_data_ptr<float>();
    const int64_t time_pairs = rope.time.size(1), space_pairs = rope.y.size(1);

    const auto write_rotated = [&](const float *values, const float *gain, const at::Tensor &to, int64_t b,
                                   const Place &place) {
        const float scale =
            1.0F / std::sqrt(sum_of_squares(values, dim) / static_cast<float>(dim) + norm_eps);
        for (int64_t head = 0; head < heads; head++) {
            float *out = token_of(to, b, head, place);
            out = rotate(out, values, gain, scale, time + place.t * time_pairs * 2, time_pairs);
            out = rotate(out, values, gain, scale, y_axis + place.y * space_pairs * 2, space_pairs);
            rotate(out, values, gain, scale, x_axis + place.x * space_pairs * 2, space_pairs);
        }
    };
    at::parallel_for(0, batch * grid.tokens(), 64, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            const int64_t b = row / grid.tokens();
            const Place place = place_of(row % grid.tokens(), grid);
            const float *values = in + row * 3 * dim;
            write_rotated(values, norm.query.const_data_ptr<float>(), windows.query, b, place);
            write_rotated(values + dim, norm.key.const_data_ptr<float>(), windows.key, b, place);
            for (int64_t head = 0; head < heads; head++)
                std::copy_n(values + 2 * dim + head * head_dim, head_dim,
                            token_of(windows.value, b, head, place));
        }
    });
}

void pool_windows(const at::Tensor &windows, const at::Tensor &pooled) {
    at::Tensor to = pooled;
    at::mean_out(to, windows, at::IntArrayRef{3});
}

} // namespace flashvsr::cpu
