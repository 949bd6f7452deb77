// SPDX-License-Identifier: LGPL-2.1-or-later

// Speed and memory of the engine: frames through the pipeline as ffmpeg's filter drives it, and the parts of
// a steady chunk.

#include "error.h"
#include "kernel_trace.h"
#include "part_timer.h"
#include "pipeline/device_list.h"
#include "pipeline/pipeline.h"
#include "stream/frame_stream.h"
#include "torch_guard.h"
#include "weights/builtin_model.h"
#include "weights/random_weights.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <future>
#include <optional>
#include <random>

#include <getopt.h>
#include <sys/resource.h>

namespace {

using namespace flashvsr;
using Clock = std::chrono::steady_clock;

constexpr int exit_failed = 1, exit_bad_arguments = 2;
constexpr int64_t warm_up_frames = schedule::first_frames_out + 16 * schedule::frames_per_chunk;

constexpr const char *usage =
    R"(usage: flashvsr_bench [options]

Frames per second through the pipeline, from pictures in host memory to pictures in host memory, the first
chunk included and the model's loading left out; then milliseconds by part of a steady chunk, which takes 8
frames and gives 8; and peak memory.

  --model DIR              model directory (default: the built-in model)
  --random official|mini   random weights of these sizes instead
  --output WxH             output size (default 1280x768)
  --scale S                output size / input size (default 4)
  --device NAME            as the filter's option (default auto)
  --precision fp32|bf16|fp16|fp8 (default: bf16 on a GPU, fp32 on the CPU)
  --frames N               (default 89)
  --runs N                 timed runs of so many frames (default 2)
  --tile N                 side of tiles, input pixels (default: whole frames)
  --tile-overlap N         input pixels (default 24)
  --tile-batch N           tiles in a step; 0: adaptive (default 1)
  --multi-gpu MODE         0, frames or tiles (default 0)
  --sparse-ratio X         (default 2)
  --pixels yuv|rgb|float   pictures in and out: 4:2:0 or RGB of 8 bits, or RGB in that is given back as pixels of
                           floats (default yuv)
  --break-at N             the last worker fails at its step N of each run
  --trace FILE             list the kernels of a steady chunk on a GPU by time; the file gets every one of
                           some chunks, for Chrome's trace viewer or Perfetto
  --json FILE              write the figures as JSON too; - is standard output
)";

struct Arguments {
    std::string model, random, device = "auto", precision = "auto", trace, json, multi_gpu = "0",
                               pixels = "yuv";
    Size output{1280, 768};
    double scale = 4, sparse_ratio = 2;
    int64_t frames = 89, runs = 2, tile = 0, tile_overlap = 24, tile_batch = 1, break_at = -1;
};

template <typename T> T number(const char *option, std::string_view text, T least) {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || !(value >= least))
        fail(EINVAL, "--", option, " is \"", text, "\", not a number from ", least, " on");
    return value;
}

Size size(const char *option, const std::string &text) {
    const size_t x = text.find('x');
    if (x == std::string::npos)
        fail(EINVAL, "--", option, " is \"", text, "\", not a size such as 1280x768");
    return {number<int64_t>(option, text.substr(0, x), 1), number<int64_t>(option, text.substr(x + 1), 1)};
}

