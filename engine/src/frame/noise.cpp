// SPDX-License-Identifier: LGPL-2.1-or-later
#include "frame/noise.h"

#include "error.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <bit>
#include <cmath>

namespace flashvsr {
namespace {

constexpr int64_t channels = 16;
constexpr int64_t channels_per_draw = 4;
constexpr int64_t groups = channels / channels_per_draw;

// The generator's multipliers and key increments (Weyl sequences of the golden ratio and of sqrt(3) - 1).
constexpr uint32_t multiplier0 = 0xD2511F53;
constexpr uint32_t multiplier1 = 0xCD9E8D57;
constexpr uint32_t weyl0 = 0x9E3779B9;
constexpr uint32_t weyl1 = 0xBB67AE85;
constexpr int rounds = 10;

// Positions that are drawn together: four words each stay in the first-level cache, and the loops over them
// are long enough to fill vector registers.
constexpr int lanes = 64;

struct Words {
    uint32_t word[4][lanes];
};

void philox_lanes(Words &words, uint32_t key0, uint32_t key1) {
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < lanes; i++) {
            const uint64_t product0 = static_cast<uint64_t>(multiplier0) * words.word[0][i];
            const uint64_t product1 = static_cast<uint64_t>(multiplier1) * words.word[2][i];
            words.word[0][i] = static_cast<uint32_t>(product1 >> 32) ^ words.word[1][i] ^ key0;
            words.word[1][i] = static_cast<uint32_t>(product1);
            words.word[2][i] = static_cast<uint32_t>(product0 >> 32) ^ words.word[3][i] ^ key1;
            words.word[3][i] = static_cast<uint32_t>(product0);
        }
        key0 += weyl0;
        key1 += weyl1;
    }
}

// -2 ln(v / 2^32) for v >= 1: the logarithm of the mantissa m in [sqrt(1/2), sqrt(2)) is 2 artanh(s),
// s = (m - 1) / (m + 1), whose series is below float's resolution after five terms.
float minus_two_log(uint32_t v) {
    constexpr int32_t sqrt_half = 0x3F3504F3;
    constexpr float ln2 = 0.693147181f;
    const int32_t bits = std::bit_cast<int32_t>(static_cast<float>(v)) - sqrt_half;
    const int32_t exponent = bits >> 23;
    const auto mantissa = std::bit_cast<float>((bits & 0x007FFFFF) + sqrt_half);
    const float s = (mantissa - 1.0f) / (mantissa + 1.0f);
    const float z = s * s;
    const float tail = z * (0.666666667f + z * (0.4f + z * (0.285714286f + z * 0.222222222f)));
    const float log_mantissa = s * (2.0f + tail);
    return 2.0f * (static_cast<float>(32 - exponent) * ln2 - log_mantissa);
}

// Two normals for each lane from two words each (Box and Muller), to out0 and out1.
void box_muller_lanes(const uint32_t *radius_word, const uint32_t *angle_word, float *out0, float *out1) {
    constexpr float quarter_turn = 1.57079633f / 4294967296.0f;
    for (int i = 0; i < lanes; i++) {
        // The largest argument of the square root is 2 * 32 ln 2, the smallest is 0.
        const float radius = std::sqrt(minus_two_log(radius_word[i] | 1U));
        // Within an eighth of a turn of the quadrant's axis, where short series do.
        const auto offset = std::bit_cast<int32_t>(angle_word[i] << 2);
        const float a = static_cast<float>(offset) * quarter_turn;
        const float z = a * a;
        const float sine =
            a + a * z * (-0.166666667f + z * (8.33333333e-3f + z * (-1.98412698e-4f + z * 2.75573192e-6f)));
        const float cosine =
            1.0f + z * (-0.5f + z * (4.16666667e-2f + z * (-1.38888889e-3f + z * 2.48015873e-5f)));
        const uint32_t quadrant = angle_word[i] >> 30;
        const float along = quadrant & 1U ? -sine : cosine;
        const float across = quadrant & 1U ? cosine : sine;
        const float sign = quadrant & 2U ? -radius : radius;
        out0[i] = sign * along;
        out1[i] = sign * across;
    }
}

void check_range(const char *what, int64_t begin, int64_t count, int64_t limit) {
    if (begin < 0 || count < 0 || begin > limit - count)
        fail(EINVAL, "noise was asked for at ", what, " ", begin, " to ", begin, " + ", count,
             ", but these are within 0 to ", limit);
}

} // namespace

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
    Words words{};
    for (int word = 0; word < 4; word++)
        words.word[word][0] = counter[word];
    philox_lanes(words, key[0], key[1]);
    return {words.word[0][0], words.word[1][0], words.word[2][0], words.word[3][0]};
}

at::Tensor position_noise(uint64_t seed, int64_t first_latent, int64_t latents, Rect region) {
    constexpr int64_t coordinates = int64_t{1} << 32;
    check_range("row", region.y, region.height, coordinates);
    check_range("column", region.x, region.width, coordinates);
    check_range("latent frame", first_latent, latents, int64_t{1} << 61);

    at::Tensor noise = at::empty({channels, latents, region.height, region.width}, at::kFloat);
    float *const out = noise.data_ptr<float>();
    const int64_t channel_stride = latents * region.height * region.width;
    const auto key0 = static_cast<uint32_t>(seed);
    const auto key1 = static_cast<uint32_t>(seed >> 32);

    // Rows in the order (channel group, latent frame, y).
    const int64_t rows = groups * latents * region.height;
    const int64_t grain = std::max<int64_t>(1, 4096 / std::max<int64_t>(region.width, 1));
    at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
        Words words;
        float normal[channels_per_draw][lanes];
        for (int64_t row = begin; row < end; row++) {
            const int64_t y = row % region.height;
            const int64_t t = row / region.height % latents;
            const int64_t group = row / region.height / latents;
            const auto latent = static_cast<uint64_t>(first_latent + t);
            float *const to =
                out + group * channels_per_draw * channel_stride + (t * region.height + y) * region.width;
            for (int64_t x = 0; x < region.width; x += lanes) {
                for (int i = 0; i < lanes; i++) {
                    words.word[0][i] = static_cast<uint32_t>(region.x + x + i);
                    words.word[1][i] = static_cast<uint32_t>(region.y + y);
                    words.word[2][i] = static_cast<uint32_t>(latent);
                    words.word[3][i] =
                        static_cast<uint32_t>(group) + static_cast<uint32_t>(groups * (latent >> 32));
                }
                philox_lanes(words, key0, key1);
                box_muller_lanes(words.word[0], words.word[1], normal[0], normal[1]);
                box_muller_lanes(words.word[2], words.word[3], normal[2], normal[3]);
                const int64_t count = std::min<int64_t>(lanes, region.width - x);
                for (int64_t c = 0; c < channels_per_draw; c++)
                    std::copy_n(normal[c], count, to + c * channel_stride + x);
            }
        }
    });
    return noise;
}

} // namespace flashvsr
