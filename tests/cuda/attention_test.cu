// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ops/cuda/attention_launch.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace flashvsr::cuda {
namespace {

constexpr int side = 128; // tokens of a window, channels of a head
constexpr int64_t window_elements = side * side;

void check(cudaError_t error) {
    if (error != cudaSuccess)
        throw std::runtime_error(cudaGetErrorString(error));
}

/// Values in an element's precision, held as 32-bit floats.
float rounded(float x, Element element) {
    switch (element) {
    case Element::f16:
        return __half2float(__float2half_rn(x));
    case Element::bf16:
        return __bfloat162float(__float2bfloat16_rn(x));
    case Element::f32:
        break;
    }
    return x;
}

size_t element_bytes(Element element) {
    return element == Element::f32 ? 4 : 2;
}

std::vector<unsigned char> encode(const std::vector<float> &values, Element element) {
    std::vector<unsigned char> bytes(values.size() * element_bytes(element));
    for (size_t i = 0; i < values.size(); i++) {
        const __half half = __float2half_rn(values[i]);
        const __nv_bfloat16 brain = __float2bfloat16_rn(values[i]);
        const void *from = element == Element::f32   ? static_cast<const void *>(&values[i])
                           : element == Element::f16 ? static_cast<const void *>(&half)
                                                     : &brain;
        std::memcpy(&bytes[i * element_bytes(element)], from, element_bytes(element));
    }
    return bytes;
}

std::vector<float> decode(const std::vector<unsigned char> &bytes, Element element) {
    std::vector<float> values(bytes.size() / element_bytes(element));
    for (size_t i = 0; i < values.size(); i++) {
        const unsigned char *from = &bytes[i * element_bytes(element)];
        __half half;
        __nv_bfloat16 brain;
        switch (element) {
        case Element::f32:
            std::memcpy(&values[i], from, 4);
            break;
        case Element::f16:
            std::memcpy(&half, from, 2), values[i] = __half2float(half);
            break;
        case Element::bf16:
            std::memcpy(&brain, from, 2), values[i] = __bfloat162float(brain);
            break;
        }
    }
    return values;
}

class DeviceBuffer {
public:
    explicit DeviceBuffer(size_t bytes) : bytes_(bytes) { check(cudaMalloc(&data_, bytes)); }
    template <class T>
    explicit DeviceBuffer(const std::vector<T> &values) : DeviceBuffer(values.size() * sizeof(T)) {
        check(cudaMemcpy(data_, values.data(), bytes_, cudaMemcpyHostToDevice));
    }
    ~DeviceBuffer() { cudaFree(data_); }
    DeviceBuffer(const DeviceBuffer &) = delete;
    DeviceBuffer &operator=(const DeviceBuffer &) = delete;

    void poison() { check(cudaMemset(data_, 0xFF, bytes_)); } // NaN in every element type
    std::vector<unsigned char> download() const {
        std::vector<unsigned char> bytes(bytes_);
        check(cudaMemcpy(bytes.data(), data_, bytes_, cudaMemcpyDeviceToHost));
        return bytes;
    }
    template <class T> T *as() const { return static_cast<T *>(data_); }

private:
    void *data_ = nullptr;
    size_t bytes_;
};

struct Shape {
    int batch, heads, groups, block_rows, block_cols, key_windows;
    int spare_windows = 0; ///< of the ring, after a head's keys

