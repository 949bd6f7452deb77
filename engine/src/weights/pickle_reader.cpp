// SPDX-License-Identifier: LGPL-2.1-or-later
#include "weights/pickle_reader.h"

#include "error.h"
#include "weights/describe.h"
#include "weights/mapped_file.h"

#include <bit>
#include <cstring>

// Instructions are named as in Python's pickletools, which documents each of them.

namespace flashvsr {

namespace {

constexpr size_t max_rank = 8;

struct KnownStorage {
    std::string_view name;
    at::ScalarType dtype;
};
// Also those that weights cannot be of, so that a sentence can name the tensor and its type.
constexpr KnownStorage known_storages[] = {{"FloatStorage", at::kFloat},
                                           {"HalfStorage", at::kHalf},
                                           {"BFloat16Storage", at::kBFloat16},
                                           {"DoubleStorage", at::kDouble},
                                           {"LongStorage", at::kLong},
                                           {"IntStorage", at::kInt},
                                           {"ShortStorage", at::kShort},
                                           {"CharStorage", at::kChar},
                                           {"ByteStorage", at::kByte},
                                           {"BoolStorage", at::kBool},
                                           {"ComplexFloatStorage", at::kComplexFloat},
                                           {"ComplexDoubleStorage", at::kComplexDouble}};

} // namespace

PickleReader::PickleReader(std::string file, std::span<const std::byte> program, FindStorage find_storage)
    : file_(std::move(file)), program_(program), find_storage_(std::move(find_storage)) {}

void PickleReader::damaged() const {
    fail(EBADMSG, file_, ": the archive's pickle program is damaged at its byte ", position_);
}

const std::byte *PickleReader::take(uint64_t bytes) {
    if (bytes > program_.size() - position_)
        damaged();
    const std::byte *data = program_.data() + position_;
    position_ += bytes;
    return data;
}

template <typename T> T PickleReader::take_number() {
    T value;
    std::memcpy(&value, take(sizeof(value)), sizeof(value));
    return value;
}

std::string_view PickleReader::take_string(uint64_t bytes) {
    return {reinterpret_cast<const char *>(take(bytes)), bytes};
}

std::string_view PickleReader::take_line() {
    const std::string_view rest(reinterpret_cast<const char *>(program_.data()) + position_,
                                program_.size() - position_);
    const size_t end = rest.find('\n');
    if (end == std::string_view::npos)
        damaged();
    position_ += end + 1;
    return rest.substr(0, end);
}

PickleReader::Value PickleReader::pop() {
    Value value = std::move(top());
    stack_.pop_back();
    return value;
}

PickleReader::Value &PickleReader::top() {
    if (stack_.size() <= (marks_.empty() ? 0 : marks_.back()))
        damaged();
    return stack_.back();
}

PickleReader::Sequence PickleReader::pop_to_mark() {
    if (marks_.empty())
        damaged();
    const auto begin = stack_.begin() + static_cast<ptrdiff_t>(marks_.back());
    Sequence items(std::make_move_iterator(begin), std::make_move_iterator(stack_.end()));
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    return items;
}

template <typename T> T PickleReader::pop_as() {
    const Value value = pop();
    const T *held = std::get_if<T>(&value.v);
    if (!held)
        damaged();
    return *held;
}

void PickleReader::push_tuple(size_t count) {
    Sequence items(count);
    while (count-- > 0)
        items[count] = pop();
    push(&sequences_.emplace_back(std::move(items)));
}

void PickleReader::set_items(const Sequence &items) {
    Dict *const *dict = std::get_if<Dict *>(&top().v);
    if (!dict || items.size() % 2 != 0)
        damaged();
    for (size_t i = 0; i < items.size(); i += 2)
        (*dict)->emplace_back(items[i], items[i + 1]);
}

void PickleReader::memorize(uint64_t index) {
    memo_.insert_or_assign(index, top());
}

void PickleReader::recall(uint64_t index) {
    const auto found = memo_.find(index);
    if (found == memo_.end())
        damaged();
    stack_.push_back(found->second);
}

void PickleReader::push_global(std::string_view module, std::string_view name) {
    if (module == "collections" && name == "OrderedDict")
        return push(Global{Global::Kind::ordered_dict});
    if (module == "torch._utils" && name == "_rebuild_tensor_v2")
        return push(Global{Global::Kind::rebuild_tensor});
    if (module == "torch._utils" && name == "_rebuild_parameter")
        return push(Global{Global::Kind::rebuild_parameter});
    if (module == "torch")
        for (const KnownStorage &storage : known_storages)
            if (storage.name == name)
                return push(Global{Global::Kind::storage, storage.dtype});
    fail(EBADMSG, file_, ": the archive holds the class or function ",
         quote(std::string(module) + "." + std::string(name)),
         "; only tensors and plain containers are read, and nothing is run");
}

void PickleReader::push_storage() {
    // ("storage", class, key, device it was saved from, elements)
    const Sequence *id = pop_as<Sequence *>();
    if (id->size() != 5)
        damaged();
    const auto *tag = std::get_if<std::string_view>(&(*id)[0].v);
    const auto *type = std::get_if<Global>(&(*id)[1].v);
    const auto *key = std::get_if<std::string_view>(&(*id)[2].v);
    const auto *numel = std::get_if<int64_t>(&(*id)[4].v);
    if (!tag || *tag != "storage" || !type || type->kind != Global::Kind::storage || !key || !numel ||
        checked_numel({*numel}) < 0)
        damaged();
    push(&storages_.emplace_back(find_storage_(*key, type->dtype, *numel)));
}

void PickleReader::reduce() {
    const Sequence *arguments = pop_as<Sequence *>();
    const auto function = pop_as<Global>();
    switch (function.kind) {
    case Global::Kind::ordered_dict:
        if (!arguments->empty())
            damaged();
        return push(&dicts_.emplace_back());
    case Global::Kind::rebuild_tensor:
        return push(build_tensor(*arguments));
    case Global::Kind::rebuild_parameter: {
        // (tensor, requires_grad, hooks)
        const auto *tensor = arguments->empty() ? nullptr : std::get_if<at::Tensor>(&arguments->front().v);
        if (!tensor)
            damaged();
        return push(*tensor);
    }
    case Global::Kind::storage:
        break;
    }
    damaged();
}

std::vector<int64_t> PickleReader::integers(const Value &tuple) const {
    Sequence *const *items = std::get_if<Sequence *>(&tuple.v);
    if (!items || (*items)->size() > max_rank)
        damaged();
    std::vector<int64_t> numbers;
    for (const Value &item : **items) {
        const auto *number = std::get_if<int64_t>(&item.v);
        if (!number)
            damaged();
        numbers.push_back(*number);
    }
    return numbers;
}

at::Tensor PickleReader::build_tensor(const Sequence &arguments) const {
    // (storage, offset, sizes, strides, requires_grad, hooks), offset and strides in elements
    if (arguments.size() < 4)
        damaged();
    const Storage *const *held = std::get_if<const Storage *>(&arguments[0].v);
    const auto *offset = std::get_if<int64_t>(&arguments[1].v);
    if (!held || !offset)
        damaged();
    const Storage &storage = **held;
    const std::vector<int64_t> sizes = integers(arguments[2]);
    std::vector<int64_t> strides = integers(arguments[3]);

    const int64_t numel = checked_numel(sizes);
    int64_t last = *offset;
    bool inside = sizes.size() == strides.size() && *offset >= 0 && numel >= 0 && numel <= storage.numel;
    for (size_t i = 0; inside && i < sizes.size(); i++) {
        int64_t reach = 0;
        if (sizes[i] <= 1 || numel == 0)
            strides[i] = 1; // never used; any number may stand there
        else
            inside = strides[i] >= 0 && !__builtin_mul_overflow(sizes[i] - 1, strides[i], &reach) &&
                     !__builtin_add_overflow(last, reach, &last);
    }
    if (!inside || (numel == 0 ? last > storage.numel : last >= storage.numel))
        fail(EBADMSG, file_, ": a tensor of shape ", shape_text(sizes), ", strides ", shape_text(strides),
             " and offset ", *offset, " reaches outside its storage of ", storage.numel, " elements");
    const auto element_bytes = static_cast<int64_t>(c10::elementSize(storage.dtype));
    return view_bytes(storage.data + *offset * element_bytes, sizes, strides, storage.dtype, storage.owner);
}

bool PickleReader::step() {
    const auto instruction = static_cast<unsigned char>(*take(1));
    switch (instruction) {
    case 0x80: // PROTO
        if (take_number<uint8_t>() > 5)
            damaged();
        break;
    case 0x95: // FRAME
        take(8);
        break;
    case '.': // STOP
        return false;
    case '(': // MARK
        marks_.push_back(stack_.size());
        break;
    case '0': // POP; of a mark, too, where it is the topmost thing
        if (!marks_.empty() && marks_.back() == stack_.size())
            marks_.pop_back();
        else
            pop();
        break;
    case '1': // POP_MARK
        pop_to_mark();
        break;
    case 'N': // NONE
        push(std::monostate());
        break;
    case 0x88: // NEWTRUE
        push(true);
        break;
    case 0x89: // NEWFALSE
        push(false);
        break;
    case 'J': // BININT
        push(int64_t{take_number<int32_t>()});
        break;
    case 'K': // BININT1
        push(int64_t{take_number<uint8_t>()});
        break;
    case 'M': // BININT2
        push(int64_t{take_number<uint16_t>()});
        break;
    case 0x8a: { // LONG1: two's complement, little-endian
        const auto bytes = take_number<uint8_t>();
        if (bytes > sizeof(int64_t))
            damaged();
        const std::byte *digits = take(bytes);
        int64_t value = bytes && (digits[bytes - 1] & std::byte{0x80}) != std::byte{0} ? -1 : 0;
        if (bytes)
            std::memcpy(&value, digits, bytes);
        push(value);
        break;
    }
    case 'G': { // BINFLOAT: big-endian
        const std::byte *bytes = take(sizeof(double));
        uint64_t bits = 0;
        for (size_t i = 0; i < sizeof(bits); i++)
            bits = bits << 8 | static_cast<uint64_t>(bytes[i]);
        push(std::bit_cast<double>(bits));
        break;
    }
    case 'X': // BINUNICODE
        push(take_string(take_number<uint32_t>()));
        break;
    case 0x8c: // SHORT_BINUNICODE
        push(take_string(take_number<uint8_t>()));
        break;
    case 0x8d: // BINUNICODE8
        push(take_string(take_number<uint64_t>()));
        break;
    case 'T': // BINSTRING
        push(take_string(take_number<uint32_t>()));
        break;
    case 'U': // SHORT_BINSTRING
        push(take_string(take_number<uint8_t>()));
        break;
    case ')': // EMPTY_TUPLE
        push_tuple(0);
        break;
    case 0x85: // TUPLE1
    case 0x86: // TUPLE2
    case 0x87: // TUPLE3
        push_tuple(instruction - 0x84u);
        break;
    case 't': // TUPLE
    case 'l': // LIST
        push(&sequences_.emplace_back(pop_to_mark()));
        break;
    case ']': // EMPTY_LIST
        push(&sequences_.emplace_back());
        break;
    case 'a':   // APPEND
    case 'e': { // APPENDS
        Sequence items;
        if (instruction == 'e')
            items = pop_to_mark();
        else
            items.push_back(pop());
        Sequence *const *list = std::get_if<Sequence *>(&top().v);
        if (!list)
            damaged();
        (*list)->insert((*list)->end(), items.begin(), items.end());
        break;
    }
    case '}': // EMPTY_DICT
        push(&dicts_.emplace_back());
        break;
    case 'd': { // DICT
        const Sequence items = pop_to_mark();
        push(&dicts_.emplace_back());
        set_items(items);
        break;
    }
    case 's': { // SETITEM
        Sequence items(2);
        items[1] = pop();
        items[0] = pop();
        set_items(items);
        break;
    }
    case 'u': // SETITEMS
        set_items(pop_to_mark());
        break;
    case 'q': // BINPUT
        memorize(take_number<uint8_t>());
        break;
    case 'r': // LONG_BINPUT
        memorize(take_number<uint32_t>());
        break;
    case 0x94: // MEMOIZE
        memorize(memo_.size());
        break;
    case 'h': // BINGET
        recall(take_number<uint8_t>());
        break;
    case 'j': // LONG_BINGET
        recall(take_number<uint32_t>());
        break;
    case 'c': { // GLOBAL
        const std::string_view module = take_line();
        push_global(module, take_line());
        break;
    }
    case 0x93: { // STACK_GLOBAL
        const auto name = pop_as<std::string_view>();
        push_global(pop_as<std::string_view>(), name);
        break;
    }
    case 'Q': // BINPERSID
        push_storage();
        break;
    case 'R': // REDUCE
        reduce();
        break;
    case 'b': // BUILD: attributes of a state dict (the modules' versions), not part of its contents
        pop();
        if (!std::holds_alternative<Dict *>(top().v))
            damaged();
        break;
    default:
        position_--;
        fail(EBADMSG, file_, ": the archive's pickle program has the instruction ",
             static_cast<unsigned>(instruction), " at its byte ", position_,
             ", which no archive of tensors needs");
    }
    return true;
}

PickleReader::Value PickleReader::read() {
    while (step()) {
    }
    return pop();
}

} // namespace flashvsr
