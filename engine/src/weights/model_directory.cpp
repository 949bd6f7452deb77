// SPDX-License-Identifier: LGPL-2.1-or-later
#include "weights/model_directory.h"

#include "error.h"
#include "weights/describe.h"
#include "weights/safetensors.h"
#include "weights/torch_archive.h"

#include <ATen/ops/aminmax.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <string_view>
#include <system_error>
#include <vector>

namespace flashvsr {

namespace fs = std::filesystem;

namespace {

[[noreturn]] void fail_with(const std::error_code &error, const fs::path &path, const char *action) {
    fail(error.value(), path.string(), ": cannot ", action, ": ", std::strerror(error.value()));
}

/// The directory's own name, also of "." and of a path that ends in a slash.
std::string directory_name(const fs::path &directory) {
    std::error_code error;
    fs::path path = fs::absolute(directory, error).lexically_normal();
    if (!path.has_filename())
        path = path.parent_path();
    return path.filename().string();
}

void check_directory(const fs::path &directory) {
    std::error_code error;
    const fs::file_status status = fs::status(directory, error);
    if (status.type() == fs::file_type::not_found)
        fail(ENOENT, directory.string(), ": the model directory does not exist");
    if (error)
        fail_with(error, directory, "look into the model directory");
    if (!fs::is_directory(status))
        fail(ENOENT, directory.string(), ": not a directory; a model is a directory with ", dit_file_name,
             " and its companions");
    const fs::directory_iterator entries(directory, error);
    if (error)
        fail_with(error, directory, "look into the model directory");
    if (entries == fs::directory_iterator())
        fail(ENOENT, directory.string(), ": the model directory is empty");
}

bool is_there(const fs::path &path) {
    std::error_code error;
    const fs::file_type type = fs::status(path, error).type();
    // A file that cannot be examined is opened all the same, which says why.
    return type != fs::file_type::not_found;
}

void require(const fs::path &directory, const char *name) {
    if (!is_there(directory / name))
        fail(ENOENT, directory.string(), ": the model directory has no file ", name);
}

/// The published repository has the prompt in examples/WanVSR/prompt_tensor/ and expects the weights in a
/// folder beside that one; people also put the weights at its top, or the prompt with the weights.
fs::path find_prompt(const fs::path &directory) {
    const std::string folder = "prompt_tensor";
    const fs::path up = directory / "..";
    for (const fs::path &place :
         {directory, directory / folder, up, up / folder, up / ".." / folder,
          up / "examples" / "WanVSR" / folder, up / ".." / "examples" / "WanVSR" / folder}) {
        fs::path path = place / prompt_file_name;
        if (is_there(path))
            return path;
    }
    fail(ENOENT, directory.string(), ": the model directory has no file ", prompt_file_name,
         ", which is published apart from the weights, in the FlashVSR source repository under "
         "examples/WanVSR/prompt_tensor/; put it into the model directory");
}

/// Whether text has a digit at an index, or a separator and a digit: whether a number goes on there.
bool number_goes_on(std::string_view text, size_t index) {
    const auto digit = [&](size_t i) { return i < text.size() && text[i] >= '0' && text[i] <= '9'; };
    const bool separator = index < text.size() && (text[index] == '.' || text[index] == '_');
    return digit(index) || (separator && digit(index + 1));
}

/// Whether name holds part as a whole number: "v1" is in "v1-bf16", but not in "v1.2" or "v12".
bool has_number(std::string_view name, std::string_view part) {
    for (size_t at = 0; (at = name.find(part, at)) != std::string_view::npos; at++) {
        const std::string before(name.rend() - static_cast<ptrdiff_t>(at), name.rend());
        if (!number_goes_on(before, 0) && !number_goes_on(name, at + part.size()))
            return true;
    }
    return false;
}

/// The release that a directory's name tells.
std::optional<Version> version_of_name(std::string name) {
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    if (has_number(name, "1.1") || has_number(name, "1_1"))
        return Version::v1_1;
    // The first release was published as plain "FlashVSR".
    if (has_number(name, "v1") || name == "flashvsr")
        return Version::v1;
    return std::nullopt;
}

Version choose_version(const fs::path &directory, std::optional<Version> asked,
                       std::optional<Version> configured, const Log &log) {
    if (asked)
        return *asked;
    if (configured)
        return *configured;
    if (const std::optional<Version> named = version_of_name(directory_name(directory)))
        return *named;
    log(LogLevel::info, directory.string(),
        ": neither config.json nor the directory's name says which release the model is of; 1.1 is assumed");
    return Version::v1_1;
}

void check_finite(const std::string &file, const std::string &tensor, const at::Tensor &values) {
    if (values.numel() == 0)
        return;
    // One pass that needs no memory: a NaN comes out of both, an infinity out of one.
    const auto [low, high] = at::aminmax(values);
    if (!std::isfinite(low.item<float>()) || !std::isfinite(high.item<float>()))
        fail(EBADMSG, file, ": ", tensor, " has values that are NaN or infinite");
}

void check_finite(const std::string &file, const TensorMap &tensors) {
    for (const auto &[name, values] : tensors)
        check_finite(file, "tensor " + quote(name), values);
}

} // namespace

ModelInfo read_model_info(const fs::path &directory, std::optional<Version> version, const Log &log) {
    check_directory(directory);
    for (const char *name : {dit_file_name, lq_projector_file_name, decoder_file_name})
        require(directory, name);
    const fs::path prompt_path = find_prompt(directory);
    const fs::path config_path = directory / config_file_name;
    const ModelConfig config = is_there(config_path) ? read_model_config(config_path) : ModelConfig();

    ModelInfo info;
    info.directory = directory;
    info.version = choose_version(directory, version, config.version, log);
    info.color_fix = config.color_fix;
    info.name = config.name.empty() ? directory_name(directory) : config.name;
    info.licence = config.licence;
    info.files = {(directory / dit_file_name).string(), (directory / lq_projector_file_name).string(),
                  (directory / decoder_file_name).string(), prompt_path.string()};
    return info;
}

ModelWeights load_weights(const ModelInfo &info, const Log &log) {
    ModelWeights weights{info, {}, {}, {}, {}, {}};
    const WeightFileNames &files = info.files;
    weights.dit = read_safetensors(files.dit);
    weights.lq_projector = read_torch_archive(files.lq_projector);
    weights.decoder = read_torch_archive(files.decoder);
    weights.prompt = read_torch_tensor(files.prompt);
    weights.shape = infer_shape(weights.dit, weights.lq_projector, weights.decoder, weights.prompt, files);

    check_finite(files.dit, weights.dit);
    check_finite(files.lq_projector, weights.lq_projector);
    check_finite(files.decoder, weights.decoder);
    check_finite(files.prompt, "the tensor", weights.prompt);

    const NetworkShape &shape = weights.shape;
    log(LogLevel::verbose, info.directory.string(), ": model ", quote(info.name), ", version ",
        version_name(info.version), ", width ", shape.dim, ", ", shape.blocks, " blocks, prompt ",
        files.prompt);
    return weights;
}

ModelWeights load_model_directory(const fs::path &directory, std::optional<Version> version, const Log &log) {
    return load_weights(read_model_info(directory, version, log), log);
}

void save_model_directory(const fs::path &directory, const ModelWeights &weights) {
    std::error_code error;
    fs::create_directories(directory, error);
    if (error)
        fail_with(error, directory, "create the directory");
    write_model_config(directory / config_file_name,
                       {weights.version, weights.color_fix, weights.name, weights.licence});
    write_safetensors(directory / dit_file_name, weights.dit);
    write_torch_archive(directory / lq_projector_file_name, weights.lq_projector);
    write_torch_archive(directory / decoder_file_name, weights.decoder);
    write_torch_tensor(directory / prompt_file_name, weights.prompt);
}

} // namespace flashvsr
