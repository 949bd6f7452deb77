// SPDX-License-Identifier: LGPL-2.1-or-later
#include "report.h"

#include "comparison.h"
#include "error.h"
#include "npy.h"

#include <ATen/ATen.h>

#include <cmath>
#include <iomanip>
#include <limits>

namespace flashvsr::golden {

Report::Report(const Manifest &manifest, std::string filter, const Bounds &bounds, std::ostream &out)
    : manifest_(manifest), filter_(std::move(filter)), bounds_(bounds), out_(out) {}

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
    if (bounds_.reduced)
        return measure(*entry, got);
    Comparison result{false, std::numeric_limits<double>::infinity(), ""};
    try {
        Tolerance tolerance = entry->tolerance;
        if (tolerance.metric == Tolerance::Metric::relative)
            tolerance.max = std::max(tolerance.max, bounds_.least_tolerance);
        result = compare(got.defined() ? got.to(at::kCPU) : got, read_npy(manifest_.folder / entry->file),
                         tolerance);
    } catch (const Error &error) {
        result.text = error.what();
    }
    settled_.insert(entry);
    compared_++;
    failed_ += !result.passed;
    line(result.passed, note.empty() ? entry->path() : entry->path() + " (" + note + ")", result.used,
         result.text);
}

void Report::measure(const Entry &entry, const at::Tensor &got) {
    settled_.insert(&entry);
    const at::Tensor golden = read_npy(manifest_.folder / entry.file);
    if (entry.name == "out_u8") {
        const double mse =
            (got.to(at::kCPU).to(at::kDouble) - golden.to(at::kDouble)).square().mean().item<double>();
        const double psnr = 20 * std::log10(255.0) - 10 * std::log10(mse);
        const bool passed = psnr >= bounds_.least_psnr;
        compared_++;
        failed_ += !passed;
        print(concat(passed ? "ok    " : "FAIL  ", entry.path(), ": PSNR ", psnr, " dB"));
    } else if (entry.name.ends_with("_mask")) {
        const at::Tensor mask = got.to(at::kCPU);
        const double common = mask.logical_and(golden).sum().item<double>(),
                     either = mask.logical_or(golden).sum().item<double>();
        print(concat("      ", entry.path(), ": ", 100 * common / either, " % of blocks in common"));
    }
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
        if (bounds_.reduced && entry.name != "out_u8")
            continue;
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
