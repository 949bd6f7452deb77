// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cpu/ops.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

namespace flashvsr::cpu {

namespace {

// Fewer pixels than this a task cost more to hand out than to convert.
constexpr int64_t pixels_per_task = 16384;

template <typename Float> struct Planes { Float *__restrict red, *__restrict green, *__restrict blue; };

// Where chroma is: samples, levels in two planes, or levels in turns.

struct ChromaSamples {
    float *__restrict cb, *__restrict cr;

    void read(int64_t i, yuv::Sample &to, const YuvConversion &) const {
        to.cb = cb[i];
        to.cr = cr[i];
    }
    void write(int64_t i, const yuv::Sample &from, const YuvConversion &) const {
        cb[i] = from.cb;
        cr[i] = from.cr;
    }
};

template <typename Stored> struct ChromaPlanes {
    Stored *__restrict cb, *__restrict cr;

    void read(int64_t i, yuv::Sample &to, const YuvConversion &by) const {
        to.cb = yuv::from_stored(cb[i], by.chroma);
        to.cr = yuv::from_stored(cr[i], by.chroma);
    }
    void write(int64_t i, const yuv::Sample &from, const YuvConversion &by) const {
        cb[i] = yuv::to_stored<Stored>(from.cb, by.chroma, by);
        cr[i] = yuv::to_stored<Stored>(from.cr, by.chroma, by);
    }
};

template <typename Stored> struct ChromaInTurns {
    Stored *__restrict both;

    void read(int64_t i, yuv::Sample &to, const YuvConversion &by) const {
        to.cb = yuv::from_stored(both[2 * i], by.chroma);
        to.cr = yuv::from_stored(both[2 * i + 1], by.chroma);
    }
    void write(int64_t i, const yuv::Sample &from, const YuvConversion &by) const {
        both[2 * i] = yuv::to_stored<Stored>(from.cb, by.chroma, by);
        both[2 * i + 1] = yuv::to_stored<Stored>(from.cr, by.chroma, by);
    }
};

ChromaSamples samples_of(const at::Tensor &chroma) {
    float *const cb = chroma.mutable_data_ptr<float>();
    return {cb, cb + chroma.numel() / 2};
}

/// Call body(component) with a component of the planes' type.
template <typename Body> void with_stored(const YuvPlanes &planes, const Body &body) {
    if (planes.luma.scalar_type() == at::kByte)
        body(uint8_t{});
    else
        body(uint16_t{});
}

/// Call body(chroma) with the planes' chroma.
template <typename Stored, typename Body> void with_chroma(const YuvPlanes &planes, const Body &body) {
    Stored *const cb = planes.cb.mutable_data_ptr<Stored>();
    if (planes.cb.stride(1) == 2)
        body(ChromaInTurns<Stored>{cb});
    else
        body(ChromaPlanes<Stored>{cb, planes.cr.mutable_data_ptr<Stored>()});
}

// The loops take copies, because bytes that are written could be any of a value that is referred to, and
// pointers that are restricted, because planes do not overlap: or not all of them would be vectorized.

template <typename From, typename To>
void convert_chroma(From from, To to, YuvConversion by, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
        yuv::Sample sample{};
        from.read(i, sample, by);
        to.write(i, sample, by);
    }
}

template <typename Stored, typename Chroma>
void convert_to_pixels(const Stored *__restrict luma, Chroma chroma, Planes<float> pixels, YuvConversion by,
                       int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
        yuv::Sample sample{};
        sample.y = yuv::from_stored(luma[i], by.luma);
        chroma.read(i, sample, by);
        const yuv::Pixel pixel = yuv::to_pixel(sample, by);
        pixels.red[i] = pixel.red;
        pixels.green[i] = pixel.green;
        pixels.blue[i] = pixel.blue;
    }
}

template <typename Stored, typename Chroma>
void convert_from_pixels(Planes<const float> pixels, Stored *__restrict luma, Chroma chroma, YuvConversion by,
                         int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
        const yuv::Sample sample = yuv::to_sample({pixels.red[i], pixels.green[i], pixels.blue[i]}, by);
        luma[i] = yuv::to_stored<Stored>(sample.y, by.luma, by);
        chroma.write(i, sample, by);
    }
}

} // namespace

at::Tensor samples_from_chroma(const YuvPlanes &planes, const YuvConversion &by) {
    at::Tensor samples = at::empty({2 * planes.cb.size(0), planes.cb.size(1)}, at::kFloat);
    with_stored(planes, [&](auto stored) {
        with_chroma<decltype(stored)>(planes, [&](auto from) {
            at::parallel_for(0, planes.cb.numel(), pixels_per_task, [&](int64_t begin, int64_t end) {
                convert_chroma(from, samples_of(samples), by, begin, end);
            });
        });
    });
    return samples;
}

void chroma_from_samples(const at::Tensor &samples, const YuvPlanes &planes, const YuvConversion &by) {
    with_stored(planes, [&](auto stored) {
        with_chroma<decltype(stored)>(planes, [&](auto to) {
            at::parallel_for(0, planes.cb.numel(), pixels_per_task, [&](int64_t begin, int64_t end) {
                convert_chroma(samples_of(samples), to, by, begin, end);
            });
        });
    });
}

at::Tensor pixels_from_yuv(const YuvPlanes &planes, const at::Tensor &chroma, const YuvConversion &by) {
    const int64_t count = planes.luma.numel();
    at::Tensor pixels = at::empty({3, planes.luma.size(0), planes.luma.size(1)}, at::kFloat);
    float *const to = pixels.mutable_data_ptr<float>();
    with_stored(planes, [&](auto stored) {
        using Stored = decltype(stored);
        const auto convert = [&](auto from) {
            at::parallel_for(0, count, pixels_per_task, [&](int64_t begin, int64_t end) {
                convert_to_pixels(planes.luma.const_data_ptr<Stored>(), from,
                                  Planes<float>{to, to + count, to + 2 * count}, by, begin, end);
            });
        };
        if (chroma.defined())
            convert(samples_of(chroma));
        else
            with_chroma<Stored>(planes, convert);
    });
    return pixels;
}

void yuv_from_pixels(const at::Tensor &pixels, const YuvPlanes &planes, const at::Tensor &chroma,
                     const YuvConversion &by) {
    const at::Tensor contiguous = pixels.contiguous();
    const float *const from = contiguous.const_data_ptr<float>();
    const int64_t count = planes.luma.numel();
    with_stored(planes, [&](auto stored) {
        using Stored = decltype(stored);
        const auto convert = [&](auto to) {
            at::parallel_for(0, count, pixels_per_task, [&](int64_t begin, int64_t end) {
                convert_from_pixels(Planes<const float>{from, from + count, from + 2 * count},
                                    planes.luma.mutable_data_ptr<Stored>(), to, by, begin, end);
            });
        };
        if (chroma.defined())
            convert(samples_of(chroma));
        else
            with_chroma<Stored>(planes, convert);
    });
}

} // namespace flashvsr::cpu
