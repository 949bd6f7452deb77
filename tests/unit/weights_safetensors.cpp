// SPDX-License-Identifier: LGPL-2.1-or-later
#include "weights_support.h"

#include "weights/safetensors.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>

namespace flashvsr::test {
namespace {

class Safetensors : public ::testing::Test {
protected:
    /// Write a file with this header and so many bytes of data.
    void write(const std::string &header, size_t data_bytes) {
        write_bytes(path_, bytes_of<uint64_t>(header.size()) + header + std::string(data_bytes, '\1'));
    }

    void refused(std::initializer_list<std::string_view> parts) {
        expect_error(EBADMSG, parts, [&] { read_safetensors(path_); });
        expect_error(EBADMSG, {"weights.safetensors"}, [&] { read_safetensors(path_); });
    }

    void refused(const std::string &header, size_t data_bytes,
                 std::initializer_list<std::string_view> parts) {
        SCOPED_TRACE(header);
        write(header, data_bytes);
        refused(parts);
    }

    TemporaryDirectory directory_;
    std::filesystem::path path_ = directory_ / "weights.safetensors";
};

TEST_F(Safetensors, WhatIsWrittenIsReadBack) {
    const TensorMap tensors = {{"a", at::randn({3, 4})},
                               {"b.weight", at::randn({2, 1, 5}).to(at::kBFloat16)},
                               {"c \"quoted\"", at::randn({7}).to(at::kHalf)},
                               {"empty", at::empty({0, 3})},
                               {"scalar", at::full({}, 2.5)},
                               {"transposed", at::randn({4, 6}).t()}};
    write_safetensors(path_, tensors);
    expect_same(read_safetensors(path_), tensors);
    EXPECT_FALSE(std::filesystem::exists(directory_ / "weights.safetensors.part"));
}

TEST_F(Safetensors, AnEmptyMapIsAFile) {
    write_safetensors(path_, {});
    EXPECT_TRUE(read_safetensors(path_).empty());
}

TEST_F(Safetensors, TensorsOutliveTheFilesName) {
    write_safetensors(path_, {{"a", at::arange(1000).to(at::kFloat)}});
    const at::Tensor tensor = read_safetensors(path_).at("a");
    std::filesystem::remove(path_);
    EXPECT_EQ(tensor.sum().item<double>(), 499500);
}

TEST_F(Safetensors, AMisalignedTensorIsCopied) {
    const std::string header = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
    ASSERT_NE((header.size() + 8) % 4, 0u);
    write_bytes(path_, bytes_of<uint64_t>(header.size()) + header + bytes_of(1.5f) + bytes_of(-2.0f));
    const at::Tensor tensor = read_safetensors(path_).at("a");
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.data_ptr()) % 4, 0u);
    EXPECT_EQ(tensor[0].item<float>(), 1.5f);
    EXPECT_EQ(tensor[1].item<float>(), -2.0f);
}

TEST_F(Safetensors, MetadataIsIgnored) {
    write(R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}   )", 4);
    EXPECT_EQ(read_safetensors(path_).size(), 1u);
}

TEST_F(Safetensors, OtherTypesAreNotWritten) {
    expect_error(EINVAL, {"\"a\"", "Long"}, [&] { write_safetensors(path_, {{"a", at::arange(3)}}); });
    expect_error(EINVAL, {"UTF-8"}, [&] { write_safetensors(path_, {{"\xff", at::randn({3})}}); });
}

TEST_F(Safetensors, AFileThatCannotBeReadSaysWhy) {
    expect_error(ENOENT, {"weights.safetensors", "No such file"}, [&] { read_safetensors(path_); });
    expect_error(EBADMSG, {"not a regular file"}, [&] { read_safetensors(directory_.path()); });
}

TEST_F(Safetensors, ACutOffFileIsRefused) {
    write_safetensors(path_, {{"a", at::randn({3})}, {"b", at::randn({4})}});
    const std::string whole = read_bytes(path_);
    for (size_t size = 0; size < whole.size(); size++) {
        SCOPED_TRACE(size);
        write_bytes(path_, std::string_view(whole).substr(0, size));
        expect_error(EBADMSG, {"weights.safetensors"}, [&] { read_safetensors(path_); });
    }
}

TEST_F(Safetensors, ALyingHeaderLengthIsRefused) {
    for (const uint64_t length : {uint64_t{100}, uint64_t{1} << 32, UINT64_MAX, UINT64_MAX - 7}) {
        write_bytes(path_, bytes_of(length) + "{}");
        refused({std::to_string(length), "2"});
    }
}

TEST_F(Safetensors, AHeaderThatIsTooLongIsRefused) {
    constexpr uint64_t length = 100'000'001;
    write_bytes(path_, bytes_of(length));
    std::filesystem::resize_file(path_, 8 + length); // a hole, which takes no room
    refused({"100000001", "100000000"});
}

TEST_F(Safetensors, AHeaderThatIsNotJsonIsRefused) {
    refused("", 0, {"not valid JSON"});
    refused("{", 0, {"not valid JSON"});
    refused("{}x", 0, {"not valid JSON"});
    refused("{\"a\xff\":1}", 0, {"not valid JSON"});
    refused("[]", 0, {"an array", "not a JSON object"});
    refused("7", 0, {"a number"});
    refused(std::string(100000, '['), 0, {"an array"});
}

