// SPDX-License-Identifier: LGPL-2.1-or-later
#include "weights/torch_archive.h"

#include "error.h"
#include "weights/describe.h"
#include "weights/mapped_file.h"
#include "weights/pickle_reader.h"
#include "weights/zip_reader.h"

#include <caffe2/serialize/inline_container.h>

#include <bit>
#include <cstddef>
#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// The layout is documented in PyTorch's notes on serialization and in caffe2/serialize/inline_container.h:
// <name>/data.pkl is a pickle program, <name>/data/<key> are the storages it refers to.

namespace flashvsr {

namespace {

static_assert(std::endian::native == std::endian::little, "tensors are read in place");

using Value = PickleReader::Value;

// 500 times the published files' programs, and small enough that what a hostile one can build fits in memory.
constexpr size_t max_program_bytes = size_t{16} << 20;

/// An archive's program, run, with the storages it refers to.
class TorchArchive {
public:
    explicit TorchArchive(const std::filesystem::path &path)
        : file_(path.string()), zip_(path), folder_(folder_of(zip_)) {
        if (!zip_.has(folder_ + "data.pkl"))
            fail(EBADMSG, file_, ": a zip archive, but not one of torch.save: it has no ",
                 quote(folder_ + "data.pkl"));
        if (zip_.has(folder_ + "byteorder")) {
            const auto order = zip_.read(folder_ + "byteorder");
            const std::string_view text(reinterpret_cast<const char *>(order.data()), order.size());
            if (text != "little")
                fail(EBADMSG, file_, ": the archive's byte order is ", quote(text),
                     "; only \"little\" is read");
        }
        const auto program = zip_.read(folder_ + "data.pkl");
        if (program.size() > max_program_bytes)
            fail(EBADMSG, file_, ": the archive's pickle program is ", program.size(),
                 " bytes long; at most ", max_program_bytes, " are read");
        pickle_.emplace(file_, program, [this](std::string_view key, at::ScalarType dtype, int64_t numel) {
            return find_storage(key, dtype, numel);
        });
        root_ = pickle_->read();
    }

    const std::string &file() const { return file_; }
    const Value &root() const { return root_; }

private:
    struct Memory {
        const std::byte *data;
        uint64_t bytes;
        std::shared_ptr<const void> owner;
    };

    static std::string folder_of(const ZipReader &zip) {
        const std::string_view name = zip.first_name();
        return std::string(name.substr(0, name.find('/') + 1)); // npos + 1 is 0
    }

    PickleReader::Storage find_storage(std::string_view key, at::ScalarType dtype, int64_t numel) {
        const std::string name = folder_ + "data/" + std::string(key);
        auto found = memories_.find(name);
        if (found == memories_.end()) {
            const auto bytes = zip_.read(name);
            Memory memory{bytes.data(), bytes.size(), zip_.file()};
            if (reinterpret_cast<uintptr_t>(bytes.data()) % alignof(std::max_align_t) != 0) {
                // Entries that share bytes could make copies of many times the file's size.
                copied_bytes_ += bytes.size();
                if (copied_bytes_ > zip_.file()->size())
                    fail(EBADMSG, file_, ": entry ", quote(name), " of the archive overlaps others");
                const auto copy = std::make_shared<std::vector<std::byte>>(bytes.begin(), bytes.end());
                memory = {copy->data(), bytes.size(), copy};
            }
            found = memories_.emplace(name, std::move(memory)).first;
        }
        const Memory &memory = found->second;
        const uint64_t needed = static_cast<uint64_t>(numel) * c10::elementSize(dtype);
        if (memory.bytes != needed)
            fail(EBADMSG, file_, ": a storage of ", numel, " elements of type ", c10::toString(dtype),
                 " takes ", needed, " bytes, but ", quote(name), " has ", memory.bytes);
        return {dtype, numel, memory.data, memory.owner};
    }

    std::string file_;
    ZipReader zip_;
    std::string folder_; ///< ends in a slash, or is empty
    std::map<std::string, Memory> memories_;
    uint64_t copied_bytes_ = 0;
    std::optional<PickleReader> pickle_;
    Value root_;
};

void require_weight_type(const std::string &file, const std::string &tensor, at::ScalarType dtype) {
    if (!is_weight_type(dtype))
        fail(EBADMSG, file, ": ", tensor, " is of type ", c10::toString(dtype),
             "; Float, Half and BFloat16 are read");
}

const PickleReader::Dict *as_dict(const Value &value) {
    PickleReader::Dict *const *dict = std::get_if<PickleReader::Dict *>(&value.v);
    return dict ? *dict : nullptr;
}

/// Pickle programs of what is written, protocol 2.
class PickleWriter {
public:
    PickleWriter() : text_("\x80\x02") {}

    void op(char instruction) { text_ += instruction; }
    void global(const char *line) { text_ += std::string("c") + line + "\n"; }

    void string(std::string_view value) {
        op('X');
        number(static_cast<uint32_t>(value.size()));
        text_ += value;
    }

    void integer(int64_t value) {
        op('\x8a');
        op('\x08');
        number(value);
    }

