// SPDX-License-Identifier: LGPL-2.1-or-later
#include "../candidate.cuh"

namespace linear_bench {

namespace {
const Family<LinearElement::e4m3, Cooperative, 128, 256, 1, 1> coop_128x256_1x1("coop 128x256 c1x1");
const Family<LinearElement::e4m3, Cooperative, 128, 256, 2, 1> coop_128x256_2x1("coop 128x256 c2x1");
const Family<LinearElement::e4m3, Cooperative, 128, 256, 1, 2> coop_128x256_1x2("coop 128x256 c1x2");
} // namespace

} // namespace linear_bench
