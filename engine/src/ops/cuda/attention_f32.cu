// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/attention_kernels.cuh"

namespace flashvsr::cuda {

namespace {

constexpr int threads = 256, tile_rows = 64, tile_keys = 64;
constexpr int padded = head_dim + 4; // rows of 16 lanes, 16 bytes each, on distinct banks
constexpr int weight_pitch = tile_keys + 4;

struct Shared {
    float q[tile_rows][padded];
    union { // the weights take the place of the keys that they came from
        float k[tile_keys][padded];
        float weights[tile_rows][weight_pitch];
    };
    float v[tile_keys][head_dim];
};
static_assert(sizeof(Shared) <= 99 * 1024, "the smallest limit of the devices since sm_80");

template <int pitch> __device__ void load_tile(float (&to)[64][pitch], const float *from) {
    for (int i = threadIdx.x * 4; i < 64 * head_dim; i += threads * 4)
        *reinterpret_cast<float4 *>(&to[i / head_dim][i % head_dim]) =
            *reinterpret_cast<const float4 *>(from + i);
}

__device__ float dot(const float4 &a, const float4 &b, float sum) {
    return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, sum))));
}

/// Reduce over the 16 lanes that share a row.
template <class Operation> __device__ float row_reduce(float x, Operation operation) {
    for (int lanes = 1; lanes < 16; lanes *= 2)
        x = operation(x, __shfl_xor_sync(~0U, x, lanes));
    return x;
}

/// One half of a query window: thread (ty, tx) of 16 x 16 has rows 4 ty + i, keys tx + 16 j and channels
/// 64 h + 4 tx + c.
__global__ void __launch_bounds__(threads, 2) attend(const AttentionArgs args) {
    extern __shared__ float4 shared_memory[];
    Shared &shared = *reinterpret_cast<Shared *>(shared_memory);
    const int index = blockIdx.x / 2, first_token = blockIdx.x % 2 * tile_rows;
    const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
    const QueryRow<Attention::sparse> row(args, index);
    const float *k = static_cast<const float *>(args.k) + row.key_offset(args);
    const float *v = static_cast<const float *>(args.v) + row.key_offset(args);
    const int32_t *list = args.indices + int64_t(index) * args.key_windows;
    const int tiles = args.counts[index] * (window_tokens / tile_keys);

    load_tile(shared.q,
              static_cast<const float *>(args.q) + int64_t(index) * window_elements + first_token * head_dim);
    float o[4][8] = {}, total[4] = {}, greatest[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    for (int tile = 0; tile < tiles; tile++) {
        const int64_t offset = int64_t(list[tile / 2]) * window_elements + tile % 2 * (tile_keys * head_dim);
        __syncthreads();
        load_tile(shared.k, k + offset);
        load_tile(shared.v, v + offset);
        __syncthreads();

        float s[4][4] = {};
        for (int d = 0; d < head_dim; d += 4) {
            float4 key[4];
            for (int j = 0; j < 4; j++)
                key[j] = *reinterpret_cast<const float4 *>(&shared.k[tx + 16 * j][d]);
            for (int i = 0; i < 4; i++) {
                const float4 query = *reinterpret_cast<const float4 *>(&shared.q[4 * ty + i][d]);
                for (int j = 0; j < 4; j++)
                    s[i][j] = dot(query, key[j], s[i][j]);
            }
        }
        __syncthreads();

        for (int i = 0; i < 4; i++) {
            const float now = fmaxf(fmaxf(s[i][0], s[i][1]), fmaxf(s[i][2], s[i][3]));
            const float next = fmaxf(greatest[i], row_reduce(now, fmaxf));
            const float keep = exp2f((greatest[i] - next) * softmax_exponent_scale);
            greatest[i] = next;
            total[i] *= keep;
            for (float &sum : o[i])
                sum *= keep;
            for (int j = 0; j < 4; j++) {
                const float weight = exp2f((s[i][j] - next) * softmax_exponent_scale);
                total[i] += weight;
                shared.weights[4 * ty + i][tx + 16 * j] = weight;
            }
        }
        __syncthreads();

        for (int key = 0; key < tile_keys; key++) {
            const float4 low = *reinterpret_cast<const float4 *>(&shared.v[key][4 * tx]);
            const float4 high = *reinterpret_cast<const float4 *>(&shared.v[key][64 + 4 * tx]);
            const float value[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
            for (int i = 0; i < 4; i++)
                for (int c = 0; c < 8; c++)
                    o[i][c] = fmaf(shared.weights[4 * ty + i][key], value[c], o[i][c]);
        }
    }

    for (int i = 0; i < 4; i++) {
        const float sum = row_reduce(total[i], [](float a, float b) { return a + b; });
        const float scale = sum > 0 ? 1 / sum : 0;
        float *out = static_cast<float *>(args.out) + row.out_offset(args, first_token + 4 * ty + i);
        for (int h = 0; h < 2; h++)
            *reinterpret_cast<float4 *>(out + 64 * h + 4 * tx) =
                make_float4(o[i][4 * h] * scale, o[i][4 * h + 1] * scale, o[i][4 * h + 2] * scale,
                            o[i][4 * h + 3] * scale);
    }
}

} // namespace

cudaError_t attention_f32(const AttentionArgs &args, cudaStream_t stream) {
    if (const cudaError_t error =
            cudaFuncSetAttribute(attend, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared)))
        return error;
    const int blocks = args.batch * args.heads * args.query_windows * (window_tokens / tile_rows);
    attend<<<blocks, threads, sizeof(Shared), stream>>>(args);
    return cudaGetLastError();
}

} // namespace flashvsr::cuda
