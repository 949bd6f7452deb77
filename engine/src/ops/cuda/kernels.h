// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/cuda/attention_launch.h"
#include "ops/yuv_pixels.h"

#include <cuda_runtime_api.h>

#include <cstdint>

/// Launches of the project's own kernels: pointers to device memory, shapes, a stream. They neither wait nor
/// allocate. What they compute is said in ops/.
namespace flashvsr::cuda {

enum class RowNorm { layer, rms, channel, channel_silu };

/// Rows of `width` elements, contiguous.
struct NormRows {
    const void *x;
    const float *gain, *offset; ///< (width); the layer norm alone reads the offset
    void *out;
    float *scales; ///< (rows), and out is e4m3; or none. The layer norm alone writes them
    int64_t rows;
    int width;
};
cudaError_t norm_rows(RowNorm norm, Element element, const NormRows &args, cudaStream_t stream);

/// Rows of `width` elements, a multiple of 16 and at most 16384, as e4m3 that scales (rows) multiply.
cudaError_t quantize_rows(Element element, const void *x, void *out, float *scales, int64_t rows, int width,
                          cudaStream_t stream);

/// A buffer of windows of 128x128 elements of which the heads and the batch's members lie some way apart.
struct WindowBuffer {
    void *data;
    int64_t batch_stride, head_stride; ///< elements
};

struct QkvArgs {
    Element element;
    int batch, heads;
    int frames, height, width;           ///< tokens
    const void *qkv;                     ///< (batch, frames*height*width, 3*heads*128)
    const float *query_gain, *key_gain;  ///< (heads*128)
    const float *time, *y_axis, *x_axis; ///< (frames, 22, 2), (height, 21, 2), (width, 21, 2): cos, sin
    WindowBuffer query, key, value;
};
cudaError_t qkv_to_windows(const QkvArgs &args, cudaStream_t stream);

/// Mean token of each window. pooled: 128 floats a window.
cudaError_t pool_windows(Element element, const WindowBuffer &windows, const WindowBuffer &pooled, int batch,
                         int heads, int count, cudaStream_t stream);

/// @param query, key 128 floats a window
/// @param local      (local_windows, local_windows)
/// @param out        (batch, heads, queries, keys)
cudaError_t draft_probabilities(const WindowBuffer &query, const WindowBuffer &key, const bool *local,
                                int local_windows, float *out, int batch, int heads, int queries, int keys,
                                cudaStream_t stream);

/// @param probabilities (lists, group_windows, keys), not below 0
/// @param rank          of the first that is dropped, less than group_windows*keys
/// @param counts        (lists, group_windows)
/// @param indices       (lists, group_windows, keys), -1 after the listed
cudaError_t select_blocks(const float *probabilities, int64_t rank, int32_t *counts, int32_t *indices,
                          int lists, int group_windows, int keys, cudaStream_t stream);

/// @param frames  (any, height, width, channels)
/// @param sources (outputs, stacked)
/// @param out     (outputs, height + 2, width + 2, stacked*channels)
cudaError_t stack_frames(Element element, const void *frames, const int64_t *sources, void *out, int outputs,
                         int stacked, int height, int width, int channels, cudaStream_t stream);

/// Resampling along one axis: out[i] = sum over k of weight[i*count + k] * in[first[i] + k].
struct AxisTaps {
    int count;
    const int64_t *first; ///< (out)
    const float *weight;  ///< (out, count)
};

/// @param in  (rows, in_width)
/// @param out (rows, out_width)
cudaError_t resample_columns(const float *in, float *out, int64_t rows, int in_width, int out_width,
                             const AxisTaps &taps, cudaStream_t stream);

/// @param in  (planes, in_height, width)
/// @param out (planes, out_height, width), clamped to [-1, 1]
cudaError_t resample_rows(const float *in, float *out, int64_t planes, int in_height, int out_height,
                          int width, const AxisTaps &taps, cudaStream_t stream);

struct NoiseArgs {
    uint64_t seed, first_latent;
    int latents, height, width;
    uint32_t y, x; ///< of the first value
    float *out;    ///< (16, latents, height, width)
};
cudaError_t philox_normals(const NoiseArgs &args, cudaStream_t stream);

/// @param levels components of the depth's type, aligned to four of them
cudaError_t pixels_from_levels(const void *levels, int depth, float *pixels, int64_t count,
                               cudaStream_t stream);
/// The inverse; as above.
cudaError_t levels_from_pixels(const float *pixels, void *levels, int depth, int64_t count,
                               cudaStream_t stream);

/// The planes of a Y'CbCr picture, which may begin at any component.
struct YuvMemory {
    bool words;    ///< components are of 16 bits, not 8
    bool in_turns; ///< Cb and Cr stand in turns from cb on
    void *luma, *cb, *cr;
};

/// @param samples (2, count)
/// @param count   of a chroma plane
cudaError_t samples_from_chroma(const YuvMemory &planes, float *samples, int64_t count,
                                const YuvConversion &by, cudaStream_t stream);
/// The inverse; as above.
cudaError_t chroma_from_samples(const float *samples, const YuvMemory &planes, int64_t count,
                                const YuvConversion &by, cudaStream_t stream);

/// @param chroma (2, count), or none: then it is the planes'
/// @param pixels (3, count)
cudaError_t pixels_from_yuv(const YuvMemory &planes, const float *chroma, float *pixels, int64_t count,
                            const YuvConversion &by, cudaStream_t stream);
/// The inverse; as above.
cudaError_t yuv_from_pixels(const float *pixels, const YuvMemory &planes, float *chroma, int64_t count,
                            const YuvConversion &by, cudaStream_t stream);

constexpr int picture_channels = 3;

/// Pictures (batch, channel, frame, row, column) whose columns are contiguous.
struct PictureView {
    const void *data;
    int64_t batch_stride, channel_stride, frame_stride, row_stride; ///< elements
};

/// Shares of a plane that are summed up on their own.
constexpr int color_fix_shares = 32;

struct ColorFixArgs {
    Element element;     ///< of the content
    PictureView content; ///< in about [-1, 1]
    PictureView style;   ///< fp32
    int batch, frames, height, width;
    bool in_fours; ///< rows begin at, and consist of, whole groups of four elements
    float *out;    ///< (batch, frames, 3, height, width)
    /// adain: 4 * planes() * color_fix_shares doubles; wavelet: as much as the output
    void *scratch;

    int planes() const { return batch * frames * picture_channels; }
};
cudaError_t adain(const ColorFixArgs &args, cudaStream_t stream);
cudaError_t wavelet(const ColorFixArgs &args, cudaStream_t stream);

} // namespace flashvsr::cuda
