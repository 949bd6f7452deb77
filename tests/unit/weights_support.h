// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "error.h"
#include "weights/random_weights.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace flashvsr::test {

/// A folder of its own for a test, removed at the end.
class TemporaryDirectory {
public:
    TemporaryDirectory() {
        std::string name = (std::filesystem::temp_directory_path() / "flashvsr-test-XXXXXX").string();
        if (!mkdtemp(name.data()))
            throw std::runtime_error("cannot create " + name);
        path_ = name;
    }
    ~TemporaryDirectory() {
        std::error_code error;
        std::filesystem::remove_all(path_, error);
    }
    TemporaryDirectory(const TemporaryDirectory &) = delete;
    TemporaryDirectory &operator=(const TemporaryDirectory &) = delete;

    std::filesystem::path operator/(const std::filesystem::path &name) const { return path_ / name; }
    const std::filesystem::path &path() const { return path_; }

private:
    std::filesystem::path path_;
};

inline void write_bytes(const std::filesystem::path &path, std::string_view bytes) {
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    ASSERT_TRUE(out.flush()) << path;
}

inline std::string read_bytes(const std::filesystem::path &path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

/// The little-endian bytes of a number.
template <typename T> std::string bytes_of(T value) {
    return {reinterpret_cast<const char *>(&value), sizeof(value)};
}

/// That a call throws an Error with this code and one line that holds all of these parts.
template <typename Call>
void expect_error(int code, std::initializer_list<std::string_view> parts, const Call &call) {
    try {
        call();
        ADD_FAILURE() << "nothing was thrown";
    } catch (const Error &error) {
        const std::string sentence = error.what();
        EXPECT_EQ(error.code(), code) << sentence;
        for (const std::string_view part : parts)
            EXPECT_NE(sentence.find(part), std::string::npos) << part << " is not in: " << sentence;
        EXPECT_EQ(sentence.find('\n'), std::string::npos) << sentence;
    }
}

/// Same type, shape and bits.
inline void expect_same(const at::Tensor &a, const at::Tensor &b) {
    ASSERT_EQ(a.scalar_type(), b.scalar_type());
    ASSERT_EQ(a.sizes(), b.sizes());
    const at::Tensor x = a.contiguous();
    const at::Tensor y = b.contiguous();
    EXPECT_EQ(std::string_view(static_cast<const char *>(x.data_ptr()), x.nbytes()),
              std::string_view(static_cast<const char *>(y.data_ptr()), y.nbytes()));
}

inline void expect_same(const TensorMap &a, const TensorMap &b) {
    ASSERT_EQ(a.size(), b.size());
    for (const auto &[name, tensor] : a) {
        SCOPED_TRACE(name);
        ASSERT_TRUE(b.contains(name));
        expect_same(tensor, b.at(name));
    }
}

/// A zip file of uncompressed entries, without check sums.
inline std::string zip(const std::vector<std::pair<std::string, std::string>> &entries, uint16_t method = 0) {
    std::string out;
    std::string directory;
    for (const auto &[name, data] : entries) {
        const std::string sizes = bytes_of<uint32_t>(0) + bytes_of(static_cast<uint32_t>(data.size())) +
                                  bytes_of(static_cast<uint32_t>(data.size())) +
                                  bytes_of(static_cast<uint16_t>(name.size())) + bytes_of<uint16_t>(0);
        const std::string common = bytes_of<uint16_t>(0) + bytes_of(method) + bytes_of<uint32_t>(0) + sizes;
        directory += bytes_of<uint32_t>(0x02014b50) + bytes_of<uint16_t>(20) + bytes_of<uint16_t>(20) +
                     common + std::string(10, '\0') + bytes_of(static_cast<uint32_t>(out.size())) + name;
        out += bytes_of<uint32_t>(0x04034b50) + bytes_of<uint16_t>(20) + common + name + data;
    }
    const std::string count = bytes_of(static_cast<uint16_t>(entries.size()));
    return out + directory + bytes_of<uint32_t>(0x06054b50) + bytes_of<uint32_t>(0) + count + count +
           bytes_of(static_cast<uint32_t>(directory.size())) + bytes_of(static_cast<uint32_t>(out.size())) +
           bytes_of<uint16_t>(0);
}

} // namespace flashvsr::test
