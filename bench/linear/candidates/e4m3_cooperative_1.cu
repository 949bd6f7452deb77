// SPDX-License-Identifier: LGPL-2.1-or-later
#include "../candidate.cuh"

namespace linear_bench {

namespace {
const Family<LinearElement::e4m3, Cooperative, 256, 128, 2, 1> coop_256x128_2x1("coop 256x128 c2x1");
const Family<LinearElement::e4m3, Cooperative, 256, 128, 1, 2> coop_256x128_1x2("coop 256x128 c1x2");
const Family<LinearElement::e4m3, Cooperative, 256, 192, 1, 2> coop_256x192_1x2("coop 256x192 c1x2");
} // namespace

} // namespace linear_bench
