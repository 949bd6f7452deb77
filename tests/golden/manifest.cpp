// SPDX-License-Identifier: LGPL-2.1-or-later
#include "manifest.h"

#include "error.h"
#include "npy.h"

#include <nlohmann/json.hpp>

#include <cmath>
#include <fstream>
#include <set>

namespace flashvsr::golden {
namespace {

using Json = nlohmann::json;

/// An object of the manifest with the words to name it in a sentence.
class Node {
public:
    Node(const Json &json, std::string where) : json_(json), where_(std::move(where)) {
        if (!json.is_object())
            fail(EBADMSG, where_, " is not an object");
    }

    bool has(const char *key) const { return json_.contains(key) && !json_.at(key).is_null(); }

    const Json &at(const char *key) const {
        if (!has(key))
            fail(EBADMSG, where_, " has no '", key, "'");
        return json_.at(key);
    }

    std::string text(const char *key) const {
        const Json &value = at(key);
        if (!value.is_string())
            fail(EBADMSG, where_, " has a '", key, "' that is not a string: ", value.dump());
        return value.get<std::string>();
    }

    double number(const char *key) const {
        const Json &value = at(key);
        if (!value.is_number() || !std::isfinite(value.get<double>()))
            fail(EBADMSG, where_, " has a '", key, "' that is not a number: ", value.dump());
        return value.get<double>();
    }

    int64_t integer(const char *key) const { return integer_of(at(key), key); }

    bool boolean(const char *key) const {
        const Json &value = at(key);
        if (!value.is_boolean())
            fail(EBADMSG, where_, " has a '", key, "' that is neither true nor false: ", value.dump());
        return value.get<bool>();
    }

    std::vector<int64_t> integers(const char *key) const {
        std::vector<int64_t> values;
        for (const Json &value : list(key))
            values.push_back(integer_of(value, key));
        return values;
    }

    const Json &list(const char *key) const {
        const Json &value = at(key);
        if (!value.is_array())
            fail(EBADMSG, where_, " has a '", key, "' that is not a list: ", value.dump());
        return value;
    }

    Node child(const char *key) const { return {at(key), where_ + "." + key}; }

    std::vector<Node> children(const char *key) const {
        std::vector<Node> nodes;
        for (const Json &value : list(key))
            nodes.emplace_back(value, concat(where_, ".", key, "[", nodes.size(), "]"));
        return nodes;
    }

    void read_range(const char *key, int64_t (&range)[2]) const {
        const std::vector<int64_t> values = integers(key);
        if (values.size() != 2)
            fail(EBADMSG, where_, " has a '", key, "' that is not a range: ", at(key).dump());
        range[0] = values[0];
        range[1] = values[1];
    }

    template <typename... Args> [[noreturn]] void bad(const Args &...args) const {
        fail(EBADMSG, where_, " ", args...);
    }

private:
    int64_t integer_of(const Json &value, const char *key) const {
        if (!value.is_number_integer())
            fail(EBADMSG, where_, " has a '", key, "' that is not a whole number: ", value.dump());
        return value.get<int64_t>();
    }