TEST_F(Safetensors, AnEntryOfTheWrongFormIsRefused) {
    refused(R"({"a":1})", 0, {"\"a\"", "a number"});
    refused(R"({"a":{}})", 0, {"\"a\"", "dtype"});
    refused(R"({"a":{"dtype":"F32","shape":[]}})", 4, {"\"a\"", "data_offsets"});
    refused(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4, {"\"a\"", "shape"});
    refused(R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4],"x":1}})", 4, {"\"a\"", "\"x\""});
    refused(R"({"a":{"dtype":"F32","dtype":"F32","shape":[],"data_offsets":[0,4]}})", 4, {"dtype", "twice"});
    refused(R"({"a":{"dtype":["F32"],"shape":[],"data_offsets":[0,4]}})", 4, {"dtype", "an array"});
    refused(R"({"a":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})", 4, {"shape", "an array"});
    refused(R"({"a":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}})", 4, {"shape", "a string"});
    refused(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, {"data_offsets", "(0)"});
    refused(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, {"data_offsets", "(4, 0)"});
    refused(R"({"__metadata__":{"a":1}})", 0, {"__metadata__", "a number"});
    refused(R"({"__metadata__":"a"})", 0, {"__metadata__", "a string"});
}

TEST_F(Safetensors, AnUnknownTypeIsRefused) {
    for (const char *dtype : {"F64", "I64", "U8", "BOOL", "F8_E4M3", "f32", ""})
        refused(concat(R"({"a":{"dtype":")", dtype, R"(","shape":[1],"data_offsets":[0,4]}})"), 4,
                {"\"a\"", concat('"', dtype, '"')});
}

TEST_F(Safetensors, ALyingShapeIsRefused) {
    const auto with_shape = [](const std::string &shape) {
        return R"({"a":{"dtype":"F32","shape":)" + shape + R"(,"data_offsets":[0,16]}})";
    };
    refused(with_shape("[3]"), 16, {"\"a\"", "(3)", "12 bytes", "16"});
    refused(with_shape("[-1]"), 16, {"\"a\"", "negative", "-1"});
    refused(with_shape("[1.5]"), 16, {"\"a\"", "1.5"});
    refused(with_shape("[18446744073709551615]"), 16, {"\"a\"", "too large"});
    refused(with_shape("[99999999999999999999999]"), 16, {"\"a\"", "not a 64-bit whole number"});
    refused(with_shape("[4611686018427387904]"), 16, {"\"a\"", "too large"});
    refused(with_shape("[4294967296,4294967296,4]"), 16, {"\"a\"", "too large"}); // 4 in 64 bits, if it wraps
    refused(with_shape("[0,4611686018427387904,4]"), 16, {"\"a\"", "too large"});
    refused(with_shape("[1,1,1,1,1,1,1,1,4]"), 16, {"\"a\"", "more than 8"});
}

TEST_F(Safetensors, LyingOffsetsAreRefused) {
    const auto pair = [](const std::string &a, const std::string &b) {
        return R"({"a":{"dtype":"F32","shape":[2],"data_offsets":)" + a +
               R"(},"b":{"dtype":"F32","shape":[2],"data_offsets":)" + b + "}}";
    };
    refused(pair("[0,8]", "[8,16]"), 12, {"\"b\"", "16", "12"});
    refused(pair("[0,8]", "[4,12]"), 12, {"\"b\"", "overlaps", "\"a\""});
    refused(pair("[0,8]", "[0,8]"), 8, {"\"b\"", "overlaps", "\"a\""});
    refused(pair("[0,8]", "[12,20]"), 20, {"\"b\"", "hole of 4"});
    refused(pair("[4,12]", "[12,20]"), 20, {"\"a\"", "hole of 4"});
    refused(pair("[0,8]", "[8,16]"), 17, {"1 bytes after the last tensor"});
    refused(pair("[0,8]", "[9223372036854775800,9223372036854775807]"), 16, {"\"b\"", "9223372036854775807"});
    refused(pair("[0,8]", "[8,18446744073709551615]"), 16, {"\"b\"", "too large"});
}

TEST_F(Safetensors, ANameThatIsGivenTwiceIsRefused) {
    refused(R"({"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},)"
            R"("a":{"dtype":"F16","shape":[1],"data_offsets":[2,4]}})",
            4, {"\"a\"", "twice"});
}

TEST_F(Safetensors, HostileNamesStayOnOneShortLine) {
    const std::string name = "line\\nbreak" + std::string(10000, 'x');
    write("{\"" + name + "\":1}", 0);
    try {
        read_safetensors(path_);
        FAIL() << "nothing was thrown";
    } catch (const Error &error) {
        EXPECT_EQ(std::string_view(error.what()).find('\n'), std::string_view::npos);
        EXPECT_LT(std::string_view(error.what()).size(), 500u);
    }
}

} // namespace
} // namespace flashvsr::test
