// SPDX-License-Identifier: LGPL-2.1-or-later
#include "../candidate.cuh"

namespace linear_bench {

namespace {
const Family<LinearElement::bf16, Cooperative, 256, 128, 1, 2> coop_256x128_1x2("coop 256x128 c1x2");
const Family<LinearElement::bf16, Cooperative, 256, 192, 1, 1> coop_256x192_1x1("coop 256x192 c1x1");
const Family<LinearElement::bf16, Cooperative, 256, 192, 1, 2> coop_256x192_1x2("coop 256x192 c1x2");
const Family<LinearElement::bf16, Cooperative, 128, 256, 2, 1, cute::Shape<cute::_128, cute::_64>>
    coop_128x256_2x1_e64("coop 128x256 c2x1 e64");
} // namespace

} // namespace linear_bench
