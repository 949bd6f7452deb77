// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/dispatch.h"

#include <ATen/ATen.h>

namespace flashvsr {

namespace {

/// Rows as a layer of these weights reads them.
Rows rows_for(const LinearWeights &weights, const Rows &x) {
    return weights.scales.defined() && !x.scales.defined() ? quantize_rows(x.values) : x;
}

} // namespace

Rows quantize_rows(const at::Tensor &x) {
    return FLASHVSR_DISPATCH(x, quantize_rows(x));
}

at::Tensor linear(const Rows &x, const LinearWeights &weights, Activation activation) {
    return FLASHVSR_DISPATCH(x.values, linear(rows_for(weights, x), weights, activation));
}

void linear_add(const at::Tensor &sum, const Rows &x, const LinearWeights &weights) {
    FLASHVSR_DISPATCH(sum, linear_add(sum, rows_for(weights, x), weights));
}

at::Tensor layer_norm(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias) {
    return FLASHVSR_DISPATCH(x, layer_norm(x, weight, bias));
}

Rows layer_norm_for(const LinearWeights &next, const at::Tensor &x, const at::Tensor &weight,
                    const at::Tensor &bias) {
    if (!next.scales.defined())
        return layer_norm(x, weight, bias);
    return FLASHVSR_DISPATCH(x, layer_norm_quantized(x, weight, bias));
}

at::Tensor rms_norm(const at::Tensor &x, const at::Tensor &weight) {
    return FLASHVSR_DISPATCH(x, rms_norm(x, weight));
}

at::Tensor channel_norm(const at::Tensor &x, const at::Tensor &gamma, bool silu) {
    return FLASHVSR_DISPATCH(x, channel_norm(x, gamma, silu));
}

void qkv_to_windows(const at::Tensor &qkv, const QkvNorm &norm, const RopeTable &rope, const TokenGrid &grid,
                    const QkvWindows &windows) {
    FLASHVSR_DISPATCH(qkv, qkv_to_windows(qkv, norm, rope, grid, windows));
}

void pool_windows(const at::Tensor &windows, const at::Tensor &pooled) {
    FLASHVSR_DISPATCH(windows, pool_windows(windows, pooled));
}

at::Tensor draft_probabilities(const at::Tensor &pooled_q, const at::Tensor &pooled_k,
                               const at::Tensor &local) {
    return FLASHVSR_DISPATCH(pooled_q, draft_probabilities(pooled_q, pooled_k, local));
}

BlockLists select_blocks(const at::Tensor &probabilities, int64_t group_windows, int64_t budget) {
    return FLASHVSR_DISPATCH(probabilities, select_blocks(probabilities, group_windows, budget));
}

at::Tensor to_mask(const BlockLists &lists) {
    const int64_t keys = lists.indices.size(3);
    const at::Tensor listed = at::arange(keys, lists.counts.options()).lt(lists.counts.unsqueeze(3));
    // What is not listed goes to one column more.
    const at::Tensor columns =
        at::where(listed, lists.indices, at::scalar_tensor(keys, lists.indices.options()));
    std::vector<int64_t> shape = lists.indices.sizes().vec();
    shape.back()++;
    return at::zeros(shape, columns.options().dtype(at::kBool))
        .scatter_(3, columns.to(at::kLong), true)
        .narrow(3, 0, keys)
        .contiguous();
}

at::Tensor block_sparse_attention(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
                                  const BlockLists &lists, const TokenGrid &grid) {
    return FLASHVSR_DISPATCH(q, block_sparse_attention(q, k, v, lists, grid));
}

at::Tensor cross_attention(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v) {
    return FLASHVSR_DISPATCH(q, cross_attention(q, k, v));
}

at::Tensor philox_normals(uint64_t seed, const NoiseRegion &region, const at::Device &device) {
    return FLASHVSR_DISPATCH(device, philox_normals(seed, region, device));
}

at::Tensor pixels_from_levels(const at::Tensor &levels, int depth) {
    return FLASHVSR_DISPATCH(levels, pixels_from_levels(levels, depth));
}

at::Tensor levels_from_pixels(const at::Tensor &pixels, int depth) {
    return FLASHVSR_DISPATCH(pixels, levels_from_pixels(pixels, depth));
}

at::Tensor samples_from_chroma(const YuvPlanes &planes, const YuvConversion &by) {
    return FLASHVSR_DISPATCH(planes.luma, samples_from_chroma(planes, by));
}

void chroma_from_samples(const at::Tensor &samples, const YuvPlanes &planes, const YuvConversion &by) {
    FLASHVSR_DISPATCH(samples, chroma_from_samples(samples, planes, by));
}

at::Tensor pixels_from_yuv(const YuvPlanes &planes, const at::Tensor &chroma, const YuvConversion &by) {
    return FLASHVSR_DISPATCH(planes.luma, pixels_from_yuv(planes, chroma, by));
}

void yuv_from_pixels(const at::Tensor &pixels, const YuvPlanes &planes, const at::Tensor &chroma,
                     const YuvConversion &by) {
    FLASHVSR_DISPATCH(pixels, yuv_from_pixels(pixels, planes, chroma, by));
}

at::Tensor adain(const at::Tensor &content, const at::Tensor &style) {
    return FLASHVSR_DISPATCH(content, adain(content, style));
}

at::Tensor wavelet(const at::Tensor &content, const at::Tensor &style) {
    return FLASHVSR_DISPATCH(content, wavelet(content, style));
}

at::Tensor resample_columns(const at::Tensor &rows, const ResampleTaps &taps) {
    return FLASHVSR_DISPATCH(rows, resample_columns(rows, taps));
}

at::Tensor resample_rows(const at::Tensor &rows, int64_t planes, const ResampleTaps &taps) {
    return FLASHVSR_DISPATCH(rows, resample_rows(rows, planes, taps));
}

at::Tensor stack_frames(const at::Tensor &frames, const at::Tensor &sources) {
    return FLASHVSR_DISPATCH(frames, stack_frames(frames, sources));
}

at::Tensor conv2d(const at::Tensor &x, const ConvWeights &weights, bool relu, const at::Tensor &residual) {
    return FLASHVSR_DISPATCH(x, conv2d(x, weights, relu, residual));
}

at::Tensor conv2d_of_bordered(const at::Tensor &x, const ConvWeights &weights) {
    return FLASHVSR_DISPATCH(x, conv2d_of_bordered(x, weights));
}

at::Tensor conv2d_with_past(const at::Tensor &x, const at::Tensor &memory, const ConvWeights &weights) {
    return FLASHVSR_DISPATCH(x, conv2d_with_past(x, memory, weights));
}

void conv2d_to_planes(const at::Tensor &out, const at::Tensor &x, const ConvWeights &weights) {
    FLASHVSR_DISPATCH(x, conv2d_to_planes(out, x, weights));
}

at::Tensor upsample_conv2d(const at::Tensor &x, const UpsampleConvWeights &weights, bool relu) {
    return FLASHVSR_DISPATCH(x, upsample_conv2d(x, weights, relu));
}

} // namespace flashvsr
