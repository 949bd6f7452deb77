// SPDX-License-Identifier: LGPL-2.1-or-later
#include "frame/picture.h"

#include "error.h"
#include "frame/picture_converter.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdlib>

namespace flashvsr {
namespace {

Size size_of(const FlashVSRFrame &frame) {
    return {frame.width, frame.height};
}

/// Calls copy(row of the packed picture, row of the frame, bytes) for every row. In one thread: others that
/// helped would then spin for milliseconds, waiting for more, while frames come one by one.
template <typename Byte, typename Copy>
void for_each_row(Byte *packed, const FlashVSRFrame &frame, const Copy &copy) {
    const std::vector<PlaneLayout> planes = plane_layouts(format_of(frame), size_of(frame));
    for (size_t i = 0; i < planes.size(); i++) {
        const PlaneLayout &plane = planes[i];
        for (int64_t y = 0; y < plane.height; y++)
            copy(packed + plane.offset + y * plane.row_bytes,
                 static_cast<uint8_t *>(frame.data[i]) + y * frame.stride[i], plane.row_bytes);
    }
}

} // namespace

void check_picture(const FlashVSRFrame &frame, int width, int height) {
    if (frame.width != width || frame.height != height)
        fail(EINVAL, "a frame is ", frame.width, "x", frame.height, " pixels, but must be ", width, "x",
             height);
    if (width < 1 || height < 1 || width > FLASHVSR_MAX_SIZE || height > FLASHVSR_MAX_SIZE)
        fail(EINVAL, "a frame is ", width, "x", height, " pixels; each side must be within 1 to ",
             FLASHVSR_MAX_SIZE);
    const bool on_gpu = frame.memory == FLASHVSR_MEMORY_CUDA;
    if (!on_gpu && frame.memory != FLASHVSR_MEMORY_HOST)
        fail(EINVAL, "a frame's memory kind is ", frame.memory, ", but must be host (",
             static_cast<int>(FLASHVSR_MEMORY_HOST), ") or CUDA (", static_cast<int>(FLASHVSR_MEMORY_CUDA),
             ")");
    const PictureFormat format = format_of(frame);
    const int64_t bytes = component_bytes(format);
    const std::vector<PlaneLayout> planes = plane_layouts(format, size_of(frame));
    for (size_t i = 0; i < planes.size(); i++) {
        if (!frame.data[i])
            fail(EINVAL, "a frame's plane ", i, " is a null pointer");
        // Rows may overlap in no picture; one row has no distance to keep.
        const int64_t stride = frame.stride[i];
        if (planes[i].height > 1 && std::llabs(stride) < planes[i].row_bytes)
            fail(EINVAL, "the stride of a frame's plane ", i, " is ", stride, " bytes, less than its ",
                 planes[i].row_bytes / bytes, " components of ", bytes, " bytes");
        if (on_gpu && planes[i].height > 1 && stride < 0)
            fail(EINVAL, "the stride of a frame's plane ", i, " is ", stride,
                 " bytes, but in a GPU's memory rows must go down");
        if (reinterpret_cast<uintptr_t>(frame.data[i]) % bytes != 0 || stride % bytes != 0)
            fail(EINVAL, "a frame's plane ", i, " or its stride of ", stride,
                 " bytes is not aligned to components of ", bytes, " bytes");
    }
}

Surface surface_of(const FlashVSRFrame &frame) {
    check_picture(frame, frame.width, frame.height);
    Surface surface;
    surface.stream = frame.cuda_stream;
    const std::vector<PlaneLayout> planes = plane_layouts(format_of(frame), size_of(frame));
    for (size_t i = 0; i < planes.size(); i++)
        surface.planes.push_back({frame.data[i], std::max<int64_t>(frame.stride[i], planes[i].row_bytes),
                                  planes[i].offset, planes[i].height, planes[i].row_bytes});
    return surface;
}

at::Tensor pack_picture(const FlashVSRFrame &frame) {
    check_picture(frame, frame.width, frame.height);
    if (frame.memory != FLASHVSR_MEMORY_HOST)
        fail(EINVAL, "a frame's memory kind is ", frame.memory, ", but must be host (",
             static_cast<int>(FLASHVSR_MEMORY_HOST), ") here");
    at::Tensor packed = at::empty({picture_bytes(format_of(frame), size_of(frame))}, at::kByte);
    for_each_row(packed.mutable_data_ptr<uint8_t>(), frame,
                 [](uint8_t *to, const uint8_t *from, int64_t bytes) { std::copy_n(from, bytes, to); });
    return packed;
}

void unpack_picture(const at::Tensor &packed, const FlashVSRFrame &frame, const at::Device &device) {
    check_picture(frame, frame.width, frame.height);
    const int64_t bytes = picture_bytes(format_of(frame), size_of(frame));
    if (packed.numel() != bytes || packed.scalar_type() != at::kByte)
        fail(EINVAL, "a picture of ", packed.numel(), " components of type ", packed.scalar_type(),
             " does not go into a frame of ", bytes, " bytes");
    if (frame.memory == FLASHVSR_MEMORY_CUDA)
        return write_surface(packed.is_cpu() ? upload(packed, device) : packed, surface_of(frame));
    const at::Tensor host = packed.cpu();
    for_each_row(host.const_data_ptr<uint8_t>(), frame,
                 [](const uint8_t *from, uint8_t *to, int64_t bytes) { std::copy_n(from, bytes, to); });
}

at::Tensor picture_to_tensor(const FlashVSRFrame &frame) {
    const at::Tensor packed = pack_picture(frame);
    return PictureConverter(format_of(frame), size_of(frame), at::kCPU).to_pixels(packed);
}

void tensor_to_picture(const at::Tensor &pixels, const FlashVSRFrame &frame) {
    check_picture(frame, frame.width, frame.height);
    const PictureFormat format = format_of(frame);
    const at::Tensor packed = at::empty({picture_bytes(format, size_of(frame))}, at::kByte);
    PictureConverter(format, size_of(frame), at::kCPU).from_pixels(pixels, packed);
    unpack_picture(packed, frame);
}

} // namespace flashvsr