    int query_windows() const { return groups * block_rows * block_cols; }
    int rows() const { return batch * heads * query_windows(); }
    int64_t key_head_stride() const { return int64_t(key_windows + spare_windows) * window_elements; }
};

struct Lists {
    std::vector<int32_t> counts, indices;
};

/// Row r keeps count_of(r) key windows, chosen at random. What lies beyond a list is an index out of range.
template <class CountOf> Lists make_lists(const Shape &shape, std::mt19937 &random, CountOf count_of) {
    Lists lists;
    std::vector<int32_t> all(shape.key_windows);
    for (int row = 0; row < shape.rows(); row++) {
        const int count = count_of(row);
        for (int i = 0; i < shape.key_windows; i++)
            all[i] = i;
        std::shuffle(all.begin(), all.end(), random);
        std::sort(all.begin(), all.begin() + count);
        lists.counts.push_back(count);
        for (int i = 0; i < shape.key_windows; i++)
            lists.indices.push_back(i < count ? all[i] : 1 << 28);
    }
    return lists;
}

struct Problem {
    Shape shape;
    Element element;
    Lists lists;
    std::vector<float> q, k, v; ///< rounded to the element's precision; NaN where no key is
};

/// @param growth the scores' spread grows by this with every key window, so that the running maximum moves
Problem make_problem(const Shape &shape, Element element, Lists lists, std::mt19937 &random,
                     float growth = 0) {
    Problem problem{shape, element, std::move(lists), {}, {}, {}};
    std::normal_distribution<float> normal;
    problem.q.resize(shape.rows() * window_elements);
    for (float &x : problem.q)
        x = rounded(normal(random), element);
    const size_t keys = shape.batch * shape.heads * shape.key_head_stride();
    for (std::vector<float> *to : {&problem.k, &problem.v}) {
        to->assign(keys, NAN);
        for (size_t i = 0; i < keys; i++) {
            const int64_t window = i % shape.key_head_stride() / window_elements;
            if (window < shape.key_windows)
                (*to)[i] =
                    rounded(normal(random) * (to == &problem.k ? 1 + growth * float(window) : 1), element);
        }
    }
    return problem;
}

/// One query window (128, 128) in a type for sums, with every intermediate result rounded to a precision.
template <class Sum> std::vector<Sum> attend(const Problem &problem, int row, Element precision) {
    const auto round = [&](Sum x) {
        return precision == Element::f32 ? x : Sum(rounded(float(x), precision));
    };
    const int64_t head = row / problem.shape.query_windows() * problem.shape.key_head_stride();
    const int32_t *list = &problem.lists.indices[int64_t(row) * problem.shape.key_windows];
    const int count = problem.lists.counts[row];
    std::vector<Sum> out(window_elements), weights(size_t(count) * side);
    for (int i = 0; i < side; i++) {
        const float *q = &problem.q[row * window_elements + i * side];
        Sum greatest = -INFINITY, total = 0;
        for (int j = 0; j < count * side; j++) {
            const float *k = &problem.k[head + list[j / side] * window_elements + j % side * side];
            Sum dot = 0;
            for (int c = 0; c < side; c++)
                dot += Sum(q[c]) * Sum(k[c]);
            weights[j] = round(dot) / std::sqrt(Sum(side));
            greatest = std::max(greatest, weights[j]);
        }
        for (Sum &weight : weights)
            total += weight = std::exp(weight - greatest);
        Sum *o = &out[i * side];
        for (int j = 0; j < count * side; j++) {
            const float *v = &problem.v[head + list[j / side] * window_elements + j % side * side];
            const Sum weight = round(weights[j] / total);
            for (int c = 0; c < side; c++)
                o[c] += weight * Sum(v[c]);
        }
        for (int c = 0; c < side; c++)
            o[c] = round(o[c]);
    }
    return out;
}

/// The problem's device copy.
class DeviceRun {
public:
    explicit DeviceRun(const Problem &problem)
        : element_(problem.element), q_(encode(problem.q, element_)), k_(encode(problem.k, element_)),
          v_(encode(problem.v, element_)), counts_(problem.lists.counts), indices_(problem.lists.indices),
          out_(problem.q.size() * element_bytes(element_)), counters_(std::vector<int32_t>(2)) {
        const Shape &shape = problem.shape;
        args_ = {.element = element_,
                 .batch = shape.batch,
                 .heads = shape.heads,
                 .query_windows = shape.query_windows(),
                 .key_windows = shape.key_windows,
                 .key_head_stride = shape.key_head_stride(),
                 .q = q_.as<void>(),
                 .k = k_.as<void>(),
                 .v = v_.as<void>(),
                 .counts = counts_.as<int32_t>(),
                 .indices = indices_.as<int32_t>(),
                 .out = out_.as<void>(),
                 .counters = counters_.as<int32_t>(),
                 .groups = shape.groups,
                 .block_rows = shape.block_rows,
                 .block_cols = shape.block_cols};
        out_.poison();
    }

