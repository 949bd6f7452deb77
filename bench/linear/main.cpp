// SPDX-License-Identifier: LGPL-2.1-or-later

// Speed of the transformer's linear layers: the library's kernel, cuBLASLt by its first heuristics, of which
// the engine takes the first, and every kernel of the ladder in several orders of tiles. The versions take
// turns, so that all see the same clocks. A multiply-add counts as two operations.

#include "checks.h"

#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

namespace linear_bench {

std::vector<Candidate> &candidates() {
    static std::vector<Candidate> all;
    return all;
}

namespace {

constexpr int input_sets = 3; ///< rotated, so that little is in the L2 cache from the run before
constexpr size_t workspace_bytes = size_t{32} << 20;

/// What runs, for the report of one that hangs or fails.
char running[128] = "the inputs";

void watch(const std::string &name) {
    std::snprintf(running, sizeof(running), "%s", name.c_str());
    alarm(20);
}

extern "C" void report_hang(int) {
    const char text[] = "linear_bench: it hangs: ";
    if (write(2, text, sizeof(text) - 1) < 0 || write(2, running, std::strlen(running)) < 0 ||
        write(2, "\n", 1) < 0)
        _exit(4);
    _exit(3);
}

void check(cudaError_t error, const char *what) {
    if (error == cudaSuccess)
        return;
    std::fprintf(stderr, "linear_bench: %s: %s (running: %s)\n", what, cudaGetErrorString(error), running);
    std::exit(2);
}

void check(cublasStatus_t status, const char *what) {
    if (status == CUBLAS_STATUS_SUCCESS)
        return;
    std::fprintf(stderr, "linear_bench: %s: %s (running: %s)\n", what, cublasLtGetStatusString(status),
                 running);
    std::exit(2);
}

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <class T> class Buffer {
public:
    Buffer() = default;
    explicit Buffer(size_t count) : count_(count) { check(cudaMalloc(&data_, bytes()), "cudaMalloc"); }
    ~Buffer() { cudaFree(data_); }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;
    Buffer(Buffer &&other) noexcept
        : data_(std::exchange(other.data_, nullptr)), count_(std::exchange(other.count_, 0)) {}
    Buffer &operator=(Buffer &&other) noexcept {
        std::swap(data_, other.data_);
        std::swap(count_, other.count_);
        return *this;
    }

    T *data() const { return data_; }
    size_t count() const { return count_; }
    size_t bytes() const { return count_ * sizeof(T); }

private:
    T *data_ = nullptr;
    size_t count_ = 0;
};

struct Shape {
    const char *name;
    LinearEpilogue epilogue;
    int n, k, times; ///< a block of the transformer has so many of it
};

constexpr Shape shapes[] = {
    {"qkv", LinearEpilogue::bias, 4608, 1536, 1},    {"cross_q", LinearEpilogue::bias, 1536, 1536, 1},
    {"out", LinearEpilogue::add, 1536, 1536, 2},     {"ffn_in", LinearEpilogue::gelu, 8960, 1536, 1},
    {"ffn_out", LinearEpilogue::add, 1536, 8960, 1},
};

const char *name_of(LinearEpilogue epilogue) {
    return epilogue == LinearEpilogue::bias   ? "bias"
           : epilogue == LinearEpilogue::gelu ? "bias, GELU"
                                              : "bias, residual";
}

const char *name_of(LinearElement element) {
    return element == LinearElement::bf16 ? "bf16" : "fp8";
}

/// The matrices of one shape.
struct Data {
    LinearElement element;
    Shape shape;
    int m;
    Buffer<uint8_t> x[input_sets], w[input_sets];
    Buffer<bf16> y[input_sets], bias, sum;
    Buffer<float> x_scales, w_scales, reference;

