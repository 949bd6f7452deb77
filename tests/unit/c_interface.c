/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The public header alone, in C99, against the shared library: the loop of its documentation, what comes back with
 * each frame, and what misuse gets. */

#include <flashvsr/flashvsr.h>

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FRAMES 30
#define SIDE 16
#define SCALE 2

static int failures;

#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                            \
            failures++;                                                                                                \
        }                                                                                                              \
    } while (0)

static int log_lines;

static void count_line(void *opaque, int level, const char *line)
{
    (void)level;
    EXPECT(opaque == &log_lines && *line && !strchr(line, '\n'));
    log_lines++;
}

static FlashVSRFrame picture(unsigned char *bytes, int side)
{
    FlashVSRFrame frame;
    int i;

    memset(&frame, 0, sizeof(frame));
    frame.width = frame.height = side;
    frame.format = FLASHVSR_PIXEL_FORMAT_RGB;
    frame.depth = 8;
    for (i = 0; i < 3; i++) {
        frame.data[i] = bytes + i * side * side;
        frame.stride[i] = side;
    }
    return frame;
}

static void run_all(const FlashVSRSettings *settings)
{
    static unsigned char in_bytes[3 * SIDE * SIDE], out_bytes[3 * SIDE * SIDE * SCALE * SCALE];
    static int tags[FRAMES];
    FlashVSRContext *ctx;
    FlashVSRStats stats;
    int sent = 0, received = 0, flushed = 0, ret = flashvsr_open(&ctx, settings);

    EXPECT(ret == 0);
    if (ret < 0)
        fprintf(stderr, "%s\n", flashvsr_error(ctx));
    while (ret >= 0) {
        FlashVSRFrame out = picture(out_bytes, SIDE * SCALE);

        ret = flashvsr_receive_frame(ctx, &out);
        if (ret == FLASHVSR_EAGAIN) {
            if (sent < FRAMES) {
                FlashVSRFrame in = picture(in_bytes, SIDE);
                memset(in_bytes, 3 * sent, sizeof(in_bytes));
                in.opaque = &tags[sent++];
                ret = flashvsr_send_frame(ctx, &in);
            } else {
                EXPECT(!flushed);
                flushed = 1;
                ret = flashvsr_send_frame(ctx, NULL);
            }
            EXPECT(ret == 0);
        } else if (ret >= 0) {
            EXPECT(out.index == received);
            EXPECT(out.opaque == &tags[received]);
            received++;
        }
    }
    EXPECT(ret == FLASHVSR_END);
    EXPECT(received == FRAMES);
    EXPECT(flashvsr_stats(ctx, &stats) == 0 && stats.frames_in == FRAMES && stats.frames_out == FRAMES);
    {
        FlashVSRFrame in = picture(in_bytes, SIDE);
        EXPECT(flashvsr_send_frame(ctx, &in) < 0);
        EXPECT(*flashvsr_error(ctx));
    }
    flashvsr_close(&ctx);
    EXPECT(!ctx);
    flashvsr_close(&ctx);
}

