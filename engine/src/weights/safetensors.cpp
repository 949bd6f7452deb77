// SPDX-License-Identifier: LGPL-2.1-or-later
#include "weights/safetensors.h"

#include "error.h"
#include "weights/describe.h"
#include "weights/mapped_file.h"

#include <ATen/ops/empty.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <string_view>
#include <vector>

// https://huggingface.co/docs/safetensors#format: 8 bytes with the header's length, little-endian; the
// header, a JSON object name -> {dtype, shape, data_offsets}; the data, without holes.

namespace flashvsr {

namespace {

static_assert(std::endian::native == std::endian::little, "tensors are read in place");

constexpr size_t length_bytes = 8;
constexpr uint64_t max_header_bytes = 100'000'000; // the limit of the format's own implementation
constexpr size_t max_rank = 8;

struct Entry {
    std::string name;
    std::optional<std::string> dtype;
    std::optional<std::vector<int64_t>> shape;
    std::optional<std::vector<int64_t>> offsets; // begin, end, in bytes from the header's end
};

struct StoredType {
    std::string_view name;
    at::ScalarType dtype;
};
constexpr StoredType stored_types[] = {{"F32", at::kFloat}, {"F16", at::kHalf}, {"BF16", at::kBFloat16}};

/// Takes in the header's JSON event by event: a document tree would take 50 times the memory of a hostile
/// header, and would hide keys that are given twice.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
public:
    explicit HeaderReader(std::string file) : file_(std::move(file)) {}

    std::vector<Entry> entries;

    bool start_object(std::size_t) override {
        if (place_ == Place::start)
            place_ = Place::header;
        else if (place_ == Place::header && in_metadata_)
            place_ = Place::metadata;
        else if (place_ == Place::header)
            place_ = Place::entry;
        else
            unexpected("an object");
        return true;
    }

    bool end_object() override {
        if (place_ == Place::entry) {
            const Entry &entry = entries.back();
            for (const auto &[key, given] :
                 {std::pair("dtype", entry.dtype.has_value()), std::pair("shape", entry.shape.has_value()),
                  std::pair("data_offsets", entry.offsets.has_value())})
                if (!given)
                    fail(EBADMSG, file_, ": tensor ", quote(entry.name), " has no ", key);
        }
        if (place_ == Place::metadata)
            in_metadata_ = false;
        place_ = place_ == Place::header ? Place::end : Place::header;
        return true;
    }

    bool key(string_t &name) override {
        if (place_ == Place::header) {
            in_metadata_ = name == "__metadata__";
            if (!in_metadata_)
                entries.push_back({name, {}, {}, {}});
        } else if (place_ == Place::entry) {
            const Entry &entry = entries.back();
            if ((name == "dtype" && entry.dtype) || (name == "shape" && entry.shape) ||
                (name == "data_offsets" && entry.offsets))
                fail(EBADMSG, file_, ": tensor ", quote(entry.name), " gives ", name, " twice");
            if (name != "dtype" && name != "shape" && name != "data_offsets")
                fail(EBADMSG, file_, ": tensor ", quote(entry.name), " has an unknown key ", quote(name));
            field_ = name;
        }
        return true;
    }

    bool start_array(std::size_t) override {
        if (place_ != Place::entry || field_ == "dtype")
            unexpected("an array");
        place_ = Place::array;
        (field_ == "shape" ? entries.back().shape : entries.back().offsets).emplace();
        return true;
    }

    bool end_array() override {
        place_ = Place::entry;
        return true;
    }

    bool string(string_t &value) override {
        if (place_ == Place::entry && field_ == "dtype")
            entries.back().dtype = value;
        else if (place_ != Place::metadata)
            unexpected("a string");
        return true;
    }

