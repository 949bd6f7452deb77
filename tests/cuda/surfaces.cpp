// SPDX-License-Identifier: LGPL-2.1-or-later

// Pictures in a GPU's memory, of LibTorch's context and of another: the same frames as through the host.

#include "error.h"
#include "frame/held_picture.h"
#include "ops/device.h"

#include "flashvsr/flashvsr.h"

#include <cuda.h>
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

namespace flashvsr {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr int side = 32, scale = 4, frames = 75; // more than wait inside, so that memory is used again
constexpr uint8_t mark = 0xA5;

/// The driver's functions by their exported names, as a program has them that does not use the run time.
class Driver {
public:
    template <typename... Args> void operator()(const char *name, Args... args) const {
        auto *const function = reinterpret_cast<CUresult (*)(Args...)>(dlsym(library_, name));
        if (function == nullptr)
            fail(ENODEV, "the driver has no ", name);
        if (const CUresult result = function(args...); result != CUDA_SUCCESS)
            fail(EIO, name, " gave ", static_cast<int>(result));
    }

private:
    void *library_ = dlopen("libcuda.so.1", RTLD_NOW); // stays
};

const Driver &driver() {
    static const Driver driver;
    return driver;
}

/// A CUDA context with a stream that waits for no other; never left current.
class Context {
public:
    enum class Kind { primary, other };

    explicit Context(Kind kind) : kind_(kind) {
        driver()("cuInit", 0U);
        if (kind == Kind::primary) {
            driver()("cuDevicePrimaryCtxRetain", &context_, CUdevice{0});
        } else {
            driver()("cuCtxCreate_v2", &context_, 0U, CUdevice{0});
            pop();
        }
        push();
        driver()("cuStreamCreate", &stream_, static_cast<unsigned>(CU_STREAM_NON_BLOCKING));
        pop();
    }
    ~Context() {
        push();
        driver()("cuStreamDestroy_v2", stream_);
        pop();
        if (kind_ == Kind::primary)
            driver()("cuDevicePrimaryCtxRelease_v2", CUdevice{0});
        else
            driver()("cuCtxDestroy_v2", context_);
    }
    Context(const Context &) = delete;
    Context &operator=(const Context &) = delete;

    void push() const { driver()("cuCtxPushCurrent_v2", context_); }
    static void pop() {
        CUcontext popped = nullptr;
        driver()("cuCtxPopCurrent_v2", &popped);
    }
    CUcontext handle() const { return context_; }
    CUstream stream() const { return stream_; }

private:
    Kind kind_;
    CUcontext context_ = nullptr;
    CUstream stream_ = nullptr;
};

FlashVSRFrame describe(int size, int depth, int log2_chroma, bool interleaved) {
    FlashVSRFrame frame{};
    frame.width = frame.height = size;
    frame.format = FLASHVSR_PIXEL_FORMAT_YUV;
    frame.depth = depth;
    frame.yuv = {0.2126,
                 0.0722,
                 0,
                 log2_chroma,
                 log2_chroma,
                 0,
                 log2_chroma ? 128 : 0,
                 depth > 8 && depth < 16 ? 16 - depth : 0,
                 interleaved};
    return frame;
}

std::vector<PlaneLayout> planes_of(const FlashVSRFrame &frame) {
    return plane_layouts(format_of(frame), {frame.width, frame.height});
}

/// Packed levels that move.
Bytes moving(const FlashVSRFrame &frame, int time) {
    Bytes bytes(picture_bytes(format_of(frame), {frame.width, frame.height}));
    for (size_t i = 0; i < bytes.size(); i++)
        bytes[i] = static_cast<uint8_t>(16 + (3 * i + 7 * time + (i / 64) * time) % 200);
    if (frame.yuv.shift > 0)
        for (size_t i = 0; i < bytes.size(); i += 2)
            bytes[i] &= 0xC0;
    return bytes;
}

/// A picture of a program's: in host memory, or in that of a context, where its rows are padded.
class Picture {
public:
    Picture(const FlashVSRFrame &like, const Context *context) : frame(like), context_(context) {
        const std::vector<PlaneLayout> planes = planes_of(like);
        bytes_.resize(picture_bytes(format_of(like), {like.width, like.height}));
        for (size_t i = 0; i < planes.size(); i++) {
            frame.data[i] = bytes_.data() + planes[i].offset;
            frame.stride[i] = planes[i].row_bytes;
        }
        if (!context)
            return;
        frame.memory = FLASHVSR_MEMORY_CUDA;
        frame.cuda_stream = context->stream();
        context->push();
        for (size_t i = 0; i < planes.size(); i++) {
            CUdeviceptr data = 0;
            size_t pitch = 0;
            driver()("cuMemAllocPitch_v2", &data, &pitch, static_cast<size_t>(planes[i].row_bytes),
                     static_cast<size_t>(planes[i].height), 4U);
            frame.data[i] = reinterpret_cast<void *>(data); // NOLINT(performance-no-int-to-ptr)
            frame.stride[i] = static_cast<ptrdiff_t>(pitch);
        }
        Context::pop();
    }
    ~Picture() {
        if (!context_)
            return;
        context_->push();
        for (size_t i = 0; i < planes_of(frame).size(); i++)
            driver()("cuMemFree_v2", reinterpret_cast<CUdeviceptr>(frame.data[i]));
        Context::pop();
    }
    Picture(const Picture &) = delete;
    Picture &operator=(const Picture &) = delete;