    const AttentionArgs &args() const { return args_; }
    void poison() { out_.poison(); }
    std::vector<unsigned char> bytes() const { return out_.download(); }

    /// (batch, tokens, heads*128) after a run on the default stream.
    std::vector<float> operator()(AttentionKernel kernel) {
        check(block_sparse_attention(args_, nullptr, kernel));
        check(cudaDeviceSynchronize());
        return decode(bytes(), element_);
    }

private:
    Element element_;
    DeviceBuffer q_, k_, v_, counts_, indices_, out_, counters_;
    AttentionArgs args_;
};

/// Where channel 0 of token i of a row's window is in the output.
int64_t out_offset(const Shape &shape, int row, int i) {
    const int batch = row / shape.query_windows() / shape.heads;
    const int head = row / shape.query_windows() % shape.heads;
    const int window = row % shape.query_windows(), bx = window % shape.block_cols;
    const int by = window / shape.block_cols % shape.block_rows;
    const int group = window / shape.block_cols / shape.block_rows;
    const int t = i / 64, y = i / 8 % 8, x = i % 8;
    const int64_t height = 8 * shape.block_rows, width = 8 * shape.block_cols;
    const int64_t token = ((2 * group + t) * height + 8 * by + y) * width + 8 * bx + x;
    return ((int64_t(batch) * shape.query_windows() * side + token) * shape.heads + head) * side;
}

struct Error {
    double squares = 0, greatest = 0;

    void add(double difference) {
        squares += difference * difference;
        greatest = std::max(greatest, std::abs(difference));
    }
};

/// The error of the rows `step` apart is at most twice that of the plain computation in the same precision.
void expect_close(const Problem &problem, const std::vector<float> &out, int step = 1) {
    Error error, plain_error;
    double squares = 0;
    for (const float x : out)
        ASSERT_FALSE(std::isnan(x)) << "an element was not written";
    for (int row = 0; row < problem.shape.rows(); row += step) {
        const std::vector<double> exact = attend<double>(problem, row, Element::f32);
        const std::vector<float> plain = attend<float>(problem, row, problem.element);
        for (int i = 0; i < window_elements; i++) {
            error.add(out[out_offset(problem.shape, row, i / side) + i % side] - exact[i]);
            plain_error.add(plain[i] - exact[i]);
            squares += exact[i] * exact[i];
        }
    }
    EXPECT_LE(error.squares, 4 * plain_error.squares)
        << "norm of the error " << std::sqrt(error.squares) << ", plain " << std::sqrt(plain_error.squares);
    EXPECT_LE(error.greatest, 2 * plain_error.greatest)
        << "largest error, " << error.greatest / std::max(plain_error.greatest, 1e-30) << " of the plain one";
    if (problem.element == Element::f32) {
        EXPECT_LE(std::sqrt(error.squares), 1e-5 * std::sqrt(squares));
    }
}

struct Variant {
    Element element;
    AttentionKernel kernel;
};

std::string variant_name(const testing::TestParamInfo<Variant> &info) {
    const std::string element = info.param.element == Element::f32   ? "f32"
                                : info.param.element == Element::f16 ? "f16"
                                                                     : "bf16";
    return element + (info.param.kernel == AttentionKernel::fastest ? "Fastest" : "Portable");
}

class BlockSparseAttention : public testing::TestWithParam<Variant> {
protected:
    void SetUp() override {
        int devices = 0;
        if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0)
            GTEST_SKIP() << "no CUDA device";
    }