Arguments parse(int argc, char **argv) {
    constexpr std::array names = {"model",      "random",    "output",       "scale",  "device",
                                  "precision",  "frames",    "runs",         "tile",   "tile-overlap",
                                  "tile-batch", "multi-gpu", "sparse-ratio", "pixels", "break-at",
                                  "trace",      "json"};
    std::vector<option> options;
    for (const char *name : names)
        options.push_back({name, required_argument, nullptr, 0});
    options.push_back({"help", no_argument, nullptr, 'h'});
    options.push_back({});
    Arguments arguments;
    int index = 0;
    for (int c = 0; (c = getopt_long(argc, argv, "", options.data(), &index)) != -1;) {
        if (c == 'h') {
            std::fputs(usage, stdout);
            std::exit(0);
        }
        if (c != 0)
            fail(EINVAL, "see --help");
        const std::string name = names[index], value = optarg;
        if (name == "model")
            arguments.model = value;
        else if (name == "random")
            arguments.random = value;
        else if (name == "output")
            arguments.output = size("output", value);
        else if (name == "scale")
            arguments.scale = number<double>("scale", value, 1);
        else if (name == "device")
            arguments.device = value;
        else if (name == "precision")
            arguments.precision = value;
        else if (name == "frames")
            arguments.frames = number<int64_t>("frames", value, 1);
        else if (name == "runs")
            arguments.runs = number<int64_t>("runs", value, 1);
        else if (name == "tile")
            arguments.tile = number<int64_t>("tile", value, 0);
        else if (name == "tile-overlap")
            arguments.tile_overlap = number<int64_t>("tile-overlap", value, 0);
        else if (name == "tile-batch")
            arguments.tile_batch = number<int64_t>("tile-batch", value, 0);
        else if (name == "multi-gpu")
            arguments.multi_gpu = value;
        else if (name == "sparse-ratio")
            arguments.sparse_ratio = number<double>("sparse-ratio", value, 0);
        else if (name == "pixels")
            arguments.pixels = value;
        else if (name == "break-at")
            arguments.break_at = number<int64_t>("break-at", value, 0);
        else if (name == "trace")
            arguments.trace = value;
        else
            arguments.json = value;
    }
    if (optind != argc)
        fail(EINVAL, "\"", argv[optind], "\" is not an option; see --help");
    return arguments;
}

ModelWeights weights_of(const Arguments &arguments, const Log &log) {
    if (arguments.random == "official")
        return random_weights(official_shape(), at::kBFloat16, 1);
    if (arguments.random == "mini")
        return random_weights(miniature_shape(), at::kFloat, 1);
    if (!arguments.random.empty())
        fail(EINVAL, "--random is \"", arguments.random, "\", not official or mini");
    return load_model_directory(arguments.model.empty() ? builtin_model_directory()
                                                        : std::filesystem::path(arguments.model),
                                std::nullopt, log);
}

MultiGpu multi_gpu_of(const Arguments &arguments) {
    if (arguments.multi_gpu == "0")
        return MultiGpu::off;
    if (arguments.multi_gpu == "frames" || arguments.multi_gpu == "1")
        return MultiGpu::frames;
    if (arguments.multi_gpu == "tiles")
        return MultiGpu::tiles;
    fail(EINVAL, "--multi-gpu is \"", arguments.multi_gpu, "\", not 0, frames or tiles");
}

/// 8 bits of a component, BT.709 where they are Y'CbCr.
PictureFormat format_of(const Arguments &arguments) {
    if (arguments.pixels == "yuv")
        return {FLASHVSR_PIXEL_FORMAT_YUV, 8, {0.2126, 0.0722, 0, 1, 1, 0, 128, 0, 0}};
    if (arguments.pixels == "rgb" || arguments.pixels == "float")
        return {FLASHVSR_PIXEL_FORMAT_RGB, 8, {}};
    fail(EINVAL, "--pixels is \"", arguments.pixels, "\", not yuv, rgb or float");
}

PipelineOptions pipeline_options_of(const Arguments &arguments) {
    PipelineOptions options;
    const auto down = [&](int64_t side) {
        return std::max<int64_t>(1, std::lround(static_cast<double>(side) / arguments.scale));
    };
    const auto up = [&](int64_t side) { return std::lround(static_cast<double>(side) * arguments.scale); };
    options.stream.output = arguments.output;
    options.stream.input = {down(arguments.output.width), down(arguments.output.height)};
    options.stream.sparse.sparse_ratio = arguments.sparse_ratio;
    options.stream.tile = up(arguments.tile);
    options.stream.tile_overlap = up(arguments.tile_overlap);
    options.stream.batch.adaptive = arguments.tile_batch == 0;
    options.stream.batch.batch = std::max<int64_t>(1, arguments.tile_batch);
    options.multi_gpu = multi_gpu_of(arguments);
    if (arguments.pixels != "float")
        options.stream.format_at = [format = format_of(arguments)](int64_t) { return std::optional(format); };
    return options;
}

