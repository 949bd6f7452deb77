// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "ops/host_device.h"

#include <cmath>
#include <cstdint>
#include <cstring>

/// The arithmetic of the noise, one counter at a time, the same on every device. Its additions and
/// multiplications must be rounded one by one: what includes this is compiled without contraction.
namespace flashvsr::philox {

constexpr int rounds = 10;
// The generator's multipliers and key increments (Weyl sequences of the golden ratio and of sqrt(3) - 1).
constexpr uint32_t multiplier0 = 0xD2511F53, multiplier1 = 0xCD9E8D57;
constexpr uint32_t weyl0 = 0x9E3779B9, weyl1 = 0xBB67AE85;

FLASHVSR_HOST_DEVICE inline void round(uint32_t &word0, uint32_t &word1, uint32_t &word2, uint32_t &word3,
                                       uint32_t key0, uint32_t key1) {
    const uint64_t product0 = static_cast<uint64_t>(multiplier0) * word0;
    const uint64_t product1 = static_cast<uint64_t>(multiplier1) * word2;
    word0 = static_cast<uint32_t>(product1 >> 32) ^ word1 ^ key0;
    word1 = static_cast<uint32_t>(product1);
    word2 = static_cast<uint32_t>(product0 >> 32) ^ word3 ^ key1;
    word3 = static_cast<uint32_t>(product0);
}

template <typename To, typename From> FLASHVSR_HOST_DEVICE inline To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof(to));
    return to;
}

/// -2 ln(v / 2^32) for v >= 1: the logarithm of the mantissa m in [sqrt(1/2), sqrt(2)) is 2 artanh(s),
/// s = (m - 1) / (m + 1), whose series is below float's resolution after five terms.
FLASHVSR_HOST_DEVICE inline float minus_two_log(uint32_t v) {
    constexpr int32_t sqrt_half = 0x3F3504F3;
    constexpr float ln2 = 0.693147181f;
    const int32_t bits = bits_as<int32_t>(static_cast<float>(v)) - sqrt_half;
    const int32_t exponent = bits >> 23;
    const float mantissa = bits_as<float>((bits & 0x007FFFFF) + sqrt_half);
    const float s = (mantissa - 1.0f) / (mantissa + 1.0f);
    const float z = s * s;
    const float tail = z * (0.666666667f + z * (0.4f + z * (0.285714286f + z * 0.222222222f)));
    const float log_mantissa = s * (2.0f + tail);
    return 2.0f * (static_cast<float>(32 - exponent) * ln2 - log_mantissa);
}

/// Two normals from two words (Box and Muller).
FLASHVSR_HOST_DEVICE inline void box_muller(uint32_t radius_word, uint32_t angle_word, float &normal0,
                                            float &normal1) {
    constexpr float quarter_turn = 1.57079633f / 4294967296.0f;
    // The largest argument of the square root is 2 * 32 ln 2, the smallest is 0.
    const float radius = sqrtf(minus_two_log(radius_word | 1U));
    // Within an eighth of a turn of the quadrant's axis, where short series do.
    const auto offset = bits_as<int32_t>(angle_word << 2);
    const float a = static_cast<float>(offset) * quarter_turn;
    const float z = a * a;
    const float sine =
        a + a * z * (-0.166666667f + z * (8.33333333e-3f + z * (-1.98412698e-4f + z * 2.75573192e-6f)));
    const float cosine =
        1.0f + z * (-0.5f + z * (4.16666667e-2f + z * (-1.38888889e-3f + z * 2.48015873e-5f)));
    const uint32_t quadrant = angle_word >> 30;
    const float along = quadrant & 1U ? -sine : cosine;
    const float across = quadrant & 1U ? cosine : sine;
    const float sign = quadrant & 2U ? -radius : radius;
    normal0 = sign * along;
    normal1 = sign * across;
}

} // namespace flashvsr::philox
