// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "weights/model_directory.h"

#include <c10/core/ScalarType.h>

#include <cstdint>

namespace flashvsr {

/// The published models' sizes: 1.4 billion parameters in the transformer, 5.7 GB in fp32.
NetworkShape official_shape();

/// The smallest sizes that have every part of the network.
NetworkShape miniature_shape();

/// Weights of a given shape drawn at random, scaled so that activations stay of order 1 and the decoder's
/// output lies mostly in [0, 1]. Each tensor depends on the seed, its name and its shape alone.
///
/// dtype is float32, float16 or bfloat16 (else EINVAL). The shape's sizes must be ones that infer_shape()
/// gives back (else EINVAL naming the size). Name and version are set; the rest is left empty.
ModelWeights random_weights(const NetworkShape &shape, at::ScalarType dtype, uint64_t seed);

} // namespace flashvsr