    /// On a GPU queued in the stream.
    void fill(const Bytes &bytes) {
        bytes_ = bytes;
        if (context_)
            copy(true);
        else
            for (size_t i = 0; i < planes_of(frame).size(); i++)
                frame.data[i] = bytes_.data() + planes_of(frame)[i].offset;
    }
    void overwrite() { fill(Bytes(bytes_.size(), mark)); }

    Bytes read() {
        if (context_) {
            copy(false);
            context_->push();
            driver()("cuStreamSynchronize", context_->stream());
            Context::pop();
        }
        return bytes_;
    }

    FlashVSRFrame frame;

private:
    void copy(bool to_gpu) {
        const std::vector<PlaneLayout> planes = planes_of(frame);
        context_->push();
        for (size_t i = 0; i < planes.size(); i++) {
            CUDA_MEMCPY2D copy{};
            const auto data = reinterpret_cast<CUdeviceptr>(frame.data[i]);
            uint8_t *const host = bytes_.data() + planes[i].offset;
            const auto pitch = static_cast<size_t>(frame.stride[i]),
                       row = static_cast<size_t>(planes[i].row_bytes);
            copy.srcMemoryType = to_gpu ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
            copy.dstMemoryType = to_gpu ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
            copy.srcHost = copy.dstHost = host;
            copy.srcDevice = copy.dstDevice = data;
            copy.srcPitch = to_gpu ? row : pitch;
            copy.dstPitch = to_gpu ? pitch : row;
            copy.WidthInBytes = row;
            copy.Height = static_cast<size_t>(planes[i].height);
            driver()("cuMemcpy2DAsync_v2", &copy, context_->stream());
        }
        Context::pop();
    }

    const Context *context_;
    Bytes bytes_;
};

/// How a clip goes in and comes out.
struct Way {
    const Context *in = nullptr, *out = nullptr;
    bool announced = true; ///< flashvsr_set_output_format() is told
    int segment = 0;
    const char *device = "cuda:0";
};

class CudaSurfaces : public testing::Test {
protected:
    void SetUp() override {
        if (gpu_count() == 0)
            GTEST_SKIP() << "there is no GPU";
        check_gpu(0);
    }

