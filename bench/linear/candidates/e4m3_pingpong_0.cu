// SPDX-License-Identifier: LGPL-2.1-or-later
#include "../candidate.cuh"

namespace linear_bench {

namespace {
const Family<LinearElement::e4m3, PingPong, 128, 128, 1, 1> pp_128x128_1x1("pp 128x128 c1x1");
const Family<LinearElement::e4m3, PingPong, 128, 128, 2, 1> pp_128x128_2x1("pp 128x128 c2x1");
const Family<LinearElement::e4m3, PingPong, 128, 128, 1, 2> pp_128x128_1x2("pp 128x128 c1x2");
const Family<LinearElement::e4m3, PingPong, 64, 256, 2, 1> pp_64x256_2x1("pp 64x256 c2x1");
} // namespace

} // namespace linear_bench
