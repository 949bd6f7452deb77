// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <string>
#include <vector>

namespace flashvsr {

/// The devices that a setting names: "auto", "all", "cpu", or a list of such with '|' or ',' between. A
/// device named twice is worked on by two threads.
/// @throws Error ENODEV for one that is not known here, EINVAL for an empty list
std::vector<std::string> parse_devices(const std::string &setting);

} // namespace flashvsr
