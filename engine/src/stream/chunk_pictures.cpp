// SPDX-License-Identifier: LGPL-2.1-or-later
#include "stream/chunk_pictures.h"

#include "frame/noise.h"
#include "model/color_fix.h"
#include "ops/device.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace flashvsr {

namespace {

constexpr int64_t latent_pixels = 8, frames_per_latent = 4;
constexpr int64_t alignment = 4; ///< bytes; of a packed picture, whose components may be floats

} // namespace

ChunkPictures::ChunkPictures(const StreamOptions &options, at::Device device)
    : options_(options), place_{device}, target_(target_size(options.output)),
      upscale_(options.input, options.output, device), converters_(device) {}

at::Tensor ChunkPictures::on_device(const at::Tensor &frame) const {
    return frame.device() == place_.device ? frame : upload(frame, place_.device);
}

at::Tensor ChunkPictures::low_quality(std::span<const at::Tensor> frames, const Observer &observer) const {
    at::Tensor result = at::empty({3, static_cast<int64_t>(frames.size()), target_.height, target_.width},
                                  at::TensorOptions(place_.device).dtype(at::kFloat));
    for (size_t i = 0; i < frames.size(); i++) {
        observer.check_stop();
        const at::Tensor slot = result.select(1, static_cast<int64_t>(i));
        // The end's copies of one picture need no second upscaling.
        if (i > 0 && frames[i].is_same(frames[i - 1]))
            slot.copy_(result.select(1, static_cast<int64_t>(i) - 1));
        else
            slot.copy_(pad_to(upscale_(on_device(frames[i])), target_.height, target_.width));
    }
    return result;
}

PictureChunk ChunkPictures::begin(std::span<const at::Tensor> frames, const Observer &observer) {
    std::vector<at::Tensor> all(frames.begin(), frames.end());
    all.resize(frames_wanted(), all.empty() ? last_ : all.back());

    PictureChunk chunk;
    chunk.index = chunk_;
    chunk.low_quality = low_quality(all, observer);
    // A latent frame holds four pictures, the clip's first holds one: position in the whole clip, rounded up.
    const int64_t first_latent =
        (options_.first_frame + frames_per_latent - 1) / frames_per_latent + schedule::first_latent(chunk_);
    chunk.noise =
        position_noise(options_.seed, first_latent, schedule::latents(chunk_),
                       {0, 0, target_.height / latent_pixels, target_.width / latent_pixels}, place_.device);
    const int64_t ready = chunk.low_quality.size(1) - schedule::look_ahead;
    const at::Tensor now = chunk.low_quality.narrow(1, 0, ready);
    chunk.condition = look_ahead_.defined() ? at::cat({look_ahead_, now}, 1) : now;

    look_ahead_ = chunk.low_quality.narrow(1, ready, schedule::look_ahead).clone();
    last_ = all.back();
    frames_in_ += static_cast<int64_t>(frames.size());
    chunk.first = frames_out_;
    chunk.pictures = std::min(schedule::frames_out(chunk_), frames_in_ - frames_out_);
    frames_out_ += chunk.pictures;
    chunk_++;
    return chunk;
}

/// The formats of a chunk's pictures; none where one of them has none.
std::vector<PictureFormat> ChunkPictures::formats(const PictureChunk &chunk) const {
    std::vector<PictureFormat> formats;
    for (int64_t i = 0; options_.format_at && i < chunk.pictures; i++) {
        const auto format = options_.format_at(options_.first_frame + chunk.first + i);
        if (!format)
            return {};
        formats.push_back(*format);
    }
    return formats;
}

bool ChunkPictures::all_on_gpu(const PictureChunk &chunk) const {
    const int64_t first = options_.first_frame + chunk.first;
    for (int64_t i = 0; i < chunk.pictures; i++)
        if (!options_.on_gpu_at || !options_.on_gpu_at(first + i))
            return false;
    return true;
}

Pictures ChunkPictures::finish(const PictureChunk &chunk, const at::Tensor &frames,
                               const Observer &observer) {
    const Size size = options_.output;
    Pictures pictures;
    pictures.formats = formats(chunk);
    pictures.stay = !pictures.formats.empty() && all_on_gpu(chunk);
    int64_t bytes = 0;
    for (const PictureFormat &format : pictures.formats)
        bytes = std::max(bytes, picture_bytes(format, size));
    bytes = (bytes + alignment - 1) / alignment * alignment;
    const auto options = chunk.condition.options();
    pictures.data = pictures.formats.empty()
                        ? at::empty({chunk.pictures, 3, size.height, size.width}, options)
                        : at::empty({chunk.pictures, bytes}, options.dtype(at::kByte));
    // One by one: what is computed on the way is a picture's, not a chunk's.
    for (int64_t i = 0; i < chunk.pictures; i++) {
        observer.check_stop();
        // Statistics of the picture itself: the padding is cropped before the colours are fixed.
        const auto crop = [&](const at::Tensor &x) {
            return x.narrow(1, i, 1).narrow(2, 0, size.height).narrow(3, 0, size.width).unsqueeze(0);
        };
        const ColorFix color_fix = options_.color_fix_at
                                       ? options_.color_fix_at(options_.first_frame + chunk.first + i)
                                       : options_.color_fix;
        const at::Tensor pixels =
            fix_color(color_fix, crop(frames), crop(chunk.condition)).squeeze(0).squeeze(1);
        if (pictures.formats.empty()) {
            pictures.data[i].copy_(pixels);
        } else {
            const PictureFormat &format = pictures.formats[i];
            converters_.get(format, size)
                .from_pixels(pixels, pictures.data[i].narrow(0, 0, picture_bytes(format, size)));
        }
    }
    return pictures;
}

} // namespace flashvsr
