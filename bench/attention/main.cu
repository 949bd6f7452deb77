// SPDX-License-Identifier: LGPL-2.1-or-later

// Speed of block-sparse attention in bf16: every version of the ladder at every density. A multiply-add
// counts as two operations, 4 * 128^3 for a kept block.

#include "ladder.h"

#include <cuda_bf16.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace flashvsr;

constexpr int side = 128;
constexpr int64_t window_elements = side * side;
constexpr double block_operations = 4.0 * side * side * side;

void check(cudaError_t error) {
    if (error == cudaSuccess)
        return;
    std::fprintf(stderr, "attention_bench: %s\n", cudaGetErrorString(error));
    std::exit(1);
}

template <class T> class Buffer {
public:
    explicit Buffer(size_t count) : count_(count) { check(cudaMalloc(&data_, count * sizeof(T))); }
    explicit Buffer(const std::vector<T> &values) : Buffer(values.size()) {
        check(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice));
    }
    ~Buffer() { cudaFree(data_); }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;

    T *data() const { return data_; }
    std::vector<T> download(size_t from, size_t count) const {
        std::vector<T> values(count);
        check(cudaMemcpy(values.data(), data_ + from, count * sizeof(T), cudaMemcpyDeviceToHost));
        return values;
    }

private:
    T *data_ = nullptr;
    size_t count_;
};

__device__ uint32_t mix(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x7FEB352DU;
    x = (x ^ (x >> 15)) * 0x846CA68BU;
    return x ^ (x >> 16);
}

/// Standard normal values that depend on the seed and the index.
__global__ void fill_normal(__nv_bfloat16 *values, size_t count, uint32_t seed) {
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < count;
         i += size_t(gridDim.x) * blockDim.x) {
        const uint32_t a = mix(uint32_t(i) ^ mix(seed + uint32_t(i >> 32))), b = mix(a + 0x9E3779B9U);
        const float radius = sqrtf(-2 * logf((a + 1.0F) / 4294967808.0F));
        values[i] = __float2bfloat16(radius * cospif(b / 2147483648.0F));
    }
}

struct Shape {
    const char *name;
    int heads, block_rows, block_cols, key_windows;
    int input_sets; ///< rotated, so that K and V are not in the L2 cache from the run before

    int query_windows() const { return block_rows * block_cols; }
    int rows() const { return heads * query_windows(); }
    size_t query_elements() const { return rows() * window_elements; }
    size_t key_elements() const { return size_t(heads) * key_windows * window_elements; }
};

struct Inputs {
    Buffer<__nv_bfloat16> q, k, v, out;
    Buffer<int32_t> counters{std::vector<int32_t>(2)};

    Inputs(const Shape &shape, uint32_t seed)
        : q(shape.query_elements()), k(shape.key_elements()), v(shape.key_elements()),
          out(shape.query_elements()) {
        fill_normal<<<1024, 256>>>(q.data(), shape.query_elements(), seed);
        fill_normal<<<1024, 256>>>(k.data(), shape.key_elements(), seed + 1);
        fill_normal<<<1024, 256>>>(v.data(), shape.key_elements(), seed + 2);
        check(cudaGetLastError());
        check(cudaDeviceSynchronize());
    }
};

struct Lists {
    std::vector<int32_t> counts, indices;

    double blocks() const {
        double sum = 0;
        for (const int32_t count : counts)
            sum += count;
        return sum;
    }
};

/// A head keeps its highest scores, `density` of them. Scores are noise plus `unevenness` times a row's own
/// noise: 0 gives rows of nearly one length, 0.5 a spread of about a third.
Lists make_lists(const Shape &shape, double density, double unevenness) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    const int per_head = shape.query_windows() * shape.key_windows;
    const int kept = static_cast<int>(std::lround(density * per_head));
    Lists lists;
    lists.indices.resize(size_t(shape.heads) * per_head);
    std::vector<float> scores(per_head);
    for (int head = 0; head < shape.heads; head++) {
        for (int row = 0; row < shape.query_windows(); row++) {
            const float own = static_cast<float>(unevenness) * normal(random);
            for (int key = 0; key < shape.key_windows; key++)
                scores[row * shape.key_windows + key] = own + normal(random);
        }
        std::vector<float> sorted = scores;
        std::nth_element(sorted.begin(), sorted.begin() + (kept - 1), sorted.end(), std::greater<>());
        for (int row = 0; row < shape.query_windows(); row++) {
            int32_t count = 0,
                    *list = &lists.indices[(size_t(head) * shape.query_windows() + row) * shape.key_windows];
            for (int key = 0; key < shape.key_windows; key++)
                if (scores[row * shape.key_windows + key] >= sorted[kept - 1])
                    list[count++] = key;
            lists.counts.push_back(count);
        }
    }
    return lists;
}

