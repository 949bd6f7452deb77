// SPDX-License-Identifier: LGPL-2.1-or-later
#include "weights/describe.h"

#include <cstdio>

namespace flashvsr {

std::string quote(std::string_view text) {
    constexpr size_t limit = 120;
    std::string out = "\"";
    for (const unsigned char c : text.substr(0, limit)) {
        if (c == '"' || c == '\\') {
            out += '\\';
            out += static_cast<char>(c);
        } else if (c < 0x20 || c >= 0x7f) {
            char escape[5];
            std::snprintf(escape, sizeof(escape), "\\x%02x", c);
            out += escape;
        } else {
            out += static_cast<char>(c);
        }
    }
    return out + (text.size() > limit ? "...\"" : "\"");
}

std::string shape_text(at::IntArrayRef shape) {
    std::string out = "(";
    for (size_t i = 0; i < shape.size(); i++)
        out += (i ? ", " : "") + std::to_string(shape[i]);
    return out + ")";
}

bool is_weight_type(at::ScalarType dtype) {
    return dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16;
}

} // namespace flashvsr
