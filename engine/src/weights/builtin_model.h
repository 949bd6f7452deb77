// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <filesystem>

namespace flashvsr {

/// The directory of the model that is used when none is named.
///
/// The environment variable FLASHVSR_MODEL_DIR, where set, is the only place looked at: a model
/// directory, or a folder that holds the default model's. Otherwise the default model is looked for
/// relative to this library's file, then under the install prefix, then in the source tree. Throws
/// ENOENT with a sentence that lists where it looked.
std::filesystem::path builtin_model_directory();

} // namespace flashvsr
