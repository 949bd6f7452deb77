// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cstddef>
#include <list>
#include <map>
#include <mutex>

namespace flashvsr {

/// Large blocks of host memory that are kept when they are freed and given out again. A stream asks for the
/// same sizes in each chunk; from the system every block is zeroed page by page each time, which takes as
/// long as the arithmetic on it. What is kept and what is in use never come to more than was in use at once.
/// Thread-safe.
class BlockCache {
public:
    BlockCache() = default;
    BlockCache(const BlockCache &) = delete;
    BlockCache &operator=(const BlockCache &) = delete;
    ~BlockCache() { release(); }

    /// @return `bytes` of memory that start at a multiple of 64; nullptr where there is no more
    void *allocate(size_t bytes);
    void free(void *block);

    /// Give what is kept back to the system.
    void release();

    /// Bytes that are kept for later.
    size_t kept() const;

private:
    /// In the 64 bytes ahead of the block that it describes; of small blocks, which are not kept, `bytes`
    /// alone.
    struct Header {
        size_t bytes; ///< of the block, the header included
        std::list<Header *>::iterator age;
        std::multimap<size_t, Header *>::iterator size;
    };

    static void *make(size_t whole, size_t alignment);
    void *take_kept(size_t bytes);
    void count_in(size_t bytes);
    void drop(Header *block);

    mutable std::mutex mutex_;
    std::list<Header *> by_age_; ///< the oldest first
    std::multimap<size_t, Header *> by_size_;
    size_t in_use_ = 0, peak_ = 0, kept_ = 0;
};

/// Have LibTorch take large tensors on the CPU from a cache that lives as long as the process, unless the
/// program has set an allocator of its own.
void cache_host_memory();

/// Give what that cache keeps back to the system.
void release_host_memory();

} // namespace flashvsr
