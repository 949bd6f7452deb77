// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/cuda/conv_launch.h"
#include "ops/cuda/element.cuh"
#include "ops/cuda/hopper.cuh"

#include <algorithm>

/// Convolution as a matrix product whose operands nobody writes out: rows are pixels, columns output
/// channels, and the sum runs over taps and input channels. A block of the grid stays and takes one tile of
/// 16x16 pixels and up to 128 channels after another: one thread loads, and two groups of four warps each
/// multiply 8 of a tile's 16 pixel rows.
///
/// A tile's pixels and their border are loaded once for 64 channels, with zeros beyond the picture and the
/// channels, which the copy engine fills in. A tap is then a place to begin reading.
namespace flashvsr::cuda::hopper::conv {

constexpr int group_threads = 128, groups = 2, group_warps = 4, multiplier_warps = groups * group_warps;
constexpr int threads = (1 + groups) * group_threads;

constexpr int side = 16, group_rows = side / groups; ///< pixels of a tile in a row; rows for a group
constexpr int depth = 64, depth_bytes = depth * 2;   ///< channels of one load: a swizzled row
constexpr int blocks = 2;                            ///< of 8x8 pixels, side by side, that a group multiplies

/// Registers per thread, multiples of 8: loader + 2 * multiplier is three times what 384 threads start with.
constexpr int loader_registers = 40, multiplier_registers = 232;

/// Sizes for a kind of convolution. As many slots as shared memory has room for.
template <ConvKind kind> struct Layout;
template <> struct Layout<ConvKind::same> {
    static constexpr int kernel = 3, columns = 128, taps_per_slot = 1, halo_slots = 2, weight_slots = 5;
    static constexpr int phases = 1;
};
template <> struct Layout<ConvKind::doubled> {
    static constexpr int kernel = 2, columns = 128, taps_per_slot = 1, halo_slots = 2, weight_slots = 5;
    static constexpr int phases = 4; ///< places in 2x2 pixels
};
/// Eight columns take so little time that a wait for each tap would show.
template <> struct Layout<ConvKind::planar> {
    static constexpr int kernel = 3, columns = 8, taps_per_slot = 9, halo_slots = 3, weight_slots = 2;
    static constexpr int phases = 1;
};

template <ConvKind kind> struct Sizes : Layout<kind> {
    using Base = Layout<kind>;
    static constexpr int halo_side = side + Base::kernel - 1, pitch = halo_side * depth_bytes;
    static constexpr int halo_bytes = halo_side * pitch;
    static constexpr int taps = Base::kernel * Base::kernel;
    static constexpr int tap_bytes = Base::columns * depth_bytes;
    static constexpr int weight_bytes = Base::taps_per_slot * tap_bytes;
    static constexpr int slices = Base::columns / depth; ///< of the output's channels; planes have none
    static constexpr int slice_bytes = group_rows * side * depth_bytes;
    static_assert(taps % Base::taps_per_slot == 0);
};

template <ConvKind kind> struct Shared {
    using S = Sizes<kind>;
    /// Pixels of a tile and its border, 64 channels each, as the copy engine's 128-byte swizzle lays them.
    unsigned char halos[S::halo_slots][(S::halo_bytes + 1023) / 1024 * 1024];
    /// Output channels, 64 input channels each, likewise.
    unsigned char weights[S::weight_slots][S::weight_bytes];
    /// A group's pixels, 64 output channels each, likewise: first the residual, then the result.
    unsigned char results[groups][std::max(S::slices * S::slice_bytes, 1)];
    Barrier halo_full[S::halo_slots], halo_empty[S::halo_slots];
    Barrier weight_full[S::weight_slots], weight_empty[S::weight_slots];
    Barrier residual_full[groups], result_empty[groups];
};

template <ConvKind kind> struct Maps {
    CUtensorMap x, memory, weight, residual;
    CUtensorMap out[Layout<kind>::phases]; ///< each of every second row and column where there are four
};

/// How the work is cut into tiles.
struct Grid {
    int tiles_x, tiles_y, column_tiles; ///< column_tiles: of the output's channels
    int items;
};

struct Tile {
    int image, y, x; ///< of its first pixel
    int channel;     ///< first of the output
    int frame;       ///< of those that an image becomes
    int phase;       ///< 2 * row + column of the place in 2x2 pixels
    int weight_row;  ///< of `weight`
};

template <ConvKind kind> __device__ inline Tile tile_at(const ConvArgs &args, const Grid &grid, int item) {
    constexpr int phases = Layout<kind>::phases;
    const int channel = item % grid.column_tiles * Layout<kind>::columns;
    const int part = item / grid.column_tiles % (args.growth * phases);
    const int place = item / (grid.column_tiles * args.growth * phases);
    return {place / (grid.tiles_x * grid.tiles_y),
            place / grid.tiles_x % grid.tiles_y * side,
            place % grid.tiles_x * side,
            channel,
            part / phases,
            part % phases,
            part * args.out_channels + channel};
}

/// The thread that loads.
template <ConvKind kind> class Loader {
public:
    __device__ Loader(const ConvArgs &args, const Grid &grid, const Maps<kind> &maps, Shared<kind> &shared)
        : args_(args), grid_(grid), maps_(maps), shared_(shared) {}

    __device__ void run() {
        for (int item = blockIdx.x; item < grid_.items; item += gridDim.x) {
            const Tile tile = tile_at<kind>(args_, grid_, item);
            load_source(tile, maps_.x, tile.image, 0);
            if (args_.memory != nullptr) {
                const bool first = tile.image % args_.frames == 0;
                load_source(tile, first ? maps_.memory : maps_.x,
                            first ? tile.image / args_.frames : tile.image - 1, args_.in_channels);
            }
            // Last, since by now both groups are at this tile and have let go of the one before.
            if (args_.residual != nullptr)
                load_residual(tile);
        }
    }

private:
    using S = Sizes<kind>;

    /// @param weight_channel of the weights, for the source's first channel
    __device__ void load_source(const Tile &tile, const CUtensorMap &map, int image, int weight_channel) {
        // A 2x2 kernel reaches up or left for the first of two pixels, down or right for the second.
        const int y = tile.y - (kind == ConvKind::doubled ? 1 - tile.phase / 2 : 1 - args_.border);
        const int x = tile.x - (kind == ConvKind::doubled ? 1 - tile.phase % 2 : 1 - args_.border);
        for (int channel = 0; channel < args_.in_channels; channel += depth) {
            Barrier &full = shared_.halo_full[halo_.slot];
            shared_.halo_empty[halo_.slot].wait(halo_.parity ^ 1);
            full.arrive_and_expect(S::halo_bytes);
            copy_box(shared_address(shared_.halos[halo_.slot]), &map, full, channel, x, y, image);
            halo_.advance();
            for (int tap = 0; tap < S::taps; tap += S::taps_per_slot)
                load_weights(weight_channel + channel, tap, tile.weight_row);
        }
    }

    __device__ void load_weights(int channel, int tap, int row) {
        Barrier &full = shared_.weight_full[weights_.slot];
        shared_.weight_empty[weights_.slot].wait(weights_.parity ^ 1);
        full.arrive_and_expect(S::weight_bytes);
        for (int i = 0; i < S::taps_per_slot; i++)
            copy_box(shared_address(shared_.weights[weights_.slot]) + i * S::tap_bytes, &maps_.weight, full,
                     channel, tap + i, row);
        weights_.advance();
    }

    __device__ void load_residual(const Tile &tile) {
        for (int group = 0; group < groups; group++) {
            Barrier &full = shared_.residual_full[group];
            shared_.result_empty[group].wait(residual_.parity ^ 1);
            full.arrive_and_expect(S::slices * S::slice_bytes);
            for (int slice = 0; slice < S::slices; slice++)
                copy_box(shared_address(shared_.results[group]) + slice * S::slice_bytes, &maps_.residual,
                         full, tile.channel + slice * depth, tile.x, tile.y + group * group_rows, tile.image);
        }
        residual_.advance();
    }

    const ConvArgs &args_;
    const Grid &grid_;
    const Maps<kind> &maps_;
    Shared<kind> &shared_;
    Position<S::halo_slots> halo_;
    Position<S::weight_slots> weights_;
    Position<1> residual_;
};

/// A group of 128 threads: two blocks of 8x8 pixels of every tile.
template <class T, ConvKind kind> class Multiplier {
public:
    __device__ Multiplier(const ConvArgs &args, const Grid &grid, const Maps<kind> &maps,
                          Shared<kind> &shared)
        : args_(args), grid_(grid), maps_(maps), shared_(shared),
          group_(uniform(threadIdx.x / group_threads - 1)), warp_(uniform(threadIdx.x / 32 % group_warps)) {}

    __device__ void run() {
        const int halos = (args_.memory == nullptr ? 1 : 2) * ((args_.in_channels + depth - 1) / depth);
        for (int item = blockIdx.x; item < grid_.items; item += gridDim.x) {
            const Tile tile = tile_at<kind>(args_, grid_, item);
            load_bias(tile);
            multiply(halos);
            if constexpr (kind == ConvKind::planar)
                store_planes(tile);
            else
                store_pixels(tile);
        }
        if (stores())
            wait_stores_read();
    }

private:
    using S = Sizes<kind>;
    static constexpr int sums = S::columns / 2;  // of a thread in a block of 64 pixels
    static constexpr int pairs = S::columns / 8; // of channels that a thread has of a pixel

    /// The same in all lanes, and known to be.
    __device__ static int uniform(int x) { return __shfl_sync(~0U, x, 0); }

    /// The thread of the group that hands its results to the copy engine.
    __device__ static bool stores() { return kind != ConvKind::planar && threadIdx.x % group_threads == 0; }

    __device__ void multiply(int halos) {
        int last_halo = -1, last_weights = -1;
        for (int i = 0; i < halos; i++) {
            shared_.halo_full[halo_.slot].wait(halo_.parity);
            const uint64_t pixels = swizzled_tile(
                shared_address(shared_.halos[halo_.slot]) + group_ * group_rows * S::pitch, 16, S::pitch);
#pragma unroll
            for (int tap = 0; tap < S::taps; tap += S::taps_per_slot) {
                shared_.weight_full[weights_.slot].wait(weights_.parity);
                const uint64_t weights = swizzled_tile(shared_address(shared_.weights[weights_.slot]), 16);
                product_fence();
#pragma unroll
                for (int t = 0; t < S::taps_per_slot; t++)
                    multiply_tap(pixels + (tap_offset(tap + t) >> 4), weights + (t * S::tap_bytes >> 4),
                                 i + tap + t > 0);
                commit_products();
                // What the products before these read is free.
                wait_products<1>();
                if (last_weights >= 0)
                    release(shared_.weight_empty[last_weights]);
                if (tap == 0 && last_halo >= 0)
                    release(shared_.halo_empty[last_halo]);
                if (tap == 0 && i == 0)
                    release_results();
                last_weights = weights_.slot;
                weights_.advance();
            }
            last_halo = halo_.slot;
            halo_.advance();
        }
        wait_products<0>();
        for (float(&sum)[sums] : sum_)
            pin(sum);
        release(shared_.weight_empty[last_weights]);
        release(shared_.halo_empty[last_halo]);
    }

    /// Bytes from the first pixel of a halo to where a tap begins.
    __device__ static constexpr int tap_offset(int tap) {
        return tap / S::kernel * S::pitch + tap % S::kernel * depth_bytes;
    }

    __device__ void multiply_tap(uint64_t pixels, uint64_t weights, bool accumulate) {
#pragma unroll
        for (int step = 0; step < depth / 16; step++)
#pragma unroll
            for (int block = 0; block < blocks; block++)
                multiply_shared<T>(sum_[block], pixels + (block * 8 * depth_bytes >> 4) + 2 * step,
                                   weights + 2 * step, accumulate || step > 0);
    }

    /// The tile before is on its way: wait until its results have been read.
    __device__ void release_results() {
        if (stores() && storing_) {
            wait_stores_read();
            shared_.result_empty[group_].arrive();
        }
        storing_ = true;
    }

    // Element 4c + 2r + e of a sum is channel 8c + 2(lane % 4) + e of row lane/4 + 8r of the warp's 16: pixel
    // lane/4 of row r of the warp's two.

    __device__ void load_bias(const Tile &tile) {
        const T *bias = static_cast<const T *>(args_.bias);
        const auto at = [&](int channel) {
            return bias != nullptr && channel < args_.out_channels ? widen(bias[channel]) : 0;
        };
#pragma unroll
        for (int c = 0; c < pairs; c++) {
            const int channel = tile.channel + 8 * c + threadIdx.x % 4 * 2;
            bias_[c] = pack<T>(at(channel), at(channel + 1));
        }
    }

    __device__ float finish(float sum) const {
        return args_.relu && sum < 0 ? 0 : sum;
    }

    /// Through shared memory, where the residual may wait, by the copy engine.
    __device__ void store_pixels(const Tile &tile) {
        const uint32_t results = shared_address(shared_.results[group_]);
        if (args_.residual != nullptr) {
            shared_.residual_full[group_].wait(residual_.parity);
            residual_.advance();
        } else {
            named_sync(1 + group_, group_threads); // the results before have been read
        }
        // Four 8x8 matrices at a time: two rows of pixels, twice eight channels.
        const int lane = threadIdx.x % 32, row = 2 * warp_ + lane / 8 % 2, swizzle = lane % 8;
#pragma unroll
        for (int block = 0; block < blocks; block++) {
            const uint32_t pixel = results + (row * side + block * 8 + lane % 8) * depth_bytes;
#pragma unroll
            for (int c = 0; c < pairs; c += 2) {
                const uint32_t at = pixel + c / 8 * S::slice_bytes + ((c % 8 + lane / 16) ^ swizzle) * 16;
                uint32_t packed[4] = {};
                if (args_.residual != nullptr)
                    load_matrices(packed, at);
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float2 add = unpack<T>(packed[i]), bias = unpack<T>(bias_[c + i / 2]);
                    const float *sum = sum_[block] + 4 * (c + i / 2) + 2 * (i % 2);
                    packed[i] = pack<T>(finish(sum[0] + bias.x + add.x), finish(sum[1] + bias.y + add.y));
                }
                store_matrices(at, packed);
            }
        }
        fence_shared();
        named_sync(1 + group_, group_threads);
        if (stores()) {
            const int image = tile.image * args_.growth + tile.frame;
            for (int slice = 0; slice < S::slices; slice++)
                store_box(&maps_.out[tile.phase], results + slice * S::slice_bytes,
                          tile.channel + slice * depth, tile.x, tile.y + group_ * group_rows, image);
            commit_stores();
        }
    }

