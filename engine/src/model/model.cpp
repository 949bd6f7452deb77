// SPDX-License-Identifier: LGPL-2.1-or-later
#include "model/model.h"

#include "ops/device.h"

#include <ATen/ATen.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <algorithm>
#include <set>

namespace flashvsr {

namespace {

// Bytes. The kernels' loads want 16, cuBLAS likes 256.
constexpr int64_t alignment = 512;
// The allocator of pinned memory rounds sizes up to powers of two: pieces of one waste nothing.
constexpr int64_t piece_bytes = int64_t{64} << 20;

int64_t total_bytes(const std::vector<at::Tensor> &tensors) {
    int64_t bytes = 0;
    for (const at::Tensor &tensor : tensors)
        if (tensor.defined())
            bytes += static_cast<int64_t>(tensor.nbytes());
    return bytes;
}

/// Let the device have back what its allocator keeps in reserve, so that the next large buffer finds a place.
void release_reserve(const at::Device &device) {
    if (!device.is_cpu())
        c10::getDeviceAllocator(device.type())->emptyCache();
}

/// The data of tensors in host memory, from where it visits the device: all of it in one buffer, so that it
/// leaves no holes. Without it the tensors keep their shapes, and LibTorch refuses access to them.
class VisitingWeights {
public:
    /// @param tensors their storages are nobody else's; undefined ones are left out
    VisitingWeights(const std::vector<at::Tensor> &tensors, const at::Device &device) : device_(device) {
        std::set<const c10::StorageImpl *> seen;
        for (const at::Tensor &tensor : tensors) {
            if (!tensor.defined() || !seen.insert(tensor.storage().unsafeGetStorageImpl()).second)
                continue;
            slots_.push_back({tensor.storage(), bytes_});
            const auto size = static_cast<int64_t>(tensor.storage().nbytes());
            bytes_ += (size + alignment - 1) / alignment * alignment;
        }
        save();
        unload();
    }

    int64_t bytes() const { return bytes_; }
    bool loaded() const { return data_.defined(); }

    void load() {
        const at::Tensor data = at::empty({bytes_}, at::TensorOptions(device_).dtype(at::kByte));
        int64_t offset = 0;
        for (const at::Tensor &piece : pieces_) {
            data.narrow(0, offset, piece.numel()).copy_(piece, true);
            offset += piece.numel();
        }
        auto *const begin = static_cast<char *>(data.data_ptr());
        for (const Slot &slot : slots_)
            slot.storage.set_data_ptr_noswap(at::DataPtr(begin + slot.offset, device_));
        data_ = data;
    }

    void unload() {
        for (const Slot &slot : slots_)
            slot.storage.set_data_ptr_noswap(at::DataPtr(nullptr, device_));
        data_.reset();
    }

private:
    struct Slot {
        at::Storage storage;
        int64_t offset; ///< in the buffer, bytes
    };

    void save() {
        const at::Tensor all = at::empty({bytes_}, at::kByte);
        for (const Slot &slot : slots_) {
            const auto size = static_cast<int64_t>(slot.storage.nbytes());
            all.narrow(0, slot.offset, size)
                .copy_(at::from_blob(slot.storage.mutable_data(), {size},
                                     at::TensorOptions(device_).dtype(at::kByte)));
        }
        for (int64_t begin = 0; begin < bytes_; begin += piece_bytes) {
            const at::Tensor piece = all.narrow(0, begin, std::min(piece_bytes, bytes_ - begin));
            pieces_.push_back(device_.is_cpu() ? piece : piece.pin_memory());
        }
    }

    at::Device device_;
    std::vector<Slot> slots_;
    std::vector<at::Tensor> pieces_; ///< of the buffer's contents, in order
    at::Tensor data_;                ///< the buffer on the device, while it is there
    int64_t bytes_ = 0;
};

std::vector<at::Tensor> joined(std::vector<at::Tensor> first, const std::vector<at::Tensor> &second) {
    first.insert(first.end(), second.begin(), second.end());
    return first;
}

} // namespace

/// The two parts' weights, of which at most one's are on the device.
class Model::Turns {
public:
    explicit Turns(const Model &model)
        : device_(model.placement.device),
          transformer_(joined(model.lq_projector.weights(), model.dit.weights()), device_),
          decoder_(model.decoder.weights(), device_) {}

    std::unique_lock<std::mutex> begin(Part part) {
        std::unique_lock lock(mutex_);
        VisitingWeights &wanted = part == Part::transformer ? transformer_ : decoder_;
        VisitingWeights &other = part == Part::transformer ? decoder_ : transformer_;
        if (!wanted.loaded()) {
            // Streams queue their work: the other part's may still be under way, and whoever has the next
            // turn may be another stream than this one.
            synchronize(device_);
            other.unload();
            release_reserve(device_);
            wanted.load();
            synchronize(device_);
        }
        return lock;
    }

    TurnBytes bytes() const { return {transformer_.bytes(), decoder_.bytes()}; }

private:
    at::Device device_;
    std::mutex mutex_;
    VisitingWeights transformer_, decoder_;
};

Model::Model(const ModelWeights &weights, const Placement &place, bool take_turns)
    : shape(weights.shape), placement(place),
      lq_projector(weights.lq_projector, weights.shape, weights.version, place),
      dit(weights.dit, weights.prompt, weights.shape, place), decoder(weights.decoder, weights.shape, place),
      bytes(total_bytes(lq_projector.weights()) + total_bytes(dit.weights()) +
            total_bytes(decoder.weights())) {
    if (take_turns) {
        turns_ = std::make_unique<Turns>(*this);
        release_reserve(place.device);
    }
}

Model::Model(Model &&) noexcept = default;
Model::~Model() = default;

std::unique_lock<std::mutex> Model::turn(Part part) const {
    return turns_ ? turns_->begin(part) : std::unique_lock<std::mutex>();
}

TurnBytes Model::turn_bytes() const {
    return turns_ ? turns_->bytes() : TurnBytes{};
}

} // namespace flashvsr
