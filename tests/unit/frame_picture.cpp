// SPDX-License-Identifier: LGPL-2.1-or-later
#include "error.h"
#include "frame/picture.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

namespace {

using namespace flashvsr;

/// A picture with its own memory: rows padded by `padding_bytes`, bottom-up where `flipped`. The padding is
/// filled with a mark, so that a write outside the picture is seen.
class Picture {
public:
    static constexpr unsigned char mark = 0xA5;

    Picture(int width, int height, int depth, ptrdiff_t padding_bytes = 0, bool flipped = false)
        : row_bytes_(static_cast<ptrdiff_t>(width) * bytes_of(depth)), stride_(row_bytes_ + padding_bytes) {
        frame.width = width;
        frame.height = height;
        frame.format = FLASHVSR_PIXEL_FORMAT_RGB;
        frame.depth = depth;
        for (int plane = 0; plane < 3; plane++) {
            memory_[plane].assign(static_cast<size_t>(stride_ * height), mark);
            frame.data[plane] = memory_[plane].data() + (flipped ? stride_ * (height - 1) : 0);
            frame.stride[plane] = flipped ? -stride_ : stride_;
        }
    }

    static int bytes_of(int depth) { return depth == 8 ? 1 : depth == 32 ? 4 : 2; }

    template <typename Component> Component &at(int plane, int y, int x) {
        return reinterpret_cast<Component *>(static_cast<char *>(frame.data[plane]) +
                                             y * frame.stride[plane])[x];
    }

    bool padding_is_untouched() const {
        for (const auto &plane : memory_)
            for (size_t i = 0; i < plane.size(); i++)
                if (static_cast<ptrdiff_t>(i) % stride_ >= row_bytes_ && plane[i] != mark)
                    return false;
        return true;
    }

