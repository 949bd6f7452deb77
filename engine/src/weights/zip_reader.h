// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "weights/mapped_file.h"

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace flashvsr {

/// The uncompressed entries of a zip file, in place. Immutable, so any thread may use it.
///
/// LibTorch's own reader is not used because it allocates whatever size an entry claims to have. Every
/// function throws EBADMSG with a sentence that names the file where the file is not what it should be.
class ZipReader {
public:
    /// Reads the directory, also of the ZIP64 form. Throws what map_file() throws as well.
    explicit ZipReader(const std::filesystem::path &path);

    /// Name of the entry that was written first, "" if there is none.
    std::string_view first_name() const { return first_name_; }

    bool has(std::string_view name) const { return entries_.find(name) != entries_.end(); }

    /// An entry's bytes, valid while the file() lives. The entry must exist and be stored as it is.
    std::span<const std::byte> read(std::string_view name) const;

    const std::shared_ptr<const MappedFile> &file() const { return map_; }

private:
    struct Entry {
        uint64_t offset, stored_bytes, bytes;
        unsigned method, flags;
    };

    void read_directory(uint64_t offset, uint64_t bytes, uint64_t count);

    std::string path_;
    std::shared_ptr<const MappedFile> map_;
    std::map<std::string_view, Entry> entries_;
    std::string_view first_name_;
};

} // namespace flashvsr
