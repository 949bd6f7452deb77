// SPDX-License-Identifier: LGPL-2.1-or-later
#include "pipeline/device_list.h"

#include "error.h"

namespace flashvsr {

std::vector<std::string> parse_devices(const std::string &setting) {
    std::vector<std::string> devices;
    for (size_t begin = 0; begin <= setting.size();) {
        const size_t end = std::min(setting.find_first_of("|,", begin), setting.size());
        const std::string name = setting.substr(begin, end - begin);
        if (name == "auto" || name == "all" || name == "cpu")
            devices.emplace_back("cpu");
        else
            fail(ENODEV, "device '", name, "' is not known; this library was built for 'cpu'");
        begin = end + 1;
    }
    return devices;
}

} // namespace flashvsr
