// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "log.h"

#include <c10/core/Device.h>

#include <string>
#include <vector>

namespace flashvsr {

/// The devices that a setting names: a list of "cpu", "cuda", "cuda:N", "N", "N-M" with '|' or ',' between. A
/// device named twice is worked on by two threads. "all" is every GPU; "auto" too where several devices are
/// wished for, else the first; both are the CPU where there is no GPU. Where one alone is wished for, the
/// first of a longer list, and a warning.
/// @throws Error ENODEV for one that is not known or not there
std::vector<at::Device> parse_devices(const std::string &setting, bool several, const Log &log);

} // namespace flashvsr
