// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "model/dit.h"
#include "model/lq_projector.h"
#include "model/tc_decoder.h"
#include "weights/model_directory.h"

namespace flashvsr {

/// The network's weights on one device, ready to run. Immutable: any number of streams and threads
/// share one.
struct Model {
    Model(const ModelWeights &weights, const Placement &placement);

    Placement placement;
    LqProjector lq_projector;
    Dit dit;
    TcDecoder decoder;
    int64_t bytes; ///< of all parameters in the placement's precision
};

} // namespace flashvsr
