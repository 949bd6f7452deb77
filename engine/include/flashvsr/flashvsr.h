/*
 * FlashVSR for FFmpeg: streaming one-step diffusion video super-resolution.
 *
 * Copyright (c) 2026 the FlashVSR for FFmpeg authors
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef FLASHVSR_FLASHVSR_H
#define FLASHVSR_FLASHVSR_H

/**
 * @file
 * The whole public interface of libflashvsr. C99, no other header needed.
 *
 * Frames go in at one size and come out at a larger one, in order, one for one:
 *
 *     FlashVSRSettings settings;
 *     FlashVSRContext *ctx;
 *     int ret;
 *
 *     flashvsr_settings_default(&settings);
 *     settings.width  = 320;
 *     settings.height = 180;
 *     ret = flashvsr_open(&ctx, &settings);
 *     if (ret < 0) {
 *         fprintf(stderr, "%s\n", flashvsr_error(ctx));
 *         flashvsr_close(&ctx);
 *         return ret;
 *     }
 *
 *     for (;;) {
 *         ret = flashvsr_receive_frame(ctx, &out);      // out: planes of the caller's
 *         if (ret == FLASHVSR_EAGAIN) {
 *             // NULL flushes; send never fails with EAGAIN right after receive did
 *             ret = flashvsr_send_frame(ctx, more ? &in : NULL);
 *             if (ret < 0)
 *                 break;
 *         } else if (ret < 0) {
 *             break;                                     // FLASHVSR_END: all frames are out
 *         } else {
 *             use(&out);
 *         }
 *     }
 *     flashvsr_close(&ctx);
 *
 * Every function that can fail returns 0 or a negative errno value (-EINVAL,
 * -ENOENT, -ENOMEM, -EIO ...), FLASHVSR_EAGAIN or FLASHVSR_END. Nothing in this
 * library writes to stdout or stderr, and nothing ends the process.
 */

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define FLASHVSR_API __declspec(dllimport)
#elif defined(__GNUC__)
#define FLASHVSR_API __attribute__((visibility("default")))
#else
#define FLASHVSR_API
#endif

#define FLASHVSR_VERSION_MAJOR 0
#define FLASHVSR_VERSION_MINOR 1
#define FLASHVSR_VERSION_PATCH 0

