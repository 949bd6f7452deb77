// SPDX-License-Identifier: LGPL-2.1-or-later
#include "error.h"
#include "manifest.h"
#include "temporary_folder.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <functional>

namespace {

using namespace flashvsr;
using namespace flashvsr::golden;
using Json = nlohmann::json;

Json good_manifest() {
    return Json::parse(R"({
        "cases": [{"name": "run", "model": "models/m", "pipeline": "tiny", "scale": 2, "sparse_ratio": 0.5,
                   "kv_ratio": 3.0, "local_range": 9, "output_frames": 21, "stored_output_frames": [0, 20],
                   "topk": 5, "parts_group": null,
                   "schedule": {"chunks": [{"latents": [0, 6], "output_frames": [0, 21], "rope_t_start": 0}]}}],
        "files": [{"file": "a.npy", "group": "g", "name": "a", "role": "input", "shape": [2], "dtype": "uint8"},
                  {"file": "b.npy", "group": "g", "name": "b", "role": "golden", "shape": [1], "dtype": "uint8",
                   "meaning": "m", "tolerance": {"metric": "exact"}}]})");
}

class ManifestTest : public testing::Test {
protected:
    Manifest read(const Json &json) const {
        folder.write("manifest.json", json.dump());
        return read_manifest(folder.path());
    }

    void expect(const std::string &part, const std::function<void(Json &)> &spoil) const {
        Json json = good_manifest();
        spoil(json);
        try {
            read(json);
            ADD_FAILURE() << "was read, though: " << part;
        } catch (const Error &error) {
            EXPECT_EQ(error.code(), EBADMSG);
            EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
        }
    }

    TemporaryFolder folder;
};

TEST_F(ManifestTest, IsReadFieldByField) {
    const Manifest manifest = read(good_manifest());
    ASSERT_EQ(manifest.cases.size(), 1u);
    const Case &c = manifest.cases[0];
    EXPECT_EQ(c.group(), "e2e/run");
    EXPECT_EQ(c.scale, 2.0);
    EXPECT_EQ(c.local_range, 9);
    EXPECT_TRUE(c.color_fix);
    EXPECT_EQ(c.parts_group, "");
    EXPECT_EQ(c.topk, 5);
    EXPECT_EQ(c.schedule, (std::vector<ScheduleChunk>{{{0, 6}, {0, 21}, 0}}));
    ASSERT_EQ(manifest.files.size(), 2u);
    EXPECT_FALSE(manifest.files[0].is_golden);
    EXPECT_EQ(manifest.find("g", "b"), &manifest.files[1]);
    EXPECT_EQ(manifest.find("g", "c"), nullptr);
}

TEST_F(ManifestTest, WhatIsWrongIsNamed) {
    expect("has no 'files'", [](Json &j) { j.erase("files"); });
    expect("names no files", [](Json &j) { j["files"] = Json::array(); });
    expect("'cases' that is not a list", [](Json &j) { j["cases"] = 3; });
    expect("cases[0] has no 'model'", [](Json &j) { j["cases"][0].erase("model"); });
    expect("'scale' that is not a number", [](Json &j) { j["cases"][0]["scale"] = "4"; });
    expect("'local_range' that is not a whole number", [](Json &j) { j["cases"][0]["local_range"] = 9.5; });
    expect("second case 'run'", [](Json &j) { j["cases"].push_back(j["cases"][0]); });
    expect("files[1] has no 'tolerance'", [](Json &j) { j["files"][1].erase("tolerance"); });
    expect("unknown metric 'close'", [](Json &j) { j["files"][1]["tolerance"]["metric"] = "close"; });
    expect("less than nothing", [](Json &j) {
        j["files"][1]["tolerance"] = {{"metric", "max_abs_diff / max_abs_ref"}, {"max", -1}};
    });
    expect("role 'output'", [](Json &j) { j["files"][0]["role"] = "output"; });
    expect("second 'g/a'", [](Json &j) { j["files"].push_back(j["files"][0]); });
    expect("leaves the folder: ../a.npy", [](Json &j) { j["files"][0]["file"] = "../a.npy"; });
    expect("leaves the folder: /a.npy", [](Json &j) { j["files"][0]["file"] = "/a.npy"; });
    expect("leaves the folder: x/../../m", [](Json &j) { j["cases"][0]["model"] = "x/../../m"; });
}

TEST_F(ManifestTest, NoManifestAndNoJsonAreNamed) {
    EXPECT_THROW(read_manifest(folder.path()), Error);
    folder.write("manifest.json", "{\"cases\": [");
    EXPECT_THROW(read_manifest(folder.path()), Error);
    folder.write("manifest.json", "[]");
    EXPECT_THROW(read_manifest(folder.path()), Error);
}

TEST_F(ManifestTest, FilesThatDisagreeWithItAreListed) {
    const std::string header = "{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }\n";
    std::string npy("\x93NUMPY\x01\x00", 8);
    npy += static_cast<char>(header.size());
    npy += '\0';
    npy += header + "xy";
    std::filesystem::create_directories(folder.path() / "models/m");
    folder.write("a.npy", npy);
    Json json = good_manifest();
    json["files"][1]["shape"] = {2};
    EXPECT_EQ(check_files(read(json)).size(), 1u); // b.npy is missing
    folder.write("b.npy", npy);
    EXPECT_EQ(check_files(read(json)), std::vector<std::string>{});
    json["files"][0]["shape"] = {1, 2};
    json["files"][1]["dtype"] = "bool";
    json["cases"][0]["model"] = "models/other";
    const std::vector<std::string> problems = check_files(read(json));
    ASSERT_EQ(problems.size(), 3u);
    EXPECT_NE(problems[0].find("a.npy is of shape [2]"), std::string::npos) << problems[0];
    EXPECT_NE(problems[1].find("b.npy is of type uint8"), std::string::npos) << problems[1];
    EXPECT_NE(problems[2].find("models/other"), std::string::npos) << problems[2];
}

} // namespace
