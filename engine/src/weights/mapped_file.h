// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

namespace flashvsr {

/// The bytes of a regular file, mapped read-only. Immutable, so any thread may use it.
class MappedFile {
public:
    /// Throws ENOENT, EACCES or another code of the failed call, EBADMSG where path is not a regular file.
    explicit MappedFile(const std::filesystem::path &path);
    ~MappedFile();
    MappedFile(const MappedFile &) = delete;
    MappedFile &operator=(const MappedFile &) = delete;

    const std::byte *data() const { return data_; } ///< nullptr for an empty file
    size_t size() const { return size_; }           ///< bytes

private:
    std::byte *data_ = nullptr;
    size_t size_ = 0;
};

std::shared_ptr<const MappedFile> map_file(const std::filesystem::path &path);

/// Which file a path leads to, and its state: another one once the file is written or replaced.
struct FileStamp {
    std::filesystem::path path; ///< without links
    uint64_t inode = 0;
    int64_t bytes = 0, modified = 0; ///< when: nanoseconds

    bool operator==(const FileStamp &) const = default;
};

/// Throws ENOENT, EACCES or another code of the failed call.
FileStamp stamp_file(const std::filesystem::path &path);

/// A tensor over memory that owner keeps alive. Sizes and strides (in elements) must have been checked
/// against it, and data be aligned for the type.
at::Tensor view_bytes(const std::byte *data, at::IntArrayRef sizes, at::IntArrayRef strides,
                      at::ScalarType dtype, std::shared_ptr<const void> owner);

/// Elements of a tensor of these sizes, or -1 where a size is negative or where the count, the strides or
/// the bytes of such a tensor could overflow.
int64_t checked_numel(at::IntArrayRef sizes);

/// Write a file through a function that is given a sink for bytes. The bytes go to a neighbouring
/// temporary file that takes the name at the end and is removed on failure. Throws an Error with the code
/// of the failed call.
using ByteSink = std::function<void(const void *data, size_t size)>;
void write_file(const std::filesystem::path &path, const std::function<void(const ByteSink &)> &write);

} // namespace flashvsr