    Problem problem(const Shape &shape, Lists lists, float growth = 0) {
        return make_problem(shape, GetParam().element, std::move(lists), random_, growth);
    }
    void expect_right(const Problem &problem, int step = 1) {
        expect_close(problem, DeviceRun(problem)(GetParam().kernel), step);
    }

    std::mt19937 random_{20};
};

TEST_P(BlockSparseAttention, RandomListsOfManyShapes) {
    for (const Shape &shape : {Shape{1, 1, 1, 1, 1, 3}, Shape{2, 3, 1, 2, 1, 5, 4}, Shape{1, 2, 3, 1, 2, 9},
                               Shape{3, 1, 1, 2, 3, 4, 1}}) {
        SCOPED_TRACE(testing::Message() << shape.batch << " x " << shape.heads << " x "
                                        << shape.query_windows() << " against " << shape.key_windows);
        std::uniform_int_distribution<int> count(0, shape.key_windows);
        expect_right(problem(shape, make_lists(shape, random_, [&](int) { return count(random_); })));
    }
}

TEST_P(BlockSparseAttention, FullLists) {
    const Shape shape{1, 2, 1, 1, 2, 7};
    expect_right(problem(shape, make_lists(shape, random_, [&](int) { return shape.key_windows; })));
}

TEST_P(BlockSparseAttention, ListsOfOne) {
    const Shape shape{1, 2, 1, 2, 2, 6};
    expect_right(problem(shape, make_lists(shape, random_, [](int) { return 1; })));
}

TEST_P(BlockSparseAttention, LongLists) {
    const Shape shape{1, 1, 1, 1, 2, 75};
    expect_right(problem(shape, make_lists(shape, random_, [](int row) { return row == 0 ? 75 : 64; })));
}

TEST_P(BlockSparseAttention, EmptyListsGiveZerosBetweenOthers) {
    const Shape shape{2, 2, 1, 3, 1, 3};
    const Problem some =
        problem(shape, make_lists(shape, random_, [](int row) { return row % 3 == 1 ? 2 : 0; }));
    const std::vector<float> out = DeviceRun(some)(GetParam().kernel);
    expect_close(some, out);
    for (int row = 0; row < shape.rows(); row++)
        for (int i = 0; row % 3 != 1 && i < window_elements; i++)
            ASSERT_EQ(out[out_offset(shape, row, i / side) + i % side], 0) << "row " << row;
}

TEST_P(BlockSparseAttention, AllListsEmpty) {
    const Shape shape{1, 3, 1, 10, 10, 2};
    const Problem none = problem(shape, make_lists(shape, random_, [](int) { return 0; }));
    for (const float x : DeviceRun(none)(GetParam().kernel))
        ASSERT_EQ(x, 0);
}

TEST_P(BlockSparseAttention, MaximaThatMoveFromWindowToWindow) {
    const Shape shape{1, 2, 1, 1, 2, 8};
    expect_right(problem(shape, make_lists(shape, random_, [](int row) { return 8 - row; }), 1.5F));
}

TEST_P(BlockSparseAttention, ManyMoreWindowsThanMultiprocessors) {
    const Shape shape{3, 5, 1, 7, 9, 4};
    const Problem many = problem(shape, make_lists(shape, random_, [](int row) { return row * 7 % 5; }));
    expect_right(many, 37);
}

TEST_P(BlockSparseAttention, FewListsAmongManyEmptyOnes) {
    const Shape shape{2, 4, 2, 7, 9, 3};
    expect_right(
        problem(shape, make_lists(shape, random_, [](int row) { return row % 29 == 0 ? 1 + row % 3 : 0; })),
        29);
}

