// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <ATen/core/Tensor.h>

namespace flashvsr {

/// The key blocks of every query block. Row lists instead of a mask: rows have very different lengths,
/// may be empty, and need no host to be walked.
struct BlockLists {
    at::Tensor counts;  ///< (B, heads, query_windows) int32
    at::Tensor indices; ///< (B, heads, query_windows, key_windows) int32, the first counts ascending
};

} // namespace flashvsr
