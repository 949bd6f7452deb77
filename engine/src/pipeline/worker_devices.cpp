// SPDX-License-Identifier: LGPL-2.1-or-later
#include "pipeline/worker_devices.h"

#include "model/shared_models.h"
#include "ops/device.h"
#include "torch_guard.h"
#include "weights/describe.h"

#include <future>
#include <map>
#include <mutex>
#include <optional>

namespace flashvsr {

namespace {

/// The weights of a directory, read by the first who needs them. Thread-safe.
class WeightsOnDemand {
public:
    WeightsOnDemand(const ModelInfo &info, const Log &log) : info_(info), log_(log) {}

    const ModelWeights &get() {
        const std::lock_guard lock(mutex_);
        if (!weights_)
            weights_.emplace(load_weights(info_, log_));
        return *weights_;
    }

private:
    const ModelInfo &info_;
    const Log &log_;
    std::mutex mutex_;
    std::optional<ModelWeights> weights_;
};

} // namespace

std::vector<WorkerDevice> make_worker_devices(const ModelInfo &info, const std::vector<Placement> &places,
                                              bool take_turns, const Log &log) {
    WeightsOnDemand weights(info, log);
    std::map<std::string, std::future<SharedModel>> loading;
    for (const Placement &place : places) {
        if (loading.contains(place.device.str()))
            continue;
        const bool turns = take_turns && !place.device.is_cpu();
        loading[place.device.str()] = std::async(
            std::launch::async, [&weights, &log, place, turns, key = model_key(info, place, turns)] {
                const TorchGuard guard(log);
                const DeviceScope scope(place.device);
                return share_model(key, [&] {
                    auto model = std::make_unique<const Model>(weights.get(), place, turns);
                    synchronize(place.device);
                    return model;
                });
            });
    }
    std::map<std::string, std::shared_ptr<const Model>> models;
    for (auto &[name, loaded] : loading) {
        const SharedModel shared = loaded.get();
        if (shared.others > 0)
            log(LogLevel::verbose, "the weights of ", quote(info.name), " on ", name, " are shared with ",
                shared.others, shared.others == 1 ? " other" : " others");
        models[name] = shared.model;
    }
    std::vector<WorkerDevice> devices;
    devices.reserve(places.size());
    for (const Placement &place : places)
        devices.push_back({place.device.str(), models[place.device.str()],
                           [device = place.device] { return memory_of(device); }});
    return devices;
}

} // namespace flashvsr
