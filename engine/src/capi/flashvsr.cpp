// SPDX-License-Identifier: LGPL-2.1-or-later
#include "flashvsr/flashvsr.h"

#include "block_cache.h"
#include "capi/settings.h"
#include "frame/held_picture.h"
#include "frame/picture.h"
#include "frame/picture_converter.h"
#include "ops/device.h"
#include "pipeline/device_list.h"
#include "pipeline/pipeline.h"
#include "pipeline/worker_devices.h"
#include "stream/frame_stream.h"
#include "torch_guard.h"
#include "weights/builtin_model.h"

#include <ATen/ops/empty.h>

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <map>
#include <mutex>
#include <new>
#include <optional>

#define STRING(x) #x
#define VERSION(major, minor, patch) STRING(major) "." STRING(minor) "." STRING(patch)

static_assert(FLASHVSR_EAGAIN == -EAGAIN);

using namespace flashvsr;

namespace {

Log make_log(const FlashVSRSettings &settings) {
    if (!settings.log)
        return {};
    return Log([log = settings.log, opaque = settings.log_opaque](LogLevel level, const std::string &line) {
        log(opaque, static_cast<int>(level), line.c_str());
    });
}

/// What a caller wishes for every frame, by the frames from which on it changed. Thread-safe.
template <typename Wish> class Timeline {
public:
    explicit Timeline(Wish first) : from_({{0, std::move(first)}}) {}

    /// For a frame that is done, such as a segment that is run again makes first, any wish.
    Wish at(int64_t frame) const {
        const std::lock_guard lock(mutex_);
        const auto after = from_.upper_bound(frame);
        return (after == from_.begin() ? after : std::prev(after))->second;
    }

    /// @param done frames that are given out
    void change(int64_t frame, Wish wish, int64_t done) {
        const std::lock_guard lock(mutex_);
        from_[frame] = std::move(wish);
        from_.erase(from_.begin(), std::prev(from_.upper_bound(done)));
    }

private:
    mutable std::mutex mutex_;
    std::map<int64_t, Wish> from_;
};

/// How a caller wishes for a picture.
struct OutputWish {
    std::optional<PictureFormat> format;
    bool on_gpu = false; ///< in a GPU's memory
};

} // namespace

struct FlashVSRContext {
    explicit FlashVSRContext(const FlashVSRSettings &settings) : log(make_log(settings)) {}

    Log log;
    std::string error;
    Size input, output;
    std::unique_ptr<Pipeline> pipeline;
    int64_t model_bytes = 0;
    ColorFix model_color_fix = ColorFix::adain; ///< where the settings leave it open
    std::shared_ptr<Timeline<ColorFix>> color_fixes;
    std::shared_ptr<Timeline<OutputWish>> wishes;        ///< of output frames
    std::vector<at::Device> gpus;                        ///< that work, in the order of the setting
    std::map<std::string, DevicePictures> pictures;      ///< by GPU: those that came in its memory
    std::map<std::string, PictureConverters> converters; ///< by device, for output frames of other formats
    std::deque<void *> opaques;                          ///< of the frames inside
    std::optional<OutputPicture> next;                   ///< that has come out and could not be written yet
    int64_t frames_in = 0, frames_out = 0;
    std::chrono::steady_clock::time_point opened; ///< when the model was there
};

