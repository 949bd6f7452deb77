// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "frame/picture.h"

#include <memory>
#include <vector>

namespace flashvsr {

/// A copy of a caller's picture in the caller's own depth, which is what waits for the network: a quarter of
/// the bytes of floats for 8 bits. Immutable: any thread may use it.
class HeldPicture {
public:
    /// @throws Error EINVAL as check_picture() does
    explicit HeldPicture(const FlashVSRFrame &frame);
    HeldPicture(const HeldPicture &) = delete; // its planes point into its own bytes
    HeldPicture &operator=(const HeldPicture &) = delete;

    /// (3, height, width) fp32 in [-1, 1] on the device. Only the picture's own bytes cross the bus to a GPU,
    /// which converts them to the same bits; that is queued.
    at::Tensor to_tensor(const at::Device &device = at::kCPU) const;

    /// Mean absolute difference of the green planes, percent of white: how much of the picture changed.
    double difference(const HeldPicture &other) const;

private:
    FlashVSRFrame frame_;
    std::vector<unsigned char> bytes_;
};

using PicturePtr = std::shared_ptr<const HeldPicture>;

} // namespace flashvsr
