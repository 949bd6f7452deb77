// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cpu/ops.h"
#include "ops/level_pixels.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

namespace flashvsr::cpu {

namespace {

// Fewer components than this a task cost more to hand out than to convert.
constexpr int64_t components_per_task = 32768;

/// Call body(component) with a component of the depth's type.
template <typename Body> void with_component(int depth, const Body &body) {
    if (depth == 8)
        body(uint8_t{});
    else if (depth == float_depth)
        body(float{});
    else
        body(uint16_t{});
}

} // namespace

at::Tensor pixels_from_levels(const at::Tensor &levels, int depth) {
    at::Tensor pixels = at::empty(levels.sizes(), at::kFloat);
    float *const to = pixels.mutable_data_ptr<float>();
    with_component(depth, [&](auto component) {
        const auto *const from = levels.const_data_ptr<decltype(component)>();
        const int white = white_level(depth);
        at::parallel_for(0, levels.numel(), components_per_task, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i++)
                to[i] = levels::to_pixel(from[i], white);
        });
    });
    return pixels;
}

at::Tensor levels_from_pixels(const at::Tensor &pixels, int depth) {
    const at::Tensor contiguous = pixels.contiguous();
    at::Tensor levels = at::empty(pixels.sizes(), at::TensorOptions(component_type(depth)));
    const float *const from = contiguous.const_data_ptr<float>();
    with_component(depth, [&](auto component) {
        using Component = decltype(component);
        auto *const to = levels.mutable_data_ptr<Component>();
        const int white = white_level(depth);
        at::parallel_for(0, pixels.numel(), components_per_task, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i++)
                to[i] = levels::from_pixel<Component>(from[i], white);
        });
    });
    return levels;
}

} // namespace flashvsr::cpu
