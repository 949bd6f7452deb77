// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "frame/picture_converter.h"
#include "frame/upscale.h"
#include "model/observer.h"
#include "model/placement.h"
#include "stream/chunk_schedule.h"
#include "stream/stream_options.h"

#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

namespace flashvsr {

/// A chunk of whole pictures as the network takes them, before it is cut into tiles.
struct PictureChunk {
    int64_t index = 0;      ///< chunks of the stream before it
    int64_t first = 0;      ///< pictures that the stream gave before it
    at::Tensor low_quality; ///< (3, 25 or 8, target height, target width), upscaled and padded
    at::Tensor noise;       ///< (16, 6 or 2, target height / 8, target width / 8)
    at::Tensor condition; ///< (3, 21 or 8, target height, target width), low quality of the output's indices
    int64_t pictures = 0; ///< how many of the output's frames are of real pictures
};

/// Pictures that are made together.
struct Pictures {
    /// (N, 3, H, W) fp32 in [-1, 1] where `formats` is empty, else (N, bytes of the largest) uint8: packed
    /// pictures.
    at::Tensor data;
    std::vector<PictureFormat> formats; ///< of each
    bool stay = false;                  ///< all are wanted in a GPU's memory
};

/// The picture side of a stream: pictures to chunks and the network's frames back to pictures. It counts
/// frames and pads the clip's end; it knows no network and no tiles. N pictures in, N pictures out.
class ChunkPictures {
public:
    /// @param device where chunks are made
    explicit ChunkPictures(const StreamOptions &options, at::Device device = at::kCPU);

    /// Size the network runs at.
    Size target() const { return target_; }

    /// Pictures that the next chunk takes, unless they are the clip's last.
    int64_t frames_wanted() const { return schedule::frames_in(chunk_); }

    /// Pictures that were given and are in no chunk's output yet.
    int64_t frames_held() const { return frames_in_ - frames_out_; }

    /// Start the next chunk.
    /// @param frames (3, h, w) in [-1, 1], in host memory or on the device (HeldPicture::to_tensor());
    ///               frames_wanted() of them, or fewer, even none, at the clip's end: the last picture is
    ///               repeated, and what is made of its copies is dropped
    PictureChunk begin(std::span<const at::Tensor> frames, const Observer &observer = {});

    /// Crop and colour fix what the network made of a chunk.
    /// @param frames (3, 21 or 8, target height, target width), of the model's precision
    Pictures finish(const PictureChunk &chunk, const at::Tensor &frames, const Observer &observer = {});

private:
    at::Tensor on_device(const at::Tensor &frame) const;
    at::Tensor low_quality(std::span<const at::Tensor> frames, const Observer &observer) const;
    std::vector<PictureFormat> formats(const PictureChunk &chunk) const;
    bool all_on_gpu(const PictureChunk &chunk) const;

    StreamOptions options_;
    Placement place_; ///< of pictures: fp32
    Size target_;
    Upscaler upscale_;
    PictureConverters converters_;
    int64_t chunk_ = 0, frames_in_ = 0, frames_out_ = 0;
    at::Tensor look_ahead_; ///< (3, 4, target height, target width)
    at::Tensor last_;       ///< (3, h, w) the last picture given
};

} // namespace flashvsr
