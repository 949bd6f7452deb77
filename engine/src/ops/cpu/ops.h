// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/attention.h"
#include "ops/block_mask.h"
#include "ops/color_fix.h"
#include "ops/conv.h"
#include "ops/levels.h"
#include "ops/linear.h"
#include "ops/noise.h"
#include "ops/norm.h"
#include "ops/resample.h"
#include "ops/windows.h"
#include "ops/yuv.h"

/// The CPU's implementations of the functions of ops/: fp32.
namespace flashvsr::cpu {

Rows quantize_rows(const at::Tensor &x);
at::Tensor linear(const Rows &x, const LinearWeights &weights, Activation activation);
void linear_add(const at::Tensor &sum, const Rows &x, const LinearWeights &weights);

at::Tensor layer_norm(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias);
Rows layer_norm_quantized(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias);
at::Tensor rms_norm(const at::Tensor &x, const at::Tensor &weight);
at::Tensor channel_norm(const at::Tensor &x, const at::Tensor &gamma, bool silu);

void qkv_to_windows(const at::Tensor &qkv, const QkvNorm &norm, const RopeTable &rope, const TokenGrid &grid,
                    const QkvWindows &windows);
void pool_windows(const at::Tensor &windows, const at::Tensor &pooled);

at::Tensor draft_probabilities(const at::Tensor &pooled_q, const at::Tensor &pooled_k,
                               const at::Tensor &local);
BlockLists select_blocks(const at::Tensor &probabilities, int64_t group_windows, int64_t budget);

at::Tensor block_sparse_attention(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
                                  const BlockLists &lists, const TokenGrid &grid);
at::Tensor cross_attention(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v);

at::Tensor philox_normals(uint64_t seed, const NoiseRegion &region, const at::Device &device);
at::Tensor pixels_from_levels(const at::Tensor &levels, int depth);
at::Tensor levels_from_pixels(const at::Tensor &pixels, int depth);

at::Tensor samples_from_chroma(const YuvPlanes &planes, const YuvConversion &by);
void chroma_from_samples(const at::Tensor &samples, const YuvPlanes &planes, const YuvConversion &by);
at::Tensor pixels_from_yuv(const YuvPlanes &planes, const at::Tensor &chroma, const YuvConversion &by);
void yuv_from_pixels(const at::Tensor &pixels, const YuvPlanes &planes, const at::Tensor &chroma,
                     const YuvConversion &by);

at::Tensor adain(const at::Tensor &content, const at::Tensor &style);
at::Tensor wavelet(const at::Tensor &content, const at::Tensor &style);

at::Tensor resample_columns(const at::Tensor &rows, const ResampleTaps &taps);
at::Tensor resample_rows(const at::Tensor &rows, int64_t planes, const ResampleTaps &taps);

at::Tensor stack_frames(const at::Tensor &frames, const at::Tensor &sources);
at::Tensor conv2d(const at::Tensor &x, const ConvWeights &weights, bool relu, const at::Tensor &residual);
at::Tensor conv2d_of_bordered(const at::Tensor &x, const ConvWeights &weights);
at::Tensor conv2d_with_past(const at::Tensor &x, const at::Tensor &memory, const ConvWeights &weights);
void conv2d_to_planes(const at::Tensor &out, const at::Tensor &x, const ConvWeights &weights);
at::Tensor upsample_conv2d(const at::Tensor &x, const UpsampleConvWeights &weights, bool relu);

} // namespace flashvsr::cpu
