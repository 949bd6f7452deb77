// SPDX-License-Identifier: LGPL-2.1-or-later
#include "weights/mapped_file.h"

#include "error.h"

#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace flashvsr {

namespace {

[[noreturn]] void fail_with_errno(const std::filesystem::path &path, const char *action) {
    const int code = errno;
    fail(code, path.string(), ": cannot ", action, ": ", std::strerror(code));
}

/// A file descriptor that is given back.
struct Descriptor {
    int fd;
    ~Descriptor() {
        if (fd >= 0)
            close(fd);
    }
};

} // namespace

MappedFile::MappedFile(const std::filesystem::path &path) {
    // Without O_NONBLOCK, opening a FIFO would wait for a writer.
    const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    if (file.fd < 0)
        fail_with_errno(path, "open the file");
    struct stat status {};
    if (fstat(file.fd, &status) < 0)
        fail_with_errno(path, "read the file's size");
    if (!S_ISREG(status.st_mode))
        fail(EBADMSG, path.string(), ": not a regular file");
    size_ = static_cast<size_t>(status.st_size);
    if (size_ == 0)
        return;
    void *map = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd, 0);
    if (map == MAP_FAILED)
        fail_with_errno(path, "map the file");
    data_ = static_cast<std::byte *>(map);
}

MappedFile::~MappedFile() {
    if (data_)
        munmap(data_, size_);
}

std::shared_ptr<const MappedFile> map_file(const std::filesystem::path &path) {
    return std::make_shared<const MappedFile>(path);
}

FileStamp stamp_file(const std::filesystem::path &path) {
    constexpr int64_t nanoseconds = 1'000'000'000;
    FileStamp stamp;
    std::error_code error;
    stamp.path = std::filesystem::canonical(path, error);
    struct stat status {};
    if (error)
        fail(error.value(), path.string(), ": cannot find the file: ", std::strerror(error.value()));
    if (stat(path.c_str(), &status) < 0)
        fail_with_errno(path, "read the file's state");
    stamp.inode = status.st_ino;
    stamp.bytes = status.st_size;
    stamp.modified = status.st_mtim.tv_sec * nanoseconds + status.st_mtim.tv_nsec;
    return stamp;
}

at::Tensor view_bytes(const std::byte *data, at::IntArrayRef sizes, at::IntArrayRef strides,
                      at::ScalarType dtype, std::shared_ptr<const void> owner) {
    // LibTorch has no tensors of constant memory.
    void *memory = const_cast<std::byte *>(data);
    return at::from_blob(
        memory, sizes, strides, [owner = std::move(owner)](void *) {}, at::TensorOptions().dtype(dtype));
}

int64_t checked_numel(at::IntArrayRef sizes) {
    // Leaves room for the bytes of the widest element in 64 bits.
    constexpr int64_t limit = int64_t{1} << 56;
    int64_t numel = 1;
    int64_t extent = 1; // as numel, but strides also grow past a size of 0
    for (const int64_t size : sizes) {
        if (size < 0 || __builtin_mul_overflow(extent, std::max<int64_t>(size, 1), &extent) || extent > limit)
            return -1;
        numel *= size;
    }
    return numel;
}

void write_file(const std::filesystem::path &path, const std::function<void(const ByteSink &)> &write) {
    struct Temporary {
        std::filesystem::path path;
        std::FILE *file;
        bool complete = false;
        ~Temporary() {
            if (file)
                std::fclose(file);
            if (!complete)
                unlink(path.c_str());
        }
    };

    std::filesystem::path part = path;
    part += ".part";
    Temporary out{part, std::fopen(part.c_str(), "wbe")};
    if (!out.file) {
        out.complete = true; // nothing of ours to remove
        fail_with_errno(part, "create the file");
    }
    write([&](const void *data, size_t size) {
        if (size && std::fwrite(data, 1, size, out.file) != size)
            fail_with_errno(part, "write the file");
    });
    if (std::fclose(std::exchange(out.file, nullptr)) != 0)
        fail_with_errno(part, "write the file");
    if (std::rename(part.c_str(), path.c_str()) != 0)
        fail_with_errno(path, "replace the file");
    out.complete = true;
}

} // namespace flashvsr