    const Json &json_;
    std::string where_;
};

// Files are only ever read inside the folder.
std::string inner_path(const Node &node, const char *key) {
    std::string text = node.text(key);
    const std::filesystem::path path(text);
    bool inside = !text.empty() && path.is_relative();
    for (const auto &part : path)
        inside = inside && part != "..";
    if (!inside)
        node.bad("has a '", key, "' that leaves the folder: ", text);
    return text;
}

Tolerance read_tolerance(const Node &node) {
    const std::string metric = node.text("metric");
    Tolerance tolerance;
    if (metric == "exact")
        return tolerance;
    if (metric == "max_abs_diff / max_abs_ref") {
        tolerance.metric = Tolerance::Metric::relative;
        tolerance.max = node.number("max");
    } else if (metric == "uint8") {
        tolerance.metric = Tolerance::Metric::uint8;
        tolerance.max = node.number("max_fraction_different");
        if (node.has("max_abs_diff"))
            tolerance.max_difference = node.number("max_abs_diff");
    } else {
        node.bad("has an unknown metric '", metric, "'");
    }
    if (tolerance.max < 0.0 || tolerance.max_difference < 0.0)
        node.bad("allows less than nothing");
    return tolerance;
}

Entry read_entry(const Node &node) {
    Entry entry;
    entry.file = inner_path(node, "file");
    entry.group = node.text("group");
    entry.name = node.text("name");
    entry.dtype = node.text("dtype");
    entry.shape = node.integers("shape");
    if (node.has("meaning"))
        entry.meaning = node.text("meaning");
    const std::string role = node.text("role");
    if (role != "input" && role != "golden")
        node.bad("has a role '", role, "', which is neither input nor golden");
    entry.is_golden = role == "golden";
    if (entry.is_golden)
        entry.tolerance = read_tolerance(node.child("tolerance"));
    return entry;
}

Case read_case(const Node &node) {
    Case c;
    c.name = node.text("name");
    c.model = inner_path(node, "model");
    c.pipeline = node.text("pipeline");
    c.scale = node.number("scale");
    c.sparse_ratio = node.number("sparse_ratio");
    c.kv_ratio = node.number("kv_ratio");
    c.local_range = node.integer("local_range");
    c.output_frames = node.integer("output_frames");
    if (node.has("color_fix"))
        c.color_fix = node.boolean("color_fix");
    if (node.has("stored_output_frames"))
        c.stored_output_frames = node.integers("stored_output_frames");
    if (node.has("parts_group"))
        c.parts_group = node.text("parts_group");
    if (node.has("topk"))
        c.topk = node.integer("topk");
    if (node.has("schedule"))
        for (const Node &chunk : node.child("schedule").children("chunks")) {
            ScheduleChunk &back = c.schedule.emplace_back();
            chunk.read_range("latents", back.latents);
            chunk.read_range("output_frames", back.output_frames);
            back.rope_start = chunk.integer("rope_t_start");
        }
    return c;
}

std::string dtype_name(at::ScalarType type) {
    switch (type) {
    case at::kBool:
        return "bool";
    case at::kByte:
        return "uint8";
    case at::kInt:
        return "int32";
    case at::kLong:
        return "int64";
    case at::kFloat:
        return "float32";
    default:
        return "float64";
    }
}

} // namespace

const Entry *Manifest::find(const std::string &group, const std::string &name) const {
    for (const Entry &entry : files)
        if (entry.group == group && entry.name == name)
            return &entry;
    return nullptr;
}

Manifest read_manifest(const std::filesystem::path &folder) {
    const std::filesystem::path path = folder / "manifest.json";
    std::ifstream file(path);
    if (!file || !std::filesystem::is_regular_file(path))
        fail(ENOENT, path.string(), " cannot be read");
    const Json json = Json::parse(file, nullptr, /*allow_exceptions=*/false);
    if (json.is_discarded())
        fail(EBADMSG, path.string(), " is not JSON");
    const Node root(json, path.string());

    Manifest manifest;
    manifest.folder = folder;
    for (const Node &node : root.children("cases"))
        manifest.cases.push_back(read_case(node));
    std::set<std::string> seen;
    for (const Node &node : root.children("files")) {
        Entry entry = read_entry(node);
        if (!seen.insert(entry.path()).second)
            node.bad("is a second '", entry.path(), "'");
        manifest.files.push_back(std::move(entry));
    }
    std::set<std::string> names;
    for (const Case &c : manifest.cases)
        if (!names.insert(c.name).second)
            root.bad("has a second case '", c.name, "'");
    if (manifest.files.empty())
        root.bad("names no files");
    return manifest;
}

std::vector<std::string> check_files(const Manifest &manifest) {
    std::vector<std::string> problems;
    for (const Entry &entry : manifest.files) {
        try {
            const at::Tensor values = read_npy(manifest.folder / entry.file);
            if (values.sizes() != at::IntArrayRef(entry.shape))
                problems.push_back(concat(entry.file, " is of shape ", values.sizes(),
                                          ", but the manifest says ", at::IntArrayRef(entry.shape)));
            if (dtype_name(values.scalar_type()) != entry.dtype)
                problems.push_back(concat(entry.file, " is of type ", dtype_name(values.scalar_type()),
                                          ", but the manifest says ", entry.dtype));
        } catch (const Error &error) {
            problems.emplace_back(error.what());
        }
    }
    std::set<std::string> models;
    for (const Case &c : manifest.cases)
        if (models.insert(c.model).second && !std::filesystem::is_directory(manifest.folder / c.model))
            problems.push_back(concat("the model folder ", (manifest.folder / c.model).string(), " of case ",
                                      c.name, " is not there"));
    return problems;
}

} // namespace flashvsr::golden
