// SPDX-License-Identifier: LGPL-2.1-or-later
#include "frame/picture_format.h"

#include "error.h"
#include "ops/levels.h"

#include <tuple>

namespace flashvsr {

namespace {

constexpr int most_subsampling = 2; // log2
constexpr int word_bits = 16;

auto fields(const FlashVSRYuv &yuv) {
    return std::tie(yuv.kr, yuv.kb, yuv.full_range, yuv.log2_chroma_w, yuv.log2_chroma_h, yuv.chroma_x,
                    yuv.chroma_y, yuv.shift, yuv.interleaved);
}

void check_yuv(const FlashVSRYuv &yuv, int depth) {
    if (depth > word_bits)
        fail(EINVAL, "a Y'CbCr frame's depth is ", depth, ", but must be 8 to 16");
    // Written so that a NaN fails.
    if (!(yuv.kr > 0 && yuv.kb > 0 && yuv.kr + yuv.kb < 1))
        fail(EINVAL, "a frame's yuv.kr and yuv.kb are ", yuv.kr, " and ", yuv.kb,
             ", but must be above 0 and their sum below 1");
    const auto check = [](const char *name, int value, int most) {
        if (value < 0 || value > most)
            fail(EINVAL, "a frame's yuv.", name, " is ", value, ", but must be within 0 to ", most);
    };
    check("log2_chroma_w", yuv.log2_chroma_w, most_subsampling);
    check("log2_chroma_h", yuv.log2_chroma_h, most_subsampling);
    check("chroma_x", yuv.chroma_x, 256 * ((1 << yuv.log2_chroma_w) - 1));
    check("chroma_y", yuv.chroma_y, 256 * ((1 << yuv.log2_chroma_h) - 1));
    check("shift", yuv.shift, depth == 8 ? 0 : word_bits - depth);
}

int64_t shifted_up(int64_t side, int log2) {
    return (side + (int64_t{1} << log2) - 1) >> log2;
}

} // namespace

bool PictureFormat::operator==(const PictureFormat &other) const {
    return format == other.format && depth == other.depth && fields(yuv) == fields(other.yuv);
}

PictureFormat format_of(const FlashVSRFrame &frame) {
    if (!(frame.depth >= 8 && frame.depth <= word_bits) && frame.depth != float_depth)
        fail(EINVAL, "a frame's depth is ", frame.depth, ", but must be 8 to 16, or 32 for float");
    switch (frame.format) {
    case FLASHVSR_PIXEL_FORMAT_RGB:
        return {frame.format, frame.depth, {}};
    case FLASHVSR_PIXEL_FORMAT_YUV:
        check_yuv(frame.yuv, frame.depth);
        return {frame.format, frame.depth, frame.yuv};
    default:
        fail(EINVAL, "a frame's pixel format is ", frame.format, ", but must be planar RGB (",
             static_cast<int>(FLASHVSR_PIXEL_FORMAT_RGB), ") or Y'CbCr (",
             static_cast<int>(FLASHVSR_PIXEL_FORMAT_YUV), ")");
    }
}

int64_t component_bytes(const PictureFormat &format) {
    return static_cast<int64_t>(c10::elementSize(component_type(format.depth)));
}

Size chroma_size(const FlashVSRYuv &yuv, Size size) {
    return {shifted_up(size.width, yuv.log2_chroma_w), shifted_up(size.height, yuv.log2_chroma_h)};
}

std::vector<PlaneLayout> plane_layouts(const PictureFormat &format, Size size) {
    std::vector<PlaneLayout> planes;
    int64_t offset = 0;
    const auto add = [&](int64_t height, int64_t columns) {
        planes.push_back({offset, height, columns * component_bytes(format)});
        offset += height * planes.back().row_bytes;
    };
    add(size.height, size.width);
    const Size chroma = format.is_yuv() ? chroma_size(format.yuv, size) : size;
    if (format.yuv.interleaved != 0) {
        add(chroma.height, 2 * chroma.width);
    } else {
        add(chroma.height, chroma.width);
        add(chroma.height, chroma.width);
    }
    return planes;
}

int64_t picture_bytes(const PictureFormat &format, Size size) {
    const PlaneLayout last = plane_layouts(format, size).back();
    return last.offset + last.height * last.row_bytes;
}

} // namespace flashvsr
