// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cpu/ops.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <functional>

namespace flashvsr::cpu {

at::Tensor draft_probabilities(const at::Tensor &pooled_q, const at::Tensor &pooled_k,
                               const at::Tensor &local) {
    const int64_t rows = pooled_q.size(0) * pooled_q.size(1), queries = pooled_q.size(2),
                  keys = pooled_k.size(2), n = local.size(0);
    at::Tensor result = at::empty({pooled_q.size(0), pooled_q.size(1), queries, keys}, at::kFloat);
    const at::Tensor q = pooled_q.contiguous(), k = pooled_k.contiguous();
    const float *q_data = q.const_data_ptr<float>(), *k_data = k.const_data_ptr<float>();
    const bool *seen = local.const_data_ptr<bool>();
    float *out = result.mutable_data_ptr<float>();
    const double scale = 1.0 / std::sqrt(static_cast<double>(head_dim));

    at::parallel_for(0, rows * queries, 8, [&](int64_t begin, int64_t end) {
        std::vector<double> scores(keys);
        for (int64_t row = begin; row < end; row++) {
            const float *query = q_data + row * head_dim, *key = k_data + row / queries * keys * head_dim;
            const bool *row_seen = seen + row % queries % n * n;
            double greatest = -INFINITY;
            for (int64_t j = 0; j < keys; j++) {
                // Every product is summed in the same order, so that equal windows tie exactly.
                double sum = 0;
                for (int64_t c = 0; c < head_dim; c++)
                    sum += static_cast<double>(query[c]) * key[j * head_dim + c];
                scores[j] = row_seen[j % n] ? sum * scale : -INFINITY;
                greatest = std::max(greatest, scores[j]);
            }
            double total = 0;
            for (double &score : scores)
                total += score = std::exp(score - greatest);
            for (int64_t j = 0; j < keys; j++)
                out[row * keys + j] = static_cast<float>(scores[j] / total);
        }
    });
    return result;
}

BlockLists select_blocks(const at::Tensor &probabilities, int64_t group_windows, int64_t budget) {
    const int64_t keys = probabilities.size(3), list = group_windows * keys,
                  lists = probabilities.numel() / list;
    BlockLists result{at::empty(probabilities.sizes().slice(0, 3), at::kInt),
                      at::empty(probabilities.sizes(), at::kInt)};
    const float *values = probabilities.const_data_ptr<float>();
    int32_t *counts = result.counts.mutable_data_ptr<int32_t>(),
            *indices = result.indices.mutable_data_ptr<int32_t>();
    const int64_t rank = std::min(list - 1, budget);
    at::parallel_for(0, lists, 1, [&](int64_t begin, int64_t end) {
        std::vector<float> sorted(list);
        for (int64_t i = begin; i < end; i++) {
            std::copy_n(values + i * list, list, sorted.begin());
            std::nth_element(sorted.begin(), sorted.begin() + rank, sorted.end(), std::greater<>());
            const float threshold = sorted[rank];
            for (int64_t row = i * group_windows; row < (i + 1) * group_windows; row++) {
                int32_t count = 0;
                for (int64_t j = 0; j < keys; j++)
                    if (values[row * keys + j] > threshold)
                        indices[row * keys + count++] = static_cast<int32_t>(j);
                std::fill(indices + row * keys + count, indices + (row + 1) * keys, -1);
                counts[row] = count;
            }
        }
    });
    return result;
}

} // namespace flashvsr::cpu