#ifdef __cplusplus
extern "C" {
#endif

/** More input (receive) or reading (send) is needed first. */
#define FLASHVSR_EAGAIN (-11)
/** The flush is complete: every frame that was sent has come back. */
#define FLASHVSR_END (-0x444e45)

/** Size of the largest picture side, input or output, in pixels. */
#define FLASHVSR_MAX_SIZE 32768

enum FlashVSRLogLevel {
    FLASHVSR_LOG_ERROR,
    FLASHVSR_LOG_WARNING,
    FLASHVSR_LOG_INFO,
    FLASHVSR_LOG_VERBOSE,
    FLASHVSR_LOG_DEBUG
};

/** Which release the weights are of. They have the same names and shapes. */
enum FlashVSRVersion {
    FLASHVSR_VERSION_AUTO, /**< config.json, then the directory's name, then 1.1 */
    FLASHVSR_VERSION_1,
    FLASHVSR_VERSION_1_1
};

enum FlashVSRColorFix {
    FLASHVSR_COLOR_FIX_AUTO, /**< what config.json wishes, else AdaIN */
    FLASHVSR_COLOR_FIX_NONE,
    FLASHVSR_COLOR_FIX_ADAIN,  /**< mean and deviation of each channel as in the input */
    FLASHVSR_COLOR_FIX_WAVELET /**< low frequencies as in the input */
};

/** In what numbers the network computes. */
enum FlashVSRPrecision {
    FLASHVSR_PRECISION_AUTO, /**< bf16 on a GPU, fp32 on the CPU */
    FLASHVSR_PRECISION_FP32, /**< all of fp32's bits, on a GPU too */
    FLASHVSR_PRECISION_BF16, /**< GPUs alone */
    FLASHVSR_PRECISION_FP16, /**< GPUs alone */
    FLASHVSR_PRECISION_FP8   /**< bf16, but most products of e4m3 with factors for
                                  each row; compute capability 9.0 alone */
};

/** How several devices share the work. */
enum FlashVSRMultiGpu {
    FLASHVSR_MULTI_GPU_OFF,    /**< the first device does it all, the others are not opened */
    FLASHVSR_MULTI_GPU_FRAMES, /**< each takes the next segment of frames; segments are cross-faded */
    FLASHVSR_MULTI_GPU_TILES   /**< each takes some tiles of every frame; no seam in time */
};

enum FlashVSRTiled {
    FLASHVSR_TILED_OFF,
    FLASHVSR_TILED_ON,
    FLASHVSR_TILED_AUTO /**< whole frames where they fit the memory, else the largest tiles that do */
};

enum FlashVSRPixelFormat {
    FLASHVSR_PIXEL_FORMAT_NONE,
    /** Full-range planar RGB: data[0] is R, data[1] G, data[2] B. */
    FLASHVSR_PIXEL_FORMAT_RGB,
    /** Y'CbCr as FlashVSRYuv says, 8 to 16 bits: data[0] is Y, data[1] Cb, data[2] Cr, or, interleaved,
     *  data[1] Cb and Cr in turns. */
    FLASHVSR_PIXEL_FORMAT_YUV
};

/** How the components of FLASHVSR_PIXEL_FORMAT_YUV are made of RGB and stored. Plain data. */
typedef struct FlashVSRYuv {
    /** Weights of R and B in Y, such as 0.2126 and 0.0722 (BT.709). Above 0, their sum below 1. */
    double kr, kb;
    /** 0: Y from 16 to 235 and chroma from 16 to 240, times 2^(depth - 8); 1: all levels. */
    int full_range;
    /** Luma pixels to a chroma sample in each direction, as powers of two: 0 or 1 (or 2). */
    int log2_chroma_w, log2_chroma_h;
    /** Place of the first chroma sample, in 1/256 of a luma pixel from the centre of the first one:
     *  0 and 128 for MPEG-2's, H.264's and HEVC's 4:2:0. */
    int chroma_x, chroma_y;
    /** Components above 8 bits are in the upper bits of their words: this many zeros below them. */
    int shift;
    /** One plane for both chroma components. */
    int interleaved;
} FlashVSRYuv;

enum FlashVSRMemory {
    FLASHVSR_MEMORY_HOST,
    FLASHVSR_MEMORY_CUDA /**< a GPU's, allocated in any CUDA context of the process */
};

/**
 * Settings of a context. Fill with flashvsr_settings_default(), then change
 * fields; strings are copied by flashvsr_open(). Plain data: any thread may use
 * it, one at a time.
 */
typedef struct FlashVSRSettings {
    /** Size of the frames that will be sent, pixels. Required. */
    int width, height;
    /** Output size over input size, 1 to 8, need not be whole. Default 4. Products are rounded to
     *  the nearest pixel, ties to even. */
    double scale;
    /** Output size in pixels; where not 0 it overrides the scale in that direction. Default 0. */
    int out_width, out_height;
    /** Model directory; NULL (default) is the built-in model. */
    const char *model_dir;
    /** Devices: "auto" (default: the first GPU, or all with multi_gpu, or the CPU where there is none), "all"
     *  GPUs, "cpu", "cuda", "cuda:1", "1", "0-3", or a list of such with '|' between, one worker for each. */
    const char *device;
    /** enum FlashVSRPrecision. Default auto. */
    int precision;
    /** enum FlashVSRVersion. Default auto. */
    int version;
    /** enum FlashVSRColorFix. Default auto. */
    int color_fix;
    /** Key blocks kept by the sparse attention, as a multiple of the published budget at
     *  768x1280; above 0. Default 2.0. */
    double sparse_ratio;
    /** Length of the K/V cache in groups of 8 frames, 0 or more; fractions are dropped. Default 3.0. */
    double kv_ratio;
    /** Width of the spatial attention window in blocks of 128 output pixels, 1 or more. Default 11. */
    int local_range;
    /** Noise seed. The same seed gives the same frames. Default 0. */
    uint64_t seed;
    /** Place of the first frame in the whole clip, which decides its noise: a clip that is cut into
     *  parts sees the noise of the whole. 0 to 2^48. Default 0. */
    int64_t first_frame;
    /** enum FlashVSRMultiGpu; needs two devices or more. Default off. */
    int multi_gpu;
    /** Output frames that neighbouring segments share and are cross-faded over. Default 10. */
    int overlap;
    /** Frames of a segment, at least two overlaps. 0 (default): one endless segment on one device, equal
     *  parts that fit the memory on several, which wait until enough frames have come. */
    int segment;
    /** enum FlashVSRTiled. Default auto. */
    int tiled;
    /** Side of a tile, at least two overlaps, and what neighbours share, in input pixels. Default 256 and
     *  24. */
    int tile_size, tile_overlap;
    /** Tiles that go through the network together, unless adaptive_batch is set: then 1 to 8 from free
     *  memory, or of small tiles as many as have the pixels of 8 tiles of 512x512 output pixels, at most 64.
     *  Default 1 and 0. */
    int tile_batch, adaptive_batch;
    /** Device memory that chosen tiles and batches keep to, what is in use there included: bytes, or a
     *  fraction of it, of each device's own, where not above 1. 0 (default): all but 2 GiB. */
    double vram_limit;
    /** Keep the weights in host memory and only those of the transformer or those of the decoder on a GPU at
     *  a time. Takes less of its memory, more time, and gives the same frames. Default 0. */
    int unload_dit;
    /** Called for every log line, possibly from a thread of the library, never two at a time. The
     *  line ends without a newline and is valid during the call. NULL (default): no log. */
    void (*log)(void *opaque, int level, const char *line);
    void *log_opaque;
    /** For growth; flashvsr_settings_default() clears it. */
    unsigned char reserved[256];
} FlashVSRSettings;

/**
 * A picture: planes of the caller's memory. Plain data: any thread may use it,
 * one at a time.
 */
typedef struct FlashVSRFrame {
    /** Pixels. */
    int width, height;
    /** enum FlashVSRPixelFormat. */
    int format;
    /** Bits of a component: 8 in bytes; 9 to 16 in the low bits of native-endian 16-bit words; 32 is float
     *  with 1.0 as white. */
    int depth;
    /** For FLASHVSR_PIXEL_FORMAT_YUV alone. */
    FlashVSRYuv yuv;
    /** enum FlashVSRMemory. CUDA memory needs a GPU among the devices of the context; another GPU than its
     *  own is slower. */
    int memory;
    /** For CUDA memory: a CUstream of the context that the planes were allocated in, NULL for its default
     *  stream. What it was given before a call is done before the planes are read or written. When the call
     *  returns, they have been. Which context is current does not matter, and it stays current. */
    void *cuda_stream;
    /** Planes and the distance of their rows in bytes; strides may be negative in host memory. Planes in CUDA
     *  memory are all of one GPU and one context. */
    void *data[4];
    ptrdiff_t stride[4];
    /** Of the caller: what is sent with a frame comes back with the output frame of the same index. */
    void *opaque;
    /** Set by flashvsr_receive_frame(): index of the frame, from 0. */
    int64_t index;
    /** For growth; clear it. */
    unsigned char reserved[64];
} FlashVSRFrame;

/** Counts, memory and speed of a context so far. Plain data. */
typedef struct FlashVSRStats {
    int64_t frames_in;       /**< frames sent */
    int64_t frames_out;      /**< frames received */
    int64_t chunks;          /**< model steps run */
    double busy_seconds;     /**< time spent in model steps */
    int64_t model_bytes;     /**< weights' memory on the first device, shared ones too */
    int64_t host_peak_bytes; /**< peak resident memory of the process */
    unsigned char reserved[128];
} FlashVSRStats;

/**
 * A stream of frames with its model, threads and memory. Not thread-safe: calls
 * on one context must not overlap. Any number of contexts may be used at the
 * same time, each from its own thread.
 */
typedef struct FlashVSRContext FlashVSRContext;

/** Fill in the defaults. */
FLASHVSR_API void flashvsr_settings_default(FlashVSRSettings *settings);

/**
 * The output size that the settings ask for, in pixels. Loads nothing.
 *
 * @return 0, or -EINVAL where a size, the scale or the ratio of output to input (1 to 8 in each
 *         direction) is out of range
 */
FLASHVSR_API int flashvsr_output_size(const FlashVSRSettings *settings, int *width, int *height);

/**
 * Frames that a worker must have before the first one comes back; later ones
 * come in groups of 8. With several devices and multi_gpu as frames, those of
 * a whole segment for each device may be taken first. Loads nothing.
 *
 * @return frames, or a negative error code
 */
FLASHVSR_API int flashvsr_delay(const FlashVSRSettings *settings);

/**
 * Load the model and start working. Weights that other contexts of the process have on a device, of the same
 * unchanged files and in the same precision, are shared with them.
 *
 * @param[out] ctx the context; after a failure it serves flashvsr_error() and flashvsr_close()
 *                 alone, and is NULL only if there was no memory for it
 * @return 0, -EINVAL (a setting), -ENOENT (a file that is not there), -EBADMSG (a file that is not
 *         what it should be), -ENODEV (a device), -ENOMEM, -EIO
 */
FLASHVSR_API int flashvsr_open(FlashVSRContext **ctx, const FlashVSRSettings *settings);

/**
 * Give the next frame. Its picture is copied before the call returns.
 *
 * @param frame the frame, or NULL to flush: no more will come
 * @return 0; FLASHVSR_EAGAIN if frames must be received first (nothing was taken); -EINVAL if the
 *         frame is not of the size that was opened or is in CUDA memory where no device is a GPU, or
 *         after a flush; or the error that stopped the work, which flashvsr_receive_frame() gives too
 */
FLASHVSR_API int flashvsr_send_frame(FlashVSRContext *ctx, const FlashVSRFrame *frame);

/**
 * Take the next frame, in the order of sending. Waits for a frame only when
 * none can be sent meanwhile.
 *
 * @param[in,out] frame planes of the output size to be written, in any format, depth and memory; opaque
 *                      and index are set
 * @return 0; FLASHVSR_EAGAIN if frames can be sent first; FLASHVSR_END after the last frame of a
 *         flushed stream; -EINVAL for a frame that cannot be written to; or the error that stopped
 *         the work. Where a picture could not be written (-ENOMEM, -EIO), the next call gives it again
 */
FLASHVSR_API int flashvsr_receive_frame(FlashVSRContext *ctx, FlashVSRFrame *frame);

/**
 * Change the colour fix of the frames that are sent from now on. Those that are inside keep theirs.
 *
 * @param color_fix enum FlashVSRColorFix
 * @return 0, -EINVAL or -ENOMEM
 */
FLASHVSR_API int flashvsr_set_color_fix(FlashVSRContext *ctx, int color_fix);

/**
 * Say in what format and memory the frames that are sent from now on will be received: the device that
 * makes them converts them, and fewer bytes leave it, or none for CUDA memory, unless segments are
 * cross-faded. They can be received in any other all the same.
 *
 * @param like format, depth, yuv and memory of it count; NULL takes back what was said
 * @return 0, -EINVAL or -ENOMEM
 */
FLASHVSR_API int flashvsr_set_output_format(FlashVSRContext *ctx, const FlashVSRFrame *like);

/** The sentence that goes with the last failure on this context; "" if there was none. Valid until
 *  the next call on it. */
FLASHVSR_API const char *flashvsr_error(const FlashVSRContext *ctx);

/** Counts so far. @return 0, -EINVAL or -ENOMEM */
FLASHVSR_API int flashvsr_stats(const FlashVSRContext *ctx, FlashVSRStats *stats);

/** Stop the work, wherever it is, free everything and set *ctx to NULL. NULL is fine. */
FLASHVSR_API void flashvsr_close(FlashVSRContext **ctx);

/** Version of the library that runs, "major.minor.patch". */
FLASHVSR_API const char *flashvsr_version(void);

#ifdef __cplusplus
}
#endif

#endif /* FLASHVSR_FLASHVSR_H */
