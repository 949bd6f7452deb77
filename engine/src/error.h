// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cerrno>
#include <exception>
#include <sstream>
#include <string>
#include <utility>

namespace flashvsr {

/// A failure: a positive errno value and one sentence that names what was wrong and its value.
/// Thrown inside the engine, turned into a code and flashvsr_error() at the C interface.
class Error : public std::exception {
public:
    Error(int code, std::string sentence) : code_(code), sentence_(std::move(sentence)) {}

    int code() const noexcept { return code_; }
    const char *what() const noexcept override { return sentence_.c_str(); }

private:
    int code_;
    std::string sentence_;
};

/// The arguments printed one after the other.
template <typename... Args> std::string concat(const Args &...args) {
    std::ostringstream out;
    (out << ... << args);
    return out.str();
}

/// Throw an Error whose sentence is the arguments printed one after the other.
template <typename... Args> [[noreturn]] void fail(int code, const Args &...args) {
    throw Error(code, concat(args...));
}

} // namespace flashvsr
