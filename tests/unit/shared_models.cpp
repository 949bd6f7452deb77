// SPDX-License-Identifier: LGPL-2.1-or-later
#include "failing_allocator.h"
#include "weights_support.h"

#include "flashvsr/flashvsr.h"
#include "model/shared_models.h"
#include "pipeline/worker_devices.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <future>
#include <latch>
#include <optional>
#include <thread>

namespace flashvsr::test {
namespace {

namespace fs = std::filesystem;

/// Time for another thread to come to where it waits. If it does not, a test says less, but nothing wrong.
constexpr std::chrono::milliseconds a_while(50);

std::unique_ptr<const Model> make_miniature() {
    const c10::InferenceMode guard;
    return std::make_unique<const Model>(random_weights(miniature_shape(), at::kFloat, 7), Placement{});
}

/// A model directory, in which networks are looked for.
class SharedModels : public ::testing::Test {
protected:
    void SetUp() override {
        save(model_, 1);
        ASSERT_EQ(shared_model_count(), 0);
    }
    void TearDown() override { EXPECT_EQ(shared_model_count(), 0); }

    static void save(const fs::path &directory, uint64_t seed) {
        save_model_directory(directory, random_weights(miniature_shape(), at::kFloat, seed));
    }

    /// The network of a directory on the CPU.
    std::shared_ptr<const Model> model_of(const fs::path &directory, std::optional<Version> version = {}) {
        return make_worker_devices(read_model_info(directory, version, log_), {Placement{}}, false, log_)
            .front()
            .model;
    }

    ModelKey key() const { return model_key(read_model_info(model_, {}, Log()), Placement{}, false); }

