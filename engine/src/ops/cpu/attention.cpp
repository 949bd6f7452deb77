// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cpu/ops.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace flashvsr::cpu {

namespace {

const double softmax_scale = 1.0 / std::sqrt(static_cast<double>(head_dim));

/// One query window against its key windows, softmax over a running maximum, so that the scores held are
/// those of one key window whatever the list's length. All matrices 128 x 128.
class WindowAttention {
public:
    explicit WindowAttention(const at::TensorOptions &options)
        : scores_(at::empty({window_tokens, window_tokens}, options)), greatest_(window_tokens),
          total_(window_tokens) {}

    /// @param q, out (128, 128)
    /// @param k, v   (key_windows, 128, 128)
    void operator()(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, const int32_t *list,
                    int32_t count, const at::Tensor &out) {
        out.zero_();
        std::fill(greatest_.begin(), greatest_.end(), -INFINITY);
        std::fill(total_.begin(), total_.end(), 0.0F);
        for (int32_t i = 0; i < count; i++) {
            at::addmm_out(scores_, scores_, q, k.select(0, list[i]).t(), 0, softmax_scale);
            rescale(out.mutable_data_ptr<float>());
            out.addmm_(scores_, v.select(0, list[i]));
        }
        if (count > 0)
            normalise(out.mutable_data_ptr<float>());
    }

private:
    /// Turn this window's scores into weights relative to the new running maximum, and the sums so far too.
    void rescale(float *out) {
        float *scores = scores_.mutable_data_ptr<float>();
        for (int64_t row = 0; row < window_tokens; row++, scores += window_tokens, out += head_dim) {
            float greatest = greatest_[row], sum = 0;
            for (int64_t j = 0; j < window_tokens; j++)
                greatest = std::max(greatest, scores[j]);
            for (int64_t j = 0; j < window_tokens; j++)
                sum += scores[j] = std::exp(scores[j] - greatest);
            const float keep = std::exp(greatest_[row] - greatest);
            greatest_[row] = greatest;
            total_[row] = total_[row] * keep + sum;
            if (keep != 1.0F)
                for (int64_t c = 0; c < head_dim; c++)
                    out[c] *= keep;
        }
    }

    void normalise(float *out) const {
        for (const float total : total_)
            for (int64_t c = 0; c < head_dim; c++)
                *out++ /= total;
    }

    at::Tensor scores_;
    std::vector<float> greatest_, total_;
};

} // namespace

at::Tensor block_sparse_attention(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
                                  const BlockLists &lists, const TokenGrid &grid) {
    const int64_t heads = q.size(0) * q.size(1), queries = q.size(2), keys = k.size(2);
    at::Tensor result = at::empty(q.sizes(), q.options());
    const at::Tensor q_heads = q.flatten(0, 1), k_heads = k.flatten(0, 1), v_heads = v.flatten(0, 1),
                     out_heads = result.flatten(0, 1);
    const int32_t *counts = lists.counts.const_data_ptr<int32_t>(),
                  *indices = lists.indices.const_data_ptr<int32_t>();

    at::parallel_for(0, heads * queries, 1, [&](int64_t begin, int64_t end) {
        const c10::InferenceMode guard;
        WindowAttention attend(q.options());
        for (int64_t row = begin; row < end; row++) {
            const int64_t head = row / queries, window = row % queries;
            attend(q_heads[head][window], k_heads[head], v_heads[head], indices + row * keys, counts[row],
                   out_heads[head][window]);
        }
    });
    return from_windows(result, grid);
}

at::Tensor cross_attention(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v) {
    const int64_t batch = q.size(0), length = q.size(1), heads = k.size(0);
    const at::Tensor split = q.view({batch, length, heads, head_dim}).transpose(1, 2);
    const at::Tensor out = at::scaled_dot_product_attention(split, k.unsqueeze(0).expand({batch, -1, -1, -1}),
                                                            v.unsqueeze(0).expand({batch, -1, -1, -1}));
    return out.transpose(1, 2).reshape({batch, length, heads * head_dim});
}

} // namespace flashvsr::cpu
