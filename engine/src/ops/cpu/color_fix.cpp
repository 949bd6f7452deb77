// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cpu/ops.h"

#include <ATen/ATen.h>

#include <utility>

namespace flashvsr::cpu {

namespace {

constexpr double variance_eps = 1e-5;
constexpr int levels = 5;

std::pair<at::Tensor, at::Tensor> mean_and_deviation(const at::Tensor &x) {
    const auto [variance, mean] = at::var_mean(x, at::IntArrayRef{3, 4}, std::optional<at::Scalar>(0), true);
    return {mean, (variance + variance_eps).sqrt_()};
}

/// 3x3 binomial blur with holes, edges replicated. x (N, 1, H, W)
at::Tensor blur(const at::Tensor &x, int64_t dilation) {
    const at::Tensor line = at::arange(-1, 2, x.options()).abs_().neg_().add_(2); // 1 2 1
    const at::Tensor kernel = at::outer(line, line).div_(16).view({1, 1, 3, 3});
    return at::conv2d(at::replication_pad2d(x, {dilation, dilation, dilation, dilation}), kernel,
                      std::nullopt, at::IntArrayRef{1, 1}, at::IntArrayRef{0, 0},
                      at::IntArrayRef{dilation, dilation});
}

} // namespace

at::Tensor adain(const at::Tensor &frames, const at::Tensor &style) {
    const at::Tensor content = frames.to(at::kFloat);
    const auto [mean, deviation] = mean_and_deviation(content);
    const auto [style_mean, style_deviation] = mean_and_deviation(style);
    return (content - mean).div_(deviation).mul_(style_deviation).add_(style_mean).clamp_(-1, 1);
}

at::Tensor wavelet(const at::Tensor &content, const at::Tensor &style) {
    const auto planes = [](const at::Tensor &x) {
        return x.to(at::kFloat).reshape({-1, 1, x.size(3), x.size(4)});
    };
    at::Tensor low = planes(content), style_low = planes(style), high = at::zeros_like(low);
    for (int level = 0; level < levels; level++) {
        const at::Tensor blurred = blur(low, int64_t{1} << level);
        high.add_(low).sub_(blurred);
        low = blurred;
        style_low = blur(style_low, int64_t{1} << level);
    }
    return high.add_(style_low).clamp_(-1, 1).view(content.sizes());
}

} // namespace flashvsr::cpu
