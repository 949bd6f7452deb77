// SPDX-License-Identifier: LGPL-2.1-or-later

// Y'CbCr pictures against H.273's formulas in double and against what resampling keeps.

#include "error.h"
#include "frame/picture.h"
#include "frame/picture_converter.h"
#include "frame/resample_taps.h"
#include "ops/levels.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace flashvsr {
namespace {

struct Matrix {
    const char *name;
    double kr, kb;
};
constexpr Matrix matrices[] = {
    {"BT.709", 0.2126, 0.0722}, {"BT.601", 0.299, 0.114}, {"BT.2020", 0.2627, 0.0593}};

PictureFormat yuv(int depth, int log2_w, int log2_h, const Matrix &matrix = matrices[0], bool full = false) {
    return {FLASHVSR_PIXEL_FORMAT_YUV,
            depth,
            {matrix.kr, matrix.kb, full, log2_w, log2_h, 0, 128 * log2_h, 0, 0}};
}

at::Tensor packed_for(const PictureFormat &format, Size size) {
    return at::full({picture_bytes(format, size)}, 0xA5, at::kByte);
}

/// A picture of one colour, levels Y, Cb, Cr as they stand in memory.
at::Tensor flat(const PictureFormat &format, Size size, const std::array<int, 3> &levels) {
    const at::ScalarType type = component_type(format.depth);
    const Size chroma = chroma_size(format.yuv, size);
    const auto plane = [&](int64_t count, int level) { return at::full({count}, level, at::kInt).to(type); };
    const at::Tensor cb = plane(chroma.width * chroma.height, levels[1]),
                     cr = plane(chroma.width * chroma.height, levels[2]);
    return at::cat({plane(size.width * size.height, levels[0]).view(at::kByte),
                    (format.yuv.interleaved != 0 ? at::stack({cb, cr}, 1).flatten() : at::cat({cb, cr}))
                        .view(at::kByte)});
}

double psnr(const at::Tensor &a, const at::Tensor &b, double white) {
    const double error = (a.to(at::kDouble) - b.to(at::kDouble)).square().mean().item<double>();
    return error == 0 ? INFINITY : 10 * std::log10(white * white / error);
}

TEST(Yuv, AColourIsH273s) {
    const Size size{6, 4};
    for (const Matrix &matrix : matrices)
        for (const bool full : {false, true})
            for (const int depth : {8, 10, 12, 16}) {
                const PictureFormat format = yuv(depth, 1, 1, matrix, full);
                const int one = 1 << (depth - 8);
                const std::array<int, 3> levels = {120 * one + 1, 110 * one + 1, 140 * one + 1};
                const double largest = (1 << depth) - 1;
                const double y = (levels[0] - (full ? 0 : 16 * one)) / (full ? largest : 219.0 * one),
                             cb = (levels[1] - 128 * one) / (full ? largest : 224.0 * one),
                             cr = (levels[2] - 128 * one) / (full ? largest : 224.0 * one);
                const double r = y + 2 * (1 - matrix.kr) * cr, b = y + 2 * (1 - matrix.kb) * cb,
                             g = (y - matrix.kr * r - matrix.kb * b) / (1 - matrix.kr - matrix.kb);
                const std::string what = concat(matrix.name, full ? " full " : " limited ", depth);
                const PictureConverter converter(format, size, at::kCPU);
                const at::Tensor pixels = converter.to_pixels(flat(format, size, levels));
                int64_t component = 0;
                for (const double expected : {r, g, b})
                    EXPECT_LE(
                        (pixels[component++].to(at::kDouble) - (2 * expected - 1)).abs().max().item<double>(),
                        2e-6)
                        << what;
                const at::Tensor back = packed_for(format, size);
                converter.from_pixels(pixels, back);
                EXPECT_TRUE(at::equal(back, flat(format, size, levels))) << what;
            }
}

TEST(Yuv, BlackAndWhiteAreTheEndsOfTheRange) {
    const Size size{5, 3};
    for (const bool full : {false, true}) {
        const PictureFormat format = yuv(8, 1, 1, matrices[0], full);
        const PictureConverter converter(format, size, at::kCPU);
        for (const double pixel : {-1.0, 1.0, -7.0, 9.0}) {
            const at::Tensor packed = packed_for(format, size);
            converter.from_pixels(at::full({3, 3, 5}, pixel, at::kFloat), packed);
            const int level = pixel < 0 ? (full ? 0 : 16) : (full ? 255 : 235);
            EXPECT_TRUE(at::equal(packed, flat(format, size, {level, 128, 128}))) << pixel;
        }
        const at::Tensor packed = packed_for(format, size);
        converter.from_pixels(at::full({3, 3, 5}, NAN, at::kFloat), packed);
        EXPECT_TRUE(at::equal(packed, flat(format, size, {full ? 0 : 16, 128, 128})));
    }
}

/// Smooth chroma, which is what resampling may be asked to keep, and luma of any kind.
TEST(Yuv, APictureOfEveryLayoutComesBack) {
    at::manual_seed(1);
    for (const Size size : {Size{64, 48}, Size{37, 23}, Size{1, 1}, Size{2, 5}})
        for (const int depth : {8, 10, 16})
            for (const auto &[log2_w, log2_h] :
                 {std::pair{0, 0}, std::pair{1, 0}, std::pair{1, 1}, std::pair{2, 0}})
                for (const int interleaved : {0, 1})
                    for (const int place : {0, 128, 256}) {
                        PictureFormat format = yuv(depth, log2_w, log2_h);
                        format.yuv.interleaved = interleaved;
                        format.yuv.chroma_x = log2_w == 0 ? 0 : place;
                        format.yuv.chroma_y = log2_h == 0 ? 0 : place;
                        format.yuv.shift = depth == 10 ? 6 : 0;
                        const PictureConverter converter(format, size, at::kCPU);
                        const at::Tensor y = at::arange(size.height).unsqueeze(1),
                                         x = at::arange(size.width).unsqueeze(0);
                        const at::Tensor grey = 0.3 * at::rand({size.height, size.width}) - 0.15;
                        const at::Tensor pixels =
                            at::stack({at::sin(x * 0.1 + y * 0.05), at::cos(x * 0.07 - y * 0.1),
                                       at::sin(x * 0.05 + y * 0.08 + 2)}) *
                                0.5 +
                            grey;
                        const at::Tensor first = packed_for(format, size), second = packed_for(format, size);
                        converter.from_pixels(pixels.to(at::kFloat), first);
                        converter.from_pixels(converter.to_pixels(first), second);
                        const at::ScalarType type = component_type(depth);
                        EXPECT_GE(psnr(first.view(type), second.view(type),
                                       double(white_level(depth) << format.yuv.shift)),
                                  depth == 8 ? 50 : 60)
                            << size.width << "x" << size.height << ", " << depth << " bits, " << log2_w
                            << log2_h << ", interleaved " << interleaved << ", place " << place;
                    }
}

/// A line of chroma from left to right says where its samples lie: a Lanczos kernel keeps it to a few
/// hundredths of a step.
TEST(Yuv, ChromaLiesWhereTheFormatSays) {
    const Size size{64, 4};
    for (const int place : {0, 128, 256}) {
        PictureFormat format = yuv(16, 1, 0);
        format.yuv.chroma_x = place;
        at::Tensor packed = flat(format, size, {125 << 8, 128 << 8, 128 << 8});
        const at::Tensor cb = packed.narrow(0, 64 * 4 * 2, 32 * 4 * 2).view(at::kUInt16).view({4, 32});
        cb.copy_((at::arange(32) * 1000 + 17000).unsqueeze(0).expand({4, 32}));
        const at::Tensor blue =
            PictureConverter(format, size, at::kCPU).to_pixels(packed)[2][1].to(at::kDouble);
        const double slope = 500 * 2 * 2 * (1 - 0.0722) / (224 << 8); // of the pixel, per luma pixel
        for (int64_t x = 8; x < 56; x++) {
            const double level = 17000 + 500 * (static_cast<double>(x) - place / 256.0);
            const double expected = 2 * (((125 << 8) - (16 << 8)) / double(219 << 8) +
                                         2 * (1 - 0.0722) * (level - (128 << 8)) / (224 << 8)) -
                                    1;
            EXPECT_NEAR(blue[x].item<double>(), expected, slope / 20)
                << "place " << place << ", column " << x;
        }
    }
}

/// Resampling as a matrix, (out, in) fp64.
at::Tensor matrix_of(const ResampleTaps &taps, int64_t in) {
    at::Tensor matrix = at::zeros({taps.weight.size(0), in}, at::kDouble);
    for (int64_t i = 0; i < taps.weight.size(0); i++)
        matrix[i].narrow(0, taps.first[i].item<int64_t>(), taps.weight.size(1)).copy_(taps.weight[i]);
    return matrix;
}

/// What PictureConverter computes, in fp64.
class PlainConverter {
public:
    PlainConverter(const PictureFormat &format, Size size)
        : yuv_(format.yuv), size_(size), chroma_size_(chroma_size(format.yuv, size)),
          white_((1 << format.depth) - 1), one_(1 << (format.depth - 8)), unit_(1 << format.yuv.shift) {}