    __device__ void store_planes(const Tile &tile) {
        const int64_t plane = int64_t(args_.height) * args_.width;
        T *out = static_cast<T *>(args_.out) + tile.image * args_.image_stride;
        const int lane = threadIdx.x % 32, channel = lane % 4 * 2;
        const float2 bias = unpack<T>(bias_[0]);
        for (int block = 0; block < blocks; block++)
            for (int r = 0; r < 2; r++) {
                const int y = tile.y + group_ * group_rows + 2 * warp_ + r, x = tile.x + 8 * block + lane / 4;
                if (y >= args_.height || x >= args_.width)
                    continue;
                T *to = out + channel * plane + int64_t(y) * args_.width + x;
                if (channel < args_.out_channels)
                    to[0] = narrow<T>(finish(sum_[block][2 * r] + bias.x));
                if (channel + 1 < args_.out_channels)
                    to[plane] = narrow<T>(finish(sum_[block][2 * r + 1] + bias.y));
            }
    }

    const ConvArgs &args_;
    const Grid &grid_;
    const Maps<kind> &maps_;
    Shared<kind> &shared_;
    const int group_, warp_;
    Position<S::halo_slots> halo_;
    Position<S::weight_slots> weights_;
    Position<1> residual_;
    bool storing_ = false;
    float sum_[blocks][sums];
    uint32_t bias_[pairs];
};