    Data(LinearElement element, const Shape &shape, int m) : element(element), shape(shape), m(m) {
        const size_t size = element == LinearElement::bf16 ? 2 : 1, n = shape.n, k = shape.k, rows = m;
        uint32_t seed = 1000 * uint32_t(n) + uint32_t(k);
        for (int set = 0; set < input_sets; ++set) {
            x[set] = Buffer<uint8_t>(rows * k * size);
            w[set] = Buffer<uint8_t>(n * k * size);
            y[set] = Buffer<bf16>(rows * n);
            if (element == LinearElement::bf16) {
                queue_normal(reinterpret_cast<bf16 *>(x[set].data()), rows * k, ++seed, 1.0F);
                queue_normal(reinterpret_cast<bf16 *>(w[set].data()), n * k, ++seed, 1 / std::sqrt(float(k)));
            } else {
                queue_normal(reinterpret_cast<e4m3 *>(x[set].data()), rows * k, ++seed, 64.0F);
                queue_normal(reinterpret_cast<e4m3 *>(w[set].data()), n * k, ++seed, 64.0F);
            }
            check(cudaMemset(y[set].data(), 0, y[set].bytes()), "cudaMemset");
        }
        bias = Buffer<bf16>(n);
        queue_normal(bias.data(), n, ++seed, 0.5F);
        if (element == LinearElement::e4m3) {
            x_scales = Buffer<float>(rows);
            w_scales = Buffer<float>(n);
            queue_scales(x_scales.data(), rows, ++seed, 1 / 64.0F);
            queue_scales(w_scales.data(), n, ++seed, 1 / (64.0F * std::sqrt(float(k))));
        }
        if (residual()) {
            sum = Buffer<bf16>(rows * n);
            queue_normal(sum.data(), rows * n, ++seed, 1.0F);
        }
        reference = Buffer<float>(rows * n);
        queue_reference(args(0, m), sum.data(), reference.data());
        check(cudaGetLastError(), "the inputs");
        check(cudaDeviceSynchronize(), "the inputs");
    }

    bool residual() const { return shape.epilogue == LinearEpilogue::add; }
    LinearArgs args(int set, int rows) const {
        return {element,         shape.epilogue, rows,          shape.k,
                shape.n,         x[set].data(),  w[set].data(), x_scales.data(),
                w_scales.data(), bias.data(),    y[set].data()};
    }
    double operations() const { return 2.0 * m * shape.n * shape.k; }
    void reset_sums() const {
        if (residual())
            for (const Buffer<bf16> &each : y)
                check(cudaMemcpyAsync(each.data(), sum.data(), sum.bytes(), cudaMemcpyDeviceToDevice),
                      "a copy");
    }
};

// ---- cuBLASLt, called as engine/src/ops/cuda/linear.cpp does.

cublasLtHandle_t blas() {
    static cublasLtHandle_t handle = [] {
        cublasLtHandle_t made = nullptr;
        check(cublasLtCreate(&made), "cublasLtCreate");
        return made;
    }();
    return handle;
}

void *blas_workspace() {
    static Buffer<uint8_t> workspace(workspace_bytes);
    return workspace.data();
}

struct Description {
    cublasLtMatmulDescOpaque_t product;
    cublasLtMatrixLayoutOpaque_t weight, x, y;

    Description(const LinearArgs &args, bool gelu) {
        const cudaDataType_t factor = args.element == LinearElement::bf16 ? CUDA_R_16BF : CUDA_R_8F_E4M3;
        check(cublasLtMatmulDescInit(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a matrix product");
        set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
        set(CUBLASLT_MATMUL_DESC_EPILOGUE, gelu ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_BIAS);
        set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUDA_R_16BF);
        set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, args.bias);
        if (args.element == LinearElement::e4m3) {
            set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
            set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
            set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, static_cast<const void *>(args.weight_scales));
            set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, static_cast<const void *>(args.x_scales));
            set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, int8_t{1});
        }
        check(cublasLtMatrixLayoutInit(&weight, factor, args.in, args.out, args.in), "a matrix layout");
        check(cublasLtMatrixLayoutInit(&x, factor, args.in, args.rows, args.in), "a matrix layout");
        check(cublasLtMatrixLayoutInit(&y, CUDA_R_16BF, args.out, args.rows, args.out), "a matrix layout");
    }

