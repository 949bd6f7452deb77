// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/host_memory.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace flashvsr {

namespace {

/// Lines of a name and a number.
std::map<std::string, int64_t> read_fields(const std::filesystem::path &file) {
    std::map<std::string, int64_t> fields;
    std::ifstream stream(file);
    std::string name, rest;
    for (int64_t value = 0; stream >> name >> value && std::getline(stream, rest);)
        fields[name] = value;
    return fields;
}

/// Nothing where there is no such file, or a word in it, such as "max".
std::optional<int64_t> read_number(const std::filesystem::path &file) {
    std::ifstream stream(file);
    int64_t value = 0;
    return stream >> value ? std::optional(value) : std::nullopt;
}

/// Of the tree of version 2, which has the number 0; "/" where there is none.
std::filesystem::path own_group(const std::filesystem::path &processes) {
    constexpr std::string_view prefix = "0::";
    std::ifstream stream(processes / "self" / "cgroup");
    for (std::string line; std::getline(stream, line);)
        if (line.starts_with(prefix))
            return line.substr(prefix.size());
    return "/";
}

void narrow_to(const std::filesystem::path &group, DeviceMemory &memory) {
    const std::optional<int64_t> most = read_number(group / "memory.max"),
                                 used = read_number(group / "memory.current");
    if (!most || !used)
        return;
    std::map<std::string, int64_t> used_for = read_fields(group / "memory.stat");
    const int64_t files = used_for["active_file"] + used_for["inactive_file"];
    memory.total = std::min(memory.total, *most);
    memory.free = std::clamp<int64_t>(*most - *used + files, 0, memory.free);
}

} // namespace

DeviceMemory host_memory_by(const MemoryFiles &files) {
    std::map<std::string, int64_t> kibibytes = read_fields(files.processes / "meminfo");
    DeviceMemory memory{.free = kibibytes["MemAvailable:"] << 10, .total = kibibytes["MemTotal:"] << 10};
    std::filesystem::path group = files.groups;
    narrow_to(group, memory);
    for (const std::filesystem::path &name : own_group(files.processes).relative_path()) {
        group /= name;
        narrow_to(group, memory);
    }
    return memory;
}

} // namespace flashvsr
