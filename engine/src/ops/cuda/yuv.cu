// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/element.cuh"
#include "ops/cuda/kernels.h"

namespace flashvsr::cuda {

namespace {

constexpr int threads = 256, per_thread = 4;

template <typename T> using Four = Vector<T, per_thread>;
template <typename T> using Pairs = Vector<T, 2 * per_thread>;

/// N elements, of which `left` are there: together where that many are and the place allows it. Planes of
/// packed pictures begin anywhere.
template <int N, typename T> __device__ Vector<T, N> read(const T *from, int64_t left) {
    if (left >= N && reinterpret_cast<uintptr_t>(from) % sizeof(Vector<T, N>) == 0)
        return *reinterpret_cast<const Vector<T, N> *>(from);
    Vector<T, N> elements{};
#pragma unroll
    for (int i = 0; i < N; i++)
        if (i < left)
            elements.value[i] = from[i];
    return elements;
}

template <int N, typename T> __device__ void write(T *to, const Vector<T, N> &elements, int64_t left) {
    if (left >= N && reinterpret_cast<uintptr_t>(to) % sizeof(Vector<T, N>) == 0) {
        *reinterpret_cast<Vector<T, N> *>(to) = elements;
        return;
    }
#pragma unroll
    for (int i = 0; i < N; i++)
        if (i < left)
            to[i] = elements.value[i];
}

// Where chroma is: samples, levels in two planes, or levels in turns.

template <typename Float> struct ChromaSamples {
    Float *cb, *cr;

    __device__ void read_four(int64_t first, int64_t left, Four<yuv::Sample> &to,
                              const YuvConversion &) const {
        const Four<float> u = read<per_thread>(cb + first, left), v = read<per_thread>(cr + first, left);
#pragma unroll
        for (int i = 0; i < per_thread; i++) {
            to.value[i].cb = u.value[i];
            to.value[i].cr = v.value[i];
        }
    }
    __device__ void write_four(int64_t first, int64_t left, const Four<yuv::Sample> &from,
                               const YuvConversion &) const {
        Four<float> u, v;
#pragma unroll
        for (int i = 0; i < per_thread; i++) {
            u.value[i] = from.value[i].cb;
            v.value[i] = from.value[i].cr;
        }
        write(cb + first, u, left);
        write(cr + first, v, left);
    }
};

template <typename Stored> struct ChromaPlanes {
    Stored *cb, *cr;

    __device__ void read_four(int64_t first, int64_t left, Four<yuv::Sample> &to,
                              const YuvConversion &by) const {
        const Four<Stored> u = read<per_thread>(cb + first, left), v = read<per_thread>(cr + first, left);
#pragma unroll
        for (int i = 0; i < per_thread; i++) {
            to.value[i].cb = yuv::from_stored(u.value[i], by.chroma);
            to.value[i].cr = yuv::from_stored(v.value[i], by.chroma);
        }
    }
    __device__ void write_four(int64_t first, int64_t left, const Four<yuv::Sample> &from,
                               const YuvConversion &by) const {
        Four<Stored> u, v;
#pragma unroll
        for (int i = 0; i < per_thread; i++) {
            u.value[i] = yuv::to_stored<Stored>(from.value[i].cb, by.chroma, by);
            v.value[i] = yuv::to_stored<Stored>(from.value[i].cr, by.chroma, by);
        }
        write(cb + first, u, left);
        write(cr + first, v, left);
    }
};

template <typename Stored> struct ChromaInTurns {
    Stored *both;

    __device__ void read_four(int64_t first, int64_t left, Four<yuv::Sample> &to,
                              const YuvConversion &by) const {
        const Pairs<Stored> uv = read<2 * per_thread>(both + 2 * first, 2 * left);
#pragma unroll
        for (int i = 0; i < per_thread; i++) {
            to.value[i].cb = yuv::from_stored(uv.value[2 * i], by.chroma);
            to.value[i].cr = yuv::from_stored(uv.value[2 * i + 1], by.chroma);
        }
    }
    __device__ void write_four(int64_t first, int64_t left, const Four<yuv::Sample> &from,
                               const YuvConversion &by) const {
        Pairs<Stored> uv;
#pragma unroll
        for (int i = 0; i < per_thread; i++) {
            uv.value[2 * i] = yuv::to_stored<Stored>(from.value[i].cb, by.chroma, by);
            uv.value[2 * i + 1] = yuv::to_stored<Stored>(from.value[i].cr, by.chroma, by);
        }
        write(both + 2 * first, uv, 2 * left);
    }
};

__device__ int64_t first_of_thread() {
    return (static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) * per_thread;
}

template <typename From, typename To>
__global__ void convert_chroma_kernel(From from, To to, int64_t count, YuvConversion by) {
    const int64_t first = first_of_thread(), left = count - first;
    if (left <= 0)
        return;
    Four<yuv::Sample> samples;
    from.read_four(first, left, samples, by);
    to.write_four(first, left, samples, by);
}

template <typename Stored, typename Chroma>
__global__ void pixels_from_yuv_kernel(const Stored *luma, Chroma chroma, float *pixels, int64_t count,
                                       YuvConversion by) {
    const int64_t first = first_of_thread(), left = count - first;
    if (left <= 0)
        return;
    Four<yuv::Sample> samples;
    const Four<Stored> y = read<per_thread>(luma + first, left);
    chroma.read_four(first, left, samples, by);
    Four<float> red, green, blue;
#pragma unroll
    for (int i = 0; i < per_thread; i++) {
        samples.value[i].y = yuv::from_stored(y.value[i], by.luma);
        const yuv::Pixel pixel = yuv::to_pixel(samples.value[i], by);
        red.value[i] = pixel.red;
        green.value[i] = pixel.green;
        blue.value[i] = pixel.blue;
    }
    write(pixels + first, red, left);
    write(pixels + count + first, green, left);
    write(pixels + 2 * count + first, blue, left);
}

template <typename Stored, typename Chroma>
__global__ void yuv_from_pixels_kernel(const float *pixels, Stored *luma, Chroma chroma, int64_t count,
                                       YuvConversion by) {
    const int64_t first = first_of_thread(), left = count - first;
    if (left <= 0)
        return;
    const Four<float> red = read<per_thread>(pixels + first, left),
                      green = read<per_thread>(pixels + count + first, left),
                      blue = read<per_thread>(pixels + 2 * count + first, left);
    Four<yuv::Sample> samples;
    Four<Stored> y;
#pragma unroll
    for (int i = 0; i < per_thread; i++) {
        samples.value[i] = yuv::to_sample({red.value[i], green.value[i], blue.value[i]}, by);
        y.value[i] = yuv::to_stored<Stored>(samples.value[i].y, by.luma, by);
    }
    write(luma + first, y, left);
    chroma.write_four(first, left, samples, by);
}

/// Call body(component) with a component of the planes' type.
template <typename Body> cudaError_t with_stored(const YuvMemory &planes, const Body &body) {
    if (planes.words)
        body(uint16_t{});
    else
        body(uint8_t{});
    return cudaGetLastError();
}

/// Call body(chroma) with the planes' chroma.
template <typename Stored, typename Body> void with_chroma(const YuvMemory &planes, const Body &body) {
    Stored *const cb = static_cast<Stored *>(planes.cb);
    if (planes.in_turns)
        body(ChromaInTurns<Stored>{cb});
    else
        body(ChromaPlanes<Stored>{cb, static_cast<Stored *>(planes.cr)});
}

unsigned blocks_of(int64_t count) {
    return blocks_for(count, threads * per_thread);
}

} // namespace

cudaError_t samples_from_chroma(const YuvMemory &planes, float *samples, int64_t count,
                                const YuvConversion &by, cudaStream_t stream) {
    return with_stored(planes, [&](auto stored) {
        with_chroma<decltype(stored)>(planes, [&](auto from) {
            convert_chroma_kernel<<<blocks_of(count), threads, 0, stream>>>(
                from, ChromaSamples<float>{samples, samples + count}, count, by);
        });
    });
}

cudaError_t chroma_from_samples(const float *samples, const YuvMemory &planes, int64_t count,
                                const YuvConversion &by, cudaStream_t stream) {
    return with_stored(planes, [&](auto stored) {
        with_chroma<decltype(stored)>(planes, [&](auto to) {
            convert_chroma_kernel<<<blocks_of(count), threads, 0, stream>>>(
                ChromaSamples<const float>{samples, samples + count}, to, count, by);
        });
    });
}

cudaError_t pixels_from_yuv(const YuvMemory &planes, const float *chroma, float *pixels, int64_t count,
                            const YuvConversion &by, cudaStream_t stream) {
    return with_stored(planes, [&](auto stored) {
        using Stored = decltype(stored);
        const auto convert = [&](auto from) {
            pixels_from_yuv_kernel<<<blocks_of(count), threads, 0, stream>>>(
                static_cast<const Stored *>(planes.luma), from, pixels, count, by);
        };
        if (chroma != nullptr)
            convert(ChromaSamples<const float>{chroma, chroma + count});
        else
            with_chroma<Stored>(planes, convert);
    });
}

cudaError_t yuv_from_pixels(const float *pixels, const YuvMemory &planes, float *chroma, int64_t count,
                            const YuvConversion &by, cudaStream_t stream) {
    return with_stored(planes, [&](auto stored) {
        using Stored = decltype(stored);
        const auto convert = [&](auto to) {
            yuv_from_pixels_kernel<<<blocks_of(count), threads, 0, stream>>>(
                pixels, static_cast<Stored *>(planes.luma), to, count, by);
        };
        if (chroma != nullptr)
            convert(ChromaSamples<float>{chroma, chroma + count});
        else
            with_chroma<Stored>(planes, convert);
    });
}

} // namespace flashvsr::cuda
