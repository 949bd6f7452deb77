// SPDX-License-Identifier: LGPL-2.1-or-later
#include "weights_support.h"

#include "weights/builtin_model.h"
#include "weights/safetensors.h"
#include "weights/torch_archive.h"

#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <functional>
#include <limits>
#include <optional>

#include <unistd.h>

namespace flashvsr::test {
namespace {

namespace fs = std::filesystem;

/// A model directory to spoil.
class ModelDirectory : public ::testing::Test {
protected:
    void SetUp() override { save_model_directory(model_, random_weights(miniature_shape(), at::kFloat, 1)); }

    ModelWeights load(std::optional<Version> version = {}) {
        return load_model_directory(model_, version, Log([this](LogLevel level, const std::string &line) {
                                        if (level <= LogLevel::info)
                                            log_ += line + "\n";
                                    }));
    }

    void refused(int code, std::initializer_list<std::string_view> parts) {
        expect_error(code, parts, [&] { load(); });
    }

    using Change = std::function<void(TensorMap &)>;

    void change_dit(const Change &change) {
        TensorMap tensors = read_safetensors(model_ / dit_file_name);
        change(tensors);
        write_safetensors(model_ / dit_file_name, tensors);
    }

    void change_archive(const char *name, const Change &change) {
        TensorMap tensors = read_torch_archive(model_ / name);
        change(tensors);
        write_torch_archive(model_ / name, tensors);
    }

    void configure(const std::string &json) { write_bytes(model_ / config_file_name, json); }