    bool number_unsigned(number_unsigned_t value) override {
        if (place_ != Place::array)
            unexpected("a number");
        Entry &entry = entries.back();
        if (value > INT64_MAX)
            fail(EBADMSG, file_, ": tensor ", quote(entry.name), ": ", field_, " has the number ", value,
                 ", which is too large");
        std::vector<int64_t> &numbers = field_ == "shape" ? *entry.shape : *entry.offsets;
        if (numbers.size() == max_rank)
            fail(EBADMSG, file_, ": tensor ", quote(entry.name), ": ", field_, " has more than ", max_rank,
                 " numbers");
        numbers.push_back(static_cast<int64_t>(value));
        return true;
    }

    bool number_integer(number_integer_t value) override {
        if (place_ == Place::array)
            fail(EBADMSG, file_, ": tensor ", quote(entries.back().name), ": ", field_,
                 " has the negative number ", value);
        unexpected("a number");
    }

    bool number_float(number_float_t, const string_t &text) override {
        if (place_ == Place::array)
            fail(EBADMSG, file_, ": tensor ", quote(entries.back().name), ": ", field_, " has ", quote(text),
                 ", which is not a 64-bit whole number");
        unexpected("a number");
    }

    bool null() override { unexpected("null"); }
    bool boolean(bool) override { unexpected("true or false"); }
    bool binary(binary_t &) override { unexpected("binary data"); }

    bool parse_error(std::size_t position, const std::string &, const nlohmann::json::exception &) override {
        fail(EBADMSG, file_, ": the header is not valid JSON at its byte ", position);
    }

private:
    enum class Place { start, header, metadata, entry, array, end };

    [[noreturn]] void unexpected(const char *what) const {
        if (place_ == Place::start)
            fail(EBADMSG, file_, ": the header is ", what, ", not a JSON object");
        if (in_metadata_)
            fail(EBADMSG, file_, ": the header's __metadata__ holds ", what, ", not an object of strings");
        if (place_ == Place::header)
            fail(EBADMSG, file_, ": tensor ", quote(entries.back().name), " is ", what, ", not an object");
        fail(EBADMSG, file_, ": tensor ", quote(entries.back().name), ": ", field_, " holds ", what);
    }

    std::string file_;
    Place place_ = Place::start;
    bool in_metadata_ = false;
    std::string field_;
};

at::ScalarType stored_type(const std::string &file, const Entry &entry) {
    for (const StoredType &type : stored_types)
        if (type.name == *entry.dtype)
            return type.dtype;
    fail(EBADMSG, file, ": tensor ", quote(entry.name), " is of type ", quote(*entry.dtype),
         "; F32, F16 and BF16 are read");
}

} // namespace

