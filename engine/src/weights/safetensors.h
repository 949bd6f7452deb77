// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "weights/tensor_map.h"

#include <filesystem>

namespace flashvsr {

/// Read a safetensors file with tensors of type F32, F16 or BF16.
///
/// The file is memory-mapped; tensors are read-only views that keep the mapping alive. Only one whose
/// offset is misaligned for its type is copied. Throws ENOENT, EACCES or another code of the failed call
/// where the file cannot be read, and EBADMSG where its contents are not a valid file of that format; the
/// sentence names the file and, where there is one, the tensor.
TensorMap read_safetensors(const std::filesystem::path &path);

/// Write tensors of type F32, F16 or BF16, in the order of their names.
///
/// The file appears under its name only once it is complete. Throws EINVAL for a tensor of another type
/// or a name that is not UTF-8, or an Error with the code of the failed call.
void write_safetensors(const std::filesystem::path &path, const TensorMap &tensors);

} // namespace flashvsr
