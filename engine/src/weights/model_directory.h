// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "log.h"
#include "weights/model_config.h"
#include "weights/network_shape.h"
#include "weights/tensor_map.h"

#include <filesystem>
#include <optional>
#include <string>

namespace flashvsr {

/// File names of a model directory, as published.
inline constexpr const char *dit_file_name = "diffusion_pytorch_model_streaming_dmd.safetensors";
inline constexpr const char *lq_projector_file_name = "LQ_proj_in.ckpt";
inline constexpr const char *decoder_file_name = "TCDecoder.ckpt";
inline constexpr const char *prompt_file_name = "posi_prompt.pth";
inline constexpr const char *config_file_name = "config.json";

/// What a model is beside its weights.
struct ModelInfo {
    Version version = Version::v1_1;
    std::optional<ColorFix> color_fix; ///< what config.json wishes, if it does
    std::string name;                  ///< of config.json, else the directory's
    std::string licence;               ///< of config.json, "" if it says none
    std::filesystem::path directory;
    WeightFileNames files; ///< paths
};

/// All weights of a model, in the types and layouts they are stored in.
struct ModelWeights : ModelInfo {
    NetworkShape shape;
    TensorMap dit, lq_projector, decoder;
    at::Tensor prompt; ///< (1, text_length, text_dim)
};

/// Look into a model directory: the published files and, optionally, a config.json of ours. Only the latter
/// is read.
///
/// The prompt is published apart from the weights, so it is also looked for where the published
/// repository keeps it relative to the weights.
///
/// @param version the release, where the user gave one; otherwise it is taken from config.json, then from
///                the directory's name, then assumed to be 1.1, which is logged
///
/// Throws ENOENT or EACCES for a directory or file that is not there or cannot be read, EBADMSG for a
/// config.json that is not what it should be.
ModelInfo read_model_info(const std::filesystem::path &directory, std::optional<Version> version,
                          const Log &log);

/// Read and check the weights. They are memory-mapped: a file must not be changed or truncated while its
/// tensors live.
///
/// Throws ENOENT or EACCES for a file that is not there or cannot be read, EBADMSG for one that is not what
/// it should be: format, type, names, shapes, values that are not finite.
ModelWeights load_weights(const ModelInfo &info, const Log &log);

/// Both of the above.
ModelWeights load_model_directory(const std::filesystem::path &directory, std::optional<Version> version,
                                  const Log &log);

/// Write the published layout and a config.json, creating the directory where it is missing and
/// replacing files of the same names. Throws an Error with the code of the failed call.
void save_model_directory(const std::filesystem::path &directory, const ModelWeights &weights);

} // namespace flashvsr