/// Pictures of noise, a few that come again and again.
std::vector<PicturePtr> make_pictures(const PictureFormat &format, Size size) {
    constexpr int count = 4;
    std::mt19937 random(1);
    std::vector<PicturePtr> pictures;
    std::vector<uint8_t> bytes(picture_bytes(format, size));
    for (int i = 0; i < count; i++) {
        for (uint8_t &byte : bytes)
            byte = static_cast<uint8_t>(random());
        FlashVSRFrame frame{};
        frame.width = static_cast<int>(size.width);
        frame.height = static_cast<int>(size.height);
        frame.format = format.format;
        frame.depth = format.depth;
        frame.yuv = format.yuv;
        int plane = 0;
        for (const PlaneLayout &layout : plane_layouts(format, size)) {
            frame.data[plane] = bytes.data() + layout.offset;
            frame.stride[plane++] = layout.row_bytes;
        }
        pictures.push_back(std::make_shared<const HeldPicture>(frame));
    }
    return pictures;
}

double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

struct RunFigures {
    double seconds = 0;
    double first_frame_seconds = 0;
    std::vector<WorkerStats> workers;
};

/// `count` frames through a pipeline of their own.
RunFigures run(const PipelineOptions &options, const std::vector<WorkerDevice> &devices,
               const std::vector<PicturePtr> &pictures, int64_t count, const Log &log) {
    const auto pipeline = make_pipeline(options, devices, log);
    const Clock::time_point begin = Clock::now();
    RunFigures figures;
    for (int64_t sent = 0, received = 0;;) {
        while (sent < count && !pipeline->full())
            pipeline->send(pictures[sent++ % pictures.size()]);
        if (sent == count)
            pipeline->flush();
        OutputPicture picture;
        const Pipeline::Received result = pipeline->receive(picture);
        if (result == Pipeline::Received::end)
            break;
        if (result == Pipeline::Received::picture && received++ == 0)
            figures.first_frame_seconds = seconds_since(begin);
    }
    figures.seconds = seconds_since(begin);
    figures.workers = pipeline->stats();
    return figures;
}

/// The first chunks of every device, side by side: kernels are loaded and memory is taken.
void warm_up(PipelineOptions options, const std::vector<WorkerDevice> &devices,
             const std::vector<PicturePtr> &pictures, int64_t count, const Log &log) {
    options.before_step = nullptr;
    if (options.multi_gpu == MultiGpu::tiles)
        return static_cast<void>(run(options, devices, pictures, count, log));
    options.multi_gpu = MultiGpu::off;
    std::vector<std::future<void>> running;
    for (const WorkerDevice &device : devices)
        running.push_back(std::async(std::launch::async, [&, device] {
            const TorchGuard guard(log);
            run(options, {device}, pictures, count, log);
        }));
    for (std::future<void> &device : running)
        device.get();
}

struct ChunkFigures {
    double milliseconds = 0; ///< of a chunk, without marks between its parts
    std::map<std::string, double> parts;
    int64_t peak_bytes = 0;
};

/// A stream on one device that is past its first, longer chunks.
class SteadyStream {
public:
    SteadyStream(const PipelineOptions &options, const WorkerDevice &device,
                 const std::vector<PicturePtr> &pictures, const Log &log)
        : converters_(device.model->placement.device),
          stream_(device.model, options.stream, device.memory, log),
          downloads_(device.model->placement.device), pictures_(pictures) {
        constexpr int warm_up = 3;
        run(warm_up);
    }

    /// Chunks one behind the other, as in a pipeline: the pictures of one come down while the next is made.
    void run(int chunks) {
        std::optional<Unfinished> under_way;
        for (int i = 0; i < chunks; i++) {
            const Unfinished next = step();
            if (under_way)
                under_way->wait();
            under_way.emplace(next);
        }
        under_way->wait();
    }

    /// The next chunk, from pictures in host memory on; its pictures are on their way back.
    Unfinished step(const Observer &observer = {}) {
        std::vector<at::Tensor> frames;
        for (int64_t count = stream_.frames_wanted(); count > 0; count--)
            frames.push_back(pictures_[next_++ % pictures_.size()]->to_tensor(converters_));
        return downloads_.begin(stream_.step(frames, observer).data);
    }

private:
    PictureConverters converters_;
    FrameStream stream_;
    Downloads downloads_;
    const std::vector<PicturePtr> &pictures_;
    size_t next_ = 0;
};