TEST_P(BlockSparseAttention, RunsAreBitIdenticalAloneInGraphsAndFromSeveralThreads) {
    const Shape shape{2, 4, 1, 6, 7, 12};
    std::uniform_int_distribution<int> count(0, shape.key_windows);
    DeviceRun run(problem(shape, make_lists(shape, random_, [&](int) { return count(random_); })));
    run(GetParam().kernel);
    const std::vector<unsigned char> expected = run.bytes();

    cudaStream_t stream = nullptr;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    check(block_sparse_attention(run.args(), stream, GetParam().kernel));
    check(cudaStreamEndCapture(stream, &graph));
    check(cudaGraphInstantiate(&executable, graph));
    for (int i = 0; i < 20; i++) {
        run.poison();
        check(cudaDeviceSynchronize());
        check(cudaGraphLaunch(executable, stream));
        check(cudaStreamSynchronize(stream));
        ASSERT_EQ(run.bytes(), expected) << "replay " << i;
    }
    check(cudaGraphExecDestroy(executable));
    check(cudaGraphDestroy(graph));
    check(cudaStreamDestroy(stream));

    constexpr int threads = 4;
    std::deque<DeviceBuffer> outs;
    for (int i = 0; i < threads; i++)
        outs.emplace_back(expected.size()).poison();
    std::vector<std::thread> workers;
    for (int i = 0; i < threads; i++)
        workers.emplace_back([&, i] {
            cudaStream_t own = nullptr;
            cudaStreamCreateWithFlags(&own, cudaStreamNonBlocking);
            AttentionArgs args = run.args();
            const DeviceBuffer counters(std::vector<int32_t>(2));
            args.out = outs[i].as<void>();
            args.counters = counters.as<int32_t>();
            for (int repeat = 0; repeat < 10; repeat++)
                EXPECT_EQ(block_sparse_attention(args, own, GetParam().kernel), cudaSuccess);
            EXPECT_EQ(cudaStreamSynchronize(own), cudaSuccess);
            cudaStreamDestroy(own);
        });
    for (std::thread &worker : workers)
        worker.join();
    for (const DeviceBuffer &out : outs)
        EXPECT_EQ(out.download(), expected);
}

TEST_P(BlockSparseAttention, RefusesBadArguments) {
    const Shape shape{1, 1, 1, 1, 1, 2};
    const DeviceRun run(problem(shape, make_lists(shape, random_, [](int) { return 1; })));
    const auto refuses = [&](auto change) {
        AttentionArgs args = run.args();
        change(args);
        return block_sparse_attention(args, nullptr, GetParam().kernel) == cudaErrorInvalidValue;
    };
    EXPECT_TRUE(refuses([](AttentionArgs &args) { args.batch = 0; }));
    EXPECT_TRUE(refuses([](AttentionArgs &args) { args.groups = 2; }));
    EXPECT_TRUE(refuses([](AttentionArgs &args) { args.key_windows = 3; }));
    EXPECT_TRUE(refuses([](AttentionArgs &args) { args.key_head_stride += 4; }));
    EXPECT_TRUE(refuses([](AttentionArgs &args) { args.q = static_cast<const char *>(args.q) + 2; }));
    EXPECT_TRUE(refuses([](AttentionArgs &args) { args.counts = nullptr; }));
    EXPECT_TRUE(refuses([](AttentionArgs &args) { args.counters = nullptr; }));
}

class CrossAttention : public BlockSparseAttention {};

/// (batch, heads, windows, 128, 128) to (batch, windows*128, heads*128).
std::vector<float> heads_last(const Shape &shape, const std::vector<float> &windows) {
    std::vector<float> out(windows.size());
    const int64_t tokens = int64_t(shape.query_windows()) * side;
    for (int64_t at = 0; at < int64_t(windows.size()); at++) {
        const int64_t channel = at % side, token = at / side % tokens, row = at / side / tokens;
        out[((row / shape.heads * tokens + token) * shape.heads + row % shape.heads) * side + channel] =
            windows[at];
    }
    return out;
}

