// SPDX-License-Identifier: LGPL-2.1-or-later
#include "npy.h"

#include "error.h"

#include <ATen/ops/empty.h>

#include <array>
#include <cctype>
#include <cstring>
#include <fstream>
#include <limits>
#include <optional>
#include <string_view>
#include <vector>

namespace flashvsr::golden {
namespace {

constexpr std::string_view magic = "\x93NUMPY";
// NumPy itself refuses to read longer headers without being told to.
constexpr uint32_t max_header_bytes = 10000;
constexpr size_t max_dimensions = 32;

struct Header {
    at::ScalarType type = at::kFloat;
    std::vector<int64_t> shape;
};

/// The header's text, a Python dict literal such as
/// {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
class HeaderParser {
public:
    HeaderParser(std::string_view text, const std::filesystem::path &path) : text_(text), path_(path) {}

    Header parse() {
        std::optional<at::ScalarType> type;
        std::optional<std::vector<int64_t>> shape;
        bool order = false;
        expect('{');
        while (!accept('}')) {
            const std::string key = quoted();
            expect(':');
            if (key == "descr" && !type)
                type = type_of(quoted());
            else if (key == "shape" && !shape)
                shape = dimensions();
            else if (key == "fortran_order" && !order)
                order = c_order();
            else
                bad("has an unexpected key '", key, "' in its header");
            if (!accept(',') && peek() != '}')
                bad("has a header that is not a dict");
        }
        if (peek() != '\0')
            bad("has text after its header's dict");
        if (!type || !shape || !order)
            bad("has a header without descr, fortran_order or shape");
        return {*type, *shape};
    }

private:
    template <typename... Args> [[noreturn]] void bad(const Args &...args) const {
        fail(EBADMSG, path_.string(), " ", args...);
    }

    char peek() {
        while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_])))
            at_++;
        return at_ < text_.size() ? text_[at_] : '\0';
    }

    bool accept(char c) {
        if (peek() != c)
            return false;
        at_++;
        return true;
    }

    void expect(char c) {
        if (!accept(c))
            bad("has a header that is not a dict: '", c, "' is missing at byte ", at_);
    }

    std::string quoted() {
        const char quote = peek();
        if (quote != '\'' && quote != '"')
            bad("has a header that is not a dict: a string is missing at byte ", at_);
        const size_t begin = ++at_;
        const size_t end = text_.find(quote, begin);
        if (end == std::string_view::npos)
            bad("has a header with a string that does not end");
        at_ = end + 1;
        return std::string(text_.substr(begin, end - begin));
    }

    at::ScalarType type_of(const std::string &descr) const {
        if (descr == "|b1" || descr == "?")
            return at::kBool;
        if (descr == "|u1" || descr == "<u1")
            return at::kByte;
        if (descr == "<i4")
            return at::kInt;
        if (descr == "<i8")
            return at::kLong;
        if (descr == "<f4")
            return at::kFloat;
        if (descr == "<f8")
            return at::kDouble;
        bad("has values of type '", descr, "', which is none of bool, u1, i4, i8, f4 and f8, little endian");
    }

    bool c_order() {
        peek();
        const std::string_view rest = text_.substr(at_);
        if (rest.starts_with("True"))
            bad("is in Fortran order");
        if (!rest.starts_with("False"))
            bad("has a fortran_order that is neither True nor False");
        at_ += 5;
        return true;
    }

    std::vector<int64_t> dimensions() {
        std::vector<int64_t> shape;
        expect('(');
        while (!accept(')')) {
            if (!std::isdigit(static_cast<unsigned char>(peek())))
                bad("has a shape that is not a tuple of sizes");
            int64_t size = 0;
            for (; at_ < text_.size() && std::isdigit(static_cast<unsigned char>(text_[at_])); at_++)
                if (__builtin_mul_overflow(size, 10, &size) ||
                    __builtin_add_overflow(size, text_[at_] - '0', &size))
                    bad("has a size that does not fit into 64 bits");
            shape.push_back(size);
            if (shape.size() > max_dimensions)
                bad("has more than ", max_dimensions, " dimensions");
            if (!accept(',') && peek() != ')')
                bad("has a shape that is not a tuple of sizes");
        }
        return shape;
    }

    std::string_view text_;
    const std::filesystem::path &path_;
    size_t at_ = 0;
};

} // namespace

at::Tensor read_npy(const std::filesystem::path &path) {
    std::ifstream file(path, std::ios::binary);
    if (!file || !std::filesystem::is_regular_file(path)) {
        const int code = std::filesystem::exists(path) ? EACCES : ENOENT;
        fail(code, path.string(),
             " cannot be opened: ", code == ENOENT ? "it is not there" : std::strerror(code));
    }
    const auto read = [&](void *to, uint64_t bytes, const char *what) {
        file.read(static_cast<char *>(to), static_cast<std::streamsize>(bytes));
        if (static_cast<uint64_t>(file.gcount()) != bytes)
            fail(EBADMSG, path.string(), " is not a whole .npy file: it ends within its ", what);
    };

    std::array<unsigned char, 8> start{};
    read(start.data(), start.size(), "first 8 bytes");
    if (std::memcmp(start.data(), magic.data(), magic.size()) != 0)
        fail(EBADMSG, path.string(), " is not a .npy file: it does not start with NumPy's mark");
    const int major = start[6];
    if (major < 1 || major > 3)
        fail(EBADMSG, path.string(), " is of .npy format ", major, ", which is none of 1, 2 and 3");
    std::array<unsigned char, 4> length{};
    read(length.data(), major == 1 ? 2 : 4, "header length");
    const uint32_t header_bytes = length[0] | length[1] << 8 | length[2] << 16 | uint32_t{length[3]} << 24;
    if (header_bytes > max_header_bytes)
        fail(EBADMSG, path.string(), " has a header of ", header_bytes, " bytes, more than ",
             max_header_bytes);
    std::string text(header_bytes, '\0');
    read(text.data(), header_bytes, "header");
    const Header header = HeaderParser(text, path).parse();

    // Checked against the file before anything of that size is allocated.
    int64_t bytes = static_cast<int64_t>(at::elementSize(header.type));
    bool empty = false;
    for (const int64_t size : header.shape) {
        empty = empty || size == 0;
        if (size != 0 && __builtin_mul_overflow(bytes, size, &bytes))
            fail(EBADMSG, path.string(), " has a shape whose bytes do not fit into 64 bits");
    }
    if (empty)
        bytes = 0;
    const auto start_of_values = static_cast<int64_t>(file.tellg());
    const auto file_bytes = static_cast<int64_t>(std::filesystem::file_size(path));
    if (file_bytes - start_of_values != bytes)
        fail(EBADMSG, path.string(), " has ", file_bytes - start_of_values,
             " bytes of values, but its shape asks for ", bytes);
    at::Tensor values = at::empty(header.shape, header.type);
    read(values.data_ptr(), static_cast<uint64_t>(bytes), "values");
    if (header.type == at::kBool) {
        const auto *byte = static_cast<const unsigned char *>(values.data_ptr());
        for (int64_t i = 0; i < bytes; i++)
            if (byte[i] > 1)
                fail(EBADMSG, path.string(), " has the byte ", static_cast<int>(byte[i]), " as a bool");
    }
    return values;
}

} // namespace flashvsr::golden
