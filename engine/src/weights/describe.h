// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <c10/core/ScalarType.h>
#include <c10/util/ArrayRef.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace flashvsr {

/// text in double quotes, fit for one line of a log: bytes that are not printable ASCII are escaped, and
/// a long text is cut.
std::string quote(std::string_view text);

/// As "(2, 3, 4)".
std::string shape_text(at::IntArrayRef shape);

/// Whether weights may be of this type: float32, float16, bfloat16.
bool is_weight_type(at::ScalarType dtype);

} // namespace flashvsr
