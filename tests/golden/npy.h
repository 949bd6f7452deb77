// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>

namespace flashvsr::golden {

/// Read a NumPy .npy file (format 1 to 3, C order, little endian; bool, uint8, int32, int64, float32 or
/// float64). Throws ENOENT or EACCES for a file that cannot be opened, and EBADMSG with a sentence that names
/// the file for one that is anything else, is cut off, or is longer than its header says.
at::Tensor read_npy(const std::filesystem::path &path);

} // namespace flashvsr::golden
