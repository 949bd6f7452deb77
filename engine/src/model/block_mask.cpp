// SPDX-License-Identifier: LGPL-2.1-or-later
#include "model/block_mask.h"

#include "error.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <functional>

namespace flashvsr {

int64_t block_budget(double sparse_ratio, const TokenGrid &grid) {
    const int64_t height = 16 * grid.height, width = 16 * grid.width, n = grid.group_windows();
    const double topk_ratio = sparse_ratio * 768 * 1280 / static_cast<double>(height * width);
    const double kept = std::trunc(static_cast<double>(n * n) * topk_ratio);
    if (!(kept >= 2))
        fail(EINVAL, "sparse_ratio ", sparse_ratio, " keeps no attention at ", width, "x", height);
    // More than all blocks is the same as all of them.
    return static_cast<int64_t>(std::min(kept, 1e15)) - 1;
}

at::Tensor local_window_mask(int64_t rows, int64_t cols, int64_t local_range) {
    const int64_t n = rows * cols, before = local_range / 2;
    at::Tensor mask = at::empty({n, n}, at::kBool);
    bool *out = mask.mutable_data_ptr<bool>();
    const auto near = [=](int64_t from, int64_t to) {
        return to - from >= -before && to - from < local_range - before;
    };
    for (int64_t q = 0; q < n; q++)
        for (int64_t k = 0; k < n; k++)
            *out++ = near(q / cols, k / cols) && near(q % cols, k % cols);
    return mask;
}

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

at::Tensor select_blocks(const at::Tensor &probabilities, int64_t group_windows, int64_t budget) {
    const int64_t list = group_windows * probabilities.size(3), lists = probabilities.numel() / list;
    at::Tensor mask = at::empty(probabilities.sizes(), at::kBool);
    const float *values = probabilities.const_data_ptr<float>();
    bool *kept = mask.mutable_data_ptr<bool>();
    const int64_t rank = std::min(list - 1, budget);
    at::parallel_for(0, lists, 1, [&](int64_t begin, int64_t end) {
        std::vector<float> sorted(list);
        for (int64_t i = begin; i < end; i++) {
            const float *group = values + i * list;
            std::copy_n(group, list, sorted.begin());
            std::nth_element(sorted.begin(), sorted.begin() + rank, sorted.end(), std::greater<>());
            const float threshold = sorted[rank];
            std::transform(group, group + list, kept + i * list, [=](float p) { return p > threshold; });
        }
    });
    return mask;
}

BlockLists to_block_lists(const at::Tensor &mask) {
    const int64_t keys = mask.size(3), rows = mask.numel() / keys;
    BlockLists lists{at::empty({mask.size(0), mask.size(1), mask.size(2)}, at::kInt),
                     at::empty(mask.sizes(), at::kInt)};
    const bool *kept = mask.const_data_ptr<bool>();
    int32_t *counts = lists.counts.mutable_data_ptr<int32_t>(),
            *indices = lists.indices.mutable_data_ptr<int32_t>();
    for (int64_t row = 0; row < rows; row++) {
        int32_t count = 0;
        for (int64_t j = 0; j < keys; j++)
            if (kept[row * keys + j])
                indices[row * keys + count++] = static_cast<int32_t>(j);
        std::fill(indices + row * keys + count, indices + (row + 1) * keys, -1);
        counts[row] = count;
    }
    return lists;
}

} // namespace flashvsr