    /// The nearest levels are these before they are rounded: Y (height, width), Cb and Cr (2, h, w).
    std::array<at::Tensor, 2> levels(const at::Tensor &pixels) const {
        const at::Tensor wide = pixels.to(at::kDouble),
                         rgb = at::where(wide.isnan(), -1, wide).clamp(-1, 1).add(1).div(2);
        const at::Tensor y = yuv_.kr * rgb[0] + (1 - yuv_.kr - yuv_.kb) * rgb[1] + yuv_.kb * rgb[2];
        const at::Tensor chroma = resampled(
            at::stack({(rgb[2] - y) / (2 * (1 - yuv_.kb)), (rgb[0] - y) / (2 * (1 - yuv_.kr))}), false);
        return {(y * luma_scale() + luma_zero()).clamp(0, white_),
                (chroma * chroma_scale() + 128 * one_).clamp(0, white_)};
    }

    /// @param luma, chroma (height, width), (2, h, w) as they stand in memory
    at::Tensor pixels(const at::Tensor &luma, const at::Tensor &chroma) const {
        const at::Tensor y = (luma.to(at::kDouble) / unit_ - luma_zero()) / luma_scale(),
                         samples =
                             resampled((chroma.to(at::kDouble) / unit_ - 128 * one_) / chroma_scale(), true),
                         r = y + 2 * (1 - yuv_.kr) * samples[1], b = y + 2 * (1 - yuv_.kb) * samples[0],
                         g = (y - yuv_.kr * r - yuv_.kb * b) / (1 - yuv_.kr - yuv_.kb);
        return at::stack({r, g, b}).mul(2).sub(1).clamp(-1, 1);
    }

private:
    double luma_scale() const { return yuv_.full_range != 0 ? white_ : 219 * one_; }
    double luma_zero() const { return yuv_.full_range != 0 ? 0 : 16 * one_; }
    double chroma_scale() const { return yuv_.full_range != 0 ? white_ : 224 * one_; }