template <class T, ConvKind kind>
__global__ void __launch_bounds__(threads, 1)
    convolve(const __grid_constant__ ConvArgs args, const __grid_constant__ Grid grid,
             const __grid_constant__ Maps<kind> maps) {
    using S = Sizes<kind>;
    extern __shared__ __align__(1024) unsigned char shared_memory[];
    Shared<kind> &shared = *reinterpret_cast<Shared<kind> *>(shared_memory);
    if (threadIdx.x == 0) {
        prefetch_map(&maps.x);
        prefetch_map(&maps.weight);
        for (int i = 0; i < S::halo_slots; i++) {
            shared.halo_full[i].init(1);
            shared.halo_empty[i].init(multiplier_warps);
        }
        for (int i = 0; i < S::weight_slots; i++) {
            shared.weight_full[i].init(1);
            shared.weight_empty[i].init(multiplier_warps);
        }
        for (int i = 0; i < groups; i++) {
            shared.residual_full[i].init(1);
            shared.result_empty[i].init(1);
        }
        fence_shared();
    }
    __syncthreads();

    if (threadIdx.x < group_threads) {
        give_registers<loader_registers>();
        if (threadIdx.x == 0)
            Loader<kind>(args, grid, maps, shared).run();
    } else {
        take_registers<multiplier_registers>();
        Multiplier<T, kind>(args, grid, maps, shared).run();
    }
}