    std::atomic<int> loads_ = 0, shares_ = 0;
    const Log log_{[this](LogLevel, const std::string &line) {
        loads_ += line.find(": model ") != std::string::npos;
        shares_ += line.find(" on cpu are shared with ") != std::string::npos;
    }};
    TemporaryDirectory directory_;
    fs::path model_ = directory_ / "model";
};

TEST_F(SharedModels, OneDirectoryIsOneModelByWhateverPath) {
    const auto model = model_of(model_);
    EXPECT_EQ(shares_, 0);
    fs::create_directory_symlink(model_, directory_ / "link");
    for (const fs::path &path : {model_, model_ / "", model_ / ".." / "model", directory_ / "link"})
        EXPECT_EQ(model_of(path), model) << path;
    EXPECT_EQ(loads_, 1);
    EXPECT_EQ(shares_, 4);
    EXPECT_EQ(shared_model_count(), 1);
}

TEST_F(SharedModels, WorkersOfOneDeviceAreOneUser) {
    const ModelInfo info = read_model_info(model_, {}, log_);
    const auto devices = make_worker_devices(info, {Placement{}, Placement{}}, false, log_);
    EXPECT_EQ(devices.size(), 2U);
    EXPECT_EQ(devices[0].model, devices[1].model);
    const SharedModel shared = share_model(key(), make_miniature);
    EXPECT_EQ(shared.model, devices[0].model);
    EXPECT_EQ(shared.others, 1);
}

TEST_F(SharedModels, AnotherDirectoryOrVersionIsAnotherModel) {
    fs::copy(model_, directory_ / "copy");
    const auto model = model_of(model_);
    const auto of_copy = model_of(directory_ / "copy");
    const auto of_version = model_of(model_, Version::v1);
    EXPECT_NE(of_copy, model);
    EXPECT_NE(of_version, model);
    EXPECT_NE(of_version, of_copy);
    EXPECT_EQ(model_of(model_, Version::v1_1), model) << "what is assumed where nothing says it";
    EXPECT_EQ(shared_model_count(), 3);
    EXPECT_EQ(loads_, 3);
}

TEST_F(SharedModels, AnotherPlaceIsAnotherModel) {
    std::vector<ModelKey> keys(5, key());
    keys[1].placement.dtype = at::kBFloat16;
    keys[2].placement.fp8 = true;
    keys[3].placement.device = at::Device(at::kCUDA, 0);
    keys[4].take_turns = true;
    std::vector<std::shared_ptr<const Model>> models;
    for (const ModelKey &key : keys) {
        const SharedModel shared = share_model(key, make_miniature);
        EXPECT_EQ(shared.others, 0);
        EXPECT_EQ(std::count(models.begin(), models.end(), shared.model), 0);
        models.push_back(shared.model);
        EXPECT_EQ(share_model(key, make_miniature).model, shared.model);
    }
}

TEST_F(SharedModels, TheLastUserFreesIt) {
    auto first = model_of(model_), second = model_of(model_);
    const at::Tensor weight = first->dit.weights().front();
    auto copy = first;
    first.reset();
    second.reset();
    EXPECT_EQ(shared_model_count(), 1);
    EXPECT_GT(weight.use_count(), 1U);
    EXPECT_EQ(model_of(model_), copy);
    copy.reset();
    EXPECT_EQ(shared_model_count(), 0);
    EXPECT_EQ(weight.use_count(), 1U);
}

TEST_F(SharedModels, WhatWasFreedIsLoadedAnew) {
    for (int round = 1; round <= 3; round++) {
        const auto first = model_of(model_), second = model_of(model_);
        EXPECT_EQ(first, second);
        EXPECT_EQ(loads_, round);
        EXPECT_EQ(shared_model_count(), 1);
    }
}

TEST_F(SharedModels, FilesThatWereReplacedAreLoadedAnewBesideTheOldOnes) {
    const auto before = model_of(model_);
    const at::Tensor weight = before->dit.weights().front(), copy = weight.clone();
    save(model_, 2);
    const auto after = model_of(model_);
    EXPECT_NE(after, before);
    EXPECT_TRUE(at::equal(weight, copy));
    EXPECT_FALSE(at::equal(after->dit.weights().front(), copy));
    EXPECT_EQ(model_of(model_), after);
}

TEST_F(SharedModels, EachFileCounts) {
    for (const char *name : {dit_file_name, lq_projector_file_name, decoder_file_name, prompt_file_name}) {
        SCOPED_TRACE(name);
        const auto before = model_of(model_);
        const fs::path path = model_ / name;
        fs::last_write_time(path, fs::last_write_time(path) + std::chrono::seconds(1));
        EXPECT_NE(model_of(model_), before);
        fs::copy_file(path, directory_ / "copy");
        fs::last_write_time(directory_ / "copy", fs::last_write_time(path));
        const ModelKey key_before = key();
        fs::rename(directory_ / "copy", path);
        EXPECT_FALSE(key() == key_before) << "of the same size and time";
    }
}

TEST_F(SharedModels, ConfigMayChange) {
    const auto before = model_of(model_, Version::v1_1);
    write_bytes(model_ / config_file_name, R"({"name": "another", "color_fix": "wavelet"})");
    EXPECT_EQ(model_of(model_, Version::v1_1), before);
}

TEST_F(SharedModels, ThoseWhoAskAtTheSameTimeLoadOnce) {
    constexpr ptrdiff_t threads = 8;
    for (int round = 0; round < 5; round++) {
        std::atomic<int> loads = 0;
        std::latch start(threads), all_have_it(threads);
        std::vector<std::future<const Model *>> asking;
        for (ptrdiff_t i = 0; i < threads; i++)
            asking.push_back(std::async(std::launch::async, [&, key = key()] {
                start.arrive_and_wait();
                const SharedModel shared = share_model(key, [&] {
                    loads++;
                    std::this_thread::sleep_for(a_while);
                    return make_miniature();
                });
                all_have_it.arrive_and_wait();
                return shared.model.get();
            }));
        const Model *model = asking.front().get();
        for (size_t i = 1; i < asking.size(); i++)
            EXPECT_EQ(asking[i].get(), model);
        EXPECT_EQ(loads, 1);
        EXPECT_EQ(shared_model_count(), 0);
    }
}

// Users come and go: whoever has a network has a whole one.
TEST_F(SharedModels, ThoseWhoComeWhileTheLastOneGoesHaveAWholeOne) {
    std::vector<std::future<void>> asking;
    for (int i = 0; i < 4; i++)
        asking.push_back(std::async(std::launch::async, [key = key()] {
            for (int round = 0; round < 20; round++)
                EXPECT_TRUE(share_model(key, make_miniature).model->dit.weights().front().defined());
        }));
    for (std::future<void> &thread : asking)
        thread.get();
}

TEST_F(SharedModels, AnotherModelIsNotWaitedFor) {
    std::promise<void> begun, go_on;
    auto slow = std::async(std::launch::async, [&, key = key()] {
        return share_model(key, [&] {
            begun.set_value();
            go_on.get_future().wait();
            return make_miniature();
        });
    });
    begun.get_future().wait();
    ModelKey other = key();
    other.version = Version::v1;
    EXPECT_TRUE(share_model(other, make_miniature).model);
    go_on.set_value();
    EXPECT_TRUE(slow.get().model);
}

TEST_F(SharedModels, ALoadThatFailsIsForgotten) {
    expect_error(EBADMSG, {"injected"}, [&] {
        share_model(key(), []() -> std::unique_ptr<const Model> { fail(EBADMSG, "injected"); });
    });
    EXPECT_EQ(shared_model_count(), 0);
    EXPECT_TRUE(share_model(key(), make_miniature).model);
}

TEST_F(SharedModels, WhoWaitsForALoadThatFailsTriesItself) {
    std::promise<void> begun, go_on;
    auto failing = std::async(std::launch::async, [&, key = key()] {
        share_model(key, [&]() -> std::unique_ptr<const Model> {
            begun.set_value();
            go_on.get_future().wait();
            fail(ENOMEM, "injected");
        });
    });
    begun.get_future().wait();
    auto waiting = std::async(std::launch::async, [key = key()] { return share_model(key, make_miniature); });
    std::this_thread::sleep_for(a_while);
    go_on.set_value();
    expect_error(ENOMEM, {"injected"}, [&] { failing.get(); });
    EXPECT_TRUE(waiting.get().model);
}

TEST_F(SharedModels, ABrokenDirectoryIsLoadedOnceItIsMended) {
    const std::string whole = read_bytes(model_ / decoder_file_name);
    write_bytes(model_ / decoder_file_name, "broken");
    for (int round = 0; round < 2; round++)
        expect_error(EBADMSG, {decoder_file_name}, [&] { model_of(model_); });
    EXPECT_EQ(shared_model_count(), 0);
    write_bytes(model_ / decoder_file_name, whole);
    EXPECT_TRUE(model_of(model_));
}

/// A context by its C interface, for pictures of 16x16 that come out four times as large.
class Context {
public:
    explicit Context(const fs::path &model, uint64_t seed = 0, const char *device = "cpu") {
        flashvsr_settings_default(&settings_);
        settings_.width = settings_.height = side;
        settings_.model_dir = model.c_str();
        settings_.device = device;
        settings_.seed = seed;
        settings_.log_opaque = this;
        settings_.log = [](void *opaque, int, const char *line) {
            static_cast<Context *>(opaque)->log_ += std::string(line) + "\n";
        };
        result_ = flashvsr_open(&context_, &settings_);
    }
    ~Context() { flashvsr_close(&context_); }
    Context(const Context &) = delete;
    Context &operator=(const Context &) = delete;

