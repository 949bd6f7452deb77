// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/norm.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cmath>

namespace flashvsr {

namespace {

constexpr double norm_eps = 1e-6, channel_norm_floor = 1e-12;

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

} // namespace

at::Tensor layer_norm(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias) {
    return at::layer_norm(x, {x.size(-1)}, weight, bias, norm_eps);
}

at::Tensor rms_norm(const at::Tensor &x, const at::Tensor &weight) {
    const at::Tensor wide = x.to(at::kFloat);
    const at::Tensor scale = wide.square().mean(-1, true).add_(norm_eps).rsqrt_();
    return (wide * scale).to(x.scalar_type()) * weight;
}

at::Tensor channel_rms_norm(const at::Tensor &x, const at::Tensor &gamma) {
    const at::Tensor norm =
        at::linalg_vector_norm(x, 2, at::IntArrayRef{1}, true).clamp_min_(channel_norm_floor);
    const double root = std::sqrt(static_cast<double>(x.size(1)));
    std::vector<int64_t> shape(x.dim(), 1);
    shape[1] = x.size(1);
    return (x / norm).mul_((gamma * root).view(shape));
}

at::Tensor channel_rms_norm_silu(const at::Tensor &x, const at::Tensor &gamma) {
    at::Tensor y = channel_rms_norm(x, gamma);
    return at::silu_(y);
}

at::Tensor rms_norm_rope_to_windows(const at::Tensor &x, const at::Tensor &weight, const RopeTable &rope,
                                    const TokenGrid &grid) {
    const int64_t batch = x.size(0), dim = x.size(2), heads = dim / head_dim, windows = grid.windows();
    at::Tensor result = at::empty({batch, heads, windows, window_tokens, head_dim}, x.options());
    const at::Tensor rows = x.contiguous();
    const float *in = rows.const_data_ptr<float>(), *gain = weight.const_data_ptr<float>();
    const float *time = rope.time.const_data_ptr<float>(), *y_axis = rope.y.const_data_ptr<float>(),
                *x_axis = rope.x.const_data_ptr<float>();
    const int64_t time_pairs = rope.time.size(1), space_pairs = rope.y.size(1);
    float *out = result.mutable_data_ptr<float>();

    at::parallel_for(0, batch * grid.tokens(), 64, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            const int64_t b = row / grid.tokens(), token = row % grid.tokens();
            const int64_t t = token / (grid.height * grid.width), ty = token / grid.width % grid.height,
                          tx = token % grid.width;
            const int64_t window =
                (t / window_frames * grid.block_rows() + ty / window_side) * grid.block_cols() +
                tx / window_side;
            const int64_t place =
                (t % window_frames * window_side + ty % window_side) * window_side + tx % window_side;
            const float *values = in + row * dim, *weights = gain;
            const float scale = 1.0F / std::sqrt(sum_of_squares(values, dim) / static_cast<float>(dim) +
                                                 static_cast<float>(norm_eps));
            for (int64_t head = 0; head < heads; head++) {
                float *to =
                    out + (((b * heads + head) * windows + window) * window_tokens + place) * head_dim;
                to = rotate(to, values, weights, scale, time + t * time_pairs * 2, time_pairs);
                to = rotate(to, values, weights, scale, y_axis + ty * space_pairs * 2, space_pairs);
                rotate(to, values, weights, scale, x_axis + tx * space_pairs * 2, space_pairs);
            }
        }
    });
    return result;
}

} // namespace flashvsr
