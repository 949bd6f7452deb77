// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "manifest.h"
#include "model/model.h"

#include <map>
#include <memory>
#include <string>

namespace flashvsr::golden {

struct LoadedModel {
    ModelWeights weights;
    Model model;
};

/// The models of a golden folder, each loaded once.
class ModelCache {
public:
    ModelCache(const Manifest &manifest, const Placement &placement)
        : manifest_(manifest), placement_(placement) {}

    const Placement &placement() const { return placement_; }

    /// The model in that folder below the golden folder. Throws what loading throws.
    const LoadedModel &load(const std::string &folder);

    /// The model that parts/<version>/... was recorded from.
    const LoadedModel &of_parts(const std::string &version) { return load(parts_folder(manifest_, version)); }

    /// Its folder: that of a case with a model of this name or release, else models/<version>.
    static std::string parts_folder(const Manifest &manifest, const std::string &version);

private:
    const Manifest &manifest_;
    Placement placement_;
    std::map<std::string, std::unique_ptr<const LoadedModel>> models_;
};

} // namespace flashvsr::golden
