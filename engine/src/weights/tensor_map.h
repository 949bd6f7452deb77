// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>

namespace flashvsr {

/// The tensors of a weight file by name. Tensors that were read from a file may be views of read-only
/// memory: they must not be written to.
using TensorMap = std::map<std::string, at::Tensor>;

} // namespace flashvsr
