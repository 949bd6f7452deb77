// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "weights/version.h"

#include <filesystem>
#include <optional>
#include <string>

namespace flashvsr {

/// How the decoded frames' colours are matched to the input's.
enum class ColorFix { none, adain, wavelet };

/// "none", "adain" or "wavelet", as in config.json and in the options.
const char *color_fix_name(ColorFix color_fix);

/// What a model directory's config.json says. Every field is optional there.
struct ModelConfig {
    std::optional<Version> version;
    std::optional<ColorFix> color_fix;
    std::string name, licence; ///< "" where not given
};

/// Read a config.json. Fields that are not ours are ignored.
/// Throws EBADMSG for a file that is not a JSON object and for a field with a value it cannot have, and
/// what map_file() throws.
ModelConfig read_model_config(const std::filesystem::path &path);

/// Write a config.json with the fields that are set. Throws an Error with the code of the failed call.
void write_model_config(const std::filesystem::path &path, const ModelConfig &config);

} // namespace flashvsr