TensorMap read_safetensors(const std::filesystem::path &path) {
    const std::string file = path.string();
    const std::shared_ptr<const MappedFile> map = map_file(path);
    uint64_t header_bytes = 0;
    if (map->size() < length_bytes)
        fail(EBADMSG, file, ": ", map->size(), " bytes are too few for a safetensors file");
    std::memcpy(&header_bytes, map->data(), length_bytes);
    if (header_bytes > map->size() - length_bytes)
        fail(EBADMSG, file, ": the header is said to be ", header_bytes,
             " bytes long, but the file has only ", map->size() - length_bytes, " more");
    if (header_bytes > max_header_bytes)
        fail(EBADMSG, file, ": the header is ", header_bytes, " bytes long; at most ", max_header_bytes,
             " are read");

    const char *text = reinterpret_cast<const char *>(map->data()) + length_bytes;
    HeaderReader header(file);
    nlohmann::json::sax_parse(text, text + header_bytes, &header);

    const std::byte *data = map->data() + length_bytes + header_bytes;
    const uint64_t data_bytes = map->size() - length_bytes - header_bytes;
    std::sort(header.entries.begin(), header.entries.end(), [](const Entry &a, const Entry &b) {
        return std::pair(*a.offsets, a.name) < std::pair(*b.offsets, b.name);
    });

    TensorMap tensors;
    uint64_t covered = 0;
    const Entry *previous = nullptr;
    for (const Entry &entry : header.entries) {
        const std::string tensor = file + ": tensor " + quote(entry.name);
        const at::ScalarType dtype = stored_type(file, entry);
        const int64_t numel = checked_numel(*entry.shape);
        if (numel < 0)
            fail(EBADMSG, tensor, " has the shape ", shape_text(*entry.shape), ", which is too large");
        if (entry.offsets->size() != 2 || (*entry.offsets)[0] > (*entry.offsets)[1])
            fail(EBADMSG, tensor, ": data_offsets is ", shape_text(*entry.offsets),
                 ", not a begin and an end");
        const auto begin = static_cast<uint64_t>((*entry.offsets)[0]);
        const auto end = static_cast<uint64_t>((*entry.offsets)[1]);
        if (end > data_bytes)
            fail(EBADMSG, tensor, " ends at byte ", end, " of the data, but the file has only ", data_bytes);
        const uint64_t needed = static_cast<uint64_t>(numel) * c10::elementSize(dtype);
        if (end - begin != needed)
            fail(EBADMSG, tensor, " of type ", *entry.dtype, " and shape ", shape_text(*entry.shape),
                 " takes ", needed, " bytes, but its data_offsets span ", end - begin);
        if (begin < covered)
            fail(EBADMSG, tensor, " overlaps tensor ", quote(previous->name), " in the data");
        if (begin > covered)
            fail(EBADMSG, tensor, " begins at byte ", begin, " of the data, after a hole of ",
                 begin - covered, " bytes");
        covered = end;
        previous = &entry;

        std::vector<int64_t> strides(entry.shape->size());
        int64_t stride = 1;
        for (size_t i = strides.size(); i-- > 0;) {
            strides[i] = stride;
            stride *= std::max<int64_t>((*entry.shape)[i], 1);
        }
        const std::byte *bytes = data + begin;
        at::Tensor value;
        if (reinterpret_cast<uintptr_t>(bytes) % c10::elementSize(dtype) == 0) {
            value = view_bytes(bytes, *entry.shape, strides, dtype, map);
        } else {
            value = at::empty(*entry.shape, dtype);
            std::copy_n(bytes, needed, static_cast<std::byte *>(value.data_ptr()));
        }
        if (!tensors.emplace(entry.name, std::move(value)).second)
            fail(EBADMSG, tensor, " is given twice");
    }
    if (covered != data_bytes)
        fail(EBADMSG, file, ": ", data_bytes - covered, " bytes after the last tensor belong to none");
    return tensors;
}

void write_safetensors(const std::filesystem::path &path, const TensorMap &tensors) {
    std::string header = "{";
    uint64_t offset = 0;
    for (const auto &[name, tensor] : tensors) {
        const auto *type =
            std::find_if(std::begin(stored_types), std::end(stored_types),
                         [dtype = tensor.scalar_type()](const StoredType &t) { return t.dtype == dtype; });
        if (type == std::end(stored_types))
            fail(EINVAL, path.string(), ": tensor ", quote(name), " is of type ",
                 c10::toString(tensor.scalar_type()), "; F32, F16 and BF16 are written");
        const uint64_t end = offset + tensor.nbytes();
        try {
            header += (header.size() > 1 ? "," : "") + nlohmann::json(name).dump() + ":" +
                      nlohmann::json{{"dtype", type->name},
                                     {"shape", tensor.sizes().vec()},
                                     {"data_offsets", {offset, end}}}
                          .dump();
        } catch (const nlohmann::json::exception &) {
            fail(EINVAL, path.string(), ": the tensor name ", quote(name), " is not UTF-8");
        }
        offset = end;
    }
    header += "}";
    header.resize((header.size() + 7) / 8 * 8, ' '); // so that the data is aligned for every type

    write_file(path, [&](const ByteSink &write) {
        const uint64_t header_bytes = header.size();
        write(&header_bytes, length_bytes);
        write(header.data(), header.size());
        for (const auto &[name, tensor] : tensors) {
            const at::Tensor contiguous = tensor.contiguous();
            write(contiguous.data_ptr(), contiguous.nbytes());
        }
    });
}

} // namespace flashvsr
