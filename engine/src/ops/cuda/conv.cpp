// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/backend.h"
#include "ops/cuda/conv_launch.h"
#include "ops/cuda/ops.h"

#include <ATen/ATen.h>

#include <array>

namespace flashvsr::cuda {

namespace {

constexpr at::MemoryFormat layout = at::MemoryFormat::ChannelsLast;

/// A convolution of x (N, in, h, w), channels-last, by weights of `out_channels`.
ConvArgs arguments(ConvKind kind, const at::Tensor &x, const at::Tensor &weight, int64_t out_channels) {
    ConvArgs args{};
    args.kind = kind;
    args.element = element_of(x);
    args.images = static_cast<int>(x.size(0));
    args.height = static_cast<int>(x.size(2));
    args.width = static_cast<int>(x.size(3));
    args.in_channels = static_cast<int>(x.size(1));
    args.out_channels = static_cast<int>(out_channels);
    args.x = x.const_data_ptr();
    args.frames = args.growth = 1;
    args.weight = weight.const_data_ptr();
    return args;
}

const void *data_or_null(const at::Tensor &tensor) {
    return tensor.defined() ? tensor.const_data_ptr() : nullptr;
}

at::Tensor cudnn(const at::Tensor &x, const ConvWeights &weights, bool relu, const at::Tensor &residual,
                 int64_t padding) {
    const std::array<int64_t, 2> stride = {1, 1}, pad = {padding, padding}, dilation = {1, 1};
    const std::optional<at::Tensor> bias =
        weights.bias.defined() ? std::optional(weights.bias) : std::nullopt;
    at::Tensor y;
    // Fused where there is something to fuse, and tensor cores to do it.
    if (relu && x.scalar_type() != at::kFloat) {
        y = residual.defined()
                ? at::cudnn_convolution_add_relu(x, weights.weight, residual, std::nullopt, bias, stride, pad,
                                                 dilation, 1)
                : at::cudnn_convolution_relu(x, weights.weight, bias, stride, pad, dilation, 1);
    } else {
        y = at::conv2d(x, weights.weight, bias, stride, pad);
        if (residual.defined())
            y.add_(residual);
        if (relu)
            y.relu_();
    }
    mark_written(y);
    return y;
}

/// Of as many pixels as x has.
at::Tensor cudnn(const at::Tensor &x, const ConvWeights &weights, bool relu, const at::Tensor &residual) {
    return cudnn(x, weights, relu, residual, weights.weight.size(2) / 2);
}

/// A convolution by 2x2 windows in fp32 as a matrix product: cuDNN's kernel for them has more than twice the
/// error of its 3x3 ones, which are what folded upsampling stands for.
at::Tensor as_matrix_product(const at::Tensor &x, const at::Tensor &weight, bool relu) {
    const std::array<int64_t, 2> window = {2, 2}, stride = {1, 1}, pad = {1, 1};
    at::Tensor y = at::thnn_conv2d(x, weight, window, std::nullopt, stride, pad);
    return relu ? y.relu_() : y;
}

} // namespace

at::Tensor conv2d(const at::Tensor &x, const ConvWeights &weights, bool relu, const at::Tensor &residual) {
    const at::Tensor pixels = x.contiguous(layout),
                     added = residual.defined() ? residual.contiguous(layout) : residual;
    ConvArgs args = arguments(ConvKind::same, pixels, weights.weight, weights.weight.size(0));
    args.bias = data_or_null(weights.bias);
    args.residual = data_or_null(added);
    args.relu = relu;
    if (weights.weight.size(2) != 3 || !conv_hopper_pays(args))
        return cudnn(x, weights, relu, residual);
    at::Tensor out = at::empty({x.size(0), weights.weight.size(0), x.size(2), x.size(3)},
                               x.options().memory_format(layout));
    args.out = out.mutable_data_ptr();
    check(conv_hopper(args, current_stream()), "a convolution");
    return out;
}

at::Tensor conv2d_of_bordered(const at::Tensor &x, const ConvWeights &weights) {
    constexpr int64_t tile = 16; // pixels in both directions
    const at::Tensor pixels = x.contiguous(layout);
    const int64_t height = x.size(2) - 2, width = x.size(3) - 2;
    ConvArgs args = arguments(ConvKind::same, pixels, weights.weight, weights.weight.size(0));
    args.height = static_cast<int>(height);
    args.width = static_cast<int>(width);
    args.border = 1;
    args.bias = data_or_null(weights.bias);
    // With these many channels cuDNN is as fast or, where a picture does not end with a tile, faster; but for
    // some sizes its heuristics name a kernel that is three times as slow.
    if (height % tile != 0 || width % tile != 0 || !conv_hopper_pays(args))
        return cudnn(pixels, weights, false, {}, 0).contiguous(layout);
    at::Tensor out =
        at::empty({x.size(0), weights.weight.size(0), height, width}, x.options().memory_format(layout));
    args.out = out.mutable_data_ptr();
    check(conv_hopper(args, current_stream()), "a convolution");
    return out;
}

at::Tensor conv2d_with_past(const at::Tensor &x, const at::Tensor &memory, const ConvWeights &weights) {
    const at::Tensor pixels = x.contiguous(layout), before = memory.contiguous(layout);
    ConvArgs args = arguments(ConvKind::same, pixels, weights.weight, weights.weight.size(0));
    args.memory = before.const_data_ptr();
    args.frames = static_cast<int>(x.size(0) / memory.size(0));
    args.bias = data_or_null(weights.bias);
    args.relu = true;
    if (weights.weight.size(2) != 3 || !conv_hopper_pays(args))
        return cudnn(stack_past(x, memory), weights, true, {});
    at::Tensor out = at::empty({x.size(0), weights.weight.size(0), x.size(2), x.size(3)},
                               x.options().memory_format(layout));
    args.out = out.mutable_data_ptr();
    check(conv_hopper(args, current_stream()), "a memory block's convolution");
    return out;
}

void conv2d_to_planes(const at::Tensor &out, const at::Tensor &x, const ConvWeights &weights) {
    const at::Tensor pixels = x.contiguous(layout);
    ConvArgs args = arguments(ConvKind::planar, pixels, weights.weight, weights.weight.size(0));
    args.bias = data_or_null(weights.bias);
    args.out = out.mutable_data_ptr();
    args.image_stride = out.stride(0);
    if (weights.weight.size(2) != 3 || !conv_hopper_pays(args)) {
        out.copy_(cudnn(x, weights, false, {}));
        return;
    }
    check(conv_hopper(args, current_stream()), "a convolution to planes");
}

at::Tensor upsample_conv2d(const at::Tensor &x, const UpsampleConvWeights &weights, bool relu) {
    const int64_t images = x.size(0), growth = weights.growth, channels = weights.out_channels(),
                  height = x.size(2), width = x.size(3);
    const at::Tensor pixels = x.contiguous(layout);
    at::Tensor out =
        at::empty({images * growth, channels, 2 * height, 2 * width}, x.options().memory_format(layout));
    ConvArgs args = arguments(ConvKind::doubled, pixels, weights.weight, channels);
    args.growth = static_cast<int>(growth);
    args.out = out.mutable_data_ptr();
    args.relu = relu;
    if (conv_hopper_pays(args)) {
        check(conv_hopper(args, current_stream()), "an upsampling convolution");
        return out;
    }
    // One row and column more than the picture has: each quarter leaves out another.
    const at::Tensor quarters = pixels.scalar_type() == at::kFloat
                                    ? as_matrix_product(pixels, weights.weight, relu)
                                    : cudnn(pixels, {weights.weight, {}}, relu, {});
    for (int64_t i = 0; i < 4 * growth; i++) {
        const int64_t frame = i / 4, row = i / 2 % 2, col = i % 2;
        out.slice(0, frame, std::nullopt, growth)
            .slice(2, row, std::nullopt, 2)
            .slice(3, col, std::nullopt, 2)
            .copy_(quarters.narrow(1, i * channels, channels).narrow(2, row, height).narrow(3, col, width));
    }
    return out;
}

} // namespace flashvsr::cuda
