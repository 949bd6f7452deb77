// SPDX-License-Identifier: LGPL-2.1-or-later
#include "../candidate.cuh"

namespace linear_bench {

namespace {
const Family<LinearElement::e4m3, PingPong, 128, 160, 2, 1> pp_128x160_2x1("pp 128x160 c2x1");
const Family<LinearElement::e4m3, PingPong, 128, 192, 1, 1> pp_128x192_1x1("pp 128x192 c1x1");
const Family<LinearElement::e4m3, PingPong, 128, 192, 2, 1> pp_128x192_2x1("pp 128x192 c2x1");
const Family<LinearElement::e4m3, PingPong, 128, 192, 1, 2> pp_128x192_1x2("pp 128x192 c1x2");
} // namespace

} // namespace linear_bench
