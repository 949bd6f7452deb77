// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace flashvsr {

/// Interprets the pickle program of a torch archive for what weight files consist of: tensors, their
/// storages, strings, numbers, lists, tuples and dicts. Nothing is imported or called, and any class but
/// those few is refused.
///
/// LibTorch's own Unpickler is not used: it is made for trusted input. It builds views past the end of
/// their storage, and one damaged program in thirteen crashed it.
class PickleReader {
public:
    struct Value;
    using Sequence = std::vector<Value>;
    using Dict = std::vector<std::pair<Value, Value>>; ///< in the order of the program

    /// A class or function that programs may name.
    struct Global {
        enum class Kind { ordered_dict, rebuild_tensor, rebuild_parameter, storage } kind;
        at::ScalarType dtype = at::ScalarType::Undefined; ///< of a storage
    };

    /// The memory of a storage, aligned for its type.
    struct Storage {
        at::ScalarType dtype;
        int64_t numel;
        const std::byte *data;
        std::shared_ptr<const void> owner;
    };

    /// Containers belong to the reader, so a program that puts one into itself leaks nothing. Strings
    /// are parts of the program.
    struct Value {
        std::variant<std::monostate, bool, int64_t, double, std::string_view, Sequence *, Dict *, Global,
                     const Storage *, at::Tensor>
            v;
    };

    /// Finds the storage with a key, of so many elements of a type.
    using FindStorage = std::function<Storage(std::string_view key, at::ScalarType dtype, int64_t numel)>;

    /// program must outlive the reader. file is for sentences.
    PickleReader(std::string file, std::span<const std::byte> program, FindStorage find_storage);

    /// Run the program to its end, once. The result lives as long as the reader. Throws EBADMSG.
    Value read();

private:
    [[noreturn]] void damaged() const;
    const std::byte *take(uint64_t bytes);
    template <typename T> T take_number();
    std::string_view take_string(uint64_t bytes);
    std::string_view take_line();

    void push(decltype(Value::v) value) { stack_.push_back({std::move(value)}); }
    Value pop();
    Value &top();
    Sequence pop_to_mark();
    template <typename T> T pop_as();
    void push_tuple(size_t count);
    void set_items(const Sequence &items);
    void memorize(uint64_t index);
    void recall(uint64_t index);

    void push_global(std::string_view module, std::string_view name);
    void push_storage();
    void reduce();
    at::Tensor build_tensor(const Sequence &arguments) const;
    std::vector<int64_t> integers(const Value &tuple) const;

    /// Interpret one instruction; false at the end of the program.
    bool step();

    std::string file_;
    std::span<const std::byte> program_;
    size_t position_ = 0;
    FindStorage find_storage_;
    std::vector<Value> stack_;
    std::vector<size_t> marks_; ///< heights of the stack
    std::unordered_map<uint64_t, Value> memo_;
    std::deque<Sequence> sequences_;
    std::deque<Dict> dicts_;
    std::deque<Storage> storages_;
};

} // namespace flashvsr
