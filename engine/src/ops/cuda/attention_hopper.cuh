// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/cuda/attention_kernels.cuh"
#include "ops/cuda/hopper.cuh"

#include <algorithm>
#include <utility>

/// Block-sparse attention and cross-attention with TMA loads, WGMMA and specialised warps. A block of the
/// grid stays and takes one query window after another: one warp chooses them, one loads their tiles, and two
/// groups of four each multiply 64 of a window's 128 rows.
namespace flashvsr::cuda::hopper {

/// What the bench's ladder varies; the library holds one.
struct Fastest {
    /// The two groups issue products strictly in turn. They come to alternate without it, and being held to
    /// it gains nothing.
    static constexpr bool take_turns = false;
    /// A free block takes the longest list left of a wave of windows; else windows are dealt in turn.
    static constexpr bool longest_first = true;
};

constexpr int group_threads = 128, groups = 2, group_warps = 4, multiplier_warps = groups * group_warps;
constexpr int threads = (1 + groups) * group_threads;
constexpr int tile_bytes = window_elements * 2, half_tile_bytes = tile_bytes / 2;

/// Seven tiles of 32 KiB are all that a block can have. The queries of the next window arrive during this
/// one.
constexpr int query_slots = 2, tile_slots = 5, work_slots = 4;

/// Registers per thread, multiples of 8: loader + 2 * multiplier is three times what 384 threads start with.
constexpr int loader_registers = 40, multiplier_registers = 232;

constexpr int most_blocks = 160; // no Hopper GPU has more multiprocessors

/// A query window with keys; row -1 ends.
struct Work {
    int row, count;
    int32_t first_keys[32]; ///< the beginning of its list
};

struct Shared {
    /// Tiles are two halves of 64 columns, 128 rows each, as the copy engine's 128-byte swizzle lays them.
    unsigned char queries[query_slots][tile_bytes];
    /// In the order of use, over all windows: k0 k1 v0 k2 v1 ...
    unsigned char tiles[tile_slots][tile_bytes];
    Barrier query_full[query_slots], query_empty[query_slots];
    Barrier tile_full[tile_slots], tile_empty[tile_slots];
    Barrier work_full[work_slots], work_empty[work_slots];
    Barrier draw; // the loader is near the end of a list
    Work work[work_slots];
};

/// The windows of a block, found by one warp. The first ones go to the blocks one each. The others follow in
/// waves of as many as there are blocks, so that those of a head run together and find its keys in the L2
/// cache. In a wave the longest lists come first, so that all blocks end together. Where all lists are alike,
/// windows are dealt in turn.
template <class Policy, Attention kind> class Windows {
public:
    __device__ Windows(const AttentionArgs &args, int rows)
        : args_(args), rows_(rows), blocks_(gridDim.x), row_(blockIdx.x) {}

    /// The window that the block is at; the number of windows when there is none.
    __device__ int row() const { return row_; }

    __device__ void advance() {
        if constexpr (draws) {
            int ticket = 0;
            if (threadIdx.x % 32 == 0)
                ticket = atomicAdd(&args_.counters[0], 1);
            ticket = __shfl_sync(~0U, ticket, 0);
            row_ = ticket < rows_ - blocks_ ? blocks_ + ranked(ticket) : rows_;
        } else {
            row_ = min(row_ + blocks_, rows_);
        }
    }

    /// The last block to finish leaves the counters as it found them.
    __device__ void finish() const {
        if (draws && threadIdx.x % 32 == 0 && atomicAdd(&args_.counters[1], 1) == blocks_ - 1) {
            args_.counters[0] = 0;
            args_.counters[1] = 0;
        }
    }

private:
    static constexpr bool draws = Policy::longest_first && kind == Attention::sparse;

    /// The window, counted from the end of the first ones, that a ticket means. The last wave has two to
    /// three times as many windows as the others, for a more even end, unless a head has few: then most keys
    /// come from device memory as it is, and a wave over more heads than the cache holds costs more than the
    /// even end gains.
    __device__ int ranked(int ticket) const {
        constexpr int few_windows = 16;
        const int rest = rows_ - blocks_, joined_waves = args_.query_windows < few_windows ? 0 : 2;
        const int whole_waves = max(rest / blocks_ - joined_waves, 0);
        const int wave = min(ticket / blocks_, whole_waves), begin = wave * blocks_;
        const int size = wave < whole_waves ? blocks_ : rest - begin;
        return begin + longest(args_.counts + blocks_ + begin, size, ticket - begin);
    }

    /// The index of the count that `rank` others of `size` precede, by length and then by index.
    __device__ static int longest(const int32_t *counts, int size, int rank) {
        constexpr int id_bits = 9, last_id = (1 << id_bits) - 1, per_lane = 3 * most_blocks / 32;
        static_assert(3 * most_blocks <= last_id);
        uint32_t keys[per_lane], greatest = 0;
        for (int i = 0; i < per_lane; i++) {
            const int id = threadIdx.x % 32 + 32 * i;
            keys[i] = id < size ? __ldg(counts + id) << id_bits | (last_id - id) : 0;
            greatest = max(greatest, keys[i]);
        }
        uint32_t found = 0;
        for (int bit = 31 - __clz(__reduce_max_sync(~0U, greatest)); bit >= 0; bit--) {
            const uint32_t tried = found | 1U << bit;
            int reached = 0;
            for (int i = 0; i < per_lane; i++)
                reached += keys[i] >= tried;
            if (__reduce_add_sync(~0U, reached) > rank)
                found = tried;
        }
        return last_id - int(found & last_id);
    }

    const AttentionArgs &args_;
    const int rows_, blocks_;
    int row_;
};

/// Zeros for a window, by one warp.
inline __device__ void clear_window(const AttentionArgs &args, const QueryRow<Attention::sparse> &row) {
    constexpr int chunk_elements = 8, chunks = head_dim / chunk_elements;
    for (int i = threadIdx.x % 32; i < window_tokens * chunks; i += 32) {
        uint16_t *out = static_cast<uint16_t *>(args.out) + row.out_offset(args, i / chunks);
        *reinterpret_cast<uint4 *>(out + i % chunks * chunk_elements) = make_uint4(0, 0, 0, 0);
    }
}

/// The scheduler's warp: gives out windows that have keys, and clears the others.
template <class Policy, Attention kind>
__device__ void schedule(const AttentionArgs &args, int rows, Shared &shared) {
    const int lane = threadIdx.x % 32;
    Position<work_slots> work;
    Position<1> draw;
    for (Windows<Policy, kind> windows(args, rows);; windows.advance()) {
        const int row = windows.row();
        const bool exists = row < rows;
        int count = args.key_windows;
        int32_t first_key = lane;
        if constexpr (kind == Attention::sparse) {
            count = exists ? __ldg(args.counts + row) : 0;
            const int32_t *list = args.indices + int64_t(row) * args.key_windows;
            first_key = exists && lane < args.key_windows ? __ldg(list + lane) : 0;
            if (exists && count == 0) {
                clear_window(args, QueryRow<kind>(args, row));
                continue;
            }
        }
        shared.work_empty[work.slot].wait(work.parity ^ 1);
        Work &given = shared.work[work.slot];
        given.first_keys[lane] = first_key;
        if (lane == 0) {
            given.row = exists ? row : -1;
            given.count = count;
        }
        shared.work_full[work.slot].arrive();
        work.advance();
        if (!exists)
            return windows.finish();
        shared.draw.wait(draw.parity);
        draw.advance();
    }
}

/// The loader's warp: queries, keys and values in the order of use.
template <Attention kind> class Loader {
public:
    __device__ Loader(const AttentionArgs &args, const CUtensorMap &q, const CUtensorMap &k,
                      const CUtensorMap &v, Shared &shared)
        : args_(args), q_(q), k_(k), v_(v), shared_(shared), lane_(threadIdx.x % 32) {}

    __device__ void run() {
        for (;;) {
            shared_.work_full[work_.slot].wait(work_.parity);
            const Work &taken = shared_.work[work_.slot];
            const int row = taken.row, count = taken.count, first_key = taken.first_keys[lane_];
            shared_.work_empty[work_.slot].arrive();
            work_.advance();
            if (row < 0)
                break;
            load_window(row, count, first_key);
        }
        if (value_window_ >= 0)
            load_tile(v_, value_window_, value_head_);
    }

private:
    /// @param held this lane's of the list's first 32
    __device__ void load_window(int row, int count, int held) {
        const QueryRow<kind> place(args_, row);
        const int tokens_before = kind == Attention::cross
                                      ? (place.batch * args_.query_windows + place.window) * window_tokens
                                      : row * window_tokens;
        load(shared_.queries[query_.slot], shared_.query_full[query_.slot], shared_.query_empty[query_.slot],
             query_.parity, q_, tokens_before, kind == Attention::cross ? place.head : 0);
        query_.advance();

        constexpr int draw_ahead = 4; // tiles: the time that the next window takes to find
        const int head = place.key_head(args_);
        const int32_t *list =
            kind == Attention::cross ? nullptr : args_.indices + int64_t(row) * args_.key_windows;
        int following = held;
        for (int i = 0; i < count; i++) {
            if (i % 32 == 0) {
                held = following;
                const int at = i + 32 + lane_;
                following = kind == Attention::cross ? at : at < count ? __ldg(list + at) : 0;
            }
            if (i == max(count - draw_ahead, 0) && lane_ == 0)
                shared_.draw.arrive();
            const int window = __shfl_sync(~0U, held, i % 32);
            load_tile(k_, window, head);
            if (value_window_ >= 0)
                load_tile(v_, value_window_, value_head_);
            value_window_ = window;
            value_head_ = head;
        }
    }

    __device__ void load_tile(const CUtensorMap &map, int window, int head) {
        load(shared_.tiles[tile_.slot], shared_.tile_full[tile_.slot], shared_.tile_empty[tile_.slot],
             tile_.parity, map, window * window_tokens, head);
        tile_.advance();
    }

    /// Fill a slot once it is empty.
    __device__ void load(void *slot, Barrier &full, Barrier &empty, uint32_t parity, const CUtensorMap &map,
                         int row, int head) const {
        if (lane_ != 0)
            return;
        empty.wait(parity ^ 1);
        full.arrive_and_expect(tile_bytes);
        const uint32_t address = shared_address(slot);
        copy_box(address, &map, full, 0, row, head);
        copy_box(address + half_tile_bytes, &map, full, 64, row, head);
    }

    const AttentionArgs &args_;
    const CUtensorMap &q_, &k_, &v_;
    Shared &shared_;
    const int lane_;
    Position<work_slots> work_;
    Position<query_slots> query_;
    Position<tile_slots> tile_;
    int value_window_ = -1, value_head_ = 0; // one tile behind the keys
};

/// A group of 128 threads: 64 rows of every window. Two products overlap: the scores s = q k^T of a tile, and
/// the sum o += p v of the tile before, whose weights p the softmax has made of its scores.
template <class T, class Policy, Attention kind> class Multiplier {
public:
    __device__ Multiplier(const AttentionArgs &args, Shared &shared)
        : args_(args), shared_(shared), group_(uniform(threadIdx.x / group_threads - 1)),
          first_token_(group_ * 64 + uniform(threadIdx.x / 32 % group_warps) * 16) {}

    __device__ void run() {
        Row now = take_row();
        if (now.index < 0)
            return;
        OnlineSoftmax softmax;
        float keep[2];
        start(softmax, keep);
        for (;;) {
            for (int i = 1; i < now.count; i++) {
                if (step(softmax, keep, i))
                    rescale(keep);
                pack_weights();
            }
            release(shared_.query_empty[query_.slot]);
            query_.advance();
            const Row next = take_row();
            if (next.index < 0)
                break;

            // The next window's first scores go with this one's last sum.
            OnlineSoftmax next_softmax;
            shared_.query_full[query_.slot].wait(query_.parity);
            step(next_softmax, keep, 0);
            pack_weights();
            store_rows<T>(args_, QueryRow<kind>(args_, now.index), first_token_, o_, softmax);
            clear_sum();
            softmax = next_softmax;
            now = next;
        }
        finish();
        store_rows<T>(args_, QueryRow<kind>(args_, now.index), first_token_, o_, softmax);
    }

private:
    struct Row {
        int index, count;
    };

    /// The same in all lanes, and known to be.
    __device__ static int uniform(int x) { return __shfl_sync(~0U, x, 0); }

    /// What a warp takes, by the lane that then lets go of it.
    __device__ Row take_row() {
        shared_.work_full[work_.slot].wait(work_.parity);
        Row row{};
        if (threadIdx.x % 32 == 0)
            row = {shared_.work[work_.slot].row, shared_.work[work_.slot].count};
        release(shared_.work_empty[work_.slot]);
        row = {uniform(row.index), uniform(row.count)};
        work_.advance();
        return row;
    }

    /// The first scores of all.
    __device__ void start(OnlineSoftmax &softmax, float (&keep)[2]) {
        clear_sum();
        if (Policy::take_turns && group_ == 1)
            give_turn();
        shared_.query_full[query_.slot].wait(query_.parity);
        wait_tile();
        take_turn();
        const int keys = start_scores();
        give_turn();
        wait_products<0>();
        pin(s_);
        release(shared_.tile_empty[keys]);
        mask(0);
        softmax.update(s_, keep);
        pack_weights();
        wait_tile();
    }

    /// The scores of the next tile of keys, of which the softmax makes weights, and the sum over the tile of
    /// values after it. Waits for the tile after these.
    /// @param i of the tile in the window's list
    /// @return what OnlineSoftmax::update() says
    __device__ bool step(OnlineSoftmax &softmax, float (&keep)[2], int i) {
        take_turn();
        const int keys = start_scores();
        wait_tile();
        const int values = start_sum();
        give_turn();
        wait_products<1>();
        pin(s_);
        release(shared_.tile_empty[keys]);
        mask(i);
        const bool grown = softmax.update(s_, keep);
        wait_tile();
        wait_products<0>();
        pin(o_);
        release(shared_.tile_empty[values]);
        return grown;
    }

    /// The last sum of all.
    __device__ void finish() {
        take_turn();
        start_sum();
        if (group_ == 0)
            give_turn();
        wait_products<0>();
        pin(o_);
    }

    /// @return the slot of the keys
    __device__ int start_scores() {
        pin(s_);
        product_fence();
        const uint32_t rows = shared_address(shared_.queries[query_.slot]) + group_ * 64 * 128;
        const uint64_t queries = swizzled_tile(rows, 16);
        const uint64_t keys = swizzled_tile(shared_address(shared_.tiles[tile_.slot]), 16);
#pragma unroll
        for (int d = 0; d < 8; d++) {
            const int step = d / 4 * (half_tile_bytes >> 4) + d % 4 * 2;
            multiply_shared<T>(s_, queries + step, keys + step, d > 0);
        }
        commit_products();
        return pass_tile();
    }

    /// @return the slot of the values
    __device__ int start_sum() {
        pin(o_);
        pin(p_);
        product_fence();
        const uint64_t values = swizzled_tile(shared_address(shared_.tiles[tile_.slot]), half_tile_bytes);
#pragma unroll
        for (int step = 0; step < 8; step++)
            multiply_registers<T>(o_, p_ + 4 * step, values + step * (16 * 128 >> 4));
        commit_products();
        return pass_tile();
    }

    /// Where tile `i` is the last and a short one.
    __device__ void mask(int i) {
        if constexpr (kind == Attention::cross)
            if (const int keys = last_window_keys(args_); i + 1 == args_.key_windows && keys < window_tokens)
                mask_scores(s_, keys);
    }

    __device__ void wait_tile() {
        shared_.tile_full[tile_.slot].wait(tile_.parity);
    }

    __device__ int pass_tile() {
        const int slot = tile_.slot;
        tile_.advance();
        return slot;
    }

    __device__ void pack_weights() {
#pragma unroll
        for (int i = 0; i < 32; i++)
            p_[i] = pack<T>(s_[2 * i], s_[2 * i + 1]);
    }

    __device__ void rescale(const float (&keep)[2]) {
#pragma unroll
        for (int i = 0; i < 64; i++)
            o_[i] *= keep[i / 2 % 2];
    }

    __device__ void clear_sum() {
#pragma unroll
        for (float &sum : o_)
            sum = 0;
    }

    __device__ void take_turn() const {
        if constexpr (Policy::take_turns)
            named_sync(1 + group_, groups * group_threads);
    }
    __device__ void give_turn() const {
        if constexpr (Policy::take_turns)
            named_arrive(2 - group_, groups * group_threads);
    }

    const AttentionArgs &args_;
    Shared &shared_;
    const int group_, first_token_;
    Position<work_slots> work_;
    Position<query_slots> query_;
    Position<tile_slots> tile_;
    float o_[64], s_[64];
    uint32_t p_[32];
};

template <class T, class Policy, Attention kind>
__global__ void __launch_bounds__(threads, 1)
    attend(const __grid_constant__ AttentionArgs args, const __grid_constant__ CUtensorMap q,
           const __grid_constant__ CUtensorMap k, const __grid_constant__ CUtensorMap v, const int rows) {
    extern __shared__ __align__(1024) unsigned char shared_memory[];
    Shared &shared = *reinterpret_cast<Shared *>(shared_memory);
    if (threadIdx.x == 0) {
        for (const CUtensorMap *map : {&q, &k, &v})
            prefetch_map(map);
        for (int i = 0; i < query_slots; i++) {
            shared.query_full[i].init(1);
            shared.query_empty[i].init(multiplier_warps);
        }
        for (int i = 0; i < tile_slots; i++) {
            shared.tile_full[i].init(1);
            shared.tile_empty[i].init(multiplier_warps);
        }
        for (int i = 0; i < work_slots; i++) {
            // All lanes of the scheduler write, and all lanes of the loader read.
            shared.work_full[i].init(32);
            shared.work_empty[i].init(32 + multiplier_warps);
        }
        shared.draw.init(1);
        fence_shared();
    }
    __syncthreads();

    if (threadIdx.x < group_threads) {
        give_registers<loader_registers>();
        const int warp = __shfl_sync(~0U, int(threadIdx.x) / 32, 0);
        if (warp == 0)
            Loader<kind>(args, q, k, v, shared).run();
        else if (warp == 1)
            schedule<Policy, kind>(args, rows, shared);
    } else {
        take_registers<multiplier_registers>();
        Multiplier<T, Policy, kind>(args, shared).run();
    }
}

/// Map of (heads, rows, 128), 16-bit, in boxes of 128 rows x 64 columns.
inline cudaError_t encode(CUtensorMap &map, const void *base, Element element, int64_t heads, int64_t rows,
                          int64_t row_stride, int64_t head_stride) {
    return encode_map<3>(map, base, element, {head_dim, rows, heads}, {row_stride, head_stride},
                         {64, window_tokens, 1});
}

template <class T, class Policy, Attention kind = Attention::sparse>
cudaError_t launch(const AttentionArgs &args, cudaStream_t stream) {
    constexpr bool cross = kind == Attention::cross;
    const int64_t heads = int64_t(args.batch) * args.heads, rows = heads * args.query_windows;
    // Where fewer than 128 rows are left of a head, zeros come.
    const int64_t key_heads = cross ? args.heads : heads,
                  key_rows =
                      cross ? args.key_head_stride / head_dim : int64_t(args.key_windows) * window_tokens;
    CUtensorMap q, k, v;
    if (const cudaError_t error =
            cross
                ? encode(q, args.q, args.element, args.heads, rows / args.heads * window_tokens,
                         int64_t(args.heads) * head_dim, head_dim)
                : encode(q, args.q, args.element, 1, rows * window_tokens, head_dim, rows * window_elements))
        return error;
    for (const auto &[map, base] : {std::pair(&k, args.k), std::pair(&v, args.v)})
        if (const cudaError_t error =
                encode(*map, base, args.element, key_heads, key_rows, head_dim, args.key_head_stride))
            return error;

    int device = 0, multiprocessors = 0;
    if (const cudaError_t error = cudaGetDevice(&device))
        return error;
    if (const cudaError_t error =
            cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device))
        return error;
    constexpr int shared_bytes = sizeof(Shared);
    if (const cudaError_t error = cudaFuncSetAttribute(
            attend<T, Policy, kind>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes))
        return error;
    const int blocks = static_cast<int>(std::min<int64_t>({multiprocessors, most_blocks, rows}));
    attend<T, Policy, kind><<<blocks, threads, shared_bytes, stream>>>(args, q, k, v, static_cast<int>(rows));
    return cudaGetLastError();
}

} // namespace flashvsr::cuda::hopper