static void misuse(const FlashVSRSettings *settings)
{
    static unsigned char bytes[3 * 64 * 64];
    FlashVSRSettings bad = *settings;
    FlashVSRFrame frame = picture(bytes, SIDE + 1);
    FlashVSRContext *ctx;
    int width, height;

    bad.scale = 9;
    EXPECT(flashvsr_output_size(&bad, &width, &height) < 0);
    EXPECT(flashvsr_delay(&bad) < 0);
    EXPECT(flashvsr_open(&ctx, &bad) < 0);
    EXPECT(ctx && strstr(flashvsr_error(ctx), "scale"));
    EXPECT(flashvsr_send_frame(ctx, &frame) < 0);
    EXPECT(flashvsr_receive_frame(ctx, &frame) < 0);
    flashvsr_close(&ctx);
    bad = *settings;
    bad.device = "cpu";
    bad.precision = FLASHVSR_PRECISION_BF16;
    EXPECT(flashvsr_open(&ctx, &bad) < 0);
    EXPECT(strstr(flashvsr_error(ctx), "bf16"));
    flashvsr_close(&ctx);
    bad.precision = 99;
    EXPECT(flashvsr_open(&ctx, &bad) < 0);
    EXPECT(strstr(flashvsr_error(ctx), "99"));
    flashvsr_close(&ctx);
    bad = *settings;
    bad.tiled = FLASHVSR_TILED_ON;
    bad.tile_overlap = 1 << 30; /* twice that is no int */
    EXPECT(flashvsr_open(&ctx, &bad) == -EINVAL);
    EXPECT(strstr(flashvsr_error(ctx), "tile_overlap"));
    flashvsr_close(&ctx);
    bad = *settings;
    bad.overlap = 1 << 30;
    bad.segment = 100;
    EXPECT(flashvsr_open(&ctx, &bad) == -EINVAL);
    EXPECT(strstr(flashvsr_error(ctx), "two overlaps"));
    flashvsr_close(&ctx);
    bad = *settings;
    bad.first_frame = INT64_MAX;
    EXPECT(flashvsr_open(&ctx, &bad) == -EINVAL);
    EXPECT(strstr(flashvsr_error(ctx), "first_frame 9223372036854775807"));
    flashvsr_close(&ctx);
    bad.first_frame = (int64_t)1 << 48;
    bad.vram_limit = 1e300; /* more bytes than an integer holds */
    EXPECT(flashvsr_open(&ctx, &bad) == 0);
    flashvsr_close(&ctx);

    EXPECT(flashvsr_open(&ctx, settings) == 0);
    EXPECT(flashvsr_send_frame(ctx, &frame) < 0);
    EXPECT(strstr(flashvsr_error(ctx), "17x17"));
    frame = picture(bytes, SIDE);
    frame.depth = 7;
    EXPECT(flashvsr_send_frame(ctx, &frame) < 0);
    frame = picture(bytes, SIDE);
    frame.data[1] = NULL;
    EXPECT(flashvsr_send_frame(ctx, &frame) < 0);
    EXPECT(flashvsr_receive_frame(ctx, &frame) < 0); /* not of the output's size */
    flashvsr_close(&ctx);

    bad = *settings;
    bad.device = "cpu";
    EXPECT(flashvsr_open(&ctx, &bad) == 0);
    frame = picture(bytes, SIDE);
    frame.memory = FLASHVSR_MEMORY_CUDA;
    EXPECT(flashvsr_send_frame(ctx, &frame) == -EINVAL);
    EXPECT(strstr(flashvsr_error(ctx), "in a GPU's memory, but the device that was opened is cpu"));
    EXPECT(flashvsr_set_output_format(ctx, &frame) == -EINVAL);
    frame = picture(bytes, SIDE * SCALE);
    frame.memory = FLASHVSR_MEMORY_CUDA;
    EXPECT(flashvsr_receive_frame(ctx, &frame) == -EINVAL);
    EXPECT(strstr(flashvsr_error(ctx), "in a GPU's memory"));
    frame.memory = 7;
    EXPECT(flashvsr_receive_frame(ctx, &frame) == -EINVAL);
    EXPECT(strstr(flashvsr_error(ctx), "memory kind is 7"));
    flashvsr_close(&ctx);                            /* with a flush still to come */
    flashvsr_close(NULL);
    EXPECT(*flashvsr_error(NULL));
}

int main(int argc, char **argv)
{
    FlashVSRSettings settings;
    int width = 0, height = 0;

    flashvsr_settings_default(&settings);
    settings.width = settings.height = SIDE;
    settings.scale = SCALE;
    settings.model_dir = argc > 1 ? argv[1] : NULL;
    settings.log = count_line;
    settings.log_opaque = &log_lines;
    EXPECT(flashvsr_output_size(&settings, &width, &height) == 0 && width == SIDE * SCALE && height == SIDE * SCALE);
    EXPECT(flashvsr_delay(&settings) == 25);
    EXPECT(*flashvsr_version());
    run_all(&settings);
    EXPECT(log_lines > 0);
    misuse(&settings);
    return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