    int result() const { return result_; } ///< of flashvsr_open()
    const std::string &log() const { return log_; }

    int64_t model_bytes() const {
        FlashVSRStats stats;
        EXPECT_EQ(flashvsr_stats(context_, &stats), 0);
        return stats.model_bytes;
    }

    /// The next output frames of a moving clip of 45, as many or all that are left.
    std::vector<std::string> run(int wanted = count) {
        std::vector<std::string> out;
        for (const int end = std::min(received_ + wanted, count); received_ < end;) {
            std::string bytes;
            int ret = receive(bytes);
            if (ret == 0)
                out.push_back(std::move(bytes));
            else if (ret == FLASHVSR_EAGAIN)
                ret = send(sent_++);
            if (ret < 0) {
                ADD_FAILURE() << flashvsr_error(context_);
                break;
            }
        }
        return out;
    }

    int receive(std::string &bytes) {
        bytes.assign(3 * out_side * out_side, '\0');
        FlashVSRFrame frame = picture(bytes, out_side);
        const int ret = flashvsr_receive_frame(context_, &frame);
        if (ret == 0) {
            EXPECT_EQ(frame.index, received_);
            EXPECT_EQ(frame.opaque, &places_[received_]);
            received_++;
        }
        return ret;
    }

private:
    static constexpr int side = 16, out_side = 64, count = 45;

    static FlashVSRFrame picture(std::string &bytes, int side) {
        FlashVSRFrame frame = {};
        frame.width = frame.height = side;
        frame.format = FLASHVSR_PIXEL_FORMAT_RGB;
        frame.depth = 8;
        for (int plane = 0; plane < 3; plane++) {
            frame.data[plane] = bytes.data() + static_cast<ptrdiff_t>(plane) * side * side;
            frame.stride[plane] = side;
        }
        return frame;
    }

    int send(int index) {
        if (index == count)
            return flashvsr_send_frame(context_, nullptr);
        std::string bytes(3 * side * side, '\0');
        for (size_t i = 0; i < bytes.size(); i++)
            bytes[i] = static_cast<char>((i * 5 + static_cast<size_t>(index) * 3) % 200);
        FlashVSRFrame frame = picture(bytes, side);
        frame.opaque = &places_[index];
        return flashvsr_send_frame(context_, &frame);
    }