private:
    template <typename T> void set(cublasLtMatmulDescAttributes_t attribute, T value) {
        check(cublasLtMatmulDescSetAttribute(&product, attribute, &value, sizeof(value)), "a matrix product");
    }
};

std::vector<cublasLtMatmulAlgo_t> find_algorithms(Description &description, int wanted) {
    cublasLtMatmulPreferenceOpaque_t preference;
    check(cublasLtMatmulPreferenceInit(&preference), "a matrix product");
    check(cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                               &workspace_bytes, sizeof(workspace_bytes)),
          "a matrix product");
    std::vector<cublasLtMatmulHeuristicResult_t> found(wanted);
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        blas(), &description.product, &description.weight, &description.x, &description.y, &description.y,
        &preference, wanted, found.data(), &count);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED)
        check(status, "cuBLASLt's heuristics");
    std::vector<cublasLtMatmulAlgo_t> algorithms;
    for (int i = 0; i < count; ++i)
        if (found[i].state == CUBLAS_STATUS_SUCCESS)
            algorithms.push_back(found[i].algo);
    return algorithms;
}

// ---- What competes.

using Run = std::function<bool()>;

struct Contender {
    std::string name, kernel; ///< `kernel`: the instantiation, without the walk
    bool ours = false, eligible = false;
    std::function<Run(const LinearArgs &)> prepare; ///< an empty function where it cannot compute the problem
    std::array<Run, input_sets> by_set{};
    double microseconds = 0, least = 0;

    explicit operator bool() const { return by_set[0] != nullptr; }
};

Contender blas_contender(const Data &data, int heuristic, bool plain) {
    const bool gelu = data.shape.epilogue == LinearEpilogue::gelu && !plain, add = data.residual();
    const std::string name = plain ? "cuBLASLt without GELU" : "cuBLASLt " + std::to_string(heuristic);
    return {name, name, false, !plain, [gelu, add, heuristic](const LinearArgs &args) -> Run {
                auto description = std::make_shared<Description>(args, gelu);
                const auto algorithms = find_algorithms(*description, heuristic + 1);
                if (int(algorithms.size()) <= heuristic)
                    return {};
                return [description, algorithm = algorithms[heuristic], args, add] {
                    const float one = 1.0F, beta = add ? 1.0F : 0.0F;
                    return cublasLtMatmul(blas(), &description->product, &one, args.weight,
                                          &description->weight, args.x, &description->x, &beta, args.y,
                                          &description->y, args.y, &description->y, &algorithm,
                                          blas_workspace(), workspace_bytes,
                                          nullptr) == CUBLAS_STATUS_SUCCESS;
                };
            }};
}

Contender library_contender() {
    return {"library", "library", true, true, [](const LinearArgs &args) -> Run {
                if (!flashvsr::cuda::linear_hopper_can(args))
                    return {};
                return [args] { return flashvsr::cuda::linear_hopper(args, nullptr) == cudaSuccess; };
            }};
}

Contender our_contender(const Candidate &candidate, Walk walk, int multiprocessors) {
    return {std::string(candidate.name) + (walk.down ? " M" : " N") + std::to_string(walk.beside),
            candidate.name, true, true, [candidate, walk, multiprocessors](const LinearArgs &args) -> Run {
                std::shared_ptr<Launch> launch = candidate.prepare(args, walk, multiprocessors);
                if (!launch)
                    return {};
                return [launch] { return launch->run(nullptr); };
            }};
}

/// The walks that differ and do not pad the tiles by more than a tenth.
std::vector<Walk> walks(const Candidate &candidate, int m, int n) {
    const auto up = [](int value, int unit) { return (value + unit - 1) / unit * unit; };
    const int tiles_m = up((m + candidate.tile_rows - 1) / candidate.tile_rows, candidate.cluster_rows);
    const int tiles_n =
        up((n + candidate.tile_columns - 1) / candidate.tile_columns, candidate.cluster_columns);
    std::vector<Walk> all;
    for (const auto &[swizzle, least] : {std::pair{1, 1}, {2, 2}, {4, 3}, {8, 6}}) {
        const double padded = double(up(tiles_m, swizzle * candidate.cluster_rows)) *
                              up(tiles_n, swizzle * candidate.cluster_columns);
        if (std::min(tiles_m, tiles_n) < least || padded > 1.1 * tiles_m * tiles_n)
            continue;
        all.push_back({false, swizzle});
        all.push_back({true, swizzle});
    }
    return all;
}

