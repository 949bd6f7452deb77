// SPDX-License-Identifier: LGPL-2.1-or-later
#include "weights/zip_reader.h"

#include "error.h"
#include "weights/describe.h"

#include <algorithm>
#include <bit>
#include <cstring>

// Names and offsets of the fields are those of PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 and 4.5.3.

namespace flashvsr {

namespace {

static_assert(std::endian::native == std::endian::little, "fields are read in place");

constexpr uint32_t local_signature = 0x04034b50;
constexpr uint32_t directory_signature = 0x02014b50;
constexpr uint32_t end_signature = 0x06054b50;
constexpr uint32_t end64_signature = 0x06064b50;
constexpr uint32_t locator64_signature = 0x07064b50;
constexpr uint64_t local_bytes = 30, directory_bytes = 46, end_bytes = 22, end64_bytes = 56,
                   locator64_bytes = 20;
constexpr uint64_t max_comment_bytes = 65535;
constexpr uint16_t zip64_extra = 1;

template <typename T> T field(const std::byte *record, size_t offset) {
    T value;
    std::memcpy(&value, record + offset, sizeof(value));
    return value;
}

} // namespace

ZipReader::ZipReader(const std::filesystem::path &path) : path_(path.string()), map_(map_file(path)) {
    const std::byte *data = map_->data();
    const uint64_t size = map_->size();
    if (size < end_bytes)
        fail(EBADMSG, path_, ": ", size, " bytes are too few for a torch archive");

    // The end record is the last thing but a comment, whose length it gives.
    const uint64_t last = size - end_bytes;
    const uint64_t first = last > max_comment_bytes ? last - max_comment_bytes : 0;
    uint64_t end = last + 1;
    while (end-- > first)
        if (field<uint32_t>(data, end) == end_signature &&
            field<uint16_t>(data + end, 20) == size - end - end_bytes)
            break;
    if (end + 1 == first) {
        const bool begins_as_zip = field<uint32_t>(data, 0) == local_signature;
        fail(EBADMSG, path_,
             begins_as_zip ? ": the archive is cut off; its directory, at the end, is missing"
                           : ": not a zip archive as torch.save writes it since PyTorch 1.6; a file of the "
                             "older format becomes one in Python by torch.save(torch.load(name), new_name)");
    }

    uint64_t count = field<uint16_t>(data + end, 10);
    uint64_t bytes = field<uint32_t>(data + end, 12);
    uint64_t offset = field<uint32_t>(data + end, 16);
    if (end >= locator64_bytes && field<uint32_t>(data, end - locator64_bytes) == locator64_signature) {
        const auto end64 = field<uint64_t>(data + end - locator64_bytes, 8);
        if (end < end64_bytes || end64 > end - end64_bytes || field<uint32_t>(data, end64) != end64_signature)
            fail(EBADMSG, path_, ": the archive's ZIP64 end record is not at byte ", end64,
                 ", where it is said to be");
        count = field<uint64_t>(data + end64, 32);
        bytes = field<uint64_t>(data + end64, 40);
        offset = field<uint64_t>(data + end64, 48);
    }
    if (offset > end || bytes > end - offset)
        fail(EBADMSG, path_, ": the archive's directory is said to have ", bytes, " bytes at byte ", offset,
             ", which is outside the file");
    read_directory(offset, bytes, count);
}

void ZipReader::read_directory(uint64_t offset, uint64_t bytes, uint64_t count) {
    uint64_t first_offset = UINT64_MAX;
    for (uint64_t i = 0; i < count; i++) {
        const std::byte *record = map_->data() + offset;
        if (bytes < directory_bytes || field<uint32_t>(record, 0) != directory_signature)
            fail(EBADMSG, path_, ": the archive's directory is damaged at entry ", i, " of ", count);
        const uint64_t name_bytes = field<uint16_t>(record, 28);
        const uint64_t extra_bytes = field<uint16_t>(record, 30);
        const uint64_t record_bytes =
            directory_bytes + name_bytes + extra_bytes + field<uint16_t>(record, 32);
        if (record_bytes > bytes)
            fail(EBADMSG, path_, ": the archive's directory is damaged at entry ", i, " of ", count);

        const std::string_view name(reinterpret_cast<const char *>(record) + directory_bytes, name_bytes);
        Entry entry{field<uint32_t>(record, 42), field<uint32_t>(record, 20), field<uint32_t>(record, 24),
                    field<uint16_t>(record, 10), field<uint16_t>(record, 8)};
        const std::byte *extra = record + directory_bytes + name_bytes;
        for (uint64_t at = 0; extra_bytes - at >= 4;) {
            const auto id = field<uint16_t>(extra + at, 0);
            const uint64_t length = field<uint16_t>(extra + at, 2);
            at += 4;
            if (length > extra_bytes - at)
                fail(EBADMSG, path_, ": entry ", quote(name), " of the archive has a damaged extra field");
            if (id == zip64_extra) {
                // Present are, in this order, those that did not fit into 32 bits.
                uint64_t used = 0;
                for (uint64_t *value : {&entry.bytes, &entry.stored_bytes, &entry.offset})
                    if (*value == UINT32_MAX && length - used >= sizeof(uint64_t)) {
                        *value = field<uint64_t>(extra + at, used);
                        used += sizeof(uint64_t);
                    }
            }
            at += length;
        }
        if (!entries_.emplace(name, entry).second)
            fail(EBADMSG, path_, ": the archive has two entries ", quote(name));
        if (entry.offset < first_offset) {
            first_offset = entry.offset;
            first_name_ = name;
        }
        offset += record_bytes;
        bytes -= record_bytes;
    }
}

std::span<const std::byte> ZipReader::read(std::string_view name) const {
    const auto found = entries_.find(name);
    if (found == entries_.end())
        fail(EBADMSG, path_, ": the archive has no entry ", quote(name));
    const Entry &entry = found->second;
    if (entry.method != 0 || entry.flags & 1 || entry.stored_bytes != entry.bytes)
        fail(EBADMSG, path_, ": entry ", quote(name),
             " of the archive is compressed or encrypted, which torch.save never does");
    const uint64_t size = map_->size();
    if (entry.offset > size || size - entry.offset < local_bytes ||
        field<uint32_t>(map_->data(), entry.offset) != local_signature)
        fail(EBADMSG, path_, ": entry ", quote(name), " of the archive is not at byte ", entry.offset,
             ", where it is said to be");
    const std::byte *record = map_->data() + entry.offset;
    const uint64_t begin =
        entry.offset + local_bytes + field<uint16_t>(record, 26) + field<uint16_t>(record, 28);
    if (begin > size || entry.bytes > size - begin)
        fail(EBADMSG, path_, ": entry ", quote(name), " of the archive is said to have ", entry.bytes,
             " bytes, which reach past the end of the file");
    return {map_->data() + begin, entry.bytes};
}

} // namespace flashvsr
