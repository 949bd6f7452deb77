// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "frame/device_pictures.h"
#include "frame/picture.h"
#include "frame/picture_converter.h"

#include <memory>

namespace flashvsr {

/// A packed copy of a caller's picture in the caller's own format, which is what waits for the network: an
/// eighth of the bytes of floats for 4:2:0 of 8 bits. It is in host memory or on a GPU. Immutable: any thread
/// may use it.
class HeldPicture {
public:
    /// A picture in host memory.
    /// @throws Error EINVAL as check_picture() does
    explicit HeldPicture(const FlashVSRFrame &frame);

    /// A picture in a GPU's memory, which is copied to one, the same or another.
    /// @throws Error EINVAL as check_picture() does, and where no GPU has the planes
    HeldPicture(const FlashVSRFrame &frame, DevicePictures &pictures);

    /// (3, height, width) fp32 in [-1, 1] on the converters' device. Only the picture's own bytes cross the
    /// bus to a GPU, unless they are there, which converts them; that is queued.
    at::Tensor to_tensor(PictureConverters &converters) const;
    at::Tensor to_tensor(const at::Device &device = at::kCPU) const;

    /// What it takes of memory.
    int64_t bytes() const { return picture_bytes(format_, size_); }
    bool on_gpu() const { return on_gpu_ != nullptr; }
    at::Device device() const { return packed().device(); }

    /// Mean absolute difference of the luma or green planes, percent of white: how much of the picture
    /// changed. 100 where the formats differ.
    double difference(const HeldPicture &other) const;

private:
    const at::Tensor &packed() const { return on_gpu_ ? on_gpu_->bytes() : packed_; }
    template <typename Component> double sampled_difference(const HeldPicture &other) const;
    double difference_on_gpu(const HeldPicture &other) const;
    at::Tensor samples(const at::Device &device) const;

    PictureFormat format_;
    Size size_;
    at::Tensor packed_; ///< in host memory, else
    std::shared_ptr<DevicePictures::Buffer> on_gpu_;
};

using PicturePtr = std::shared_ptr<const HeldPicture>;

} // namespace flashvsr