    at::Tensor resampled(const at::Tensor &planes, bool up) const {
        if (yuv_.log2_chroma_w == 0 && yuv_.log2_chroma_h == 0)
            return planes;
        const auto matrix = [&](int64_t fine, int64_t coarse, int log2, int place) {
            const double step = 1 << log2, first = place / 256.0;
            constexpr auto kernel = ResampleKernel::lanczos;
            return up ? matrix_of(resample_taps(kernel, coarse, fine, 1 / step, 0.5 - (0.5 + first) / step,
                                                at::kCPU),
                                  coarse)
                      : matrix_of(resample_taps(kernel, fine, coarse, step, first + 0.5 - step / 2, at::kCPU),
                                  fine);
        };
        const at::Tensor columns = matrix(size_.width, chroma_size_.width, yuv_.log2_chroma_w, yuv_.chroma_x),
                         rows = matrix(size_.height, chroma_size_.height, yuv_.log2_chroma_h, yuv_.chroma_y);
        return at::matmul(rows, at::matmul(planes, columns.t())).clamp(-1, 1);
    }

    FlashVSRYuv yuv_;
    Size size_, chroma_size_;
    double white_, one_, unit_;
};

/// What fp32 may be off by: of a pixel, and of a level before it is rounded, as a share of the largest level.
constexpr double pixel_error = 2e-6, level_error = 1e-4 / 255;

/// The nearest levels, but where the exact value is all but half-way between two.
void expect_nearest(const at::Tensor &levels, const at::Tensor &exact, double white,
                    const std::string &what) {
    const at::Tensor apart = (levels - exact).abs();
    EXPECT_LE(apart.max().item<double>(), 0.5 + level_error * white) << what;
    EXPECT_TRUE(at::equal(levels, levels.round())) << what;
}

/// In memory at odd places, with nothing written beside the picture.
TEST(Yuv, EveryLayoutIsConvertedAsItIsDefined) {
    at::manual_seed(1);
    struct Words {
        int depth, shift;
    };
    constexpr double infinity = std::numeric_limits<double>::infinity();
    for (const Size size : {Size{203, 161}, Size{64, 48}, Size{37, 23}, Size{1, 1}, Size{2, 5}, Size{5, 2}})
        for (const auto &[depth, shift] : {Words{8, 0}, Words{10, 0}, Words{10, 6}, Words{16, 0}})
            for (const auto &[log2_w, log2_h] : {std::pair{0, 0}, std::pair{1, 0}, std::pair{1, 1}})
                for (const int interleaved : {0, 1})
                    for (const bool full : {false, true}) {
                        PictureFormat format = yuv(depth, log2_w, log2_h, matrices[0], full);
                        format.yuv.interleaved = interleaved;
                        format.yuv.shift = shift;
                        const std::string what = concat(
                            size.width, "x", size.height, ", ", depth, " bits, shift ", shift, ", ", log2_w,
                            log2_h, interleaved != 0 ? " interleaved" : "", full ? ", full range" : "");
                        const PictureConverter converter(format, size, at::kCPU);
                        const PlainConverter plain(format, size);
                        const double white = white_level(depth), unit = 1 << shift;
                        const int64_t edge = component_bytes(format), bytes = picture_bytes(format, size);
                        const at::Tensor memory = at::full({bytes + 2 * edge}, 0xA5, at::kByte),
                                         packed = memory.narrow(0, edge, bytes);
                        const YuvPlanes planes = yuv_planes(packed, format, size);
                        const auto chroma = [&] {
                            return at::stack({planes.cb.to(at::kDouble), planes.cr.to(at::kDouble)});
                        };

                        at::Tensor pixels = at::rand({3, size.height, size.width}) * 2.2 - 1.1;
                        for (const double odd : {double{NAN}, infinity, -infinity, 7.0})
                            pixels.masked_fill_(at::rand_like(pixels).lt(0.02), odd);
                        converter.from_pixels(pixels, packed);
                        const auto [exact_luma, exact_chroma] = plain.levels(pixels);
                        expect_nearest(planes.luma.to(at::kDouble) / unit, exact_luma, white, what);
                        expect_nearest(chroma() / unit, exact_chroma, white, what);
                        EXPECT_TRUE(memory.narrow(0, 0, edge).eq(0xA5).all().item<bool>()) << what;
                        EXPECT_TRUE(memory.narrow(0, edge + bytes, edge).eq(0xA5).all().item<bool>()) << what;

                        // Of any levels, those that no picture has too.
                        packed.view(component_type(depth))
                            .copy_(at::randint(white_level(depth) + 1, {bytes / edge}, at::kInt).mul(unit));
                        const at::Tensor error =
                            converter.to_pixels(packed).to(at::kDouble) - plain.pixels(planes.luma, chroma());
                        EXPECT_LE(error.abs().max().item<double>(), pixel_error) << what;
                    }
}

TEST(Yuv, PlanesOfAFrameAreReadAndWrittenByTheirStrides) {
    PictureFormat format = yuv(8, 1, 1);
    format.yuv.interleaved = 1;
    std::vector<uint8_t> luma(5 * 16, 0xA5), chroma(3 * 16, 0xA5);
    FlashVSRFrame frame{};
    frame.width = 7;
    frame.height = 5;
    frame.format = format.format;
    frame.depth = format.depth;
    frame.yuv = format.yuv;
    frame.data[0] = luma.data();
    frame.data[1] = chroma.data() + 2 * 16; // bottom-up
    frame.stride[0] = 16;
    frame.stride[1] = -16;
    const at::Tensor picture = at::arange(7 * 5 + 8 * 3).to(at::kByte);
    unpack_picture(picture, frame);
    EXPECT_EQ(luma[16 + 1], 8);
    EXPECT_EQ(luma[7], 0xA5);
    EXPECT_EQ(chroma[2 * 16], 35);
    EXPECT_EQ(chroma[7], 35 + 16 + 7);
    EXPECT_EQ(chroma[8], 0xA5);
    EXPECT_TRUE(at::equal(pack_picture(frame), picture));
}

TEST(Yuv, WhatThereIsNotIsRefused) {
    std::vector<uint8_t> memory(4096);
    FlashVSRFrame good{};
    good.width = good.height = 16;
    good.format = FLASHVSR_PIXEL_FORMAT_YUV;
    good.depth = 10;
    good.yuv = yuv(10, 1, 1).yuv;
    for (int plane = 0; plane < 3; plane++) {
        good.data[plane] = memory.data();
        good.stride[plane] = 32;
    }
    EXPECT_NO_THROW(check_picture(good, 16, 16));
    const auto refused = [&](const char *what, auto change) {
        FlashVSRFrame frame = good;
        change(frame);
        EXPECT_THROW(check_picture(frame, 16, 16), Error) << what;
    };
    refused("float", [](FlashVSRFrame &f) { f.depth = 32; });
    refused("kr", [](FlashVSRFrame &f) { f.yuv.kr = 0; });
    refused("NaN", [](FlashVSRFrame &f) { f.yuv.kb = NAN; });
    refused("sum", [](FlashVSRFrame &f) { f.yuv.kr = f.yuv.kb = 0.5; });
    refused("subsampling", [](FlashVSRFrame &f) { f.yuv.log2_chroma_w = 3; });
    refused("place", [](FlashVSRFrame &f) { f.yuv.chroma_x = 257; });
    refused("shift", [](FlashVSRFrame &f) { f.yuv.shift = 7; });
    refused("plane", [](FlashVSRFrame &f) { f.data[2] = nullptr; });
    refused("stride", [](FlashVSRFrame &f) { f.stride[1] = 14; });
}

} // namespace
} // namespace flashvsr