/// A steady chunk on one device: median over a few.
ChunkFigures measure_chunk(const PipelineOptions &options, const WorkerDevice &device,
                           const std::vector<PicturePtr> &pictures, const Log &log) {
    constexpr int chunks = 9;
    const at::Device place = device.model->placement.device;
    const DeviceScope scope(place);
    const MemoryMeter memory(place);
    SteadyStream stream(options, device, pictures, log);
    bench::PartTimer timer(place);
    std::vector<double> times;
    ChunkFigures figures;
    Observer marks;
    marks.part = [&](std::string_view part) { timer.enter(part); };
    for (int i = 0; i < 2 * chunks; i++) {
        const bool by_part = i % 2 == 1;
        if (!by_part)
            timer.enter("chunk");
        const Unfinished pictures_down = stream.step(by_part ? marks : Observer{});
        timer.enter("");
        pictures_down.wait();
        std::map<std::string, double> parts = timer.take_milliseconds();
        if (by_part)
            for (const auto &[name, milliseconds] : parts)
                figures.parts[name] += milliseconds / chunks;
        else
            times.push_back(parts["chunk"]);
    }
    std::nth_element(times.begin(), times.begin() + chunks / 2, times.end());
    figures.milliseconds = times[chunks / 2];
    figures.peak_bytes = memory.peak_bytes();
    return figures;
}

/// The kernels of a steady chunk: mean over a few.
nlohmann::json print_kernels(const PipelineOptions &options, const WorkerDevice &device,
                             const std::vector<PicturePtr> &pictures, const std::string &file,
                             const Log &log) {
    constexpr int chunks = 4;
    const at::Device place = device.model->placement.device;
    if (place.is_cpu())
        fail(EINVAL, "--trace needs a GPU, the device is ", device.name);
    const DeviceScope scope(place);
    SteadyStream stream(options, device, pictures, log);
    const bench::TraceFigures trace = bench::trace_kernels([&] { stream.run(chunks); }, file);
    nlohmann::json json = {{"chunk_ms", trace.milliseconds / chunks},
                           {"busy_ms", trace.busy_milliseconds / chunks}};
    std::printf("kernels of a steady chunk: busy %.2f ms of %.2f, idle %.1f %%\n",
                trace.busy_milliseconds / chunks, trace.milliseconds / chunks,
                100 * (1 - trace.busy_milliseconds / trace.milliseconds));
    std::printf("  %9s %8s %7s  %s\n", "ms", "calls", "share", "name");
    for (const bench::KernelFigures &kernel : trace.kernels) {
        const double milliseconds = kernel.milliseconds / chunks,
                     calls = static_cast<double>(kernel.calls) / chunks;
        std::printf("  %9.3f %8.2f %5.1f %%  %s\n", milliseconds, calls,
                    100 * kernel.milliseconds / trace.milliseconds, kernel.name.c_str());
        json["kernels"].push_back({{"name", kernel.name}, {"ms", milliseconds}, {"calls", calls}});
    }
    return json;
}

double mebibytes(int64_t bytes) {
    return static_cast<double>(bytes) / (1 << 20);
}

int64_t peak_resident_bytes() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

void write_json(const std::string &path, const nlohmann::json &json) {
    if (path == "-") {
        std::puts(json.dump(2).c_str());
        return;
    }
    std::ofstream file(path);
    file << json.dump(2) << '\n';
    if (!file.flush())
        fail(EIO, "'", path, "' could not be written");
}

