// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "weights/tensor_map.h"

#include <filesystem>

namespace flashvsr {

/// Read what torch.save wrote of a flat dict name -> tensor, optionally nested one level under
/// "model_state" or "state_dict". Tensors are of type float32, float16 or bfloat16.
///
/// The archive's pickle program is interpreted with a closed list of classes (tensors, storages,
/// OrderedDict): nothing in it is run, and any other class is refused. The file is memory-mapped; tensors
/// are read-only views that keep the mapping alive, checked against the bounds of their storage. Throws
/// ENOENT, EACCES or another code of the failed call where the file cannot be read, and EBADMSG where its
/// contents are not such an archive; the sentence names the file and what was wrong.
TensorMap read_torch_archive(const std::filesystem::path &path);

/// As read_torch_archive(), for an archive that holds one tensor and nothing around it.
at::Tensor read_torch_tensor(const std::filesystem::path &path);

/// Write an archive that torch.load reads as a dict, also with weights_only=True.
///
/// Tensors are of type float32, float16 or bfloat16. The file appears under its name only once it is
/// complete. Throws EINVAL for a tensor of another type, or an Error with the code of the failed call.
void write_torch_archive(const std::filesystem::path &path, const TensorMap &tensors);

/// As write_torch_archive(), for one tensor.
void write_torch_tensor(const std::filesystem::path &path, const at::Tensor &tensor);

} // namespace flashvsr
