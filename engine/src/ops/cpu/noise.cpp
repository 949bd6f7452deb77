// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cpu/ops.h"
#include "ops/philox.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>

namespace flashvsr {

namespace {

// Positions that are drawn together: four words each stay in the first-level cache, and the loops over them
// are long enough to fill vector registers.
constexpr int lanes = 64;

struct Words {
    uint32_t word[4][lanes];
};

void philox_lanes(Words &words, uint32_t key0, uint32_t key1) {
    for (int round = 0; round < philox::rounds; round++) {
        for (int i = 0; i < lanes; i++)
            philox::round(words.word[0][i], words.word[1][i], words.word[2][i], words.word[3][i], key0, key1);
        key0 += philox::weyl0;
        key1 += philox::weyl1;
    }
}

void box_muller_lanes(const uint32_t *radius_word, const uint32_t *angle_word, float *out0, float *out1) {
    for (int i = 0; i < lanes; i++)
        philox::box_muller(radius_word[i], angle_word[i], out0[i], out1[i]);
}

} // namespace

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
    Words words{};
    for (int word = 0; word < 4; word++)
        words.word[word][0] = counter[word];
    philox_lanes(words, key[0], key[1]);
    return {words.word[0][0], words.word[1][0], words.word[2][0], words.word[3][0]};
}

at::Tensor cpu::philox_normals(uint64_t seed, const NoiseRegion &region, const at::Device &) {
    at::Tensor noise = at::empty({noise_channels, region.latents, region.height, region.width}, at::kFloat);
    float *const out = noise.data_ptr<float>();
    const int64_t channel_stride = region.latents * region.height * region.width;
    const auto key0 = static_cast<uint32_t>(seed);
    const auto key1 = static_cast<uint32_t>(seed >> 32);

    // Rows in the order (draw, latent frame, y).
    const int64_t rows = noise_draws * region.latents * region.height;
    const int64_t grain = std::max<int64_t>(1, 4096 / std::max<int64_t>(region.width, 1));
    at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
        Words words;
        float normal[noise_channels_per_draw][lanes];
        for (int64_t row = begin; row < end; row++) {
            const int64_t y = row % region.height;
            const int64_t t = row / region.height % region.latents;
            const int64_t draw = row / region.height / region.latents;
            const auto latent = static_cast<uint64_t>(region.first_latent + t);
            float *const to = out + draw * noise_channels_per_draw * channel_stride +
                              (t * region.height + y) * region.width;
            for (int64_t x = 0; x < region.width; x += lanes) {
                for (int i = 0; i < lanes; i++) {
                    words.word[0][i] = static_cast<uint32_t>(region.x + x + i);
                    words.word[1][i] = static_cast<uint32_t>(region.y + y);
                    words.word[2][i] = static_cast<uint32_t>(latent);
                    words.word[3][i] =
                        static_cast<uint32_t>(draw) + static_cast<uint32_t>(noise_draws * (latent >> 32));
                }
                philox_lanes(words, key0, key1);
                box_muller_lanes(words.word[0], words.word[1], normal[0], normal[1]);
                box_muller_lanes(words.word[2], words.word[3], normal[2], normal[3]);
                const int64_t count = std::min<int64_t>(lanes, region.width - x);
                for (int64_t c = 0; c < noise_channels_per_draw; c++)
                    std::copy_n(normal[c], count, to + c * channel_stride + x);
            }
        }
    });
    return noise;
}

} // namespace flashvsr