void measure(const Arguments &arguments) {
    const Log log([](LogLevel level, const std::string &line) {
        if (level <= LogLevel::verbose)
            std::fprintf(stderr, "%s\n", line.c_str());
    });
    const TorchGuard guard(log);
    PipelineOptions options = pipeline_options_of(arguments);
    const ModelWeights weights = weights_of(arguments, log);
    std::vector<WorkerDevice> devices;
    std::map<std::string, std::shared_ptr<const Model>> models;
    for (const at::Device &device :
         parse_devices(arguments.device, options.multi_gpu != MultiGpu::off, log)) {
        const DeviceScope scope(device);
        std::shared_ptr<const Model> &model = models[device.str()];
        if (!model)
            model = std::make_shared<const Model>(weights, placement_in(arguments.precision, device));
        synchronize(device);
        devices.push_back({device.str(), model, [device] { return memory_of(device); }});
    }
    const std::vector<PicturePtr> pictures = make_pictures(format_of(arguments), options.stream.input);
    const Size target = target_size(options.stream.output);
    std::printf("%s, %s, %lldx%lld to %lldx%lld (network %lldx%lld)\n", devices.front().name.c_str(),
                precision_name(devices.front().model->placement),
                static_cast<long long>(options.stream.input.width),
                static_cast<long long>(options.stream.input.height),
                static_cast<long long>(options.stream.output.width),
                static_cast<long long>(options.stream.output.height), static_cast<long long>(target.width),
                static_cast<long long>(target.height));

    warm_up(options, devices, pictures, std::min(warm_up_frames, arguments.frames), log);
    if (arguments.break_at >= 0)
        options.before_step = [last = devices.size() - 1, step = arguments.break_at](size_t worker,
                                                                                     int64_t at) {
            if (worker == last && at == step)
                fail(EIO, "asked to by --break-at ", step);
        };
    nlohmann::json json = {{"device", devices.front().name},
                           {"output", {options.stream.output.width, options.stream.output.height}},
                           {"frames", arguments.frames},
                           {"model_mib", mebibytes(devices.front().model->bytes)}};
    for (int64_t i = 0; i < arguments.runs; i++) {
        const RunFigures figures = run(options, devices, pictures, arguments.frames, log);
        const double rate = static_cast<double>(arguments.frames) / figures.seconds;
        std::printf("run %lld: %.2f frames/s (%lld frames, %.3f s, the first after %.3f s)\n",
                    static_cast<long long>(i + 1), rate, static_cast<long long>(arguments.frames),
                    figures.seconds, figures.first_frame_seconds);
        json["frames_per_second"].push_back(rate);
        for (const WorkerStats &worker : figures.workers)
            if (figures.workers.size() > 1)
                std::printf("  %s: %lld chunks, busy %.1f %%%s\n", worker.device.c_str(),
                            static_cast<long long>(worker.chunks),
                            100 * worker.busy_seconds / figures.seconds, worker.failed ? ", failed" : "");
    }

    const ChunkFigures chunk = measure_chunk(options, devices.front(), pictures, log);
    std::printf("steady chunk: %.2f ms, %.2f frames/s\n", chunk.milliseconds,
                1000.0 * schedule::frames_per_chunk / chunk.milliseconds);
    double sum = 0;
    for (const auto &[name, milliseconds] : chunk.parts) {
        std::printf("  %-16s %8.3f ms\n", name.c_str(), milliseconds);
        sum += milliseconds;
    }
    std::printf("  %-16s %8.3f ms\n", "sum of parts", sum);
    json["chunk_ms"] = chunk.milliseconds;
    json["parts_ms"] = chunk.parts;
    if (chunk.peak_bytes > 0) {
        const int64_t device_peak = chunk.peak_bytes + devices.front().model->bytes;
        std::printf("peak device memory: %.0f MiB, the model's %.0f MiB included\n", mebibytes(device_peak),
                    mebibytes(devices.front().model->bytes));
        json["device_peak_mib"] = mebibytes(device_peak);
    }
    if (!arguments.trace.empty())
        json["trace"] = print_kernels(options, devices.front(), pictures, arguments.trace, log);
    std::printf("peak host memory: %.0f MiB\n", mebibytes(peak_resident_bytes()));
    json["host_peak_mib"] = mebibytes(peak_resident_bytes());
    if (!arguments.json.empty())
        write_json(arguments.json, json);
}

} // namespace

int main(int argc, char **argv) {
    Arguments arguments;
    try {
        arguments = parse(argc, argv);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "flashvsr_bench: %s\n", error.what());
        return exit_bad_arguments;
    }
    try {
        measure(arguments);
        return 0;
    } catch (...) {
        std::fprintf(stderr, "flashvsr_bench: %s\n", current_error().what());
        return exit_failed;
    }
}
