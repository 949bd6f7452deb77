// SPDX-License-Identifier: LGPL-2.1-or-later
#include "frame/picture.h"

#include "error.h"
#include "ops/level_pixels.h"
#include "ops/levels.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdlib>

namespace flashvsr {
namespace {

constexpr int planes = 3;
// Rows below this many pixels a task cost more to hand out than to convert.
constexpr int64_t pixels_per_task = 32768;

int component_bytes(int depth) {
    return static_cast<int>(c10::elementSize(component_type(depth)));
}

template <typename Component> void read_row(const Component *from, float *to, int64_t width, int white) {
    for (int64_t x = 0; x < width; x++)
        to[x] = levels::to_pixel(from[x], white);
}

template <typename Component> void write_row(const float *from, Component *to, int64_t width, int white) {
    for (int64_t x = 0; x < width; x++)
        to[x] = levels::from_pixel<Component>(from[x], white);
}

template <typename Component> Component *row_of(const FlashVSRFrame &frame, int64_t plane, int64_t y) {
    return reinterpret_cast<Component *>(static_cast<char *>(frame.data[plane]) + y * frame.stride[plane]);
}

// Calls body(plane, y) for every row of the three planes.
template <typename Body> void for_each_row(int64_t height, int64_t width, const Body &body) {
    const int64_t grain = std::max<int64_t>(1, pixels_per_task / width);
    at::parallel_for(0, planes * height, grain, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++)
            body(row / height, row % height);
    });
}

} // namespace

void check_picture(const FlashVSRFrame &frame, int width, int height) {
    if (frame.width != width || frame.height != height)
        fail(EINVAL, "a frame is ", frame.width, "x", frame.height, " pixels, but must be ", width, "x",
             height);
    if (width < 1 || height < 1 || width > FLASHVSR_MAX_SIZE || height > FLASHVSR_MAX_SIZE)
        fail(EINVAL, "a frame is ", width, "x", height, " pixels; each side must be within 1 to ",
             FLASHVSR_MAX_SIZE);
    if (frame.memory != FLASHVSR_MEMORY_HOST)
        fail(EINVAL, "a frame's memory kind is ", frame.memory, ", but this build takes host memory (",
             static_cast<int>(FLASHVSR_MEMORY_HOST), ") alone");
    if (frame.format != FLASHVSR_PIXEL_FORMAT_RGB)
        fail(EINVAL, "a frame's pixel format is ", frame.format, ", but must be planar RGB (",
             static_cast<int>(FLASHVSR_PIXEL_FORMAT_RGB), ")");
    if (!(frame.depth >= 8 && frame.depth <= 16) && frame.depth != float_depth)
        fail(EINVAL, "a frame's depth is ", frame.depth, ", but must be 8 to 16, or 32 for float");
    const int bytes = component_bytes(frame.depth);
    for (int plane = 0; plane < planes; plane++) {
        if (!frame.data[plane])
            fail(EINVAL, "a frame's plane ", plane, " is a null pointer");
        // Rows may overlap in no picture; one row has no distance to keep.
        const int64_t stride = frame.stride[plane];
        if (height > 1 && std::llabs(stride) < static_cast<int64_t>(width) * bytes)
            fail(EINVAL, "the stride of a frame's plane ", plane, " is ", stride, " bytes, less than its ",
                 width, " components of ", bytes, " bytes");
        if (reinterpret_cast<uintptr_t>(frame.data[plane]) % bytes != 0 || stride % bytes != 0)
            fail(EINVAL, "a frame's plane ", plane, " or its stride of ", stride,
                 " bytes is not aligned to components of ", bytes, " bytes");
    }
}

at::Tensor picture_to_tensor(const FlashVSRFrame &frame) {
    check_picture(frame, frame.width, frame.height);
    const int64_t height = frame.height;
    const int64_t width = frame.width;
    at::Tensor pixels = at::empty({planes, height, width}, at::kFloat);
    float *const to = pixels.data_ptr<float>();
    const int white = white_level(frame.depth);
    for_each_row(height, width, [&](int64_t plane, int64_t y) {
        float *const row = to + (plane * height + y) * width;
        if (frame.depth == 8)
            read_row(row_of<const uint8_t>(frame, plane, y), row, width, white);
        else if (frame.depth == float_depth)
            read_row(row_of<const float>(frame, plane, y), row, width, white);
        else
            read_row(row_of<const uint16_t>(frame, plane, y), row, width, white);
    });
    return pixels;
}

void tensor_to_picture(const at::Tensor &pixels, FlashVSRFrame &frame) {
    check_picture(frame, frame.width, frame.height);
    const int64_t height = frame.height;
    const int64_t width = frame.width;
    if (pixels.sizes() != at::IntArrayRef({planes, height, width}) || pixels.scalar_type() != at::kFloat)
        fail(EINVAL, "pixels of shape ", pixels.sizes(), " and type ", pixels.scalar_type(),
             " do not go into a frame of ", width, "x", height, " pixels");
    const at::Tensor contiguous = pixels.contiguous();
    const float *const from = contiguous.const_data_ptr<float>();
    const int white = white_level(frame.depth);
    for_each_row(height, width, [&](int64_t plane, int64_t y) {
        const float *const row = from + (plane * height + y) * width;
        if (frame.depth == 8)
            write_row(row, row_of<uint8_t>(frame, plane, y), width, white);
        else if (frame.depth == float_depth)
            write_row(row, row_of<float>(frame, plane, y), width, white);
        else
            write_row(row, row_of<uint16_t>(frame, plane, y), width, white);
    });
}

void levels_to_picture(const at::Tensor &levels, FlashVSRFrame &frame) {
    check_picture(frame, frame.width, frame.height);
    const int64_t height = frame.height;
    const int64_t width = frame.width;
    if (levels.sizes() != at::IntArrayRef({planes, height, width}) ||
        levels.scalar_type() != component_type(frame.depth))
        fail(EINVAL, "levels of shape ", levels.sizes(), " and type ", levels.scalar_type(),
             " do not go into a frame of ", width, "x", height, " pixels and depth ", frame.depth);
    const at::Tensor contiguous = levels.contiguous();
    const auto *const from = static_cast<const char *>(contiguous.const_data_ptr());
    const int64_t row_bytes = width * component_bytes(frame.depth);
    for_each_row(height, width, [&](int64_t plane, int64_t y) {
        std::copy_n(from + (plane * height + y) * row_bytes, row_bytes, row_of<char>(frame, plane, y));
    });
}

} // namespace flashvsr