/// Map of pixels (images, height + 2*border, width + 2*border, channels) in boxes of 64 channels.
inline cudaError_t encode_pixels(CUtensorMap &map, const void *base, const ConvArgs &args, int images,
                                 int64_t channels, int rows, int cols, int border = 0) {
    const int64_t width = args.width + 2 * border, height = args.height + 2 * border, row = width * channels;
    return encode_map<4>(map, base, args.element, {channels, width, height, images},
                         {channels, row, height * row}, {depth, cols, rows, 1});
}

/// Map of every second pixel of every second row, from one of the first 2x2.
inline cudaError_t encode_phase(CUtensorMap &map, const ConvArgs &args, int phase) {
    const int64_t channels = args.out_channels, row = 2 * args.width * channels;
    return encode_map<4>(map, static_cast<char *>(args.out) + 2 * (phase / 2 * row + phase % 2 * channels),
                         args.element,
                         {channels, args.width, args.height, int64_t(args.images) * args.growth},
                         {2 * channels, 2 * row, 2 * args.height * row}, {depth, side, group_rows, 1});
}

template <ConvKind kind> cudaError_t encode(Maps<kind> &maps, const ConvArgs &args) {
    using S = Sizes<kind>;
    const int64_t in_channels = int64_t(args.in_channels) * (args.memory == nullptr ? 1 : 2);
    cudaError_t error =
        encode_pixels(maps.x, args.x, args, args.images, args.in_channels, S::halo_side, S::halo_side,
                      args.border);
    if (error == cudaSuccess && args.memory != nullptr)
        error = encode_pixels(maps.memory, args.memory, args, args.images / args.frames, args.in_channels,
                              S::halo_side, S::halo_side);
    if (error == cudaSuccess)
        error = encode_map<3>(maps.weight, args.weight, args.element,
                              {in_channels, S::taps, int64_t(args.growth) * S::phases * args.out_channels},
                              {in_channels, S::taps * in_channels}, {depth, 1, S::columns});
    if (error == cudaSuccess && args.residual != nullptr)
        error = encode_pixels(maps.residual, args.residual, args, args.images, args.out_channels, group_rows,
                              side);
    if (error == cudaSuccess && kind == ConvKind::same)
        error = encode_pixels(maps.out[0], args.out, args, args.images, args.out_channels, group_rows, side);
    for (int phase = 0; error == cudaSuccess && kind == ConvKind::doubled && phase < S::phases; phase++)
        error = encode_phase(maps.out[phase], args, phase);
    return error;
}

