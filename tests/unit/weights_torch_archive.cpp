// SPDX-License-Identifier: LGPL-2.1-or-later
#include "weights_pickle.h"
#include "weights_support.h"

#include "weights/torch_archive.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <cstring>

namespace flashvsr::test {
namespace {

using namespace pickle;

class TorchArchive : public ::testing::Test {
protected:
    /// Write an archive with this program and one storage "0" of 6 floats, 0 to 5.
    void write(const std::string &program, const std::string &byte_order = "little") {
        write_bytes(path_, zip({{"weights/data.pkl", program},
                                {"weights/byteorder", byte_order},
                                {"weights/data/0", six_floats()},
                                {"weights/version", "3\n"}}));
    }

    void refused(const std::string &program, std::initializer_list<std::string_view> parts) {
        write(program);
        expect_error(EBADMSG, parts, [&] { read_torch_archive(path_); });
        expect_error(EBADMSG, {"weights.ckpt"}, [&] { read_torch_archive(path_); });
    }

    static std::string six_floats() {
        std::string bytes;
        for (int i = 0; i < 6; i++)
            bytes += bytes_of(static_cast<float>(i));
        return bytes;
    }

    TemporaryDirectory directory_;
    std::filesystem::path path_ = directory_ / "weights.ckpt";
};

const std::string floats = storage("FloatStorage", "0", 6);

TEST_F(TorchArchive, WhatIsWrittenIsReadBack) {
    const TensorMap tensors = {{"a.weight", at::randn({3, 4, 5})},
                               {"b", at::randn({2, 9}).to(at::kBFloat16)},
                               {"c", at::randn({7}).to(at::kHalf)},
                               {"scalar", at::full({}, 2.5)},
                               {"transposed", at::randn({4, 6}).t()}};
    write_torch_archive(path_, tensors);
    expect_same(read_torch_archive(path_), tensors);
    EXPECT_FALSE(std::filesystem::exists(directory_ / "weights.ckpt.part"));

    const at::Tensor tensor = at::randn({1, 5, 3}).to(at::kBFloat16);
    write_torch_tensor(path_, tensor);
    expect_same(read_torch_tensor(path_), tensor);
}

TEST_F(TorchArchive, LibTorchReadsWhatWeWrite) {
    const TensorMap tensors = {{"a", at::randn({3, 4})}, {"b", at::randn({5}).to(at::kBFloat16)}};
    write_torch_archive(path_, tensors);
    const std::string bytes = read_bytes(path_);
    const c10::IValue value = torch::jit::pickle_load(std::vector<char>(bytes.begin(), bytes.end()));
    TensorMap read;
    for (const auto &entry : value.toGenericDict())
        read.emplace(entry.key().toStringRef(), entry.value().toTensor());
    expect_same(read, tensors);
}

TEST_F(TorchArchive, WhatLibTorchWritesIsRead) {
    const at::Tensor tensor = at::randn({1, 4, 3});
    const std::vector<char> bytes = torch::jit::pickle_save(tensor);
    write_bytes(path_, std::string_view(bytes.data(), bytes.size()));
    expect_same(read_torch_tensor(path_), tensor);
}

TEST_F(TorchArchive, ViewsOfOneStorageAreRead) {
    const std::string memorized = floats + "q\x01";
    write(dict({{"whole", tensor(memorized, 0, {2, 3}, {3, 1})},
                {"transposed", tensor("h\x01", 0, {3, 2}, {1, 3})},
                {"tail", tensor("h\x01", 4, {2}, {1})},
                {"empty", tensor("h\x01", 6, {0, 5}, {5, 1})}}));
    const at::Tensor whole = at::arange(6).to(at::kFloat).view({2, 3});
    expect_same(read_torch_archive(path_), {{"whole", whole},
                                            {"transposed", whole.t()},
                                            {"tail", whole.view({6}).slice(0, 4)},
                                            {"empty", whole.new_empty({0, 5})}});
}

TEST_F(TorchArchive, AMisalignedStorageIsRead) {
    for (size_t shift = 0; shift < 16; shift++) {
        write_bytes(path_, zip({{"w/" + std::string(shift, 'x'), ""},
                                {"w/data.pkl", dict({{"a", tensor(floats, 0, {6}, {1})}})},
                                {"w/data/0", six_floats()}}));
        expect_same(read_torch_archive(path_).at("a"), at::arange(6).to(at::kFloat));
    }
}

TEST_F(TorchArchive, DictsOfEveryKindAreRead) {
    const std::string a = tensor(floats, 0, {6}, {1});
    const at::Tensor expected = at::arange(6).to(at::kFloat);
    const std::string ordered = "ccollections\nOrderedDict\n)R(" + text("a") + a + "u";
    const std::string attributes = "}(" + text("_metadata") + "}ub"; // a module's state_dict() has them
    const std::string parameter =
        "ctorch._utils\n_rebuild_parameter\n(" + a + "\x88" + "ccollections\nOrderedDict\n)RtR";
    for (const std::string &program :
         {dict({{"a", a}}), "\x80\x02" + ordered + ".", "\x80\x02" + ordered + attributes + ".",
          dict({{"a", parameter}}), "\x80\x02}" + text("a") + a + "s.", "\x80\x02(" + text("a") + a + "d.",
          dict({{"model_state", "}(" + text("a") + a + "u"}}),
          dict({{"epoch", "K\x05"}, {"state_dict", ordered + attributes}, {"loss", "N"}})}) {
        write(program);
        const TensorMap tensors = read_torch_archive(path_);
        ASSERT_EQ(tensors.size(), 1u);
        expect_same(tensors.at("a"), expected);
    }
}

TEST_F(TorchArchive, AnyOtherClassIsRefusedAndNothingIsRun) {
    const std::filesystem::path proof = directory_ / "proof";
    const std::string argument = "(" + text("touch " + proof.string()) + "tR";
    refused("\x80\x02"
            "cposix\nsystem\n" +
                argument + ".",
            {"posix.system", "nothing is run"});
    refused("\x80\x04" + text("posix") + text("system") + "\x93" + argument + ".", {"posix.system"});
    refused("\x80\x02"
            "cbuiltins\neval\n" +
                argument + ".",
            {"builtins.eval"});
    refused("\x80\x02"
            "ctorch.jit._pickle\nrestore_type_tag\n" +
                argument + ".",
            {"restore_type_tag"});
    refused("\x80\x02"
            "c__torch__.Module\nModule\n)\x81.",
            {"__torch__.Module.Module"});
    refused(dict({{"a", "cnumpy.core.multiarray\n_reconstruct\n)R"}}),
            {"numpy.core.multiarray._reconstruct"});
    refused("\x80\x02"
            "ctorch\nQInt8Storage\n.",
            {"torch.QInt8Storage"});
    refused("\x80\x02"
            "(iposix\nsystem\n.",
            {"instruction 105"}); // INST imports, too
    EXPECT_FALSE(std::filesystem::exists(proof));
}

TEST_F(TorchArchive, AViewOutsideItsStorageIsRefused) {
    const auto view = [&](int64_t offset, std::vector<int64_t> sizes, std::vector<int64_t> strides) {
        refused(dict({{"a", tensor(floats, offset, sizes, strides)}}), {"outside its storage of 6"});
    };
    view(0, {7}, {1});
    view(1, {6}, {1});
    view(7, {0}, {1});
    view(-1, {2}, {1});
    view(0, {-2}, {1});
    view(0, {2, 3}, {4, 1});
    view(0, {2}, {-1});
    view(5, {2}, {-1});
    view(0, {2}, {int64_t{1} << 62});
    view(INT64_MAX, {2}, {1});
    view(0, {1000000}, {0}); // inside, but a copy would take any amount of memory
    view(0, {int64_t{1} << 32, int64_t{1} << 32}, {0, 0});
    view(0, {0, INT64_MAX, INT64_MAX}, {1, 1, 1});
    view(0, {2, 3}, {1});
}

TEST_F(TorchArchive, AStorageOfAnotherSizeIsRefused) {
    refused(dict({{"a", tensor(storage("FloatStorage", "0", 7), 0, {6}, {1})}}),
            {"weights/data/0", "24", "28"});
    refused(dict({{"a", tensor(storage("FloatStorage", "1", 6), 0, {6}, {1})}}), {"weights/data/1"});
    refused(dict({{"a", tensor(storage("FloatStorage", "../data/0", 6), 0, {6}, {1})}}), {"../data/0"});
    refused(dict({{"a", tensor(storage("FloatStorage", "0", -6), 0, {6}, {1})}}), {"damaged"});
    refused(dict({{"a", tensor(storage("FloatStorage", "0", INT64_MAX), 0, {6}, {1})}}), {"damaged"});
}

TEST_F(TorchArchive, OtherTypesAreRefusedByTheTensorsName) {
    refused(dict({{"steps", tensor(storage("LongStorage", "0", 3), 0, {3}, {1})}}), {"\"steps\"", "Long"});
    refused(dict({{"a", tensor(storage("DoubleStorage", "0", 3), 0, {3}, {1})}}), {"\"a\"", "Double"});
    expect_error(EINVAL, {"\"a\"", "Long"}, [&] { write_torch_archive(path_, {{"a", at::arange(3)}}); });
}

TEST_F(TorchArchive, SomethingElseThanADictOfTensorsIsRefused) {
    refused("\x80\x02K\x05.", {"does not hold a dict"});
    refused("\x80\x02" + tensor(floats, 0, {6}, {1}) + ".", {"does not hold a dict"});
    refused(dict({{"a", "K\x05"}}), {"\"a\"", "not a tensor"});
    refused(dict({{"inner", "}"}}), {"\"inner\"", "not a tensor"});
    refused("\x80\x02}(K\x05K\x06u.", {"key that is not a string"});
    const std::string a = tensor(floats, 0, {6}, {1});
    refused(dict({{"a", a}, {"a", a}}), {"\"a\"", "twice"});
    write(dict({{"a", a}}));
    expect_error(EBADMSG, {"weights.ckpt", "single tensor"}, [&] { read_torch_tensor(path_); });
}

TEST_F(TorchArchive, ADamagedProgramIsRefused) {
    for (const std::string &program : std::vector<std::string>{"",
                                                               "\x80",
                                                               "\x80\x09}.",
                                                               "}",
                                                               ".",
                                                               "0.",
                                                               "t.",
                                                               "(",
                                                               "u.",
                                                               "(u.",
                                                               "}(K\x01u.",
                                                               "R.",
                                                               ")R.",
                                                               "}R.",
                                                               "Q.",
                                                               ")Q.",
                                                               "b.",
                                                               "}b.",
                                                               "h\x05.",
                                                               "j\xff\xff\xff\xff.",
                                                               "q\x01.",
                                                               "X\xff\xff\xff\xff"
                                                               "a.",
                                                               "\x8d\xff\xff\xff\xff\xff\xff\xff\xff"
                                                               "a.",
                                                               "ctorch",
                                                               "ctorch\nFloatStorage",
                                                               "\x93.",
                                                               "\x8a\x09.",
                                                               "\x85.",
                                                               "a.",
                                                               "}K\x01"
                                                               "a.",
                                                               "e.",
                                                               "s.",
                                                               "(0.",
                                                               "G\x01.",
                                                               "ccollections\nOrderedDict\nK\x01\x85R.",
                                                               "ctorch\nFloatStorage\n)R.",
                                                               "ctorch._utils\n_rebuild_tensor_v2\n)R.",
                                                               "ctorch._utils\n_rebuild_parameter\n)R."}) {
        SCOPED_TRACE(::testing::PrintToString(program));
        refused(program, {"damaged at its byte"});
    }
    refused("\x80\x02\xf0.", {"instruction 240"});
}

TEST_F(TorchArchive, AContainerThatHoldsItselfLeaksNothing) {
    refused("\x80\x02}q\x01(" + text("a") + "h\x01u.", {"\"a\"", "not a tensor"});
    refused("\x80\x02]q\x01h\x01"
            "a.",
            {"does not hold a dict"});
    refused("\x80\x02}q\x01(" + text("state_dict") + "h\x01u.", {"\"state_dict\"", "not a tensor"});
}

TEST_F(TorchArchive, ADamagedZipIsRefused) {
    write_torch_archive(path_, {{"a", at::randn({3})}});
    const std::string whole = read_bytes(path_);
    for (size_t size = 0; size < whole.size(); size++) {
        SCOPED_TRACE(size);
        write_bytes(path_, std::string_view(whole).substr(0, size));
        expect_error(EBADMSG, {"weights.ckpt"}, [&] { read_torch_archive(path_); });
    }
    write_bytes(path_, zip({{"a/b", "c"}}));
    expect_error(EBADMSG, {"not one of torch.save", "a/data.pkl"}, [&] { read_torch_archive(path_); });
    write_bytes(path_, zip({}));
    expect_error(EBADMSG, {"not one of torch.save"}, [&] { read_torch_archive(path_); });
    write_bytes(path_, zip({{"a/data.pkl", "}."}}, 8));
    expect_error(EBADMSG, {"a/data.pkl", "compressed"}, [&] { read_torch_archive(path_); });
    write_bytes(path_, zip({{"a/data.pkl", "}."}, {"a/data.pkl", "}."}}));
    expect_error(EBADMSG, {"two entries"}, [&] { read_torch_archive(path_); });
    write("}.", "big");
    expect_error(EBADMSG, {"byte order", "big"}, [&] { read_torch_archive(path_); });
}

TEST_F(TorchArchive, AProgramThatIsTooLongIsRefused) {
    write_bytes(path_, zip({{"a/data.pkl", std::string((16 << 20) + 1, '(')}}));
    expect_error(EBADMSG, {"16777217", "16777216"}, [&] { read_torch_archive(path_); });
}

TEST_F(TorchArchive, CopiesTakeNoMoreThanTheFile) {
    // Every entry claims the bytes of all that follow it, at an address that needs a copy.
    constexpr uint32_t count = 40, step = 64;
    std::vector<std::pair<std::string, std::string>> entries = {{"w/data.pkl", ""}};
    std::string program = "\x80\x02}(";
    for (uint32_t i = 0; i < count; i++) {
        std::string name = "w/data/" + std::to_string(i);
        entries.emplace_back(name, std::string(step, '\1'));
        program +=
            text(std::to_string(i)) + tensor(storage("FloatStorage", std::to_string(i), 512), 0, {512}, {1});
    }
    entries.emplace_back("w/tail", std::string(4096, '\1'));
    entries[0].second = program + "u.";
    std::string bytes = zip(entries);
    for (size_t at = 0; (at = bytes.find("w/data/", at + 1)) != std::string::npos;)
        if (bytes.compare(at - 46, 4, "PK\x01\x02", 4) == 0)
            for (const size_t size_field : {at - 26, at - 22})
                bytes.replace(size_field, 4, bytes_of<uint32_t>(2048));
    write_bytes(path_, bytes);
    expect_error(EBADMSG, {"overlaps others"}, [&] { read_torch_archive(path_); });
}

TEST_F(TorchArchive, TheOldFormatSaysHowToConvert) {
    write_bytes(path_, std::string("\x80\x02\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x19.") + std::string(100, '\0'));
    expect_error(EBADMSG, {"weights.ckpt", "torch.save(torch.load("}, [&] { read_torch_archive(path_); });
}

} // namespace
} // namespace flashvsr::test