    TemporaryDirectory directory_;
    fs::path model_ = directory_ / "model";
    std::string log_;
};

TEST_F(ModelDirectory, WhatIsSavedIsLoaded) {
    for (const at::ScalarType dtype : {at::kFloat, at::kHalf, at::kBFloat16})
        for (const bool optional_layers : {true, false}) {
            NetworkShape shape = miniature_shape();
            shape.lq_layers = 2;
            shape.has_decoder_3 = shape.has_decoder_24 = optional_layers;
            ModelWeights saved = random_weights(shape, dtype, 7);
            saved.version = Version::v1;
            saved.color_fix = ColorFix::wavelet;
            saved.name = "a name";
            saved.licence = "a licence";
            save_model_directory(model_, saved);
            const ModelWeights loaded = load();
            EXPECT_EQ(loaded.shape, shape);
            EXPECT_EQ(loaded.shape.heads(), 1);
            EXPECT_EQ(loaded.version, Version::v1);
            EXPECT_EQ(loaded.color_fix, ColorFix::wavelet);
            EXPECT_EQ(loaded.name, "a name");
            EXPECT_EQ(loaded.licence, "a licence");
            EXPECT_EQ(loaded.directory, model_);
            expect_same(loaded.dit, saved.dit);
            expect_same(loaded.lq_projector, saved.lq_projector);
            expect_same(loaded.decoder, saved.decoder);
            expect_same(loaded.prompt, saved.prompt);
        }
}

TEST_F(ModelDirectory, WhatItIsIsKnownWithoutItsWeights) {
    configure(R"({"version": "1", "color_fix": "wavelet", "name": "a name", "licence": "a licence"})");
    for (const char *name : {dit_file_name, lq_projector_file_name, decoder_file_name, prompt_file_name})
        write_bytes(model_ / name, "broken");
    const ModelInfo info = read_model_info(model_, {}, Log());
    EXPECT_EQ(info.version, Version::v1);
    EXPECT_EQ(info.color_fix, ColorFix::wavelet);
    EXPECT_EQ(info.name, "a name");
    EXPECT_EQ(info.licence, "a licence");
    EXPECT_EQ(info.directory, model_);
    EXPECT_EQ(info.files.prompt, (model_ / prompt_file_name).string());
    expect_error(EBADMSG, {dit_file_name}, [&] { load_weights(info, Log()); });
}

TEST_F(ModelDirectory, NotADirectoryWithAModel) {
    const auto load_from = [](const fs::path &path) { load_model_directory(path, {}, Log()); };
    expect_error(ENOENT, {"nowhere", "does not exist"}, [&] { load_from(directory_ / "nowhere"); });
    fs::create_directory(directory_ / "empty");
    expect_error(ENOENT, {"empty", "is empty"}, [&] { load_from(directory_ / "empty"); });
    expect_error(ENOENT, {dit_file_name, "not a directory"}, [&] { load_from(model_ / dit_file_name); });
    expect_error(ENOENT, {"does not exist"}, [&] { load_from(model_ / dit_file_name / "model"); });
}

TEST_F(ModelDirectory, AMissingFileIsNamed) {
    for (const char *name : {dit_file_name, lq_projector_file_name, decoder_file_name, prompt_file_name}) {
        fs::rename(model_ / name, directory_ / "aside");
        refused(ENOENT, {model_.string(), name});
        fs::rename(directory_ / "aside", model_ / name);
    }
    load();
}

TEST_F(ModelDirectory, AMissingPromptSaysWhereItIsPublished) {
    fs::remove(model_ / prompt_file_name);
    refused(ENOENT, {"FlashVSR source repository", "examples/WanVSR/prompt_tensor/", "put it into"});
}

TEST_F(ModelDirectory, ThePromptIsFoundWhereItIsPublished) {
    const fs::path root = directory_ / "FlashVSR";
    const fs::path weights = root / "examples" / "WanVSR" / "FlashVSR-v1.1";
    fs::create_directories(weights.parent_path());
    fs::rename(model_, weights);
    const auto works_at = [&](const fs::path &model, const fs::path &prompt_folder) {
        SCOPED_TRACE(prompt_folder);
        fs::create_directories(prompt_folder);
        fs::rename(model / prompt_file_name, prompt_folder / prompt_file_name);
        EXPECT_EQ(load_model_directory(model, {}, Log()).shape, miniature_shape());
        fs::rename(prompt_folder / prompt_file_name, model / prompt_file_name);
    };
    works_at(weights, weights / "prompt_tensor");
    works_at(weights, weights.parent_path());
    works_at(weights, weights.parent_path() / "prompt_tensor");
    fs::rename(weights, root / "weights");
    works_at(root / "weights", root / "examples" / "WanVSR" / "prompt_tensor");
    fs::create_directory(root / "models");
    fs::rename(root / "weights", root / "models" / "weights");
    works_at(root / "models" / "weights", root / "examples" / "WanVSR" / "prompt_tensor");
    works_at(root / "models" / "weights", root / "prompt_tensor");
}

/// Gives up root's right to read everything for as long as it lives.
class WithoutPrivileges {
public:
    WithoutPrivileges() : dropped_(geteuid() == 0 && seteuid(nobody) == 0) {}
    ~WithoutPrivileges() {
        if (dropped_ && seteuid(0) != 0)
            std::abort();
    }
    WithoutPrivileges(const WithoutPrivileges &) = delete;
    WithoutPrivileges &operator=(const WithoutPrivileges &) = delete;

private:
    static constexpr uid_t nobody = 65534;
    bool dropped_;
};

TEST_F(ModelDirectory, WhatMayNotBeReadIsNamed) {
    constexpr auto open_to_all = static_cast<fs::perms>(0755);
    fs::permissions(directory_.path(), open_to_all);
    fs::permissions(model_, open_to_all);
    fs::permissions(model_ / decoder_file_name, fs::perms::none);
    {
        const WithoutPrivileges dropped;
        if (geteuid() == 0)
            GTEST_SKIP() << "everything may be read by root, and it cannot be given up here";
        refused(EACCES, {decoder_file_name, "Permission denied"});
    }
    fs::permissions(model_, fs::perms::none);
    {
        const WithoutPrivileges dropped;
        refused(EACCES, {model_.string(), "Permission denied"});
    }
    fs::permissions(model_, open_to_all);
}

TEST_F(ModelDirectory, AFileThatIsNoFileIsNamed) {
    fs::remove(model_ / decoder_file_name);
    fs::create_directory(model_ / decoder_file_name);
    refused(EBADMSG, {decoder_file_name, "not a regular file"});
}

TEST_F(ModelDirectory, AnEmptyFileIsNamed) {
    for (const char *name : {dit_file_name, lq_projector_file_name, decoder_file_name, prompt_file_name}) {
        fs::copy_file(model_ / name, directory_ / "aside", fs::copy_options::overwrite_existing);
        write_bytes(model_ / name, "");
        refused(EBADMSG, {name});
        fs::rename(directory_ / "aside", model_ / name);
    }
}

TEST_F(ModelDirectory, EveryMissingTensorIsNamed) {
    const auto each = [&](const char *file, const std::vector<TensorSpec> &specs, const auto &read,
                          const auto &write) {
        const TensorMap whole = read(model_ / file);
        for (const TensorSpec &spec : specs) {
            if (spec.name == "decoder.3.weight" || spec.name == "decoder.24.weight")
                continue;
            SCOPED_TRACE(spec.name);
            TensorMap rest = whole;
            rest.erase(spec.name);
            write(model_ / file, rest);
            refused(EBADMSG, {file, "\"" + spec.name + "\"", "missing"});
        }
        write(model_ / file, whole);
    };
    const NetworkShape shape = miniature_shape();
    each(dit_file_name, dit_tensors(shape), read_safetensors, write_safetensors);
    each(lq_projector_file_name, lq_projector_tensors(shape), read_torch_archive, write_torch_archive);
    each(decoder_file_name, decoder_tensors(shape), read_torch_archive, write_torch_archive);
    load();
}

TEST_F(ModelDirectory, EveryWrongShapeIsRefused) {
    // One more row: where the network's sizes are read from this tensor, another one stands out.
    const auto each = [&](const char *file, const auto &read, const auto &write) {
        const TensorMap whole = read(model_ / file);
        for (const auto &[name, tensor] : whole) {
            SCOPED_TRACE(name);
            TensorMap changed = whole;
            std::vector<int64_t> sizes = tensor.sizes().vec();
            sizes[0]++;
            changed[name] = at::zeros(sizes);
            write(model_ / file, changed);
            refused(EBADMSG, {file, "tensor \""});
            sizes = tensor.sizes().vec();
            sizes.push_back(1);
            changed[name] = at::zeros(sizes);
            write(model_ / file, changed);
            refused(EBADMSG, {file, "\"" + name + "\"", "expected"});
        }
        write(model_ / file, whole);
    };
    each(dit_file_name, read_safetensors, write_safetensors);
    each(lq_projector_file_name, read_torch_archive, write_torch_archive);
    each(decoder_file_name, read_torch_archive, write_torch_archive);
    load();
}

TEST_F(ModelDirectory, AWrongShapeIsShownBesideTheRightOne) {
    change_dit([](TensorMap &dit) { dit["blocks.1.ffn.2.weight"] = at::zeros({128, 64}); });
    refused(EBADMSG, {dit_file_name, "\"blocks.1.ffn.2.weight\"", "(128, 64)", "(128, 128)"});
}

TEST_F(ModelDirectory, AWidthThatIsNoMultipleOfTheHeadsIsRefused) {
    change_dit([](TensorMap &dit) { dit["patch_embedding.weight"] = at::zeros({192, 16, 1, 2, 2}); });
    refused(EBADMSG, {dit_file_name, "patch_embedding.weight", "192", "128"});
}

TEST_F(ModelDirectory, TensorsOfAnotherNetworkAreRefusedWhereTheyMatter) {
    change_archive(decoder_file_name, [](TensorMap &decoder) { decoder["skip.weight"] = at::zeros({3}); });
    load(); // published decoders have more than is used
    change_archive(lq_projector_file_name, [](TensorMap &lq) { lq["conv3.bias"] = at::zeros({3}); });
    refused(EBADMSG, {lq_projector_file_name, "\"conv3.bias\""});
    change_archive(lq_projector_file_name, [](TensorMap &lq) { lq.erase("conv3.bias"); });
    change_dit([](TensorMap &dit) { dit["blocks.0.extra"] = at::zeros({3}); });
    refused(EBADMSG, {dit_file_name, "\"blocks.0.extra\""});
}

TEST_F(ModelDirectory, BlocksAreCountedByTheirNumbers) {
    change_dit([](TensorMap &dit) { dit["blocks.3.modulation"] = at::zeros({1, 6, 128}); });
    refused(EBADMSG, {dit_file_name, "\"blocks.2.modulation\"", "missing"});
    change_dit([](TensorMap &dit) {
        dit.erase("blocks.3.modulation");
        dit["blocks.999999999999.modulation"] = at::zeros({1, 6, 128});
    });
    refused(EBADMSG, {dit_file_name, "\"blocks.999999999999.modulation\""});
}

TEST_F(ModelDirectory, AProjectorOfAnotherTransformerIsRefused) {
    NetworkShape wide = miniature_shape();
    wide.dim = 256;
    const ModelWeights other = random_weights(wide, at::kFloat, 1);
    write_torch_archive(model_ / lq_projector_file_name, other.lq_projector);
    refused(EBADMSG, {lq_projector_file_name, "linear_layers.0.weight", "256", "128", "do not fit together"});

    NetworkShape shallow = miniature_shape();
    shallow.blocks = 3;
    shallow.lq_layers = 3;
    write_torch_archive(model_ / lq_projector_file_name, random_weights(shallow, at::kFloat, 1).lq_projector);
    refused(EBADMSG, {lq_projector_file_name, "3 linear layers", "2 blocks", "do not fit together"});
}

TEST_F(ModelDirectory, APromptOfAnotherTransformerIsRefused) {
    for (const std::vector<int64_t> &sizes :
         {std::vector<int64_t>{1, 16, 33}, {16, 32}, {2, 16, 32}, {1, 0, 32}, {1, 16, 32, 1}}) {
        write_torch_tensor(model_ / prompt_file_name, at::zeros(sizes));
        refused(EBADMSG, {prompt_file_name, "expected (1, length, 32)"});
    }
}

TEST_F(ModelDirectory, ValuesThatAreNotFiniteAreRefused) {
    const auto spoilt = [](const at::Tensor &tensor, double value) {
        at::Tensor copy = tensor.clone();
        copy.view({-1})[copy.numel() - 1] = value;
        return copy;
    };
    for (const double value :
         {std::nan(""), std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()})
        for (const at::ScalarType dtype : {at::kFloat, at::kHalf, at::kBFloat16}) {
            SCOPED_TRACE(concat(value, " ", c10::toString(dtype)));
            const ModelWeights weights = random_weights(miniature_shape(), dtype, 3);
            save_model_directory(model_, weights);
            load();
            const std::string name = "blocks.1.cross_attn.k.weight";
            change_dit([&](TensorMap &dit) { dit[name] = spoilt(dit.at(name), value); });
            refused(EBADMSG, {dit_file_name, "\"" + name + "\"", "NaN or infinite"});
            write_safetensors(model_ / dit_file_name, weights.dit);
            for (const char *file : {lq_projector_file_name, decoder_file_name}) {
                const TensorMap whole = read_torch_archive(model_ / file);
                const auto &[first, tensor] = *whole.begin();
                TensorMap changed = whole;
                changed[first] = spoilt(tensor, value);
                write_torch_archive(model_ / file, changed);
                refused(EBADMSG, {file, "\"" + first + "\"", "NaN or infinite"});
                write_torch_archive(model_ / file, whole);
            }
            write_torch_tensor(model_ / prompt_file_name, spoilt(weights.prompt, value));
            refused(EBADMSG, {prompt_file_name, "NaN or infinite"});
        }
}

TEST_F(ModelDirectory, TheVersionComesFromTheUserThenTheConfigThenTheName) {
    const auto version_at = [&](const char *name) {
        const fs::path renamed = directory_ / name;
        fs::rename(model_, renamed);
        model_ = renamed;
        log_.clear();
        return load().version;
    };
    EXPECT_EQ(load().version, Version::v1_1); // config.json of random_weights()
    EXPECT_EQ(load(Version::v1).version, Version::v1);
    configure(R"({"version": "1"})");
    EXPECT_EQ(version_at("FlashVSR-v1.1"), Version::v1);
    EXPECT_EQ(load(Version::v1_1).version, Version::v1_1);
    fs::remove(model_ / config_file_name);
    for (const char *name :
         {"FlashVSR-v1.1", "v1.1", "flashvsr_V1_1_bf16", "1.1", "FlashVSR1.1", "flashvsr_1.1"}) {
        EXPECT_EQ(version_at(name), Version::v1_1) << name;
        EXPECT_EQ(log_, "") << name;
    }
    for (const char *name : {"FlashVSR", "FlashVSR-v1", "v1", "FlashVSR_V1.safe", "flashvsr-v1-bf16"}) {
        EXPECT_EQ(version_at(name), Version::v1) << name;
        EXPECT_EQ(log_, "") << name;
    }
    for (const char *name : {"model", "flashvsr-mini", "v12", "v1.2", "v11.1", "2024.1.1"}) {
        EXPECT_EQ(version_at(name), Version::v1_1) << name;
        EXPECT_NE(log_.find("1.1 is assumed"), std::string::npos) << name;
    }
    EXPECT_EQ(load().name, "2024.1.1");
}

TEST_F(ModelDirectory, TheNameIsSeenThroughSlashesAndDots) {
    fs::remove(model_ / config_file_name);
    const fs::path renamed = directory_ / "FlashVSR-v1";
    fs::rename(model_, renamed);
    for (const fs::path &path : {renamed / "", renamed / ".", renamed / ".." / "FlashVSR-v1"})
        EXPECT_EQ(load_model_directory(path, {}, Log()).version, Version::v1) << path;
}

TEST_F(ModelDirectory, AConfigIsOptionalInEveryField) {
    configure("{}");
    EXPECT_EQ(load().color_fix, std::nullopt);
    configure(R"({"color_fix": "none", "model_type": "t2v", "dim": 1536})"); // others' fields
    EXPECT_EQ(load().color_fix, ColorFix::none);
}

TEST_F(ModelDirectory, AConfigWithAnUnknownValueIsRefused) {
    const auto refused_config = [&](const char *json, std::initializer_list<std::string_view> parts) {
        SCOPED_TRACE(json);
        configure(json);
        refused(EBADMSG, parts);
    };
    refused_config(R"({"version": "2"})", {"config.json", "\"version\"", "\"2\""});
    refused_config(R"({"version": 1})", {"config.json", "\"version\"", "not a string"});
    refused_config(R"({"color_fix": "adin"})", {"config.json", "\"color_fix\"", "\"adin\""});
    refused_config(R"({"color_fix": null})", {"config.json", "\"color_fix\"", "not a string"});
    refused_config(R"({"name": []})", {"config.json", "\"name\""});
    refused_config(R"({"licence": 3})", {"config.json", "\"licence\""});
    for (const char *json : {"[]", "{", ""})
        refused_config(json, {"config.json", "not a JSON object"});
}

/// The environment variable for the time of a test.
class BuiltinModel : public ::testing::Test {
protected:
    void TearDown() override {
        if (before_)
            setenv("FLASHVSR_MODEL_DIR", before_->c_str(), 1);
        else
            unsetenv("FLASHVSR_MODEL_DIR");
    }

