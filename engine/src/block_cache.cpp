// SPDX-License-Identifier: LGPL-2.1-or-later
#include "block_cache.h"

#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <cstdlib>
#include <new>

#include <sys/mman.h>

namespace flashvsr {

namespace {

constexpr size_t header_bytes = 64, page = 4096, huge_page = size_t{2} << 20;
// Smaller ones the C library reuses by itself.
constexpr size_t least_cached = size_t{128} << 10;
// A kept block serves a request that leaves at most this share of it unused.
constexpr size_t waste_share = 8;

size_t rounded_up(size_t bytes, size_t unit) {
    return (bytes + unit - 1) / unit * unit;
}

} // namespace

void *BlockCache::allocate(size_t bytes) {
    static_assert(sizeof(Header) <= header_bytes);
    const size_t least = rounded_up(bytes + header_bytes, header_bytes);
    if (least < least_cached)
        return make(least, header_bytes);
    const size_t whole = rounded_up(least, page);
    {
        const std::lock_guard lock(mutex_);
        if (void *block = take_kept(whole))
            return block;
    }
    const bool huge = whole >= 2 * huge_page;
    void *block = make(whole, huge ? huge_page : page);
    if (block == nullptr) {
        release();
        block = make(whole, page);
    }
    if (block == nullptr)
        return nullptr;
    const std::lock_guard lock(mutex_);
    count_in(whole);
    return block;
}

/// A new block of `whole` bytes with its header.
void *BlockCache::make(size_t whole, size_t alignment) {
    void *const memory = std::aligned_alloc(alignment, rounded_up(whole, alignment));
    if (memory == nullptr)
        return nullptr;
    if (alignment == huge_page)
        static_cast<void>(madvise(memory, whole, MADV_HUGEPAGE)); // a wish; without it all is as it was
    return reinterpret_cast<std::byte *>(new (memory) Header{whole, {}, {}}) + header_bytes;
}

void BlockCache::count_in(size_t bytes) {
    in_use_ += bytes;
    peak_ = std::max(peak_, in_use_);
    while (kept_ > 0 && in_use_ + kept_ > peak_)
        drop(by_age_.front());
}

void *BlockCache::take_kept(size_t bytes) {
    const auto found = by_size_.lower_bound(bytes);
    if (found == by_size_.end() || found->first - bytes > found->first / waste_share)
        return nullptr;
    Header *block = found->second;
    by_age_.erase(block->age);
    by_size_.erase(found);
    kept_ -= block->bytes;
    count_in(block->bytes);
    return reinterpret_cast<std::byte *>(block) + header_bytes;
}

void BlockCache::free(void *block) {
    auto *header = reinterpret_cast<Header *>(static_cast<std::byte *>(block) - header_bytes);
    if (header->bytes < least_cached) {
        std::free(header);
        return;
    }
    const std::lock_guard lock(mutex_);
    in_use_ -= header->bytes;
    try {
        by_age_.push_back(header);
        header->age = std::prev(by_age_.end());
        header->size = by_size_.emplace(header->bytes, header);
        kept_ += header->bytes;
    } catch (const std::bad_alloc &) { // no room to remember it
        if (!by_age_.empty() && by_age_.back() == header)
            by_age_.pop_back();
        std::free(header);
    }
}

void BlockCache::drop(Header *block) {
    by_age_.erase(block->age);
    by_size_.erase(block->size);
    kept_ -= block->bytes;
    std::free(block);
}

void BlockCache::release() {
    const std::lock_guard lock(mutex_);
    while (!by_age_.empty())
        drop(by_age_.front());
}

size_t BlockCache::kept() const {
    const std::lock_guard lock(mutex_);
    return kept_;
}

namespace {

/// Never destroyed: tensors of other static objects may outlive any order of destruction.
BlockCache &process_cache() {
    static auto *const cache = new BlockCache;
    return *cache;
}

class CachingAllocator : public c10::Allocator {
public:
    c10::DataPtr allocate(size_t bytes) override {
        void *const block = bytes == 0 ? nullptr : process_cache().allocate(bytes);
        if (block == nullptr && bytes > 0)
            throw std::bad_alloc();
        return {block, block, &free_block, at::Device(at::kCPU)};
    }

    c10::DeleterFnPtr raw_deleter() const override { return &free_block; }

    void copy_data(void *to, const void *from, size_t bytes) const override {
        default_copy_data(to, from, bytes);
    }

private:
    static void free_block(void *block) {
        if (block != nullptr)
            process_cache().free(block);
    }
};

} // namespace

void cache_host_memory() {
    static const bool once = [] {
        if (c10::GetCPUAllocator() == c10::GetDefaultCPUAllocator())
            c10::SetCPUAllocator(new CachingAllocator);
        return true;
    }();
    static_cast<void>(once);
}

void release_host_memory() {
    process_cache().release();
}

} // namespace flashvsr
