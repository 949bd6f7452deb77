// SPDX-License-Identifier: LGPL-2.1-or-later
#include "error.h"
#include "ops/device.h"
#include "pipeline/device_list.h"
#include "torch_guard.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace flashvsr {
namespace {

std::string names(const std::string &setting, bool several, const Log &log = {}) {
    std::string text;
    for (const at::Device &device : parse_devices(setting, several, log))
        text += (text.empty() ? "" : " ") + device.str();
    return text;
}

Error error_of(const std::string &setting) {
    try {
        parse_devices(setting, false, Log());
    } catch (const Error &error) {
        return error;
    }
    return {0, "no error"};
}

TEST(DeviceList, OneWorkerForEachEntry) {
    EXPECT_EQ(names("cpu", true), "cpu");
    EXPECT_EQ(names("cpu|cpu", true), "cpu cpu");
    EXPECT_EQ(names("cpu,cpu,cpu", true), "cpu cpu cpu");
}

TEST(DeviceList, TheFirstAloneWhereOneIsWishedFor) {
    std::string said;
    const Log log([&](LogLevel level, const std::string &line) {
        EXPECT_EQ(level, LogLevel::warning);
        said += line;
    });
    EXPECT_EQ(names("cpu", false, log), "cpu");
    EXPECT_EQ(said, "");
    EXPECT_EQ(names("cpu|cpu", false, log), "cpu");
    EXPECT_EQ(said, "device 'cpu|cpu' names 2 devices, but multi_gpu is 0: the first does it all");
    EXPECT_EQ(error_of("cpu|gpu").code(), ENODEV);
}

TEST(DeviceList, AutoIsTheCpuWhereThereIsNoGpu) {
    if (gpu_count() > 0)
        GTEST_SKIP() << "there is a GPU";
    EXPECT_EQ(names("auto", false), "cpu");
    EXPECT_EQ(names("auto", true), "cpu");
    EXPECT_EQ(names("all", true), "cpu");
}

TEST(DeviceList, AutoIsOneGpuOrAllThatThereAre) {
    const int count = gpu_count();
    if (count == 0)
        GTEST_SKIP() << "there is no GPU";
    EXPECT_EQ(names("auto", false), "cuda:0");
    EXPECT_EQ(parse_devices("auto", true, Log()).size(), static_cast<size_t>(count));
    EXPECT_EQ(parse_devices("all", true, Log()).size(), static_cast<size_t>(count));
    EXPECT_EQ(names("all", false), "cuda:0");
    EXPECT_EQ(names("0|cuda:0", true), "cuda:0 cuda:0");
}

TEST(DeviceList, UnknownNamesAreNamed) {
    for (const char *name :
         {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "1x", "3-1", "0-", "-1", "cpu:0", "99999999999"}) {
        const Error error = error_of(name);
        EXPECT_EQ(error.code(), ENODEV) << name;
        EXPECT_NE(std::string(error.what()).find(concat("'", name, "' is not known")), std::string::npos)
            << error.what();
    }
}

TEST(DeviceList, AGpuThatIsNotThereIsNamed) {
    const Error error = error_of("cuda:63");
    EXPECT_EQ(error.code(), ENODEV);
    EXPECT_NE(std::string(error.what()).find("device 'cuda:63' "), std::string::npos) << error.what();
}

/// The sentence about GPU 1 of such a machine, or none.
std::string sentence_about(const GpuReport &report) {
    try {
        check_report(1, report);
    } catch (const Error &error) {
        EXPECT_EQ(error.code(), ENODEV);
        return error.what();
    }
    return {};
}

TEST(GpuReport, WhatIsNotAbleIsSaidInOneSentence) {
    EXPECT_EQ(sentence_about({.failure = "CUDA driver version is insufficient for CUDA runtime version"}),
              "device 'cuda:1' cannot be used: CUDA driver version is insufficient for CUDA runtime version");
    EXPECT_EQ(sentence_about({.gpus = 1}), "device 'cuda:1' is not there: this machine has 1 GPU");
    EXPECT_EQ(sentence_about({.gpus = 2, .name = "a GPU", .major = 7, .minor = 5}),
              "device 'cuda:1' (a GPU) has compute capability 7.5, but 8.0 is the least");
    EXPECT_EQ(sentence_about({.gpus = 2, .name = "a GPU", .major = 8}), "");
    EXPECT_EQ(sentence_about({.gpus = 2, .name = "a GPU", .major = 12}), "");
}

TEST(GpuReport, Fp8IsForHopper) {
    EXPECT_NO_THROW(check_report_for_fp8(0, {.gpus = 1, .name = "a GPU", .major = 9}));
    for (const int major : {8, 10, 12})
        EXPECT_THROW(check_report_for_fp8(0, {.gpus = 1, .name = "a GPU", .major = major}), Error) << major;
}

TEST(Errors, MemoryThatRunsOutBelowLibTorchIsSaidToBeMemory) {
    const auto code_of = [](const char *sentence) {
        try {
            TORCH_CHECK(false, sentence);
        } catch (...) {
            return current_error().code();
        }
        return 0;
    };
    EXPECT_EQ(code_of("CUDA error: out of memory"), ENOMEM);
    EXPECT_EQ(code_of("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), ENOMEM);
    EXPECT_EQ(code_of("CUDA error: an illegal memory access was encountered"), EIO);
}

// The CPU's copies are the tensors themselves, and waiting for them takes no time.
TEST(Downloads, OfTheHostAreTheTensors) {
    const at::Tensor tensor = at::rand({2, 3});
    EXPECT_TRUE(Downloads(at::kCPU).begin(tensor).wait().is_same(tensor));
}

} // namespace
} // namespace flashvsr
