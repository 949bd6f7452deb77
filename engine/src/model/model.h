// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "model/dit.h"
#include "model/lq_projector.h"
#include "model/tc_decoder.h"
#include "weights/model_directory.h"

#include <memory>
#include <mutex>

namespace flashvsr {

/// What takes turns on a device whose memory is short: the transformer with the LQ projector, the decoder.
enum class Part { transformer, decoder };

/// Bytes of the weights that come to the device for a part's turn; 0 for those that stay there.
struct TurnBytes {
    int64_t transformer = 0, decoder = 0;
};

/// The network's weights on one device, ready to run. Immutable: any number of streams and threads
/// share one.
struct Model {
    /// @param take_turns keep the weights in host memory, from where each part's come for its turn()
    Model(const ModelWeights &weights, const Placement &placement, bool take_turns = false);
    Model(Model &&) noexcept;
    ~Model();

    /// While what it returns lives, the part's weights are on the device, and the other part's may not be.
    /// Streams that share the model wait for each other's turns. Where weights stay on the device this does
    /// nothing.
    /// @throws Error or c10::Error where the weights do not fit; the next turn tries again
    [[nodiscard]] std::unique_lock<std::mutex> turn(Part part) const;

    TurnBytes turn_bytes() const;

    NetworkShape shape;
    Placement placement;
    LqProjector lq_projector;
    Dit dit;
    TcDecoder decoder;
    int64_t bytes = 0; ///< of everything that it keeps

private:
    class Turns;
    std::unique_ptr<Turns> turns_;
};

} // namespace flashvsr