// The keys come in the same order, so the sums are the same.
TEST_P(CrossAttention, HasTheBitsOfFullLists) {
    for (const Shape &shape : {Shape{1, 1, 1, 1, 1, 1}, Shape{1, 3, 1, 1, 2, 4}, Shape{3, 2, 1, 1, 3, 5},
                               Shape{2, 12, 1, 1, 16, 4}, Shape{1, 1, 1, 1, 2, 70}}) {
        SCOPED_TRACE(testing::Message() << shape.batch << " x " << shape.heads << " x "
                                        << shape.query_windows() << " against " << shape.key_windows);
        Problem same = problem(shape, make_lists(shape, random_, [&](int) { return shape.key_windows; }));
        const int64_t of_one = shape.heads * shape.key_head_stride();
        for (std::vector<float> *keys : {&same.k, &same.v})
            for (int batch = 1; batch < shape.batch; batch++)
                std::copy_n(keys->begin(), of_one, keys->begin() + batch * of_one);
        const std::vector<float> sparse = DeviceRun(same)(GetParam().kernel);
        std::vector<float> expected(sparse.size());
        for (int row = 0; row < shape.rows(); row++)
            for (int i = 0; i < side; i++)
                std::copy_n(sparse.begin() + out_offset(shape, row, i), side,
                            expected.begin() + (int64_t(row) * side + i) * side);
        expected = heads_last(shape, expected);

        const Element element = GetParam().element;
        const DeviceBuffer q(encode(heads_last(shape, same.q), element)), k(encode(same.k, element)),
            v(encode(same.v, element));
        DeviceBuffer out(expected.size() * element_bytes(element));
        out.poison();
        const CrossAttentionArgs args{.element = element,
                                      .batch = shape.batch,
                                      .heads = shape.heads,
                                      .query_blocks = shape.query_windows(),
                                      .keys = shape.key_windows * side,
                                      .q = q.as<void>(),
                                      .k = k.as<void>(),
                                      .v = v.as<void>(),
                                      .out = out.as<void>()};
        check(cross_attention(args, nullptr, GetParam().kernel));
        check(cudaDeviceSynchronize());
        EXPECT_EQ(decode(out.download(), element), expected);
    }
}

TEST_P(CrossAttention, RefusesBadArguments) {
    const DeviceBuffer data(size_t{4} * window_elements);
    const CrossAttentionArgs right{.element = GetParam().element,
                                   .batch = 1,
                                   .heads = 1,
                                   .query_blocks = 1,
                                   .keys = side,
                                   .q = data.as<void>(),
                                   .k = data.as<void>(),
                                   .v = data.as<void>(),
                                   .out = data.as<void>()};
    const auto refuses = [&](auto change) {
        CrossAttentionArgs args = right;
        change(args);
        return cross_attention(args, nullptr, GetParam().kernel) == cudaErrorInvalidValue;
    };
    EXPECT_TRUE(refuses([](CrossAttentionArgs &args) { args.element = Element::f32; }));
    EXPECT_TRUE(refuses([](CrossAttentionArgs &args) { args.keys = 0; }));
    EXPECT_TRUE(refuses([](CrossAttentionArgs &args) { args.batch = 1 << 30; }));
    EXPECT_TRUE(refuses([](CrossAttentionArgs &args) { args.v = static_cast<const char *>(args.v) + 8; }));
    EXPECT_TRUE(refuses([](CrossAttentionArgs &args) { args.out = nullptr; }));
}

constexpr Variant portable_f16{Element::f16, AttentionKernel::portable},
    portable_bf16{Element::bf16, AttentionKernel::portable},
    fastest_f16{Element::f16, AttentionKernel::fastest},
    fastest_bf16{Element::bf16, AttentionKernel::fastest};

INSTANTIATE_TEST_SUITE_P(, BlockSparseAttention,
                         testing::Values(Variant{Element::f32, AttentionKernel::fastest}, portable_f16,
                                         portable_bf16, fastest_f16, fastest_bf16),
                         variant_name);
INSTANTIATE_TEST_SUITE_P(, CrossAttention,
                         testing::Values(portable_f16, portable_bf16, fastest_f16, fastest_bf16),
                         variant_name);

} // namespace
} // namespace flashvsr::cuda
