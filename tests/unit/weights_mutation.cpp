// SPDX-License-Identifier: LGPL-2.1-or-later
#include "weights_pickle.h"
#include "weights_support.h"

#include "weights/safetensors.h"
#include "weights/torch_archive.h"

#include <algorithm>
#include <functional>
#include <random>

#include <sys/resource.h>
#include <unistd.h>

namespace flashvsr::test {
namespace {

/// Keeps the address space to what the process has and a little more, so that an absurd allocation fails.
class AddressSpaceLimit {
public:
    AddressSpaceLimit() {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) // they reserve terabytes
        std::ifstream statm("/proc/self/statm");
        rlim_t pages = 0;
        statm >> pages;
        getrlimit(RLIMIT_AS, &before_);
        rlimit limit = before_;
        limit.rlim_cur = std::min(limit.rlim_max,
                                  pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE)) + (rlim_t{256} << 20));
        setrlimit(RLIMIT_AS, &limit);
        set_ = true;
#endif
    }
    ~AddressSpaceLimit() {
        if (set_)
            setrlimit(RLIMIT_AS, &before_);
    }
    AddressSpaceLimit(const AddressSpaceLimit &) = delete;
    AddressSpaceLimit &operator=(const AddressSpaceLimit &) = delete;

private:
    rlimit before_{};
    bool set_ = false;
};

std::string mutate(std::string bytes, std::mt19937 &random) {
    static const std::string interesting[] = {
        bytes_of(UINT64_MAX),    bytes_of(INT64_MAX), bytes_of(INT64_MIN),   bytes_of(uint64_t{1} << 40),
        bytes_of(UINT32_MAX),    bytes_of(INT32_MAX), bytes_of(uint32_t{0}), bytes_of(uint16_t{0xffff}),
        std::string("99999999"), std::string("-1")};
    const auto below = [&](size_t end) { return std::uniform_int_distribution<size_t>(0, end - 1)(random); };
    for (size_t count = 1 + below(4); count > 0 && !bytes.empty(); count--) {
        const size_t at = below(bytes.size());
        switch (below(8)) {
        case 0:
            bytes.resize(at);
            break;
        case 1:
            bytes.erase(at, 1 + below(16));
            break;
        case 2:
            bytes.insert(at, bytes.substr(below(bytes.size()), 1 + below(16)));
            break;
        case 3:
        case 4:
            bytes[at] = static_cast<char>(below(256));
            break;
        case 5:
            bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
            break;
        default: {
            const std::string &value = interesting[below(std::size(interesting))];
            bytes.replace(at, value.size(), value);
        }
        }
    }
    return bytes;
}

/// Touch everything that was read: what reaches outside the file or a copy faults here.
double sum(const TensorMap &tensors) {
    double total = 0;
    for (const auto &[name, tensor] : tensors)
        total += tensor.sum().item<double>();
    return total;
}

/// Read thousands of damaged copies of a valid file. Some are still valid; every other one is refused.
void survives(const std::string &valid, const std::function<TensorMap(const std::filesystem::path &)> &read,
              unsigned seed) {
    constexpr int iterations = 3000;
    const TemporaryDirectory directory;
    const std::filesystem::path path = directory / "weights";
    write_bytes(path, valid);
    sum(read(path)); // starts LibTorch's threads before the limit

    const AddressSpaceLimit limit;
    std::mt19937 random(seed);
    int refused = 0;
    for (int i = 0; i < iterations; i++) {
        SCOPED_TRACE(i);
        write_bytes(path, mutate(valid, random));
        try {
            sum(read(path));
        } catch (const Error &error) {
            refused++;
            EXPECT_EQ(error.code(), EBADMSG) << error.what();
            EXPECT_EQ(std::string_view(error.what()).find('\n'), std::string_view::npos) << error.what();
        } catch (const std::exception &error) {
            ADD_FAILURE() << error.what();
        }
    }
    EXPECT_GT(refused, iterations / 4);
}

TEST(Mutation, SafetensorsAreReadOrRefused) {
    const TemporaryDirectory directory;
    const std::filesystem::path path = directory / "weights";
    const ModelWeights weights = random_weights(miniature_shape(), at::kBFloat16, 1);
    write_safetensors(path, {{"head.modulation", weights.dit.at("head.modulation")},
                             {"time_embedding.0.bias", weights.dit.at("time_embedding.0.bias")},
                             {"conv1.bias", weights.lq_projector.at("conv1.bias")}});
    survives(read_bytes(path), read_safetensors, 1);
}

TEST(Mutation, TorchArchivesAreReadOrRefused) {
    const TemporaryDirectory directory;
    const std::filesystem::path path = directory / "weights";
    const ModelWeights weights = random_weights(miniature_shape(), at::kFloat, 1);
    write_torch_archive(path, {{"conv1.bias", weights.lq_projector.at("conv1.bias")},
                               {"norm1.gamma", weights.lq_projector.at("norm1.gamma")}});
    survives(read_bytes(path), read_torch_archive, 2);
}

TEST(Mutation, PickleProgramsAreReadOrRefused) {
    using namespace pickle;
    // All damage goes into the program: the archive around it is made anew for each.
    const std::string shared = storage("FloatStorage", "0", 24) + "q\x01";
    const std::string program = dict({{"a", tensor(shared, 0, {2, 3, 4}, {12, 4, 1})},
                                      {"b", tensor("h\x01", 4, {4, 5}, {1, 4})},
                                      {"c", tensor("h\x01", 23, {}, {})}});
    const TemporaryDirectory directory;
    const std::filesystem::path archive = directory / "archive";
    survives(
        program,
        [&](const std::filesystem::path &path) {
            write_bytes(archive, zip({{"w/data.pkl", read_bytes(path)},
                                      {"w/data/0", std::string(24 * sizeof(float), '\0')}}));
            return read_torch_archive(archive);
        },
        3);
}

} // namespace
} // namespace flashvsr::test
