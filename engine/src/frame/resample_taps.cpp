// SPDX-License-Identifier: LGPL-2.1-or-later
#include "frame/resample_taps.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

namespace flashvsr {

namespace {

double bicubic_kernel(double x) {
    constexpr double a = -0.5;
    x = std::abs(x);
    if (x < 1.0)
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    if (x < 2.0)
        return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
    return 0.0;
}

double lanczos_kernel(double x) {
    constexpr double lobes = 3.0, pi = std::numbers::pi;
    x = std::abs(x);
    if (x < 1e-9)
        return 1.0;
    return x < lobes ? lobes * std::sin(pi * x) * std::sin(pi * x / lobes) / (pi * pi * x * x) : 0.0;
}

} // namespace

// Positions and weights in double: in float, the sampling position alone is off by 1e-4 pixels at column
// 2000, which is more than a 16-bit level.
ResampleTaps resample_taps(ResampleKernel kernel, int64_t in, int64_t out, double ratio, double offset,
                           const at::Device &device) {
    const double stretch = std::max(ratio, 1.0);
    const double support = (kernel == ResampleKernel::bicubic ? 2.0 : 3.0) * stretch;
    const auto weigh = kernel == ResampleKernel::bicubic ? bicubic_kernel : lanczos_kernel;
    const auto centre_of = [&](int64_t i) { return (static_cast<double>(i) + 0.5) * ratio + offset; };
    const auto begin_of = [&](int64_t i) {
        return std::max<int64_t>(0, static_cast<int64_t>(centre_of(i) - support + 0.5));
    };
    const auto end_of = [&](int64_t i) {
        return std::min<int64_t>(in, static_cast<int64_t>(centre_of(i) + support + 0.5));
    };
    int64_t count = 0;
    for (int64_t i = 0; i < out; i++)
        count = std::max(count, end_of(i) - begin_of(i));
    ResampleTaps taps{at::empty({out}, at::kLong), at::empty({out, count}, at::kFloat)};
    int64_t *const first_of = taps.first.data_ptr<int64_t>();
    float *weight_of = taps.weight.data_ptr<float>();
    std::vector<double> weight(static_cast<size_t>(count));
    for (int64_t i = 0; i < out; i++) {
        const double centre = centre_of(i);
        // The same count everywhere: at the edges the taps outside the kernel weigh 0.
        const int64_t first = std::min(begin_of(i), in - count);
        double sum = 0.0;
        for (int64_t k = 0; k < count; k++) {
            const int64_t j = first + k;
            const bool inside = j >= begin_of(i) && j < end_of(i);
            weight[k] = inside ? weigh((static_cast<double>(j) - centre + 0.5) / stretch) : 0.0;
            sum += weight[k];
        }
        first_of[i] = first;
        for (int64_t k = 0; k < count; k++)
            *weight_of++ = static_cast<float>(weight[k] / sum);
    }
    return {taps.first.to(device), taps.weight.to(device)};
}

} // namespace flashvsr