namespace {

/// Whose context a call works in.
at::Device lead_device(const FlashVSRContext &ctx) {
    return ctx.gpus.empty() ? at::Device(at::kCPU) : ctx.gpus.front();
}

/// Run a body that throws; its failure becomes the context's sentence and the returned code.
template <typename Body> int guarded(FlashVSRContext *ctx, Body &&body) noexcept {
    try {
        const PrimaryContext primary(lead_device(*ctx));
        try {
            const TorchGuard guard(ctx->log);
            return body();
        } catch (...) {
            Error error = current_error();
            ctx->error = error.what();
            return -error.code();
        }
    } catch (...) {
        return -ENOMEM; // not even the sentence could be kept
    }
}

struct WorkTotals {
    int64_t chunks = 0;
    double busy_seconds = 0;
};

WorkTotals totals(const Pipeline &pipeline) {
    WorkTotals sum;
    for (const WorkerStats &worker : pipeline.stats()) {
        sum.chunks += worker.chunks;
        sum.busy_seconds += worker.busy_seconds;
    }
    return sum;
}

/// Let batches leave room for weights that take turns, and say what that does.
void plan_turns(StreamOptions &stream, const std::vector<WorkerDevice> &devices, const Log &log) {
    constexpr int to_mebibytes = 20;
    for (const WorkerDevice &device : devices) {
        const TurnBytes turns = device.model->turn_bytes();
        stream.batch.visiting = std::max({stream.batch.visiting, turns.transformer, turns.decoder});
        if (turns.transformer > 0)
            log(LogLevel::verbose, "unload_dit: ", turns.transformer >> to_mebibytes,
                " MiB of the transformer and ", turns.decoder >> to_mebibytes,
                " MiB of the decoder take turns on ", device.name);
    }
    if (std::any_of(devices.begin(), devices.end(),
                    [](const WorkerDevice &device) { return device.model->placement.device.is_cpu(); }))
        log(LogLevel::info, "unload_dit does nothing on the CPU: weights and pictures share one memory");
}

std::string device_names(const std::vector<WorkerDevice> &devices) {
    std::string names;
    for (const WorkerDevice &device : devices)
        names += (names.empty() ? "" : "|") + device.name;
    return names;
}

void open(FlashVSRContext &ctx, const FlashVSRSettings &settings) {
    PipelineOptions options = pipeline_options(settings);
    ctx.input = options.stream.input;
    std::vector<Placement> places;
    for (const at::Device &device : parse_devices(settings.device ? settings.device : "auto",
                                                  options.multi_gpu != MultiGpu::off, ctx.log))
        places.push_back(placement_on(device, settings.precision));
    for (const Placement &place : places)
        if (!place.device.is_cpu())
            ctx.gpus.push_back(place.device);
    const PrimaryContext primary(lead_device(ctx));

    const bool builtin = !settings.model_dir || !*settings.model_dir;
    const ModelInfo info =
        read_model_info(builtin ? builtin_model_directory() : std::filesystem::path(settings.model_dir),
                        wished_version(settings.version), ctx.log);
    ctx.model_color_fix = info.color_fix.value_or(ColorFix::adain);
    options.stream.color_fix = wished_color_fix(settings.color_fix).value_or(ctx.model_color_fix);
    ctx.color_fixes = std::make_shared<Timeline<ColorFix>>(options.stream.color_fix);
    options.stream.color_fix_at = [fixes = ctx.color_fixes, first = settings.first_frame](int64_t place) {
        return fixes->at(place - first);
    };
    ctx.wishes = std::make_shared<Timeline<OutputWish>>(OutputWish{});
    options.stream.format_at = [wishes = ctx.wishes, first = settings.first_frame](int64_t place) {
        return wishes->at(place - first).format;
    };
    options.stream.on_gpu_at = [wishes = ctx.wishes, first = settings.first_frame](int64_t place) {
        return wishes->at(place - first).on_gpu;
    };
    const std::vector<WorkerDevice> devices =
        make_worker_devices(info, places, settings.unload_dit != 0, ctx.log);
    const Model &model = *devices.front().model;
    ctx.model_bytes = model.bytes;
    plan_tiles(options.stream, settings, devices);
    if (settings.unload_dit)
        plan_turns(options.stream, devices, ctx.log);
    ctx.output = options.stream.output;
    ctx.pipeline = make_pipeline(options, devices, ctx.log);

    const StreamOptions &stream = options.stream;
    const std::vector<Tile> grid = stream_grid(stream);
    ctx.log(LogLevel::info, "model ", info.name, " (version ", version_name(info.version), ") on ",
            device_names(devices), " in ", precision_name(model.placement), ": ", stream.input.width, "x",
            stream.input.height, " to ", stream.output.width, "x", stream.output.height, ", ", grid.size(),
            " tile", grid.size() == 1 ? "" : "s", " of ", grid.front().size.width, "x",
            grid.front().size.height, ", color fix ", color_fix_name(stream.color_fix));
    if (stream.states_aside)
        ctx.log(LogLevel::info,
                "the states of the tiles do not fit the device's memory together: they wait in ",
                "host memory, which takes time for copies");
    ctx.opened = std::chrono::steady_clock::now();
}

/// @throws Error EINVAL where pictures in a GPU's memory cannot be had
void check_gpus(const FlashVSRContext &ctx) {
    if (ctx.gpus.empty())
        fail(EINVAL,
             "a frame is in a GPU's memory, but the device that was opened is cpu: choose a GPU, or give "
             "frames in host memory");
}

/// The device of the context that has a frame in its memory, or, for one of another GPU, the first GPU.
at::Device device_near(const FlashVSRContext &ctx, const FlashVSRFrame &frame) {
    if (frame.memory != FLASHVSR_MEMORY_CUDA)
        return at::kCPU;
    check_gpus(ctx);
    const int index = gpu_of(surface_of(frame));
    const auto found = std::find_if(ctx.gpus.begin(), ctx.gpus.end(),
                                    [&](const at::Device &gpu) { return gpu.index() == index; });
    return found != ctx.gpus.end() ? *found : ctx.gpus.front();
}

PicturePtr hold_picture(FlashVSRContext &ctx, const FlashVSRFrame &frame) {
    if (frame.memory != FLASHVSR_MEMORY_CUDA)
        return std::make_shared<const HeldPicture>(frame);
    const at::Device device = device_near(ctx, frame);
    DevicePictures &pictures = ctx.pictures.try_emplace(device.str(), device).first->second;
    return std::make_shared<const HeldPicture>(frame, pictures);
}

/// Write a picture to a frame of any format in any memory.
/// @param device device_near() the frame
void write_picture(FlashVSRContext &ctx, const OutputPicture &picture, const FlashVSRFrame &frame,
                   const at::Device &device) {
    const DeviceScope scope(device);
    const PictureFormat wanted = format_of(frame);
    const auto packed_as = [&](const at::Tensor &data, const PictureFormat &format) {
        return data.narrow(0, 0, picture_bytes(format, ctx.output));
    };
    if (picture.format == wanted)
        return unpack_picture(packed_as(picture.data, wanted), frame, device);
    // Converted where the frame is.
    PictureConverters &converters = ctx.converters.try_emplace(device.str(), device).first->second;
    const at::Tensor data = picture.data.is_cpu() ? upload(picture.data, device) : picture.data.to(device);
    const at::Tensor pixels =
        picture.format
            ? converters.get(*picture.format, ctx.output).to_pixels(packed_as(data, *picture.format))
            : data;
    const at::Tensor packed =
        at::empty({picture_bytes(wanted, ctx.output)}, at::TensorOptions(device).dtype(at::kByte));
    converters.get(wanted, ctx.output).from_pixels(pixels, packed);
    unpack_picture(packed, frame, device);
}

} // namespace

