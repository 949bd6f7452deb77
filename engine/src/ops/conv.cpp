// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/conv.h"

#include <ATen/ATen.h>

#include <array>

namespace flashvsr {

namespace {

/// A 3-tap axis of a kernel, seen from the smaller picture: (..., 3, ...) -> (..., 2, ...).
/// @param half 0: the first of two pixels, whose neighbour before it is another pixel of the smaller picture
at::Tensor fold_axis(const at::Tensor &kernel, int64_t axis, int64_t half) {
    const auto tap = [&](int64_t i) { return kernel.narrow(axis, i, 1); };
    return half == 0 ? at::cat({tap(0), tap(1) + tap(2)}, axis) : at::cat({tap(0) + tap(1), tap(2)}, axis);
}

} // namespace

UpsampleConvWeights fold_upsampling(const at::Tensor &grow, const at::Tensor &conv) {
    const int64_t out = conv.size(0), middle = conv.size(1), in = grow.size(1),
                  growth = grow.size(0) / middle;
    // (out, 3, 3, C) times (C, growth*in).
    const at::Tensor mixes =
        grow.view({growth, middle, in}).permute({1, 0, 2}).reshape({middle, growth * in});
    const at::Tensor kernels = at::matmul(conv.permute({0, 2, 3, 1}).reshape({out * 9, middle}), mixes)
                                   .view({out, 3, 3, growth, in})
                                   .permute({3, 0, 4, 1, 2}); // (growth, out, in, 3, 3)
    std::array<at::Tensor, 4> quarters;
    for (int64_t i = 0; i < 4; i++)
        quarters[i] = fold_axis(fold_axis(kernels, 3, i / 2), 4, i % 2);
    return {
        at::stack(quarters, 1).view({growth * 4 * out, in, 2, 2}).contiguous(at::MemoryFormat::ChannelsLast),
        growth};
}

at::Tensor stack_past(const at::Tensor &x, const at::Tensor &memory) {
    const int64_t batch = memory.size(0), count = x.size(0) / batch, channels = x.size(1);
    if (count == 1)
        return at::cat({x, memory}, 1);
    at::Tensor stacked = at::empty({x.size(0), 2 * channels, x.size(2), x.size(3)},
                                   x.options().memory_format(at::MemoryFormat::ChannelsLast));
    stacked.narrow(1, 0, channels).copy_(x);
    const at::Tensor past = stacked.narrow(1, channels, channels);
    for (int64_t i = 0; i < count; i++)
        past.slice(0, i, std::nullopt, count).copy_(i == 0 ? memory : x.slice(0, i - 1, std::nullopt, count));
    return stacked;
}

} // namespace flashvsr