    FlashVSRFrame frame{};

private:
    ptrdiff_t row_bytes_, stride_;
    std::vector<unsigned char> memory_[3];
};

void set(Picture &picture, int plane, int y, int x, int level) {
    if (picture.frame.depth == 8)
        picture.at<uint8_t>(plane, y, x) = static_cast<uint8_t>(level);
    else
        picture.at<uint16_t>(plane, y, x) = static_cast<uint16_t>(level);
}

int get(Picture &picture, int plane, int y, int x) {
    return picture.frame.depth == 8 ? picture.at<uint8_t>(plane, y, x) : picture.at<uint16_t>(plane, y, x);
}

std::string sentence_of(const FlashVSRFrame &frame, int width, int height) {
    try {
        check_picture(frame, width, height);
    } catch (const Error &error) {
        EXPECT_EQ(error.code(), EINVAL);
        return error.what();
    }
    return "";
}

TEST(Picture, EveryLevelOfEveryDepthComesBack) {
    for (const int depth : {8, 9, 10, 11, 12, 13, 14, 15, 16}) {
        const int levels = 1 << depth;
        const int width = 257;
        const int height = (levels + width - 1) / width;
        Picture in(width, height, depth, 6);
        for (int plane = 0; plane < 3; plane++)
            for (int i = 0; i < width * height; i++)
                set(in, plane, i / width, i % width, (i * (plane + 1)) % levels);
        const at::Tensor pixels = picture_to_tensor(in.frame);
        EXPECT_GE(pixels.min().item<float>(), -1.0f);
        EXPECT_LE(pixels.max().item<float>(), 1.0f);
        Picture out(width, height, depth, 10, true);
        tensor_to_picture(pixels, out.frame);
        for (int plane = 0; plane < 3; plane++)
            for (int i = 0; i < width * height; i++)
                ASSERT_EQ(get(out, plane, i / width, i % width), (i * (plane + 1)) % levels)
                    << "depth " << depth << ", plane " << plane << ", value " << i;
        EXPECT_TRUE(out.padding_is_untouched()) << "depth " << depth;
    }
}

TEST(Picture, An8BitLevelIsDividedDoubledAndShiftedInFloat) {
    Picture in(256, 1, 8);
    for (int v = 0; v < 256; v++)
        set(in, 1, 0, v, v);
    const at::Tensor pixels = picture_to_tensor(in.frame);
    for (int v = 0; v < 256; v++) {
        const volatile float part = static_cast<float>(v) / 255.0f;
        EXPECT_EQ(pixels[1][0][v].item<float>(), part * 2.0f - 1.0f) << v;
    }
}

TEST(Picture, PlanesAreRedGreenBlueAndRowsGoDown) {
    Picture in(3, 2, 10, 0, true);
    for (int plane = 0; plane < 3; plane++)
        for (int y = 0; y < 2; y++)
            for (int x = 0; x < 3; x++)
                set(in, plane, y, x, 100 * plane + 10 * y + x);
    const at::Tensor levels = ((picture_to_tensor(in.frame) + 1) * (1023 / 2.0)).round();
    for (int plane = 0; plane < 3; plane++)
        for (int y = 0; y < 2; y++)
            for (int x = 0; x < 3; x++)
                EXPECT_EQ(levels[plane][y][x].item<float>(), 100 * plane + 10 * y + x);
}

TEST(Picture, WordsAboveTheDepthAreWhite) {
    Picture in(2, 1, 10);
    set(in, 0, 0, 0, 1024);
    set(in, 0, 0, 1, 65535);
    const at::Tensor pixels = picture_to_tensor(in.frame);
    EXPECT_EQ(pixels[0][0][0].item<float>(), 1.0f);
    EXPECT_EQ(pixels[0][0][1].item<float>(), 1.0f);
}

TEST(Picture, FloatsAreClampedAndNanIsBlack) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const float infinity = std::numeric_limits<float>::infinity();
    const std::vector<float> given = {0.0f, 0.25f, 1.0f, -3.0f, 7.0f, nan, infinity, -infinity};
    const std::vector<float> wanted = {0.0f, 0.25f, 1.0f, 0.0f, 1.0f, 0.0f, 1.0f, 0.0f};
    const int width = static_cast<int>(given.size());
    Picture in(width, 1, 32);
    at::Tensor pixels = at::zeros({3, 1, width});
    for (int x = 0; x < width; x++) {
        in.at<float>(2, 0, x) = given[x];
        pixels[2][0][x] = given[x] * 2.0f - 1.0f;
    }
    const at::Tensor read = picture_to_tensor(in.frame);
    Picture as_float(width, 1, 32);
    Picture as_words(width, 1, 16);
    tensor_to_picture(pixels, as_float.frame);
    tensor_to_picture(pixels, as_words.frame);
    for (int x = 0; x < width; x++) {
        EXPECT_EQ(read[2][0][x].item<float>(), wanted[x] * 2.0f - 1.0f) << given[x];
        EXPECT_EQ(as_float.at<float>(2, 0, x), wanted[x]) << given[x];
        EXPECT_EQ(get(as_words, 2, 0, x), std::lround(wanted[x] * 65535)) << given[x];
    }
}

TEST(Picture, WritingRoundsToTheNearestLevel) {
    const std::vector<double> levels = {0.4, 0.6, 1.49, 1.51, 127.4, 127.6, 254.49, 254.51, 300.0, -20.0};
    const std::vector<int> wanted = {0, 1, 1, 2, 127, 128, 254, 255, 255, 0};
    const int width = static_cast<int>(levels.size());
    at::Tensor pixels = at::zeros({3, 1, width});
    for (int x = 0; x < width; x++)
        pixels[0][0][x] = levels[x] / 127.5 - 1.0;
    Picture out(width, 1, 8);
    tensor_to_picture(pixels, out.frame);
    for (int x = 0; x < width; x++)
        EXPECT_EQ(get(out, 0, 0, x), wanted[x]) << levels[x];
}