cuda::AttentionArgs arguments(const Shape &shape, const Inputs &inputs, const Buffer<int32_t> &counts,
                              const Buffer<int32_t> &indices) {
    return {.element = cuda::Element::bf16,
            .batch = 1,
            .heads = shape.heads,
            .query_windows = shape.query_windows(),
            .key_windows = shape.key_windows,
            .key_head_stride = shape.key_windows * window_elements,
            .q = inputs.q.data(),
            .k = inputs.k.data(),
            .v = inputs.v.data(),
            .counts = counts.data(),
            .indices = indices.data(),
            .out = inputs.out.data(),
            .counters = inputs.counters.data(),
            .groups = 1,
            .block_rows = shape.block_rows,
            .block_cols = shape.block_cols};
}

/// Back-to-back launches over the input sets between two events.
class Stopwatch {
public:
    Stopwatch() {
        check(cudaEventCreate(&begin_));
        check(cudaEventCreate(&end_));
    }
    ~Stopwatch() {
        cudaEventDestroy(begin_);
        cudaEventDestroy(end_);
    }
    Stopwatch(const Stopwatch &) = delete;
    Stopwatch &operator=(const Stopwatch &) = delete;

    /// @return milliseconds of one launch
    double operator()(const bench::Rung &rung, const std::vector<cuda::AttentionArgs> &sets, int launches) {
        check(cudaEventRecord(begin_));
        for (int i = 0; i < launches; i++)
            check(rung.run(sets[i % sets.size()], nullptr));
        check(cudaEventRecord(end_));
        check(cudaEventSynchronize(end_));
        float ms = 0;
        check(cudaEventElapsedTime(&ms, begin_, end_));
        return double(ms) / launches;
    }

private:
    cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

/// Median milliseconds of each rung. The rungs take turns, so that all see the same clocks.
std::vector<double> time_rungs(const std::vector<bench::Rung> &rungs,
                               const std::vector<cuda::AttentionArgs> &sets, double budget_ms) {
    Stopwatch time;
    const int launches = int(sets.size()) * 3;
    std::vector<std::vector<double>> times(rungs.size());
    double round_ms = 0;
    for (const bench::Rung &rung : rungs)
        round_ms += time(rung, sets, launches) * launches;
    const int rounds = std::clamp(int(budget_ms / round_ms * double(rungs.size())), 3, 51);
    for (int round = 0; round < rounds; round++)
        for (size_t i = 0; i < rungs.size(); i++)
            times[i].push_back(time(rungs[i], sets, launches));
    std::vector<double> medians;
    for (std::vector<double> &of : times) {
        std::nth_element(of.begin(), of.begin() + of.size() / 2, of.end());
        medians.push_back(of[of.size() / 2]);
    }
    return medians;
}

/// Relative error of the norm, over query rows 3, 67 and 127 of some windows, against doubles.
double relative_error(const Shape &shape, const Inputs &inputs, const Lists &lists) {
    double error = 0, norm = 0;
    for (int row = 0; row < shape.rows(); row += 1 + shape.rows() / 6) {
        const int head = row / shape.query_windows(), window = row % shape.query_windows();
        for (const int i : {3, 67, 127}) {
            const auto q = inputs.q.download(row * window_elements + i * side, side);
            std::vector<double> sum(side);
            double total = 0;
            for (int32_t entry = 0; entry < lists.counts[row]; entry++) {
                const int32_t key = lists.indices[size_t(row) * shape.key_windows + entry];
                const size_t from = (size_t(head) * shape.key_windows + key) * window_elements;
                const auto k = inputs.k.download(from, window_elements);
                const auto v = inputs.v.download(from, window_elements);
                for (int j = 0; j < side; j++) {
                    double dot = 0;
                    for (int c = 0; c < side; c++)
                        dot += double(__bfloat162float(q[c])) * __bfloat162float(k[j * side + c]);
                    const double weight = std::exp(dot / std::sqrt(double(side)));
                    total += weight;
                    for (int c = 0; c < side; c++)
                        sum[c] += weight * __bfloat162float(v[j * side + c]);
                }
            }
            const int t = i / 64, y = 8 * (window / shape.block_cols) + i / 8 % 8,
                      x = 8 * (window % shape.block_cols) + i % 8;
            const int64_t token = (int64_t(t) * 8 * shape.block_rows + y) * 8 * shape.block_cols + x;
            const auto out = inputs.out.download((token * shape.heads + head) * side, side);
            for (int c = 0; c < side; c++) {
                const double exact = total > 0 ? sum[c] / total : 0;
                error += std::pow(__bfloat162float(out[c]) - exact, 2);
                norm += exact * exact;
            }
        }
    }
    return std::sqrt(error / norm);
}

struct Case {
    double density, unevenness;
};

template <class... Values> std::string format(const char *pattern, Values... values) {
    char text[128];
    std::snprintf(text, sizeof text, pattern, values...);
    return text;
}

void measure(const Shape &shape, const std::vector<Case> &cases, const std::vector<bench::Rung> &rungs,
             double budget_ms) {
    std::vector<std::unique_ptr<Inputs>> inputs;
    for (int i = 0; i < shape.input_sets; i++)
        inputs.push_back(std::make_unique<Inputs>(shape, 100 * i + 1));
    std::vector<std::string> lines;
    for (const bench::Rung &rung : rungs)
        lines.push_back(format("%-28s", rung.name));
    std::printf("%-28s", shape.name);
    for (const Case &c : cases) {
        std::printf("  %4.2f, %3.1f        ", c.density, c.unevenness);
        const Lists lists = make_lists(shape, c.density, c.unevenness);
        const Buffer<int32_t> counts(lists.counts), indices(lists.indices);
        std::vector<cuda::AttentionArgs> sets;
        for (const auto &set : inputs)
            sets.push_back(arguments(shape, *set, counts, indices));
        const std::vector<double> ms = time_rungs(rungs, sets, budget_ms);
        for (size_t i = 0; i < rungs.size(); i++) {
            lines[i] += format("  %5.1f (%8.4f)", lists.blocks() * block_operations / ms[i] * 1e-9, ms[i]);
            if (&c != &cases.back())
                continue;
            check(rungs[i].run(sets.front(), nullptr));
            lines[i] += format("  %.2e", relative_error(shape, *inputs.front(), lists));
        }
    }
    std::printf("  error\n");
    for (const std::string &line : lines)
        std::printf("%s\n", line.c_str());
}

} // namespace

