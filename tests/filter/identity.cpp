// SPDX-License-Identifier: LGPL-2.1-or-later

// libflashvsr with the identity in place of the model: frames come back as they were sent, after a delay and
// at a scale of 1, by way of the engine's own pixels. Preloaded into ffmpeg, it shows what the filter and the
// engine's conversions do to pictures.

#include "frame/picture.h"
#include "torch_guard.h"

#include "flashvsr/flashvsr.h"

#include <deque>
#include <string>

using namespace flashvsr;

struct FlashVSRContext {
    Log log;
    int width = 0, height = 0;
    bool flushed = false;
    std::deque<at::Tensor> pixels;
    std::string error;
};

namespace {

constexpr size_t delay = 6;

template <typename Body> int guarded(FlashVSRContext *ctx, const Body &body) {
    try {
        const TorchGuard guard(ctx->log);
        return body();
    } catch (...) {
        const Error error = current_error();
        ctx->error = error.what();
        return -error.code();
    }
}

} // namespace

extern "C" {

void flashvsr_settings_default(FlashVSRSettings *settings) {
    *settings = {};
}

int flashvsr_output_size(const FlashVSRSettings *settings, int *width, int *height) {
    *width = settings->width;
    *height = settings->height;
    return 0;
}

int flashvsr_open(FlashVSRContext **ctx, const FlashVSRSettings *settings) {
    *ctx = new FlashVSRContext;
    (*ctx)->width = settings->width;
    (*ctx)->height = settings->height;
    return guarded(*ctx, [&] {
        if (settings->scale != 1)
            fail(EINVAL, "the identity has a scale of 1");
        return 0;
    });
}

int flashvsr_send_frame(FlashVSRContext *ctx, const FlashVSRFrame *frame) {
    return guarded(ctx, [&] {
        if (frame) {
            check_picture(*frame, ctx->width, ctx->height);
            ctx->pixels.push_back(picture_to_tensor(*frame));
        }
        ctx->flushed = !frame;
        return 0;
    });
}

int flashvsr_receive_frame(FlashVSRContext *ctx, FlashVSRFrame *frame) {
    return guarded(ctx, [&] {
        if (ctx->pixels.size() <= (ctx->flushed ? 0 : delay))
            return ctx->flushed ? FLASHVSR_END : FLASHVSR_EAGAIN;
        check_picture(*frame, ctx->width, ctx->height);
        tensor_to_picture(ctx->pixels.front(), *frame);
        ctx->pixels.pop_front();
        return 0;
    });
}

int flashvsr_set_color_fix(FlashVSRContext *, int) {
    return 0;
}

int flashvsr_set_output_format(FlashVSRContext *, const FlashVSRFrame *) {
    return 0;
}

const char *flashvsr_error(const FlashVSRContext *ctx) {
    return ctx ? ctx->error.c_str() : "";
}

void flashvsr_close(FlashVSRContext **ctx) {
    delete *ctx;
    *ctx = nullptr;
}

} // extern "C"
