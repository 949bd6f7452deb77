// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "frame/picture.h"
#include "frame/picture_converter.h"

#include <memory>

namespace flashvsr {

/// A packed copy of a caller's picture in the caller's own format, which is what waits for the network: an
/// eighth of the bytes of floats for 4:2:0 of 8 bits. Immutable: any thread may use it.
class HeldPicture {
public:
    /// @throws Error EINVAL as check_picture() does
    explicit HeldPicture(const FlashVSRFrame &frame);

    /// (3, height, width) fp32 in [-1, 1] on the converters' device. Only the picture's own bytes cross the
    /// bus to a GPU, which converts them; that is queued.
    at::Tensor to_tensor(PictureConverters &converters) const;
    at::Tensor to_tensor(const at::Device &device = at::kCPU) const;

    /// Mean absolute difference of the luma or green planes, percent of white: how much of the picture
    /// changed. 100 where the formats differ.
    double difference(const HeldPicture &other) const;

private:
    template <typename Component> double sampled_difference(const HeldPicture &other) const;

    PictureFormat format_;
    Size size_;
    at::Tensor packed_;
};

using PicturePtr = std::shared_ptr<const HeldPicture>;

} // namespace flashvsr
