// SPDX-License-Identifier: LGPL-2.1-or-later
#include "report.h"

#include "comparison.h"
#include "error.h"
#include "npy.h"

#include <iomanip>
#include <limits>

namespace flashvsr::golden {

Report::Report(const Manifest &manifest, std::string filter, std::ostream &out)
    : manifest_(manifest), filter_(std::move(filter)), out_(out) {}

bool Report::wants(const Entry &entry) const {
    return entry.is_golden && entry.path().find(filter_) != std::string::npos;
}

bool Report::wants(const std::string &group) const {
    for (const Entry &entry : manifest_.files)
        if (entry.group == group && wants(entry))
            return true;
    return false;
}

void Report::print(const std::string &line) {
    out_ << line << std::endl;
}

void Report::line(bool passed, const std::string &path, double used, const std::string &text) {
    std::ostringstream line;
    line << (passed ? "ok    " : "FAIL  ") << std::left << std::setw(58) << path << ' ' << std::right;
    if (used < 1e6)
        line << std::fixed << std::setprecision(1) << std::setw(7) << 100.0 * used << " % of allowed";
    else
        line << std::setw(20) << "not allowed";
    line << "  " << text;
    print(line.str());
}

void Report::check(const std::string &group, const std::string &name, const at::Tensor &got,
                   const std::string &note) {
    const Entry *const entry = manifest_.find(group, name);
    if (!entry || !wants(*entry))
        return;
    Comparison result{false, std::numeric_limits<double>::infinity(), ""};
    try {
        result = compare(got, read_npy(manifest_.folder / entry->file), entry->tolerance);
    } catch (const Error &error) {
        result.text = error.what();
    }
    settled_.insert(entry);
    compared_++;
    failed_ += !result.passed;
    line(result.passed, note.empty() ? entry->path() : entry->path() + " (" + note + ")", result.used,
         result.text);
}

void Report::check_value(const std::string &group, const std::string &name, bool passed,
                         const std::string &text) {
    compared_++;
    failed_ += !passed;
    line(passed, group + "/" + name, passed ? 0.0 : std::numeric_limits<double>::infinity(), text);
}

int Report::settle_group(const std::string &group) {
    int count = 0;
    for (const Entry &entry : manifest_.files)
        if (entry.group == group && wants(entry))
            count += settled_.insert(&entry).second;
    return count;
}

void Report::fail_rest(const std::string &group, const std::string &reason) {
    for (const Entry &entry : manifest_.files) {
        if (entry.group != group || !wants(entry) || !settled_.insert(&entry).second)
            continue;
        compared_++;
        failed_++;
        line(false, entry.path(), std::numeric_limits<double>::infinity(), reason);
    }
}

void Report::not_built(const std::string &group) {
    const int count = settle_group(group);
    not_built_ += count;
    if (count > 0)
        print(concat("not built  ", group, ": ", count, " tensors of the full pipeline"));
}

void Report::unknown(const std::string &group, const std::string &reason) {
    const int count = settle_group(group);
    unknown_ += count;
    if (count > 0)
        print(concat("unknown  ", group, ": ", count, " tensors; ", reason));
}

void Report::finish() {
    std::set<std::string> groups;
    for (const Entry &entry : manifest_.files)
        groups.insert(entry.group);
    for (const std::string &group : groups)
        fail_rest(group, "the engine gives no tensor of this name");
}

} // namespace flashvsr::golden