/// Whether what a contender computes of the first `rows` rows is right; prints what is not.
bool is_right(const Data &data, const Contender &contender, int rows, Difference *seen = nullptr) {
    watch(contender.name);
    const int looked_at = std::min(data.m, rows + 512);
    const size_t bytes = size_t(looked_at) * data.shape.n * sizeof(bf16);
    bf16 *y = data.y[0].data();
    static Buffer<Difference> on_device(1);
    check(cudaMemset(on_device.data(), 0, sizeof(Difference)), "cudaMemset");
    if (data.residual())
        check(cudaMemcpy(y, data.sum.data(), bytes, cudaMemcpyDeviceToDevice), "a copy");
    else
        check(cudaMemset(y, 0xFF, bytes), "cudaMemset");
    const Run run = contender.prepare(data.args(0, rows));
    if (!run || !run()) {
        std::printf("  WRONG %s: cannot compute %d rows\n", contender.name.c_str(), rows);
        return false;
    }
    queue_comparison(y, data.reference.data(), data.sum.data(), rows, looked_at, data.shape.n,
                     on_device.data());
    Difference difference;
    check(cudaMemcpy(&difference, on_device.data(), sizeof(difference), cudaMemcpyDeviceToHost),
          contender.name.c_str());
    float largest, beyond;
    std::memcpy(&largest, &difference.largest_bits, sizeof(largest));
    std::memcpy(&beyond, &difference.beyond_bits, sizeof(beyond));
    const double relative = std::sqrt(difference.error_squares / difference.reference_squares);
    // cuBLASLt rounds a product before it is added to the sum.
    const bool fp8 = data.element == LinearElement::e4m3, twice_rounded = !contender.ours && data.residual();
    const double relative_bound = fp8             ? 2e-2
                                  : twice_rounded ? 3e-3
                                                  : 2.2e-3,
                 beyond_bound = fp8             ? 0.15
                                : twice_rounded ? 2e-2
                                                : 4e-3;
    const bool right = relative < relative_bound && beyond < beyond_bound && difference.not_finite == 0 &&
                       difference.written_outside == 0;
    if (!right)
        std::printf(
            "  WRONG %s, %d rows: relative error %.2e, largest %.2e, beyond rounding %.2e, %llu not finite, "
            "%llu written outside\n",
            contender.name.c_str(), rows, relative, largest, beyond, difference.not_finite,
            difference.written_outside);
    if (seen)
        *seen = difference;
    return right;
}

class Timer {
public:
    Timer() {
        check(cudaEventCreate(&start_), "an event");
        check(cudaEventCreate(&end_), "an event");
    }
    ~Timer() {
        cudaEventDestroy(start_);
        cudaEventDestroy(end_);
    }

    /// Microseconds of what `work` queues.
    template <class Work> double time(const Work &work) {
        check(cudaEventRecord(start_), "an event");
        work();
        check(cudaEventRecord(end_), "an event");
        check(cudaEventSynchronize(end_), "a timed run");
        float milliseconds = 0;
        check(cudaEventElapsedTime(&milliseconds, start_, end_), "an event");
        return 1000.0 * milliseconds;
    }

private:
    cudaEvent_t start_ = nullptr, end_ = nullptr;
};

void must(bool done, const std::string &name) {
    if (done)
        return;
    std::fprintf(stderr, "linear_bench: %s failed: %s\n", name.c_str(),
                 cudaGetErrorString(cudaGetLastError()));
    std::exit(2);
}

