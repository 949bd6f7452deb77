// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/backend.h"
#include "ops/cuda/ops.h"

#include "error.h"

#include <ATen/ATen.h>

#include <cmath>

namespace flashvsr::cuda {

namespace {

/// @param out of x's type, or e4m3, and then with scales
void normalise(RowNorm norm, const at::Tensor &x, const at::Tensor &gain, const at::Tensor &offset,
               const Rows &out) {
    const at::Tensor rows = x.contiguous();
    const int64_t width = rows.size(-1);
    NormRows args{};
    args.x = rows.const_data_ptr();
    args.gain = gain.const_data_ptr<float>();
    args.offset = offset.defined() ? offset.const_data_ptr<float>() : nullptr;
    args.out = out.values.mutable_data_ptr();
    args.scales = out.scales.defined() ? out.scales.mutable_data_ptr<float>() : nullptr;
    args.rows = rows.numel() / width;
    args.width = static_cast<int>(width);
    const cudaError_t error = norm_rows(norm, element_of(rows), args, current_stream());
    if (error == cudaErrorInvalidValue)
        fail(EINVAL, "a norm of rows of ", width, " values of type ", rows.scalar_type(),
             ": more than a GPU's kernel takes");
    check(error, "a norm");
}

at::Tensor normalised(RowNorm norm, const at::Tensor &x, const at::Tensor &gain, const at::Tensor &offset) {
    at::Tensor out = at::empty(x.sizes(), x.options());
    normalise(norm, x, gain, offset, out);
    return out;
}

/// Room for e4m3 rows of x's shape.
Rows quantized_like(const at::Tensor &x) {
    return {at::empty(x.sizes(), x.options().dtype(at::kFloat8_e4m3fn)),
            at::empty({x.numel() / x.size(-1)}, x.options().dtype(at::kFloat))};
}

} // namespace

Rows quantize_rows(const at::Tensor &x) {
    const at::Tensor rows = x.contiguous();
    const int64_t width = rows.size(-1);
    Rows out = quantized_like(rows);
    check(quantize_rows(element_of(rows), rows.const_data_ptr(), out.values.mutable_data_ptr(),
                        out.scales.mutable_data_ptr<float>(), rows.numel() / width, static_cast<int>(width),
                        current_stream()),
          "rows of e4m3");
    return out;
}

Rows layer_norm_quantized(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias) {
    Rows out = quantized_like(x);
    normalise(RowNorm::layer, x, weight, bias, out);
    return out;
}

at::Tensor layer_norm(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias) {
    return normalised(RowNorm::layer, x, weight, bias);
}

at::Tensor rms_norm(const at::Tensor &x, const at::Tensor &weight) {
    return normalised(RowNorm::rms, x, weight, {});
}

at::Tensor channel_norm(const at::Tensor &x, const at::Tensor &gamma, bool silu) {
    return normalised(silu ? RowNorm::channel_silu : RowNorm::channel, x, gamma, {});
}

void qkv_to_windows(const at::Tensor &qkv, const QkvNorm &norm, const RopeTable &rope, const TokenGrid &grid,
                    const QkvWindows &windows) {
    const at::Tensor rows = qkv.contiguous();
    QkvArgs args{};
    args.element = element_of(rows);
    args.batch = static_cast<int>(rows.size(0));
    args.heads = static_cast<int>(rows.size(2) / 3 / head_dim);
    args.frames = static_cast<int>(grid.frames);
    args.height = static_cast<int>(grid.height);
    args.width = static_cast<int>(grid.width);
    args.qkv = rows.const_data_ptr();
    args.query_gain = norm.query.const_data_ptr<float>();
    args.key_gain = norm.key.const_data_ptr<float>();
    args.time = rope.time.const_data_ptr<float>();
    args.y_axis = rope.y.const_data_ptr<float>();
    args.x_axis = rope.x.const_data_ptr<float>();
    args.query = window_buffer(windows.query);
    args.key = window_buffer(windows.key);
    args.value = window_buffer(windows.value);
    check(qkv_to_windows(args, current_stream()), "the windows of queries, keys and values");
}

void pool_windows(const at::Tensor &windows, const at::Tensor &pooled) {
    check(pool_windows(element_of(windows), window_buffer(windows), window_buffer(pooled),
                       static_cast<int>(windows.size(0)), static_cast<int>(windows.size(1)),
                       static_cast<int>(windows.size(2)), current_stream()),
          "the means of windows");
}

at::Tensor draft_probabilities(const at::Tensor &pooled_q, const at::Tensor &pooled_k,
                               const at::Tensor &local) {
    at::Tensor result = at::empty({pooled_q.size(0), pooled_q.size(1), pooled_q.size(2), pooled_k.size(2)},
                                  pooled_q.options());
    const cudaError_t error = draft_probabilities(
        window_buffer(pooled_q), window_buffer(pooled_k), local.const_data_ptr<bool>(),
        static_cast<int>(local.size(0)), result.mutable_data_ptr<float>(), static_cast<int>(result.size(0)),
        static_cast<int>(result.size(1)), static_cast<int>(result.size(2)), static_cast<int>(result.size(3)),
        current_stream());
    if (error == cudaErrorInvalidValue)
        fail(EINVAL, "the attention's draft over ", result.size(3),
             " windows of keys does not fit this GPU's multiprocessors: a smaller kv_ratio or smaller tiles "
             "have fewer");
    check(error, "the draft of the attention");
    return result;
}

BlockLists select_blocks(const at::Tensor &probabilities, int64_t group_windows, int64_t budget) {
    const int64_t keys = probabilities.size(3), list = group_windows * keys;
    BlockLists lists{at::empty(probabilities.sizes().slice(0, 3), probabilities.options().dtype(at::kInt)),
                     at::empty(probabilities.sizes(), probabilities.options().dtype(at::kInt))};
    check(select_blocks(probabilities.const_data_ptr<float>(), std::min(list - 1, budget),
                        lists.counts.mutable_data_ptr<int32_t>(), lists.indices.mutable_data_ptr<int32_t>(),
                        static_cast<int>(probabilities.numel() / list), static_cast<int>(group_windows),
                        static_cast<int>(keys), current_stream()),
          "the choice of blocks");
    return lists;
}

at::Tensor block_sparse_attention(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
                                  const BlockLists &lists, const TokenGrid &grid) {
    at::Tensor out = at::empty({q.size(0), grid.tokens(), q.size(1) * head_dim}, q.options());
    const at::Tensor counters = at::zeros({2}, lists.counts.options());
    AttentionArgs args{};
    args.element = element_of(q);
    args.batch = static_cast<int>(q.size(0));
    args.heads = static_cast<int>(q.size(1));
    args.query_windows = static_cast<int>(q.size(2));
    args.key_windows = static_cast<int>(k.size(2));
    args.key_head_stride = k.stride(1);
    args.q = q.const_data_ptr();
    args.k = k.const_data_ptr();
    args.v = v.const_data_ptr();
    args.counts = lists.counts.const_data_ptr<int32_t>();
    args.indices = lists.indices.const_data_ptr<int32_t>();
    args.out = out.mutable_data_ptr();
    args.counters = counters.mutable_data_ptr<int32_t>();
    args.groups = static_cast<int>(grid.groups());
    args.block_rows = static_cast<int>(grid.block_rows());
    args.block_cols = static_cast<int>(grid.block_cols());
    check(block_sparse_attention(args, current_stream()), "the attention");
    return out;
}

at::Tensor cross_attention(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v) {
    const int64_t batch = q.size(0), length = q.size(1), heads = k.size(0);
    const at::Tensor split = q.view({batch, length, heads, head_dim}).transpose(1, 2);
    if (q.scalar_type() == at::kFloat) {
        // The fused kernels for fp32 may round the factors of products to fewer bits.
        const double scale = 1.0 / std::sqrt(static_cast<double>(head_dim));
        const at::Tensor weights = at::matmul(split, k.transpose(1, 2)).mul_(scale).softmax(-1);
        return at::matmul(weights, v).transpose(1, 2).reshape({batch, length, heads * head_dim});
    }
    if (length % window_tokens != 0)
        fail(EINVAL, "cross-attention of ", length, " tokens, which are no whole blocks of ", window_tokens);
    const at::Tensor queries = q.contiguous();
    at::Tensor out = at::empty_like(queries);
    CrossAttentionArgs args{};
    args.element = element_of(q);
    args.batch = static_cast<int>(batch);
    args.heads = static_cast<int>(heads);
    args.query_blocks = static_cast<int>(length / window_tokens);
    args.keys = static_cast<int>(k.size(1));
    args.q = queries.const_data_ptr();
    args.k = k.const_data_ptr();
    args.v = v.const_data_ptr();
    args.out = out.mutable_data_ptr();
    check(cross_attention(args, current_stream()), "the cross-attention");
    return out;
}

} // namespace flashvsr::cuda