    static std::vector<Bytes> run(const FlashVSRFrame &like, const Way &way) {
        FlashVSRFrame large = like;
        large.width = large.height = side * scale;
        FlashVSRSettings settings;
        flashvsr_settings_default(&settings);
        settings.width = settings.height = side;
        settings.scale = scale;
        settings.device = way.device;
        settings.segment = way.segment;
        settings.overlap = 4;
        FlashVSRContext *ctx = nullptr;
        std::vector<Bytes> received;
        EXPECT_EQ(flashvsr_open(&ctx, &settings), 0) << flashvsr_error(ctx);
        Picture in(like, way.in), out(large, way.out);
        if (way.announced) {
            EXPECT_EQ(flashvsr_set_output_format(ctx, &out.frame), 0) << flashvsr_error(ctx);
        }
        for (int ret = 0, sent = 0; ret != FLASHVSR_END;) {
            out.overwrite();
            ret = flashvsr_receive_frame(ctx, &out.frame);
            if (ret == 0)
                received.push_back(out.read());
            if (ret == FLASHVSR_EAGAIN && sent < frames) {
                in.fill(moving(like, sent++));
                ret = flashvsr_send_frame(ctx, &in.frame);
                in.overwrite(); // as a decoder does with a surface that it has back
            } else if (ret == FLASHVSR_EAGAIN) {
                ret = flashvsr_send_frame(ctx, nullptr);
            }
            if (ret < 0 && ret != FLASHVSR_END) {
                ADD_FAILURE() << flashvsr_error(ctx);
                break;
            }
        }
        flashvsr_close(&ctx);
        EXPECT_EQ(received.size(), static_cast<size_t>(frames));
        return received;
    }
};

/// The largest difference of two clips' bytes.
int distance(const std::vector<Bytes> &a, const std::vector<Bytes> &b) {
    int most = a.size() == b.size() ? 0 : 256;
    for (size_t i = 0; most < 256 && i < a.size(); i++)
        for (size_t j = 0; j < a[i].size(); j++)
            most = std::max(most, std::abs(a[i][j] - b[i][j]));
    return most;
}

TEST_F(CudaSurfaces, OfAnyContextGiveTheBitsOfTheHost) {
    const Context primary(Context::Kind::primary), other(Context::Kind::other);
    const struct {
        const char *name;
        FlashVSRFrame like;
    } formats[] = {{"nv12", describe(side, 8, 1, true)},
                   {"p010", describe(side, 10, 1, true)},
                   {"yuv420p", describe(side, 8, 1, false)},
                   {"yuv444p16", describe(side, 16, 0, false)}};
    for (const auto &[name, like] : formats) {
        SCOPED_TRACE(name);
        const std::vector<Bytes> expected = run(like, {});
        EXPECT_EQ(distance(run(like, {&primary, &primary}), expected), 0) << "primary context";
        EXPECT_EQ(distance(run(like, {&other, &other}), expected), 0) << "another context";
    }
}

TEST_F(CudaSurfaces, GoInOrComeOutAlone) {
    const Context other(Context::Kind::other);
    const FlashVSRFrame like = describe(side, 8, 1, true);
    const std::vector<Bytes> expected = run(like, {});
    EXPECT_EQ(distance(run(like, {&other, nullptr}), expected), 0);
    EXPECT_EQ(distance(run(like, {nullptr, &other}), expected), 0);
    // What was not announced is converted at the end, from levels of fp32.
    EXPECT_LE(distance(run(like, {&other, &other, false}), expected), 1);
}

TEST_F(CudaSurfaces, AreCrossFadedWhereSegmentsMeet) {
    const Context other(Context::Kind::other);
    const FlashVSRFrame like = describe(side, 8, 1, true);
    const std::vector<Bytes> expected = run(like, {nullptr, nullptr, true, 24});
    EXPECT_LE(distance(run(like, {&other, &other, true, 24}), expected), 1);
}

TEST_F(CudaSurfaces, LeaveTheProgramsContextCurrent) {
    const Context other(Context::Kind::other);
    const FlashVSRFrame like = describe(side, 8, 1, true);
    const std::vector<Bytes> expected = run(like, {});
    other.push();
    EXPECT_EQ(distance(run(like, {&other, &other}), expected), 0);
    EXPECT_EQ(distance(run(like, {}), expected), 0);
    CUcontext current = nullptr;
    driver()("cuCtxGetCurrent", &current);
    EXPECT_EQ(current, other.handle());
    Context::pop();
}

TEST_F(CudaSurfaces, AreRefusedWhereNoGpuWorksOrNoneHasThem) {
    const Context primary(Context::Kind::primary);
    const FlashVSRFrame like = describe(side, 8, 1, true);
    for (const char *device : {"cpu", "cuda:0"}) {
        SCOPED_TRACE(device);
        FlashVSRSettings settings;
        flashvsr_settings_default(&settings);
        settings.width = settings.height = side;
        settings.device = device;
        FlashVSRContext *ctx = nullptr;
        ASSERT_EQ(flashvsr_open(&ctx, &settings), 0) << flashvsr_error(ctx);
        Picture on_gpu(like, &primary), on_host(like, nullptr);
        on_host.frame.memory = FLASHVSR_MEMORY_CUDA;
        const bool cpu = std::string(device) == "cpu";
        EXPECT_EQ(flashvsr_send_frame(ctx, &(cpu ? on_gpu : on_host).frame), -EINVAL);
        EXPECT_NE(std::string(flashvsr_error(ctx))
                      .find(cpu ? "the device that was opened is cpu" : "is not in a GPU's memory"),
                  std::string::npos)
            << flashvsr_error(ctx);
        flashvsr_close(&ctx);
    }
}

TEST_F(CudaSurfaces, DifferByAsMuchAsOnTheHost) {
    const Context other(Context::Kind::other);
    const at::Device gpu(at::kCUDA, 0);
    for (const FlashVSRFrame &like : {describe(side, 8, 1, true), describe(side, 10, 1, true)}) {
        DevicePictures pictures(gpu);
        Picture first(like, nullptr), second(like, nullptr), first_there(like, &other),
            second_there(like, &other);
        first.fill(moving(like, 1)), first_there.fill(moving(like, 1));
        second.fill(moving(like, 2)), second_there.fill(moving(like, 2));
        const HeldPicture a(first.frame), b(second.frame), c(first_there.frame, pictures),
            d(second_there.frame, pictures);
        EXPECT_GT(a.difference(b), 0);
        EXPECT_EQ(c.difference(d), a.difference(b));
        EXPECT_EQ(c.difference(b), a.difference(b));
        EXPECT_EQ(a.difference(d), a.difference(b));
    }
}

} // namespace
} // namespace flashvsr
