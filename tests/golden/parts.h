// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "model_cache.h"
#include "report.h"

#include <optional>
#include <string>

namespace flashvsr::golden {

/// A group parts/<version>/<kind>.
struct PartsGroup {
    std::string version, kind;
};

/// The parts of a group's name, or nullopt for a name of another form.
std::optional<PartsGroup> parse_parts_group(const std::string &group);

enum class PartState {
    built,
    recorded,  ///< compared during the end-to-end case that names the group
    not_built, ///< of the full pipeline
    unknown,
};

PartState part_state(const std::string &kind);

/// Whether the part's goldens come from a model's weights.
bool part_needs_model(const std::string &kind);

/// Run a built part on the group's inputs and compare what it gives. Throws what the engine throws.
void run_part(const std::string &group, const PartsGroup &part, ModelCache &models, Report &report);

} // namespace flashvsr::golden
