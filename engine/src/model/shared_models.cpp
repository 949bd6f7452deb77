// SPDX-License-Identifier: LGPL-2.1-or-later
#include "model/shared_models.h"

#include <algorithm>
#include <mutex>

namespace flashvsr {

namespace {

/// A network that has users, or will have: freed with the last of them, and forgotten.
struct Shared {
    Shared() = default;
    ~Shared();
    Shared(const Shared &) = delete;
    Shared &operator=(const Shared &) = delete;

    std::mutex loading;
    std::unique_ptr<const Model> model; ///< null until it is loaded
};

/// The one thing that contexts know of each other. Contexts of one process, such as two filters in a graph,
/// are opened by callers who need not know of each other, so what they could hand on has no other place than
/// the process. It owns no network: whatever is in here is held by its users.
struct Registry {
    struct Entry {
        ModelKey key;
        std::weak_ptr<Shared> shared;
    };

    std::mutex mutex;
    std::vector<Entry> entries;
};

Registry &registry() {
    static auto *const all = new Registry; // outlives contexts that are closed after main()
    return *all;
}

Shared::~Shared() {
    if (model) {
        // Contexts that were closed have stopped their threads, not the work that those had queued, in
        // streams that the allocator does not connect with these weights.
        try {
            synchronize(model->placement.device);
        } catch (...) { // NOLINT(bugprone-empty-catch): a device that failed reads nothing more
        }
        model.reset();
    }
    Registry &all = registry();
    const std::lock_guard lock(all.mutex);
    std::erase_if(all.entries, [](const Registry::Entry &entry) { return entry.shared.expired(); });
}

/// The entry of that key, made where there is none.
std::shared_ptr<Shared> find(const ModelKey &key) {
    // Made before the lock and, where it is not needed, destroyed after it: that takes the lock, too.
    auto fresh = std::make_shared<Shared>();
    Registry &all = registry();
    const std::lock_guard lock(all.mutex);
    for (const Registry::Entry &entry : all.entries)
        if (entry.key == key)
            if (std::shared_ptr<Shared> shared = entry.shared.lock())
                return shared;
    all.entries.push_back({key, fresh});
    return fresh;
}

} // namespace

ModelKey model_key(const ModelInfo &info, const Placement &placement, bool take_turns) {
    ModelKey key{{}, info.version, placement, take_turns};
    for (const std::string &file :
         {info.files.dit, info.files.lq_projector, info.files.decoder, info.files.prompt})
        key.files.push_back(stamp_file(file));
    return key;
}

SharedModel share_model(const ModelKey &key, const std::function<std::unique_ptr<const Model>()> &load) {
    // A user's own reference to the shared one, however often the user copies it: so users can be counted.
    const auto use = std::make_shared<const std::shared_ptr<Shared>>(find(key));
    Shared &shared = **use;
    const std::lock_guard lock(shared.loading);
    if (!shared.model)
        shared.model = load();
    return {std::shared_ptr<const Model>(use, shared.model.get()), use->use_count() - 1};
}

int64_t shared_model_count() {
    Registry &all = registry();
    const std::lock_guard lock(all.mutex);
    return std::count_if(all.entries.begin(), all.entries.end(),
                         [](const Registry::Entry &entry) { return !entry.shared.expired(); });
}

} // namespace flashvsr