template <ConvKind kind> Grid grid_of(const ConvArgs &args) {
    using S = Sizes<kind>;
    Grid grid{(args.width + side - 1) / side, (args.height + side - 1) / side,
              (args.out_channels + S::columns - 1) / S::columns, 0};
    grid.items = args.images * grid.tiles_x * grid.tiles_y * grid.column_tiles * args.growth * S::phases;
    return grid;
}

inline int tiles_of(const ConvArgs &args) {
    switch (args.kind) {
    case ConvKind::same:
        return grid_of<ConvKind::same>(args).items;
    case ConvKind::doubled:
        return grid_of<ConvKind::doubled>(args).items;
    case ConvKind::planar:
        return grid_of<ConvKind::planar>(args).items;
    }
    return 0;
}

template <class T, ConvKind kind> cudaError_t launch(const ConvArgs &args, cudaStream_t stream) {
    Maps<kind> maps{};
    if (const cudaError_t error = encode(maps, args))
        return error;
    const Grid grid = grid_of<kind>(args);
    int device = 0, multiprocessors = 0;
    if (const cudaError_t error = cudaGetDevice(&device))
        return error;
    if (const cudaError_t error =
            cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device))
        return error;
    constexpr int shared_bytes = sizeof(Shared<kind>);
    static_assert(shared_bytes <= 227 * 1024);
    const auto kernel = convolve<T, kind>;
    if (const cudaError_t error =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes))
        return error;
    kernel<<<std::min(multiprocessors, grid.items), threads, shared_bytes, stream>>>(args, grid, maps);
    return cudaGetLastError();
}

template <class T> cudaError_t launch(const ConvArgs &args, cudaStream_t stream) {
    switch (args.kind) {
    case ConvKind::same:
        return launch<T, ConvKind::same>(args, stream);
    case ConvKind::doubled:
        return launch<T, ConvKind::doubled>(args, stream);
    case ConvKind::planar:
        return launch<T, ConvKind::planar>(args, stream);
    }
    return cudaErrorInvalidValue;
}

} // namespace flashvsr::cuda::hopper::conv
