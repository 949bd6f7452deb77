// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace flashvsr::golden {

/// How far a tensor may be from its golden.
struct Tolerance {
    enum class Metric {
        exact,    ///< no value differs
        relative, ///< largest difference over the golden's largest magnitude
        uint8,    ///< differences of at most 1, in at most a fraction of the values
    };
    Metric metric = Metric::exact;
    /// Of `relative`: the largest quotient. Of `uint8`: the largest fraction of values that differ.
    double max = 0.0;
    /// Of `uint8`: the largest difference.
    double max_difference = 1.0;
};

/// A file of the folder: an input, or a golden with its tolerance.
struct Entry {
    std::string file, group, name, meaning, dtype;
    std::vector<int64_t> shape;
    bool is_golden = false;
    Tolerance tolerance;

    std::string path() const { return group + "/" + name; }
};

/// A chunk as the manifest's schedule has it; ranges are half open.
struct ScheduleChunk {
    int64_t latents[2], output_frames[2], rope_start;

    bool operator==(const ScheduleChunk &) const = default;
};

/// An end-to-end run.
struct Case {
    std::string name, model, pipeline;
    std::string parts_group; ///< the group that was recorded from this run, "" if none was
    double scale = 0.0, sparse_ratio = 0.0, kv_ratio = 0.0;
    int64_t local_range = 0, output_frames = 0;
    bool color_fix = true;
    std::vector<int64_t> stored_output_frames; ///< of out_u8, frame by frame
    std::optional<int64_t> topk;
    std::vector<ScheduleChunk> schedule; ///< empty where the manifest has none

    std::string group() const { return "e2e/" + name; }
};

struct Manifest {
    std::filesystem::path folder;
    std::vector<Case> cases;
    std::vector<Entry> files;

    /// The entry of that group and name, or nullptr.
    const Entry *find(const std::string &group, const std::string &name) const;
};

/// Read FOLDER/manifest.json. Throws ENOENT, or EBADMSG with a sentence that names the field and what is
/// wrong with it.
Manifest read_manifest(const std::filesystem::path &folder);

/// What is wrong with the files that the manifest names: one sentence for each that is missing, cannot be
/// read, or is of another shape or type than the manifest says; and for each model folder that is missing.
std::vector<std::string> check_files(const Manifest &manifest);

} // namespace flashvsr::golden
