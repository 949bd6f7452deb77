// SPDX-License-Identifier: LGPL-2.1-or-later
#include "model_cache.h"

#include "error.h"

#include <nlohmann/json.hpp>

#include <fstream>

namespace flashvsr::golden {
namespace {

/// The release as the folder's oracle_config.json has it, "" without one. The published files do not tell the
/// releases apart, so this is the one field a port needs of that file.
std::string release_of(const std::filesystem::path &folder) {
    std::ifstream file(folder / "oracle_config.json");
    if (!file)
        return "";
    const auto json = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains("version") || !json["version"].is_string())
        fail(EBADMSG, (folder / "oracle_config.json").string(), " is not a JSON object with a 'version'");
    return json["version"].get<std::string>();
}

std::optional<Version> version_of(const std::filesystem::path &folder) {
    const std::string release = release_of(folder);
    if (release.empty())
        return std::nullopt;
    if (release == "v1.1" || release == "1.1")
        return Version::v1_1;
    if (release == "v1" || release == "1")
        return Version::v1;
    fail(EBADMSG, (folder / "oracle_config.json").string(), " has the unknown version '", release, "'");
}

} // namespace

const LoadedModel &ModelCache::load(const std::string &folder) {
    std::unique_ptr<const LoadedModel> &slot = models_[folder];
    if (!slot) {
        const std::filesystem::path path = manifest_.folder / folder;
        ModelWeights weights = load_model_directory(path, version_of(path), Log());
        Model model(weights, placement_);
        slot = std::make_unique<const LoadedModel>(LoadedModel{std::move(weights), std::move(model)});
    }
    return *slot;
}

std::string ModelCache::parts_folder(const Manifest &manifest, const std::string &version) {
    for (const Case &c : manifest.cases)
        if (std::filesystem::path(c.model).filename() == version)
            return c.model;
    for (const Case &c : manifest.cases)
        if (release_of(manifest.folder / c.model) == version)
            return c.model;
    return "models/" + version;
}

} // namespace flashvsr::golden
