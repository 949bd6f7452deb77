// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "model/model.h"
#include "weights/mapped_file.h"

#include <functional>
#include <memory>
#include <vector>

namespace flashvsr {

/// What makes two networks the same.
struct ModelKey {
    std::vector<FileStamp> files;
    Version version = Version::v1_1;
    Placement placement;
    bool take_turns = false; ///< as Model()

    bool operator==(const ModelKey &) const = default;
};

/// The key of a model's files as they are now.
/// @throws Error ENOENT, EACCES or another code where one cannot be looked at
ModelKey model_key(const ModelInfo &info, const Placement &placement, bool take_turns);

/// A network and the number of its other users.
struct SharedModel {
    std::shared_ptr<const Model> model;
    int64_t others = 0; ///< those who still wait for it among them
};

/// The network of that key: the one that others in this process have, or a new one. Those who ask for one
/// that is being loaded wait for it; whoever wants another one does not. It is freed with its last user,
/// once its device has done what was queued. Thread-safe.
/// @param load makes it, on its device, finished; what it throws is thrown here and forgotten: of those who
///             wait, the next tries in its turn
SharedModel share_model(const ModelKey &key, const std::function<std::unique_ptr<const Model>()> &load);

/// How many networks of this process have users. Thread-safe. For tests.
int64_t shared_model_count();

} // namespace flashvsr
