// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "weights_support.h"

/// Pieces of pickle programs, each of which pushes one value, as Python's torch.save writes them.
namespace flashvsr::test::pickle {

inline std::string text(const std::string &value) {
    return "X" + bytes_of(static_cast<uint32_t>(value.size())) + value;
}

inline std::string number(int64_t value) {
    return "\x8a\x08" + bytes_of(value);
}

inline std::string numbers(const std::vector<int64_t> &values) {
    std::string out = "(";
    for (const int64_t value : values)
        out += number(value);
    return out + "t";
}

inline std::string storage(const std::string &type, const std::string &key, int64_t numel) {
    return "(" + text("storage") + "ctorch\n" + type + "\n" + text(key) + text("cpu") + number(numel) + "tQ";
}

inline std::string tensor(const std::string &storage, int64_t offset, const std::vector<int64_t> &sizes,
                          const std::vector<int64_t> &strides) {
    return "ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + numbers(sizes) +
           numbers(strides) +
           "\x89"
           "ccollections\nOrderedDict\n)RtR";
}

/// A whole program.
inline std::string dict(const std::vector<std::pair<std::string, std::string>> &items) {
    std::string out = "\x80\x02}(";
    for (const auto &[key, value] : items)
        out += text(key) + value;
    return out + "u.";
}

} // namespace flashvsr::test::pickle