TEST(Picture, ATensorOfAnyLayoutIsWritten) {
    const at::Tensor pixels = at::rand({5, 7, 3}) * 2 - 1;
    Picture straight(7, 5, 8);
    Picture permuted(7, 5, 8);
    tensor_to_picture(pixels.permute({2, 0, 1}).contiguous(), straight.frame);
    tensor_to_picture(pixels.permute({2, 0, 1}), permuted.frame);
    for (int plane = 0; plane < 3; plane++)
        for (int i = 0; i < 35; i++)
            EXPECT_EQ(get(straight, plane, i / 7, i % 7), get(permuted, plane, i / 7, i % 7));
}

TEST(Picture, WhatCannotBeReadIsRefusedWithItsValue) {
    const Picture good(16, 4, 10);
    EXPECT_EQ(sentence_of(good.frame, 16, 4), "");
    const auto expect = [&](const char *part, const auto &spoil) {
        FlashVSRFrame frame = good.frame;
        spoil(frame);
        EXPECT_NE(sentence_of(frame, 16, 4).find(part), std::string::npos)
            << part << " is not in: " << sentence_of(frame, 16, 4);
    };
    expect("17x4", [](auto &f) { f.width = 17; });
    expect("16x3", [](auto &f) { f.height = 3; });
    expect("memory kind is 2", [](auto &f) { f.memory = 2; });
    expect("rows must go down", [](auto &f) {
        f.memory = FLASHVSR_MEMORY_CUDA;
        f.stride[0] = -f.stride[0];
    });
    expect("pixel format is 0", [](auto &f) { f.format = FLASHVSR_PIXEL_FORMAT_NONE; });
    expect("depth is 7", [](auto &f) { f.depth = 7; });
    expect("depth is 17", [](auto &f) { f.depth = 17; });
    expect("plane 2 is a null pointer", [](auto &f) { f.data[2] = nullptr; });
    expect("plane 1 is 31 bytes", [](auto &f) { f.stride[1] = 31; });
    expect("plane 1 is -30 bytes", [](auto &f) { f.stride[1] = -30; });
    expect("33 bytes is not aligned", [](auto &f) { f.stride[0] = 33; });
    expect("aligned", [](auto &f) { f.data[0] = static_cast<char *>(f.data[0]) + 1; });
    FlashVSRFrame empty = good.frame;
    empty.width = 0;
    EXPECT_NE(sentence_of(empty, 0, 4).find("0x4"), std::string::npos);
}

TEST(Picture, OfAGpuIsASurfaceThatNoHostReads) {
    Picture picture(16, 4, 10, 6);
    picture.frame.memory = FLASHVSR_MEMORY_CUDA;
    picture.frame.cuda_stream = &picture;
    EXPECT_EQ(sentence_of(picture.frame, 16, 4), "");
    const Surface surface = surface_of(picture.frame);
    EXPECT_EQ(surface.stream, &picture);
    ASSERT_EQ(surface.planes.size(), 3U);
    for (size_t i = 0; i < 3; i++) {
        EXPECT_EQ(surface.planes[i].data, picture.frame.data[i]);
        EXPECT_EQ(surface.planes[i].stride, 38);
        EXPECT_EQ(surface.planes[i].offset, static_cast<int64_t>(i) * 32 * 4);
        EXPECT_EQ(surface.planes[i].rows, 4);
        EXPECT_EQ(surface.planes[i].row_bytes, 32);
    }
    EXPECT_THROW(pack_picture(picture.frame), Error);
}

TEST(Picture, ATensorOfAnotherSizeOrTypeIsRefused) {
    Picture out(4, 4, 8);
    EXPECT_THROW(tensor_to_picture(at::zeros({3, 4, 5}), out.frame), Error);
    EXPECT_THROW(tensor_to_picture(at::zeros({1, 3, 4, 4}), out.frame), Error);
    EXPECT_THROW(tensor_to_picture(at::zeros({3, 4, 4}, at::kDouble), out.frame), Error);
}

} // namespace
