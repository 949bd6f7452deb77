// SPDX-License-Identifier: LGPL-2.1-or-later
#include "weights/model_config.h"

#include "error.h"
#include "weights/describe.h"
#include "weights/mapped_file.h"

#include <nlohmann/json.hpp>

namespace flashvsr {

namespace {

constexpr size_t max_config_bytes = size_t{1} << 20;

/// The string of a field, or nothing where the field is not given.
std::optional<std::string> text_field(const std::string &file, const nlohmann::json &config,
                                      const char *field) {
    const auto found = config.find(field);
    if (found == config.end())
        return std::nullopt;
    if (!found->is_string())
        fail(EBADMSG, file, ": field \"", field, "\" is not a string");
    return found->get<std::string>();
}

} // namespace

const char *color_fix_name(ColorFix color_fix) {
    switch (color_fix) {
    case ColorFix::none:
        return "none";
    case ColorFix::adain:
        return "adain";
    case ColorFix::wavelet:
        return "wavelet";
    }
    return "";
}

ModelConfig read_model_config(const std::filesystem::path &path) {
    const std::string file = path.string();
    const std::shared_ptr<const MappedFile> map = map_file(path);
    if (map->size() > max_config_bytes)
        fail(EBADMSG, file, ": ", map->size(), " bytes are too many for a model's configuration");
    const char *text = reinterpret_cast<const char *>(map->data());
    const nlohmann::json json = nlohmann::json::parse(text, text + map->size(), nullptr, false);
    if (!json.is_object())
        fail(EBADMSG, file, ": not a JSON object");

    ModelConfig config;
    if (const auto version = text_field(file, json, "version")) {
        if (*version == version_name(Version::v1))
            config.version = Version::v1;
        else if (*version == version_name(Version::v1_1))
            config.version = Version::v1_1;
        else
            fail(EBADMSG, file, ": field \"version\" is ", quote(*version), "; \"1\" and \"1.1\" are known");
    }
    if (const auto wished = text_field(file, json, "color_fix")) {
        for (const ColorFix color_fix : {ColorFix::none, ColorFix::adain, ColorFix::wavelet})
            if (*wished == color_fix_name(color_fix))
                config.color_fix = color_fix;
        if (!config.color_fix)
            fail(EBADMSG, file, ": field \"color_fix\" is ", quote(*wished),
                 "; \"none\", \"adain\" and \"wavelet\" are known");
    }
    config.name = text_field(file, json, "name").value_or("");
    config.licence = text_field(file, json, "licence").value_or("");
    return config;
}

void write_model_config(const std::filesystem::path &path, const ModelConfig &config) {
    nlohmann::ordered_json json = nlohmann::ordered_json::object();
    if (!config.name.empty())
        json["name"] = config.name;
    if (config.version)
        json["version"] = version_name(*config.version);
    if (config.color_fix)
        json["color_fix"] = color_fix_name(*config.color_fix);
    if (!config.licence.empty())
        json["licence"] = config.licence;
    const std::string text =
        json.dump(4, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
    write_file(path, [&](const ByteSink &write) { write(text.data(), text.size()); });
}

} // namespace flashvsr
