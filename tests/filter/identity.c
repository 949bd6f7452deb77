// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * libflashvsr with the identity in place of the model: frames come back as they were sent, after a delay and
 * at a scale of 1. Preloaded into ffmpeg, it shows what the filter itself does to pictures.
 */
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "flashvsr/flashvsr.h"

enum { PLANES = 3, DELAY = 6, FLOAT_DEPTH = 32 };

typedef struct Picture {
    struct Picture *next;
    float samples[]; /* of 3 planes, 1 is white */
} Picture;

struct FlashVSRContext {
    int width, height;
    int queued, flushed;
    Picture *first, **end;
    const char *error;
};

static double white(int depth) {
    return (double)((1 << depth) - 1);
}

static float read_sample(const void *row, int x, int depth) {
    if (depth == FLOAT_DEPTH)
        return ((const float *)row)[x];
    return (float)((depth == 8 ? ((const uint8_t *)row)[x] : ((const uint16_t *)row)[x]) / white(depth));
}

static void write_sample(void *row, int x, int depth, float sample) {
    if (depth == FLOAT_DEPTH)
        ((float *)row)[x] = sample;
    else if (depth == 8)
        ((uint8_t *)row)[x] = (uint8_t)lrint(sample * white(depth));
    else
        ((uint16_t *)row)[x] = (uint16_t)lrint(sample * white(depth));
}

static int failed(FlashVSRContext *ctx, const char *sentence) {
    ctx->error = sentence;
    return -EINVAL;
}

void flashvsr_settings_default(FlashVSRSettings *settings) {
    memset(settings, 0, sizeof(*settings));
}

int flashvsr_output_size(const FlashVSRSettings *settings, int *width, int *height) {
    *width = settings->width;
    *height = settings->height;
    return 0;
}

int flashvsr_open(FlashVSRContext **ctx, const FlashVSRSettings *settings) {
    FlashVSRContext *made = calloc(1, sizeof(*made));
    *ctx = made;
    if (!made)
        return -ENOMEM;
    made->width = settings->width;
    made->height = settings->height;
    made->end = &made->first;
    made->error = "";
    return settings->scale == 1 ? 0 : failed(made, "the identity has a scale of 1");
}

int flashvsr_send_frame(FlashVSRContext *ctx, const FlashVSRFrame *frame) {
    if (!frame) {
        ctx->flushed = 1;
        return 0;
    }
    if (frame->width != ctx->width || frame->height != ctx->height)
        return failed(ctx, "the size of a frame changed");
    Picture *picture = malloc(sizeof(*picture) + sizeof(float) * PLANES * ctx->height * ctx->width);
    if (!picture)
        return -ENOMEM;
    picture->next = NULL;
    float *sample = picture->samples;
    for (int plane = 0; plane < PLANES; plane++)
        for (int y = 0; y < ctx->height; y++)
            for (int x = 0; x < ctx->width; x++)
                *sample++ =
                    read_sample((char *)frame->data[plane] + y * frame->stride[plane], x, frame->depth);
    *ctx->end = picture;
    ctx->end = &picture->next;
    ctx->queued++;
    return 0;
}

int flashvsr_receive_frame(FlashVSRContext *ctx, FlashVSRFrame *frame) {
    Picture *picture = ctx->first;
    if (ctx->queued <= (ctx->flushed ? 0 : DELAY))
        return ctx->flushed ? FLASHVSR_END : FLASHVSR_EAGAIN;
    if (frame->width != ctx->width || frame->height != ctx->height)
        return failed(ctx, "a frame is wanted in another size than it was sent in");
    const float *sample = picture->samples;
    for (int plane = 0; plane < PLANES; plane++)
        for (int y = 0; y < ctx->height; y++)
            for (int x = 0; x < ctx->width; x++)
                write_sample((char *)frame->data[plane] + y * frame->stride[plane], x, frame->depth,
                             *sample++);
    ctx->first = picture->next;
    if (!ctx->first)
        ctx->end = &ctx->first;
    ctx->queued--;
    free(picture);
    return 0;
}

int flashvsr_set_color_fix(FlashVSRContext *ctx, int color_fix) {
    (void)ctx;
    (void)color_fix;
    return 0;
}

const char *flashvsr_error(const FlashVSRContext *ctx) {
    return ctx ? ctx->error : "";
}

void flashvsr_close(FlashVSRContext **ctx) {
    if (!*ctx)
        return;
    for (Picture *picture = (*ctx)->first, *next; picture; picture = next) {
        next = picture->next;
        free(picture);
    }
    free(*ctx);
    *ctx = NULL;
}