    void integers(at::IntArrayRef values) {
        op('(');
        for (const int64_t value : values)
            integer(value);
        op('t');
    }

    /// A contiguous tensor over all of the storage with this key.
    void tensor(const at::Tensor &value, size_t key) {
        const char *storage = value.scalar_type() == at::kFloat  ? "torch\nFloatStorage"
                              : value.scalar_type() == at::kHalf ? "torch\nHalfStorage"
                                                                 : "torch\nBFloat16Storage";
        global("torch._utils\n_rebuild_tensor_v2");
        op('(');
        op('(');
        string("storage");
        global(storage);
        string(std::to_string(key));
        string("cpu");
        integer(value.numel());
        op('t');
        op('Q');
        integer(0);
        integers(value.sizes());
        integers(value.strides());
        op('\x89'); // requires_grad
        global("collections\nOrderedDict");
        op(')');
        op('R');
        op('t');
        op('R');
    }

    const std::string &finish() {
        op('.');
        return text_;
    }

private:
    template <typename T> void number(T value) {
        text_.append(reinterpret_cast<const char *>(&value), sizeof(value));
    }

    std::string text_;
};

/// Write an archive with a program and the storages of contiguous tensors, in order.
void write_archive(const std::filesystem::path &path, const std::string &program,
                   const std::vector<at::Tensor> &tensors) {
    write_file(path, [&](const ByteSink &write) {
        // A writer that fails must not throw from LibTorch's destructor, so the error waits outside.
        std::exception_ptr error;
        {
            caffe2::serialize::PyTorchStreamWriter zip([&](const void *data, size_t size) {
                try {
                    if (!error)
                        write(data, size);
                } catch (const Error &) {
                    error = std::current_exception();
                }
                return size;
            });
            zip.writeRecord("data.pkl", program.data(), program.size());
            zip.writeRecord("byteorder", "little", 6);
            for (size_t i = 0; i < tensors.size() && !error; i++) {
                zip.writeRecord("data/" + std::to_string(i), tensors[i].data_ptr(), tensors[i].nbytes());
            }
            zip.writeEndOfFile();
        }
        if (error)
            std::rethrow_exception(error);
    });
}

void require_writable(const std::filesystem::path &path, const std::string &name, const at::Tensor &tensor) {
    if (!is_weight_type(tensor.scalar_type()))
        fail(EINVAL, path.string(), ": ", name, " is of type ", c10::toString(tensor.scalar_type()),
             "; Float, Half and BFloat16 are written");
}

} // namespace

TensorMap read_torch_archive(const std::filesystem::path &path) {
    const TorchArchive archive(path);
    const PickleReader::Dict *dict = as_dict(archive.root());
    if (!dict)
        fail(EBADMSG, archive.file(), ": the archive does not hold a dict of tensors");
    for (const auto &[key, value] : *dict) {
        const auto *name = std::get_if<std::string_view>(&key.v);
        const PickleReader::Dict *inner = as_dict(value);
        if (name && inner && (*name == "model_state" || *name == "state_dict")) {
            dict = inner;
            break;
        }
    }

    TensorMap tensors;
    for (const auto &[key, value] : *dict) {
        const auto *name = std::get_if<std::string_view>(&key.v);
        if (!name)
            fail(EBADMSG, archive.file(), ": the archive's dict has a key that is not a string");
        const auto *tensor = std::get_if<at::Tensor>(&value.v);
        if (!tensor)
            fail(EBADMSG, archive.file(), ": entry ", quote(*name), " of the archive's dict is not a tensor");
        require_weight_type(archive.file(), "tensor " + quote(*name), tensor->scalar_type());
        if (!tensors.emplace(*name, *tensor).second)
            fail(EBADMSG, archive.file(), ": tensor ", quote(*name), " is given twice");
    }
    return tensors;
}

at::Tensor read_torch_tensor(const std::filesystem::path &path) {
    const TorchArchive archive(path);
    const auto *tensor = std::get_if<at::Tensor>(&archive.root().v);
    if (!tensor)
        fail(EBADMSG, archive.file(), ": the archive does not hold a single tensor");
    require_weight_type(archive.file(), "the tensor", tensor->scalar_type());
    return *tensor;
}

void write_torch_archive(const std::filesystem::path &path, const TensorMap &tensors) {
    PickleWriter pickle;
    std::vector<at::Tensor> storages;
    pickle.op('}');
    pickle.op('(');
    for (const auto &[name, tensor] : tensors) {
        require_writable(path, "tensor " + quote(name), tensor);
        pickle.string(name);
        const size_t key = storages.size();
        pickle.tensor(storages.emplace_back(tensor.contiguous()), key);
    }
    pickle.op('u');
    write_archive(path, pickle.finish(), storages);
}

void write_torch_tensor(const std::filesystem::path &path, const at::Tensor &tensor) {
    require_writable(path, "the tensor", tensor);
    PickleWriter pickle;
    const at::Tensor contiguous = tensor.contiguous();
    pickle.tensor(contiguous, 0);
    write_archive(path, pickle.finish(), {contiguous});
}

} // namespace flashvsr