extern "C" {

void flashvsr_settings_default(FlashVSRSettings *settings) {
    *settings = {};
    settings->scale = 4;
    settings->sparse_ratio = 2;
    settings->kv_ratio = 3;
    settings->local_range = 11;
    settings->overlap = 10;
    settings->tiled = FLASHVSR_TILED_AUTO;
    settings->tile_size = 256;
    settings->tile_overlap = 24;
    settings->tile_batch = 1;
}

int flashvsr_output_size(const FlashVSRSettings *settings, int *width, int *height) {
    try {
        const Size size = output_size(*settings);
        *width = static_cast<int>(size.width);
        *height = static_cast<int>(size.height);
        return 0;
    } catch (const Error &error) {
        return -error.code();
    } catch (...) {
        return -ENOMEM;
    }
}

int flashvsr_delay(const FlashVSRSettings *settings) {
    int width = 0, height = 0;
    const int ret = flashvsr_output_size(settings, &width, &height);
    return ret < 0 ? ret : static_cast<int>(schedule::first_frames_in);
}

int flashvsr_open(FlashVSRContext **ctx, const FlashVSRSettings *settings) {
    *ctx = nullptr;
    try {
        *ctx = new FlashVSRContext(*settings);
    } catch (...) {
        return -ENOMEM;
    }
    return guarded(*ctx, [&] {
        open(**ctx, *settings);
        return 0;
    });
}

int flashvsr_send_frame(FlashVSRContext *ctx, const FlashVSRFrame *frame) {
    return guarded(ctx, [&] {
        if (!ctx->pipeline)
            fail(EINVAL, "the context was not opened");
        if (!frame) {
            ctx->pipeline->flush();
            return 0;
        }
        if (frame->width != ctx->input.width || frame->height != ctx->input.height)
            fail(EINVAL, "frame ", ctx->frames_in, " is ", frame->width, "x", frame->height,
                 ", the stream was opened for ", ctx->input.width, "x", ctx->input.height);
        if (ctx->pipeline->full())
            return FLASHVSR_EAGAIN;
        ctx->opaques.push_back(frame->opaque);
        try {
            ctx->pipeline->send(hold_picture(*ctx, *frame));
        } catch (...) {
            ctx->opaques.pop_back();
            throw;
        }
        ctx->frames_in++;
        return 0;
    });
}

int flashvsr_receive_frame(FlashVSRContext *ctx, FlashVSRFrame *frame) {
    return guarded(ctx, [&] {
        if (!ctx->pipeline)
            fail(EINVAL, "the context was not opened");
        check_picture(*frame, static_cast<int>(ctx->output.width), static_cast<int>(ctx->output.height));
        const at::Device device = device_near(*ctx, *frame);
        if (!ctx->next) {
            OutputPicture picture;
            switch (ctx->pipeline->receive(picture)) {
            case Pipeline::Received::send_more:
                return FLASHVSR_EAGAIN;
            case Pipeline::Received::end:
                return FLASHVSR_END;
            case Pipeline::Received::picture:
                ctx->next = std::move(picture);
            }
        }
        write_picture(*ctx, *ctx->next, *frame, device);
        frame->index = ctx->next->index;
        ctx->next.reset();
        frame->opaque = ctx->opaques.front();
        ctx->opaques.pop_front();
        ctx->frames_out++;
        return 0;
    });
}

int flashvsr_set_color_fix(FlashVSRContext *ctx, int color_fix) {
    return guarded(ctx, [&] {
        if (!ctx->pipeline)
            fail(EINVAL, "the context was not opened");
        ctx->color_fixes->change(ctx->frames_in, wished_color_fix(color_fix).value_or(ctx->model_color_fix),
                                 ctx->frames_out);
        return 0;
    });
}

int flashvsr_set_output_format(FlashVSRContext *ctx, const FlashVSRFrame *like) {
    return guarded(ctx, [&] {
        if (!ctx->pipeline)
            fail(EINVAL, "the context was not opened");
        OutputWish wish;
        if (like) {
            wish.format = format_of(*like);
            wish.on_gpu = like->memory == FLASHVSR_MEMORY_CUDA;
        }
        if (wish.on_gpu)
            check_gpus(*ctx);
        ctx->wishes->change(ctx->frames_in, wish, ctx->frames_out);
        return 0;
    });
}

const char *flashvsr_error(const FlashVSRContext *ctx) {
    return ctx ? ctx->error.c_str() : "out of memory";
}

int flashvsr_stats(const FlashVSRContext *ctx, FlashVSRStats *stats) {
    if (!ctx || !stats)
        return -EINVAL;
    *stats = {};
    stats->frames_in = ctx->frames_in;
    stats->frames_out = ctx->frames_out;
    stats->model_bytes = ctx->model_bytes;
    try {
        const WorkTotals work = ctx->pipeline ? totals(*ctx->pipeline) : WorkTotals();
        stats->chunks = work.chunks;
        stats->busy_seconds = work.busy_seconds;
    } catch (const std::bad_alloc &) {
        return -ENOMEM;
    }
    rusage usage{};
    if (getrusage(RUSAGE_SELF, &usage) == 0)
        stats->host_peak_bytes = static_cast<int64_t>(usage.ru_maxrss) * 1024;
    return 0;
}

void flashvsr_close(FlashVSRContext **ctx) {
    if (!ctx || !*ctx)
        return;
    FlashVSRContext *closing = *ctx;
    *ctx = nullptr;
    if (closing->pipeline && closing->frames_out > 0) {
        guarded(closing, [&] {
            const WorkTotals work = totals(*closing->pipeline);
            const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - closing->opened;
            closing->log(LogLevel::info, closing->frames_out, " frames in ", work.chunks, " chunks, ",
                         static_cast<double>(closing->frames_out) / seconds.count(),
                         " frames/s, the network at work ", 100 * work.busy_seconds / seconds.count(),
                         " % of the time");
            log_work(closing->pipeline->stats(), closing->log);
            return 0;
        });
    }
    const at::Device lead = lead_device(*closing);
    const PrimaryContext primary(lead);
    delete closing;
    release_host_memory();
    if (!lead.is_cpu())
        release_pinned_memory();
}

const char *flashvsr_version(void) {
    return VERSION(FLASHVSR_VERSION_MAJOR, FLASHVSR_VERSION_MINOR, FLASHVSR_VERSION_PATCH);
}

} // extern "C"