    FlashVSRSettings settings_;
    std::string log_;
    FlashVSRContext *context_ = nullptr;
    int result_, sent_ = 0, received_ = 0;
    std::array<char, count> places_{}; ///< what frames' opaques point to
};

using Contexts = SharedModels;

bool says(const Context &context, const std::string &text) {
    return context.log().find(text) != std::string::npos;
}

TEST_F(Contexts, ShareTheWeightsAndSaySo) {
    const Context first(model_), second(model_, 5);
    std::optional<Context> third(std::in_place, model_);
    EXPECT_EQ(shared_model_count(), 1);
    EXPECT_FALSE(says(first, "shared with"));
    EXPECT_TRUE(says(second, "the weights of \"random weights\" on cpu are shared with 1 other\n"))
        << second.log();
    EXPECT_TRUE(says(*third, " on cpu are shared with 2 others\n")) << third->log();
    EXPECT_GT(first.model_bytes(), 0);
    EXPECT_EQ(second.model_bytes(), first.model_bytes());
    third.reset();
    EXPECT_TRUE(says(Context(model_), " on cpu are shared with 2 others\n"));
}

TEST_F(Contexts, OpenedAtTheSameTimeLoadOnce) {
    std::vector<std::future<std::unique_ptr<Context>>> opening;
    for (int i = 0; i < 8; i++)
        opening.push_back(
            std::async(std::launch::async, [this] { return std::make_unique<Context>(model_); }));
    std::vector<std::unique_ptr<Context>> contexts;
    for (auto &context : opening)
        contexts.push_back(context.get());
    int loads = 0;
    for (const auto &context : contexts) {
        EXPECT_EQ(context->result(), 0);
        loads += says(*context, ": model ");
    }
    EXPECT_EQ(loads, 1);
    EXPECT_EQ(shared_model_count(), 1);
}

TEST_F(Contexts, AtWorkAtTheSameTimeGiveWhatEachGivesAlone) {
    std::vector<std::vector<std::string>> expected;
    for (uint64_t seed = 0; seed < 2; seed++)
        expected.push_back(Context(model_, seed).run());
    EXPECT_NE(expected[0], expected[1]);
    Context first(model_, 0), second(model_, 1);
    EXPECT_EQ(shared_model_count(), 1);
    auto beside = std::async(std::launch::async, [&] { return first.run(); });
    EXPECT_TRUE(second.run() == expected[1]);
    EXPECT_TRUE(beside.get() == expected[0]);
}

TEST_F(Contexts, OneThatIsClosedInTheMiddleLeavesTheOthersWhatTheyHave) {
    const std::vector<std::string> expected = Context(model_).run();
    std::optional<Context> first(std::in_place, model_, 1);
    Context second(model_);
    auto beside = std::async(std::launch::async, [&] { return second.run(); });
    EXPECT_EQ(first->run(3).size(), 3U);
    first.reset();
    EXPECT_TRUE(beside.get() == expected);
    EXPECT_EQ(shared_model_count(), 1);
}

TEST_F(Contexts, WithoutMultiGpuUseTheFirstOfAList) {
    Context context(model_, 0, "cpu|cpu");
    EXPECT_TRUE(
        says(context, "device 'cpu|cpu' names 2 devices, but multi_gpu is 0: the first does it all\n"));
    EXPECT_TRUE(says(context, ") on cpu in fp32: ")) << context.log();
    EXPECT_TRUE(context.run() == Context(model_).run());
}

TEST_F(Contexts, AFrameThatCouldNotBeWrittenIsStillTheNext) {
    FailingAllocator &allocator = FailingAllocator::installed();
    const std::vector<std::string> expected = Context(model_).run();
    Context context(model_);
    std::vector<std::string> got = context.run(3);
    std::string bytes;
    for (int round = 0; round < 2; round++) {
        allocator.start(0);
        EXPECT_EQ(context.receive(bytes), -ENOMEM);
        allocator.stop();
    }
    const std::vector<std::string> rest = context.run();
    got.insert(got.end(), rest.begin(), rest.end());
    EXPECT_TRUE(got == expected);
}

TEST_F(Contexts, ThatDoNotOpenLeaveNothing) {
    const std::string whole = read_bytes(model_ / dit_file_name);
    write_bytes(model_ / dit_file_name, whole.substr(0, whole.size() / 2));
    EXPECT_EQ(Context(model_).result(), -EBADMSG);
    EXPECT_EQ(shared_model_count(), 0);
    write_bytes(model_ / dit_file_name, whole);
    EXPECT_EQ(Context(model_).result(), 0);
}

} // namespace
} // namespace flashvsr::test
