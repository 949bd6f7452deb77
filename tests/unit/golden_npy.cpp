// SPDX-License-Identifier: LGPL-2.1-or-later
#include "error.h"
#include "npy.h"
#include "temporary_folder.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <random>
#include <string>

namespace {

using namespace flashvsr;
using golden::read_npy;

std::string npy_bytes(const std::string &header, const std::string &values, int major = 1) {
    std::string text = header;
    text.resize((text.size() + 64) / 64 * 64, ' ');
    text.back() = '\n';
    std::string bytes = "\x93NUMPY";
    bytes += static_cast<char>(major);
    bytes += '\0';
    for (int i = 0; i < (major == 1 ? 2 : 4); i++)
        bytes += static_cast<char>(text.size() >> (8 * i) & 0xFF);
    return bytes + text + values;
}

std::string header_of(const std::string &descr, const std::string &shape) {
    return "{'descr': '" + descr + "', 'fortran_order': False, 'shape': " + shape + ", }";
}

template <typename Value> std::string bytes_of(std::initializer_list<Value> values) {
    std::string bytes;
    for (const Value &value : values)
        bytes.append(reinterpret_cast<const char *>(&value), sizeof(value));
    return bytes;
}

class Npy : public testing::Test {
protected:
    std::string sentence(const std::string &bytes) const {
        const auto path = folder.write("x.npy", bytes);
        try {
            read_npy(path);
        } catch (const Error &error) {
            EXPECT_EQ(error.code(), EBADMSG);
            EXPECT_NE(std::string(error.what()).find(path.string()), std::string::npos) << error.what();
            return error.what();
        }
        return "it was read";
    }

    void expect(const std::string &part, const std::string &bytes) const {
        EXPECT_NE(sentence(bytes).find(part), std::string::npos) << sentence(bytes);
    }

    at::Tensor read(const std::string &bytes) const { return read_npy(folder.write("x.npy", bytes)); }

    TemporaryFolder folder;
};

TEST_F(Npy, EveryTypeIsReadInCOrder) {
    EXPECT_TRUE(at::equal(read(npy_bytes(header_of("<f4", "(2, 3)"), bytes_of<float>({1, 2, 3, 4, 5, -6}))),
                          at::tensor({1.f, 2.f, 3.f, 4.f, 5.f, -6.f}).view({2, 3})));
    EXPECT_TRUE(at::equal(read(npy_bytes(header_of("<f8", "(2,)"), bytes_of<double>({0.1, -2}))),
                          at::tensor({0.1, -2.0}, at::kDouble)));
    EXPECT_TRUE(at::equal(read(npy_bytes(header_of("|u1", "(3,)"), bytes_of<uint8_t>({0, 128, 255}))),
                          at::tensor({0, 128, 255}, at::kByte)));
    EXPECT_TRUE(at::equal(read(npy_bytes(header_of("|b1", "(1, 2)"), bytes_of<uint8_t>({1, 0}))),
                          at::tensor({1, 0}, at::kLong).to(at::kBool).view({1, 2})));
    EXPECT_TRUE(at::equal(read(npy_bytes(header_of("<i4", "(2,)"), bytes_of<int32_t>({-1, 7}))),
                          at::tensor({-1, 7}, at::kInt)));
    EXPECT_TRUE(at::equal(read(npy_bytes(header_of("<i8", "(1,)"), bytes_of<int64_t>({1LL << 40}))),
                          at::full({1}, 1LL << 40, at::kLong)));
    EXPECT_EQ(read(npy_bytes(header_of("<f4", "()"), bytes_of<float>({5}))).item<float>(), 5.0f);
    EXPECT_EQ(read(npy_bytes(header_of("<f4", "(0, 3)"), "")).sizes(), at::IntArrayRef({0, 3}));
}

TEST_F(Npy, FormatsTwoAndThreeHaveLongerHeaderLengths) {
    for (const int major : {2, 3})
        EXPECT_EQ(read(npy_bytes(header_of("<f4", "(1,)"), bytes_of<float>({9}), major)).item<float>(), 9.0f);
}

TEST_F(Npy, WhatIsNotOneIsRefusedWithAReason) {
    const std::string good = npy_bytes(header_of("<f4", "(2,)"), bytes_of<float>({1, 2}));
    expect("first 8 bytes", "");
    expect("NumPy's mark", "PK\x03\x04 and more");
    expect("format 9", npy_bytes(header_of("<f4", "(1,)"), bytes_of<float>({1}), 9));
    expect("within its header", good.substr(0, 40));
    expect("4 bytes of values, but its shape asks for 8", good.substr(0, good.size() - 4));
    expect("9 bytes of values, but its shape asks for 8", good + "x");
    expect("'>f4'", npy_bytes(header_of(">f4", "(1,)"), bytes_of<float>({1})));
    expect("'<c8'", npy_bytes(header_of("<c8", "(1,)"), bytes_of<float>({1, 2})));
    expect("Fortran",
           npy_bytes("{'descr': '<f4', 'fortran_order': True, 'shape': (1,)}", bytes_of<float>({1})));
    expect("tuple of sizes", npy_bytes(header_of("<f4", "(-1,)"), bytes_of<float>({1})));
    expect("tuple of sizes", npy_bytes(header_of("<f4", "(1 2)"), bytes_of<float>({1, 2})));
    expect("64 bits", npy_bytes(header_of("<f4", "(99999999999999999999,)"), ""));
    expect("64 bits", npy_bytes(header_of("<f4", "(4611686018427387904, 4)"), ""));
    expect("asks for 4000000000000", npy_bytes(header_of("<f4", "(1000000000000,)"), bytes_of<float>({1})));
    expect("without descr", npy_bytes("{'descr': '<f4', 'shape': (1,)}", bytes_of<float>({1})));
    expect("unexpected key 'x'", npy_bytes("{'x': 1}", ""));
    expect("not a dict", npy_bytes("[1, 2]", ""));
    expect("after its header", npy_bytes(header_of("<f4", "(1,)") + " 5", bytes_of<float>({1})));
    expect("as a bool", npy_bytes(header_of("|b1", "(1,)"), "\x02"));
}

TEST_F(Npy, AFileThatIsNotThereIsNamed) {
    try {
        read_npy(folder.path() / "absent.npy");
        FAIL();
    } catch (const Error &error) {
        EXPECT_EQ(error.code(), ENOENT);
        EXPECT_NE(std::string(error.what()).find("absent.npy"), std::string::npos);
    }
    EXPECT_THROW(read_npy(folder.path()), Error);
}

TEST_F(Npy, BrokenBytesOnlyEverGiveAnError) {
    const std::string good =
        npy_bytes(header_of("<f4", "(2, 3, 4)"), std::string(2 * 3 * 4 * sizeof(float), '\1'));
    std::mt19937 random(7);
    int refused = 0;
    for (int i = 0; i < 3000; i++) {
        std::string bytes = good;
        for (unsigned n = random() % 3 + 1; n > 0; n--)
            bytes[random() % 128] = static_cast<char>(random());
        if (random() % 4 == 0)
            bytes.resize(random() % bytes.size());
        try {
            read(bytes);
        } catch (const Error &) {
            refused++;
        }
    }
    EXPECT_GT(refused, 1500);
}

} // namespace
