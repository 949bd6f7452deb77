// SPDX-License-Identifier: LGPL-2.1-or-later
#include "end_to_end.h"
#include "error.h"
#include "model_cache.h"
#include "ops/device.h"
#include "parts.h"
#include "pipeline/device_list.h"
#include "report.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <cstdlib>
#include <cstring>
#include <iostream>
#include <set>
#include <vector>

namespace {

using namespace flashvsr;
using namespace flashvsr::golden;

constexpr int exit_failed = 1;
constexpr int exit_bad = 2;
constexpr int exit_skipped = 77;

constexpr const char *usage =
    "Usage: flashvsr_golden DIR [OPTION...]\n"
    "       flashvsr_golden --env NAME [OPTION...]\n"
    "\n"
    "Run the engine on the inputs of a golden folder and compare what it gives, part by part and end to "
    "end,\n"
    "with what the manifest's files hold.\n"
    "\n"
    "  --filter TEXT     only goldens whose group/name contains TEXT\n"
    "  --list            list the groups and whether the engine has them, and run nothing\n"
    "  --env NAME        the folder that the environment variable NAME names; skipped where it names none\n"
    "  --device NAME     cpu (default), cuda or cuda:N\n"
    "  --precision NAME  fp32 (default), or bf16, fp16 or fp8 on a GPU: then frames' PSNR and masks' common "
    "share are\n"
    "                    measured, and nothing is held to the manifest's tolerances\n"
    "  --tolerance X     allow relative errors up to X where the manifest allows less\n"
    "  --psnr DB         in bf16, fp16 and fp8, the least PSNR that passes\n"
    "\n"
    "Exit status: 0 all compared tensors are within their tolerances, 1 one is not, 2 the arguments, the "
    "folder\n"
    "or the manifest are bad, 77 nothing was compared.\n";

struct Arguments {
    std::filesystem::path folder;
    std::string filter;
    bool list = false;
    Placement placement;
    Bounds bounds;
};

/// The groups that hold goldens, in the manifest's order.
std::vector<std::string> golden_groups(const Manifest &manifest) {
    std::vector<std::string> groups;
    std::set<std::string> seen;
    for (const Entry &entry : manifest.files)
        if (entry.is_golden && seen.insert(entry.group).second)
            groups.push_back(entry.group);
    return groups;
}

const Case *case_of(const Manifest &manifest, const std::string &group) {
    for (const Case &c : manifest.cases)
        if (c.group() == group)
            return &c;
    return nullptr;
}

const Case *recorded_from(const Manifest &manifest, const std::string &group) {
    for (const Case &c : manifest.cases)
        if (c.parts_group == group)
            return &c;
    return nullptr;
}

enum class GroupState { built, not_built, unknown };

struct GroupInfo {
    GroupState state = GroupState::unknown;
    std::string reason;
};

GroupInfo info_of(const Manifest &manifest, const std::string &group) {
    const Case *c = case_of(manifest, group);
    if (!c) {
        const auto part = parse_parts_group(group);
        if (!part)
            return {GroupState::unknown, "it is neither parts/VERSION/KIND nor that of a case"};
        switch (part_state(part->kind)) {
        case PartState::built:
            return {GroupState::built, ""};
        case PartState::not_built:
            return {GroupState::not_built, ""};
        case PartState::unknown:
            return {GroupState::unknown, "there is no part of this kind"};
        case PartState::recorded:
            c = recorded_from(manifest, group);
            if (!c)
                return {GroupState::unknown, "no case says that it was recorded from it"};
        }
    }
    switch (case_state(*c)) {
    case CaseState::built:
        return {GroupState::built, ""};
    case CaseState::not_built:
        return {GroupState::not_built, ""};
    case CaseState::unknown:
        break;
    }
    return {GroupState::unknown, "its case is of the unknown pipeline '" + c->pipeline + "'"};
}

std::string sentence_of(const std::exception &error) {
    const auto *const torch_error = dynamic_cast<const c10::Error *>(&error);
    const std::string text = torch_error ? torch_error->what_without_backtrace() : error.what();
    return text.substr(0, text.find('\n'));
}

/// Calls run(); what it throws fails the goldens of the groups that it leaves uncompared.
template <typename Run> void guarded(Report &report, const std::vector<std::string> &groups, const Run &run) {
    try {
        run();
    } catch (const std::exception &error) {
        for (const std::string &group : groups)
            report.fail_rest(group, sentence_of(error));
    }
}

void run_all(const Manifest &manifest, const Placement &placement, Report &report) {
    ModelCache models(manifest, placement);
    for (const std::string &group : golden_groups(manifest)) {
        if (!report.wants(group))
            continue;
        const GroupInfo info = info_of(manifest, group);
        const auto part = parse_parts_group(group);
        if (info.state == GroupState::not_built)
            report.not_built(group);
        else if (info.state == GroupState::unknown)
            report.unknown(group, info.reason);
        else if (part && part_state(part->kind) == PartState::built)
            guarded(report, {group}, [&] { run_part(group, *part, models, report); });
    }
    for (const Case &c : manifest.cases) {
        if (case_state(c) != CaseState::built)
            continue;
        if (report.wants(c.group()) || (!c.parts_group.empty() && report.wants(c.parts_group)))
            guarded(report, {c.group(), c.parts_group}, [&] { run_case(c, models, report); });
    }
    report.finish();
}

void list_groups(const Manifest &manifest, const Report &report) {
    for (const std::string &group : golden_groups(manifest)) {
        if (!report.wants(group))
            continue;
        int count = 0;
        for (const Entry &entry : manifest.files)
            count += entry.is_golden && entry.group == group;
        const GroupInfo info = info_of(manifest, group);
        const char *const state = info.state == GroupState::built       ? "built"
                                  : info.state == GroupState::not_built ? "not built"
                                                                        : "unknown";
        std::cout << group << ": " << count << " tensors, " << state
                  << (info.reason.empty() ? "" : "; " + info.reason) << '\n';
    }
}

/// Model folders that built parts need, besides those of the cases.
void check_part_models(const Manifest &manifest, std::vector<std::string> &problems) {
    std::set<std::string> versions;
    for (const std::string &group : golden_groups(manifest)) {
        const auto part = parse_parts_group(group);
        if (!part || !part_needs_model(part->kind) || !versions.insert(part->version).second)
            continue;
        const std::filesystem::path folder =
            manifest.folder / ModelCache::parts_folder(manifest, part->version);
        if (!std::filesystem::is_directory(folder))
            problems.push_back(concat("the model folder ", folder.string(), " of ", group, " is not there"));
    }
}

int run(const Arguments &arguments) {
    const Manifest manifest = read_manifest(arguments.folder);
    std::vector<std::string> problems = check_files(manifest);
    if (problems.empty())
        check_part_models(manifest, problems);
    for (const std::string &problem : problems)
        std::cerr << "flashvsr_golden: " << problem << '\n';
    if (!problems.empty()) {
        std::cerr << "flashvsr_golden: " << arguments.folder.string() << " is bad: " << problems.size()
                  << " problems\n";
        return exit_bad;
    }

    Report report(manifest, arguments.filter, arguments.bounds, std::cout);
    if (arguments.list) {
        list_groups(manifest, report);
        return 0;
    }
    const c10::InferenceMode inference;
    run_all(manifest, arguments.placement, report);
    std::cout << report.compared() << " compared, " << report.failed() << " failed, " << report.not_built()
              << " not built, " << report.unknown() << " of unknown form" << std::endl;
    if (report.failed() > 0)
        return exit_failed;
    if (report.unknown() > 0)
        return exit_bad;
    return report.compared() > 0 ? 0 : exit_skipped;
}

[[noreturn]] void bad_arguments(const std::string &sentence) {
    std::cerr << "flashvsr_golden: " << sentence << "\n\n" << usage;
    std::exit(exit_bad);
}

double number(const std::string &text) {
    char *end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0' || !(value >= 0))
        bad_arguments("'" + text + "' is not a number from 0 on");
    return value;
}

Arguments parse(const std::vector<std::string> &words) {
    Arguments arguments;
    bool has_folder = false;
    std::string precision = "fp32";
    const auto set_folder = [&](const std::string &folder) {
        if (has_folder)
            bad_arguments("there is more than one folder: " + folder);
        has_folder = true;
        arguments.folder = folder;
    };
    for (size_t i = 0; i < words.size(); i++) {
        const auto value = [&]() -> const std::string & {
            if (i + 1 == words.size())
                bad_arguments(words[i] + " needs a value");
            return words[++i];
        };
        if (words[i] == "--filter") {
            arguments.filter = value();
        } else if (words[i] == "--list") {
            arguments.list = true;
        } else if (words[i] == "--device") {
            const std::string &name = value();
            if (name != "cpu" && gpu_count() == 0) {
                std::cout << "skipped: there is no GPU for device " << name << std::endl;
                std::exit(exit_skipped);
            }
            arguments.placement.device = parse_devices(name, false, Log()).front();
        } else if (words[i] == "--precision") {
            precision = value();
        } else if (words[i] == "--tolerance") {
            arguments.bounds.least_tolerance = number(value());
        } else if (words[i] == "--psnr") {
            arguments.bounds.least_psnr = number(value());
        } else if (words[i] == "--env") {
            const std::string &name = value();
            const char *const folder = std::getenv(name.c_str());
            if (!folder || !*folder) {
                std::cout << "skipped: " << name << " names no golden folder" << std::endl;
                std::exit(exit_skipped);
            }
            set_folder(folder);
        } else if (words[i] == "--help" || words[i] == "-h") {
            std::cout << usage;
            std::exit(0);
        } else if (words[i].starts_with("-")) {
            bad_arguments("unknown option " + words[i]);
        } else {
            set_folder(words[i]);
        }
    }
    if (!has_folder)
        bad_arguments("no folder was given");
    try {
        arguments.placement = placement_in(precision, arguments.placement.device);
    } catch (const Error &error) {
        bad_arguments(error.what());
    }
    arguments.bounds.reduced = arguments.placement.dtype != at::kFloat;
    return arguments;
}

} // namespace

int main(int argc, char **argv) {
    try {
        return run(parse(std::vector<std::string>(argv + 1, argv + argc)));
    } catch (const std::exception &error) {
        std::cerr << "flashvsr_golden: " << sentence_of(error) << '\n';
        return exit_bad;
    }
}
