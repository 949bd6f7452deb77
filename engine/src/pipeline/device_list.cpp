// SPDX-License-Identifier: LGPL-2.1-or-later
#include "pipeline/device_list.h"

#include "error.h"
#include "ops/device.h"

#include <charconv>
#include <optional>

namespace flashvsr {

namespace {

std::optional<int> to_number(std::string_view text) {
    int number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (text.empty() || error != std::errc() || end != text.data() + text.size() || number < 0)
        return std::nullopt;
    return number;
}

void add_gpus(int first, int last, std::vector<at::Device> &devices) {
    for (int index = first; index <= last; index++) {
        check_gpu(index);
        devices.emplace_back(at::kCUDA, static_cast<c10::DeviceIndex>(index));
    }
}

void add(const std::string &name, bool several, std::vector<at::Device> &devices) {
    constexpr std::string_view cuda = "cuda:";
    if (name == "cpu")
        return static_cast<void>(devices.emplace_back(at::kCPU));
    if (name == "auto" || name == "all") {
        const int gpus = gpu_count();
        if (gpus == 0)
            return static_cast<void>(devices.emplace_back(at::kCPU));
        return add_gpus(0, name == "all" || several ? gpus - 1 : 0, devices);
    }
    if (name == "cuda")
        return add_gpus(0, 0, devices);
    const std::string_view numbers = std::string_view(name).substr(name.starts_with(cuda) ? cuda.size() : 0);
    const size_t dash = std::min(numbers.find('-'), numbers.size());
    const std::optional<int> first = to_number(numbers.substr(0, dash));
    const std::optional<int> last = dash < numbers.size() ? to_number(numbers.substr(dash + 1)) : first;
    if (!first || !last || *last < *first)
        fail(ENODEV, "device '", name,
             "' is not known; devices are 'auto', 'all', 'cpu', 'cuda', 'cuda:0', '0' and '0-3'");
    add_gpus(*first, *last, devices);
}

} // namespace

std::vector<at::Device> parse_devices(const std::string &setting, bool several, const Log &log) {
    std::vector<at::Device> devices;
    for (size_t begin = 0; begin <= setting.size();) {
        const size_t end = std::min(setting.find_first_of("|,", begin), setting.size());
        add(setting.substr(begin, end - begin), several, devices);
        begin = end + 1;
    }
    if (!several && devices.size() > 1) {
        log(LogLevel::warning, "device '", setting, "' names ", devices.size(),
            " devices, but multi_gpu is 0: the first does it all");
        devices.erase(devices.begin() + 1, devices.end());
    }
    return devices;
}

} // namespace flashvsr