/// attention_bench [--only NAME,NAME,...] [--shape 0|1|2] [--budget MS]
int main(int argc, char **argv) {
    std::string only;
    int only_shape = -1;
    double budget_ms = 60; // of measuring, for a version and a case
    for (int i = 1; i < argc; i += 2) {
        const std::string option = argv[i];
        if (option == "--only" && i + 1 < argc)
            only = "," + std::string(argv[i + 1]) + ",";
        else if (option == "--shape" && i + 1 < argc)
            only_shape = std::atoi(argv[i + 1]);
        else if (option == "--budget" && i + 1 < argc)
            budget_ms = std::atof(argv[i + 1]);
        else {
            std::fprintf(stderr, "attention_bench: option %s is unknown or has no value\n", argv[i]);
            return 2;
        }
    }
    int major = 0;
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    if (major != 9) {
        std::fprintf(stderr, "attention_bench: the ladder needs compute capability 9.0, device 0 has %d.x\n",
                     major);
        return 1;
    }
    std::vector<bench::Rung> rungs;
    for (const bench::Rung &rung : bench::ladder())
        if (only.empty() || only.find("," + std::string(rung.name) + ",") != std::string::npos)
            rungs.push_back(rung);

    const std::vector<Case> cases = {{0.15, 0.5}, {0.3, 0.5}, {0.45, 0}, {0.45, 0.5}, {0.6, 0.5}, {1, 0}};
    const std::pair<Shape, std::vector<Case>> shapes[] = {
        {{"12 heads, 66 x 264 windows", 12, 6, 11, 264, 2}, cases},
        {{"96 heads, 4 x 16 windows", 96, 2, 2, 16, 3}, cases},
        {{"8 heads, 512 x 2048 windows", 8, 16, 32, 2048, 1}, {{0.15, 0.5}, {1, 0}}},
    };
    std::printf("TFLOP/s (ms), by density and unevenness of the lists\n");
    for (int i = 0; i < 3; i++)
        if (only_shape < 0 || only_shape == i)
            measure(shapes[i].first, shapes[i].second, rungs, budget_ms);
}