    static std::optional<std::string> current() {
        const char *value = std::getenv("FLASHVSR_MODEL_DIR");
        return value ? std::optional<std::string>(value) : std::nullopt;
    }

    TemporaryDirectory directory_;
    std::optional<std::string> before_ = current();
};

TEST_F(BuiltinModel, TheVariableNamesAModelOrAFolderOfModels) {
    const fs::path model = directory_ / "flashvsr-mini";
    setenv("FLASHVSR_MODEL_DIR", directory_.path().c_str(), 1);
    expect_error(ENOENT, {"FLASHVSR_MODEL_DIR", directory_.path().string(), model.string(), dit_file_name},
                 [] { builtin_model_directory(); });
    save_model_directory(model, random_weights(miniature_shape(), at::kFloat, 1));
    EXPECT_EQ(builtin_model_directory(), model);
    setenv("FLASHVSR_MODEL_DIR", model.c_str(), 1);
    EXPECT_EQ(builtin_model_directory(), model);
}

TEST(RandomWeights, TheSameSeedGivesTheSameWeights) {
    const ModelWeights a = random_weights(miniature_shape(), at::kFloat, 5);
    NetworkShape deeper = miniature_shape();
    deeper.blocks++;
    const ModelWeights b = random_weights(deeper, at::kFloat, 5);
    for (const auto &[name, tensor] : a.dit)
        expect_same(tensor, b.dit.at(name));
    const ModelWeights c = random_weights(miniature_shape(), at::kFloat, 6);
    EXPECT_FALSE(a.dit.at("head.head.weight").equal(c.dit.at("head.head.weight")));
}

TEST(RandomWeights, TheOfficialShapeHasTheOfficialTensors) {
    const NetworkShape shape = official_shape();
    EXPECT_EQ(dit_tensors(shape).size(), 825u);
    int64_t parameters = 0;
    for (const TensorSpec &spec : dit_tensors(shape)) {
        int64_t numel = 1;
        for (const int64_t size : spec.shape)
            numel *= size;
        parameters += numel;
    }
    EXPECT_EQ(parameters, 1418996800);
    EXPECT_EQ(shape.heads(), 12);
}

TEST(RandomWeights, ImpossibleSizesAreRefused) {
    const auto refused = [](const char *name, const auto &change) {
        NetworkShape shape = miniature_shape();
        change(shape);
        expect_error(EINVAL, {name}, [&] { random_weights(shape, at::kFloat, 1); });
    };
    refused("dim", [](NetworkShape &s) { s.dim = 100; });
    refused("dim", [](NetworkShape &s) { s.dim = 0; });
    refused("ffn_dim", [](NetworkShape &s) { s.ffn_dim = -1; });
    refused("blocks", [](NetworkShape &s) { s.blocks = 0; });
    refused("freq_dim", [](NetworkShape &s) { s.freq_dim = 63; });
    refused("lq_layers", [](NetworkShape &s) { s.lq_layers = 3; });
    refused("decoder_channels", [](NetworkShape &s) { s.decoder_channels[2] = 0; });
    expect_error(EINVAL, {"Double"}, [] { random_weights(miniature_shape(), at::kDouble, 1); });
}

} // namespace
} // namespace flashvsr::test