double batch(const Data &data, const Contender &contender, int count, Timer &timer) {
    watch(contender.name);
    data.reset_sums();
    must(contender.by_set[input_sets - 1](), contender.name);
    return timer.time([&] {
        for (int i = 0; i < count; ++i)
            must(contender.by_set[i % input_sets](), contender.name);
    }) / count;
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

/// Times in turns, each round beginning with another contender.
void time_in_turns(const Data &data, std::vector<Contender *> &contenders, int rounds, double batch_us,
                   double seconds, Timer &timer) {
    const double begun = now();
    std::vector<std::vector<double>> times(contenders.size());
    std::vector<int> counts;
    for (const Contender *each : contenders) // an even number of each set
        counts.push_back(std::clamp(int(batch_us / batch(data, *each, 1, timer)) / input_sets * input_sets,
                                    input_sets, 60));
    for (int round = 0; round < rounds || (now() - begun < seconds && round < 61); ++round)
        for (size_t i = 0; i < contenders.size(); ++i) {
            const size_t at = (i + size_t(round) * 7) % contenders.size();
            times[at].push_back(batch(data, *contenders[at], counts[at], timer));
        }
    for (size_t i = 0; i < contenders.size(); ++i) {
        contenders[i]->microseconds = median(times[i]);
        contenders[i]->least = *std::min_element(times[i].begin(), times[i].end());
    }
}

struct Options {
    std::string shape, type = "all", skip;
    double seconds = 30;
    int rows = 8448;
    bool all = false;
};

/// The best of a shape, kept for the replay of the blocks.
struct Winners {
    std::unique_ptr<Data> data;
    Contender first, best_blas, library, ours;

    const Contender &best() const { return ours.microseconds < best_blas.microseconds ? ours : best_blas; }
};

bool faster(const Contender *a, const Contender *b) {
    return a->microseconds < b->microseconds;
}

Winners contest(LinearElement element, const Shape &shape, const Options &options, double seconds,
                int multiprocessors, bool &right) {
    const double begun = now();
    watch("the inputs");
    Timer timer;
    auto data = std::make_unique<Data>(element, shape, options.rows);
    std::printf("\n== %s %s: M %d, N %d, K %d; %s\n", name_of(element), shape.name, data->m, shape.n, shape.k,
                name_of(shape.epilogue));
    std::vector<Contender> all;
    for (int i = 0; i < 8; ++i)
        all.push_back(blas_contender(*data, i, false));
    if (shape.epilogue == LinearEpilogue::gelu)
        all.push_back(blas_contender(*data, 0, true));
    all.push_back(library_contender());
    for (const Candidate &candidate : candidates())
        if (candidate.element == element && candidate.epilogue == shape.epilogue &&
            (options.skip.empty() || std::string(candidate.name).find(options.skip) == std::string::npos))
            for (const Walk walk : walks(candidate, data->m, shape.n))
                all.push_back(our_contender(candidate, walk, multiprocessors));

    // Right first: whole tiles, parts of tiles, few rows.
    std::vector<Contender *> in;
    int wrong = 0;
    for (Contender &each : all) {
        for (int set = 0; set < input_sets; ++set)
            each.by_set[set] = each.prepare(data->args(set, data->m));
        if (!each) {
            if (each.ours)
                std::printf("  %s cannot compute it\n", each.name.c_str());
            continue;
        }
        bool good = true;
        if (each.eligible) {
            good = is_right(*data, each, data->m);
            if (each.ours)
                for (const int rows : {data->m - 56, 129, 1})
                    if (rows > 0 && rows <= data->m)
                        good = is_right(*data, each, rows) && good;
        }
        if (!good)
            ++wrong;
        if (!good && each.ours)
            right = false;
        if (good)
            in.push_back(&each);
    }
    std::printf("checked %zu versions, %d wrong\n", all.size(), wrong);

    // All of them briefly, then the best at length.
    time_in_turns(*data, in, 3, 900, 0, timer);
    std::map<std::string, Contender *> kernels;
    for (Contender *each : in)
        if (Contender *&best = kernels[each->kernel]; !best || faster(each, best))
            best = each;
    std::vector<Contender *> ranking;
    for (const auto &[kernel, best] : kernels)
        if (best->ours)
            ranking.push_back(best);
    std::sort(ranking.begin(), ranking.end(), faster);
    std::printf("a first look, each kernel with its best walk (us):");
    for (size_t i = 0; i < ranking.size(); ++i)
        std::printf("%s %s %.1f", i % 4 ? ";" : "\n   ", ranking[i]->name.c_str(), ranking[i]->microseconds);
    std::printf("\n");
    std::vector<Contender *> sorted = in, finals;
    std::sort(sorted.begin(), sorted.end(), faster);
    if (options.all)
        for (const Contender *each : sorted)
            std::printf("    %-26s %8.1f us\n", each->name.c_str(), each->microseconds);
    Contender *first = &all[0];
    if (!*first || std::find(in.begin(), in.end(), first) == in.end()) {
        std::printf("cuBLASLt's first heuristic is not usable\n");
        first = nullptr;
    }
    int ours = 0, theirs = 0;
    for (Contender *each : sorted)
        if (each == first || !each->eligible || each->name == "library" ||
            (each->ours ? ours++ < 8 : theirs++ < 2))
            finals.push_back(each);
    // Two of the best kernels can hold all eight places with their walks: the others' best come along.
    for (size_t i = 0; i < ranking.size() && i < 5; ++i)
        if (std::find(finals.begin(), finals.end(), ranking[i]) == finals.end())
            finals.push_back(ranking[i]);
    time_in_turns(*data, finals, 9, 3000, std::max(0.0, seconds - (now() - begun)), timer);
    std::sort(finals.begin(), finals.end(), faster);

    std::printf("%-26s %8s %8s %8s %8s %10s %10s\n", "version", "us", "least", "TFLOP/s", "of first",
                "rel.err", "max.err");
    Winners winners;
    const Contender *winner = nullptr;
    for (Contender *each : finals) {
        Difference difference{};
        if (each->eligible && !is_right(*data, *each, data->m, &difference))
            right = false; // also the second time
        float largest;
        std::memcpy(&largest, &difference.largest_bits, sizeof(largest));
        std::printf("%-26s %8.1f %8.1f %8.0f %8.3f %10.2e %10.2e%s\n", each->name.c_str(), each->microseconds,
                    each->least, data->operations() / each->microseconds * 1e-6,
                    first ? each->microseconds / first->microseconds : 0.0,
                    difference.reference_squares > 0
                        ? std::sqrt(difference.error_squares / difference.reference_squares)
                        : 0.0,
                    largest, each == first ? "  <- the engine's" : "");
        if (!each->eligible)
            continue;
        if (!winner)
            winner = each;
        Contender &place = each->ours ? winners.ours : winners.best_blas;
        if (!place)
            place = *each;
        if (each->name == "library")
            winners.library = *each;
    }
    if (first)
        winners.first = *first;
    if (winner)
        std::printf("WINNER %s %s: %s, %.1f us, %.0f TFLOP/s\n", name_of(element), shape.name,
                    winner->name.c_str(), winner->microseconds,
                    data->operations() / winner->microseconds * 1e-6);
    std::fflush(stdout);
    winners.data = std::move(data);
    return winners;
}

/// 30 blocks' products one after the other, as the transformer runs them but without what lies between.
void replay(const std::vector<Winners> &winners, LinearElement element) {
    struct Mode {
        const char *name;
        std::function<const Contender &(const Winners &)> pick;
        std::vector<double> times{};
    };
    Mode modes[] = {
        {"cuBLASLt's first", [](const Winners &w) -> const Contender & { return w.first; }},
        {"cuBLASLt's best", [](const Winners &w) -> const Contender & { return w.best_blas; }},
        {"library", [](const Winners &w) -> const Contender & { return w.library; }},
        {"the ladder's best", [](const Winners &w) -> const Contender & { return w.ours; }},
        {"the best of each", [](const Winners &w) -> const Contender & { return w.best(); }},
    };
    for (const Winners &each : winners)
        if (!each.first || !each.best_blas || !each.library || !each.ours)
            return;
    Timer timer;
    const auto blocks = [&](const Mode &mode, int count) {
        for (int block = 0; block < count; ++block)
            for (const int at : {0, 2, 1, 2, 3, 4}) {
                const Contender &contender = mode.pick(winners[at]);
                must(contender.by_set[block % input_sets](), contender.name);
            }
    };
    for (int round = 0; round < 9; ++round)
        for (size_t i = 0; i < std::size(modes); ++i) {
            Mode &mode = modes[(i + round) % std::size(modes)];
            watch(mode.name);
            for (const Winners &each : winners)
                each.data->reset_sums();
            blocks(mode, 1);
            mode.times.push_back(timer.time([&] { blocks(mode, 30); }));
        }
    std::printf("\n== %s: the products of 30 blocks in turn, ms (median of 9, least)\n", name_of(element));
    for (const Mode &mode : modes) {
        double sum = 0;
        for (const Winners &each : winners)
            sum += each.data->shape.times * 30e-3 * mode.pick(each).microseconds;
        std::printf("%-20s %7.2f %7.2f   (sum of the single times: %.2f)\n", mode.name,
                    median(mode.times) * 1e-3, *std::min_element(mode.times.begin(), mode.times.end()) * 1e-3,
                    sum);
    }
}

int bench(const Options &options) {
    cudaDeviceProp device;
    check(cudaGetDeviceProperties(&device, 0), "the device");
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    std::printf("%s, %d SMs, CUDA %d (driver %d), cuBLASLt %zu; %zu CUTLASS kernels\n", device.name,
                device.multiProcessorCount, runtime, driver, cublasLtGetVersion(), candidates().size());
    if (device.major != 9) {
        std::fprintf(stderr, "linear_bench: it needs a GPU of compute capability 9.0\n");
        return 2;
    }
    std::vector<std::pair<LinearElement, Shape>> todo;
    for (const LinearElement element : {LinearElement::bf16, LinearElement::e4m3})
        for (const Shape &shape : shapes)
            if ((options.type == "all" || options.type == name_of(element)) &&
                (options.shape.empty() || options.shape == shape.name))
                todo.emplace_back(element, shape);
    if (todo.empty()) {
        std::fprintf(stderr, "linear_bench: no such shape or type\n");
        return 2;
    }
    bool right = true;
    std::vector<Winners> winners;
    for (size_t i = 0; i < todo.size(); ++i) {
        winners.push_back(contest(todo[i].first, todo[i].second, options,
                                  0.85 * options.seconds / todo.size(), device.multiProcessorCount, right));
        if (i + 1 == todo.size() || todo[i + 1].first != todo[i].first) {
            if (winners.size() == std::size(shapes))
                replay(winners, todo[i].first);
            std::fflush(stdout);
            winners.clear();
        }
    }
    std::printf("\n%s\n", right ? "ALL RIGHT" : "SOMETHING IS WRONG: see WRONG above");
    return right ? 0 : 1;
}

} // namespace

} // namespace linear_bench

int main(int count, char **values) {
    linear_bench::Options options;
    for (int i = 1; i < count; ++i) {
        const std::string name = values[i];
        if (name == "--all") {
            options.all = true;
        } else if (i + 1 < count && name == "--shape") {
            options.shape = values[++i];
        } else if (i + 1 < count && name == "--skip") {
            options.skip = values[++i];
        } else if (i + 1 < count && name == "--type") {
            options.type = values[++i];
        } else if (i + 1 < count && name == "--seconds") {
            options.seconds = std::atof(values[++i]);
        } else if (i + 1 < count && name == "--rows" && std::atoi(values[i + 1]) > 0) {
            options.rows = std::atoi(values[++i]);
        } else {
            std::fprintf(stderr,
                         "linear_bench [--shape qkv|cross_q|out|ffn_in|ffn_out] [--type bf16|fp8|all] "
                         "[--seconds 30] [--rows 8448] [--skip part of a kernel's name] [--all]\n");
            return 2;
        }
    }
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    std::signal(SIGALRM, linear_bench::report_hang);
    return linear_bench::bench(options);
}
