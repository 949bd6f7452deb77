// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "manifest.h"

#include <ATen/core/Tensor.h>

#include <ostream>
#include <set>
#include <string>

namespace flashvsr::golden {

/// Compares tensors with a manifest's goldens, prints a line for each, and keeps account of those that nobody
/// has compared yet.
struct Bounds {
    /// Relative errors up to this are allowed too.
    double least_tolerance = 0;
    /// In fewer bits than fp32 tensors are not held to the manifest's tolerances: frames are to have this
    /// PSNR in dB against theirs, and of masks the share of common blocks is told.
    bool reduced = false;
    double least_psnr = 0;
};

class Report {
public:
    /// Only goldens whose "group/name" contains `filter` are compared and counted.
    Report(const Manifest &manifest, std::string filter, const Bounds &bounds, std::ostream &out);

    const Manifest &manifest() const { return manifest_; }

    /// Whether the filter lets a golden of the group through.
    bool wants(const std::string &group) const;

    /// Compare with the golden of that name, if the manifest has it and the filter lets it through. `note`
    /// says which of several computations of the same tensor this is.
    void check(const std::string &group, const std::string &name, const at::Tensor &got,
               const std::string &note = "");

    /// A check of the manifest's own numbers, as a line of its own.
    void check_value(const std::string &group, const std::string &name, bool passed, const std::string &text);

    /// The group's goldens that nobody has compared fail, for this reason.
    void fail_rest(const std::string &group, const std::string &reason);

    /// The group's goldens belong to a part of the network that the engine does not have.
    void not_built(const std::string &group);

    /// The group is of a form that this program does not know.
    void unknown(const std::string &group, const std::string &reason);

    /// Goldens that nobody has said anything about fail: every one that counts has been compared.
    void finish();

    void print(const std::string &line);

    int compared() const { return compared_; }
    int failed() const { return failed_; }
    int not_built() const { return not_built_; }
    int unknown() const { return unknown_; }

private:
    bool wants(const Entry &entry) const;
    int settle_group(const std::string &group);
    void measure(const Entry &entry, const at::Tensor &got);
    void line(bool passed, const std::string &path, double used, const std::string &text);

    const Manifest &manifest_;
    std::string filter_;
    Bounds bounds_;
    std::ostream &out_;
    std::set<const Entry *> settled_;
    int compared_ = 0, failed_ = 0, not_built_ = 0, unknown_ = 0;
};

} // namespace flashvsr::golden
