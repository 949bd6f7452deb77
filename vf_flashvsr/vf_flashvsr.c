/*
 * Copyright (c) 2026 the FlashVSR for FFmpeg authors
 *
 * This file is part of FFmpeg.
 *
 * FFmpeg is free software; you can redistribute it and/or
 * modify it under the terms of the GNU Lesser General Public
 * License as published by the Free Software Foundation; either
 * version 2.1 of the License, or (at your option) any later version.
 *
 * FFmpeg is distributed in the hope that it will be useful,
 * but WITHOUT ANY WARRANTY; without even the implied warranty of
 * MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE.  See the GNU
 * Lesser General Public License for more details.
 *
 * You should have received a copy of the GNU Lesser General Public
 * License along with FFmpeg; if not, write to the Free Software
 * Foundation, Inc., 51 Franklin Street, Fifth Floor, Boston, MA 02110-1301 USA
 */

/**
 * @file
 * FlashVSR streaming video super-resolution filter
 *
 * The engine takes pictures well before it gives the first one back. It keeps
 * the pictures; the properties of the frames that are inside wait in a FIFO.
 *
 * The engine takes planar RGB, and YUV in planes. Frames of other formats are
 * converted to planar RGB and back here, so that they leave with the matrix and
 * range they came with.
 * Alpha does not go through the engine: it is scaled here.
 *
 * CUDA frames go to the engine and come from it as they are. It copies them at
 * once: a decoder has but few surfaces.
 */

#include "config.h"

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <flashvsr/flashvsr.h>

#include "libavutil/avassert.h"
#include "libavutil/csp.h"
#include "libavutil/error.h"
#include "libavutil/eval.h"
#include "libavutil/fifo.h"
#include "libavutil/frame.h"
#include "libavutil/hwcontext.h"
#if CONFIG_CUDA
#include "libavutil/hwcontext_cuda_internal.h"
#endif
#include "libavutil/internal.h"
#include "libavutil/intreadwrite.h"
#include "libavutil/log.h"
#include "libavutil/macros.h"
#include "libavutil/mathematics.h"
#include "libavutil/mem.h"
#include "libavutil/opt.h"
#include "libavutil/pixdesc.h"
#include "libswscale/swscale.h"

#include "avfilter.h"
#include "filters.h"
#include "formats.h"
#include "video.h"

/**
 * What is between the frames of a link and the pictures of the engine.
 */
typedef struct Conversion {
    struct SwsContext *sws;
    enum AVChromaLocation siting;   ///< of the frames that sws was made for
    AVFrame *rgb;                   ///< picture of the engine, NULL where the frames are such pictures
} Conversion;

typedef struct FlashVSRFilterContext {
    const AVClass *class;

    char    *model;
    double   version;
    double   scale;
    char    *w_expr;
    char    *h_expr;
    char    *device;
    int      precision;
    double   sparse_ratio;
    double   kv_ratio;
    int      local_range;
    int      color_fix;
    uint64_t seed;
    int      first_frame;
    int      multi_gpu;
    int      overlap;
    int      segment;
    int      tiled;
    int      tile_size;
    int      tile_overlap;
    int      adaptive_batch;
    int      tile_batch;
    double   vram_limit;
    int      unload_dit;

    FlashVSRContext *engine;
    AVFifo  *props;         ///< AVFrame *, the properties of each frame inside the engine; its picture is alpha
    Conversion from_input, to_output;
    struct SwsContext *alpha_scaler;    ///< NULL where input or output have no alpha
    AVFrame *alpha;         ///< what it makes, in 16-bit grey
    int      in_w, in_h;    ///< size of frames that the engine was opened for
    int      siting;        ///< chroma location that the engine was told for the output, -1 before
    int      keep_sar;      ///< the same scale in both directions
    int      is_interlaced; ///< an interlaced frame came in
    int      status;        ///< status of the input once it is known, to be forwarded after the last frame
    int64_t  status_pts;
    int      error;         ///< what the engine failed with
} FlashVSRFilterContext;

static const char *const var_names[] = {
    "in_w",  "iw",
    "in_h",  "ih",
    "out_w", "ow",
    "out_h", "oh",
    "a",
    "sar",
    "dar",
    NULL
};

enum VarName {
    VAR_IN_W,  VAR_IW,
    VAR_IN_H,  VAR_IH,
    VAR_OUT_W, VAR_OW,
    VAR_OUT_H, VAR_OH,
    VAR_A,
    VAR_SAR,
    VAR_DAR,
    VARS_NB
};

/**
 * Planar RGB that the engine takes as it is.
 */
static const enum AVPixelFormat rgb_formats[] = {
    AV_PIX_FMT_GBRP,
    AV_PIX_FMT_GBRP9,
    AV_PIX_FMT_GBRP10,
    AV_PIX_FMT_GBRP12,
    AV_PIX_FMT_GBRP14,
    AV_PIX_FMT_GBRP16,
    AV_PIX_FMT_GBRPF32,
    AV_PIX_FMT_GBRAP,
    AV_PIX_FMT_GBRAP10,
    AV_PIX_FMT_GBRAP12,
    AV_PIX_FMT_GBRAP14,
    AV_PIX_FMT_GBRAP16,
};

static void log_line(void *opaque, int level, const char *line)
{
    static const int levels[] = {
        [FLASHVSR_LOG_ERROR]   = AV_LOG_ERROR,
        [FLASHVSR_LOG_WARNING] = AV_LOG_WARNING,
        [FLASHVSR_LOG_INFO]    = AV_LOG_INFO,
        [FLASHVSR_LOG_VERBOSE] = AV_LOG_VERBOSE,
        [FLASHVSR_LOG_DEBUG]   = AV_LOG_DEBUG,
    };

    if (level < 0 || level >= FF_ARRAY_ELEMS(levels))
        level = FLASHVSR_LOG_DEBUG;
    av_log(opaque, levels[level], "%s\n", line);
}

/**
 * Log the sentence that goes with a failed call and make its code an AVERROR.
 * Later activations return the same error and log nothing.
 */
static int engine_error(AVFilterContext *ctx, const char *call, int code)
{
    FlashVSRFilterContext *s = ctx->priv;
    const char *sentence = s->engine ? flashvsr_error(s->engine) : "";

    if (code == FLASHVSR_EAGAIN || code == FLASHVSR_END) {
        av_log(ctx, AV_LOG_ERROR, "%s gave an unexpected %s\n", call,
               code == FLASHVSR_END ? "end" : "EAGAIN");
        return s->error = AVERROR_BUG;
    }

    s->error = AVERROR(-code);
    if (*sentence)
        av_log(ctx, AV_LOG_ERROR, "%s\n", sentence);
    else
        av_log(ctx, AV_LOG_ERROR, "%s failed: %s\n", call, av_err2str(s->error));
    return s->error;
}

static void free_conversion(Conversion *conversion)
{
    sws_freeContext(conversion->sws);
    conversion->sws = NULL;
    av_frame_free(&conversion->rgb);
}

static void free_engine(FlashVSRFilterContext *s)
{
    AVFrame *props;

    flashvsr_close(&s->engine);
    free_conversion(&s->from_input);
    free_conversion(&s->to_output);
    sws_freeContext(s->alpha_scaler);
    s->alpha_scaler = NULL;
    av_frame_free(&s->alpha);
    while (s->props && av_fifo_read(s->props, &props, 1) >= 0)
        av_frame_free(&props);
}

static int eval_size(AVFilterContext *ctx, const char *name, const char *expr,
                     const double *vars, int *size)
{
    double res;
    int ret;

    /* The parser's own complaints do not say which option is wrong. */
    ret = av_expr_parse_and_eval(&res, expr, var_names, vars, NULL, NULL, NULL, NULL,
                                 NULL, AV_LOG_VERBOSE - AV_LOG_ERROR, ctx);
    if (ret == AVERROR(ENOMEM))
        return ret;
    if (ret < 0) {
        av_log(ctx, AV_LOG_ERROR, "%s: '%s' is not an expression that can be evaluated\n",
               name, expr);
        return AVERROR(EINVAL);
    }
    if (!isfinite(res) || fabs(res) >= INT_MAX || trunc(res) == 0) {
        av_log(ctx, AV_LOG_ERROR, "%s: '%s' is not a size, it evaluates to %g\n",
               name, expr, res);
        return AVERROR(EINVAL);
    }

    *size = res;
    return 0;
}

/**
 * Make -1 and -n a size that keeps the aspect ratio and is a multiple of n.
 */
static int keep_aspect(AVFilterContext *ctx, const char *name, const char *expr, int *size,
                       const char *other_name, int other_size, int in_size, int other_in_size)
{
    int64_t res;

    if (*size >= 0)
        return 0;
    if (other_size <= 0) {
        av_log(ctx, AV_LOG_ERROR, "%s: '%s' is not a size, %d keeps the aspect ratio "
               "only where %s is given and above 0\n", name, expr, *size, other_name);
        return AVERROR(EINVAL);
    }

    res = -(int64_t)*size * av_rescale(other_size, in_size, other_in_size * -(int64_t)*size);
    if (res <= 0 || res > INT_MAX) {
        av_log(ctx, AV_LOG_ERROR, "%s: '%s' is not a size, it evaluates to %"PRId64"\n",
               name, expr, res);
        return AVERROR(EINVAL);
    }
    *size = res;
    return 0;
}

/**
 * Evaluate w and h; a size stays 0 where the option is empty.
 */
static int eval_sizes(AVFilterContext *ctx, int *w, int *h)
{
    FlashVSRFilterContext *s = ctx->priv;
    const AVFilterLink *inlink = ctx->inputs[0];
    const AVRational sar = inlink->sample_aspect_ratio;
    double vars[VARS_NB];
    int ret;

    vars[VAR_IN_W]  = vars[VAR_IW] = inlink->w;
    vars[VAR_IN_H]  = vars[VAR_IH] = inlink->h;
    vars[VAR_OUT_W] = vars[VAR_OW] = NAN;
    vars[VAR_OUT_H] = vars[VAR_OH] = NAN;
    vars[VAR_A]     = (double)inlink->w / inlink->h;
    vars[VAR_SAR]   = sar.num ? av_q2d(sar) : 1;
    vars[VAR_DAR]   = vars[VAR_A] * vars[VAR_SAR];

    *w = *h = 0;
    if (s->w_expr && *s->w_expr) {
        /* It may need the height; if it does, it is evaluated again below. */
        double res;
        if (av_expr_parse_and_eval(&res, s->w_expr, var_names, vars, NULL, NULL, NULL, NULL,
                                   NULL, AV_LOG_VERBOSE - AV_LOG_ERROR, ctx) >= 0)
            vars[VAR_OUT_W] = vars[VAR_OW] = trunc(res);
    } else {
        vars[VAR_OUT_W] = vars[VAR_OW] = rint(inlink->w * s->scale);
    }
    if (s->h_expr && *s->h_expr) {
        ret = eval_size(ctx, "h", s->h_expr, vars, h);
        if (ret < 0)
            return ret;
        vars[VAR_OUT_H] = vars[VAR_OH] = *h;
    } else {
        vars[VAR_OUT_H] = vars[VAR_OH] = rint(inlink->h * s->scale);
    }
    if (s->w_expr && *s->w_expr) {
        ret = eval_size(ctx, "w", s->w_expr, vars, w);
        if (ret < 0)
            return ret;
    }

    ret = keep_aspect(ctx, "w", s->w_expr, w, "h", *h, inlink->w, inlink->h);
    if (ret < 0)
        return ret;
    return keep_aspect(ctx, "h", s->h_expr, h, "w", *w, inlink->h, inlink->w);
}

/**
 * Sample aspect ratio that keeps the display aspect ratio of the picture.
 */
static AVRational output_sar(const AVFilterLink *outlink, AVRational sar)
{
    const FlashVSRFilterContext *s = outlink->src->priv;

    if (!s->keep_sar && sar.num)
        av_reduce(&sar.num, &sar.den,
                  (int64_t)sar.num * outlink->h * s->in_w,
                  (int64_t)sar.den * outlink->w * s->in_h, INT_MAX);
    return sar;
}

/**
 * Say in the engine's words how the components of a format are stored.
 *
 * @return 1 if the engine takes the format as it is, else 0
 */
static int describe_format(FlashVSRFrame *picture, enum AVPixelFormat format)
{
    const int excluded = AV_PIX_FMT_FLAG_RGB | AV_PIX_FMT_FLAG_HWACCEL | AV_PIX_FMT_FLAG_BITSTREAM |
                         AV_PIX_FMT_FLAG_PAL | AV_PIX_FMT_FLAG_BAYER | AV_PIX_FMT_FLAG_XYZ |
                         AV_PIX_FMT_FLAG_FLOAT;
    const AVPixFmtDescriptor *desc = av_pix_fmt_desc_get(format);
    const AVComponentDescriptor *const luma = &desc->comp[0], *const cb = &desc->comp[1],
                                *const cr   = &desc->comp[2];
    const int bytes = luma->depth > 8 ? 2 : 1;

    *picture = (FlashVSRFrame) { .depth = luma->depth };
    for (int i = 0; i < FF_ARRAY_ELEMS(rgb_formats); i++) {
        if (format == rgb_formats[i]) {
            picture->format = FLASHVSR_PIXEL_FORMAT_RGB;
            return 1;
        }
    }

    if (desc->flags & excluded || !(desc->flags & AV_PIX_FMT_FLAG_PLANAR) || desc->nb_components < 3 ||
        luma->depth < 8 || luma->depth > 16 || cb->depth != luma->depth || cr->depth != luma->depth ||
        bytes > 1 && !(desc->flags & AV_PIX_FMT_FLAG_BE) != !HAVE_BIGENDIAN ||
        desc->log2_chroma_w > 2 || desc->log2_chroma_h > 2 ||
        luma->plane != 0 || luma->step != bytes || cb->shift != luma->shift || cr->shift != luma->shift)
        return 0;
    picture->format            = FLASHVSR_PIXEL_FORMAT_YUV;
    picture->yuv.log2_chroma_w = desc->log2_chroma_w;
    picture->yuv.log2_chroma_h = desc->log2_chroma_h;
    picture->yuv.shift         = luma->shift;
    if (cb->plane == 1 && cr->plane == 2)
        return cb->step == bytes && cr->step == bytes;
    picture->yuv.interleaved = 1;
    return cb->plane == 1 && cr->plane == 1 && cb->step == 2 * bytes &&
           cb->offset == 0 && cr->offset == bytes;
}

static int is_engine_format(enum AVPixelFormat format)
{
    FlashVSRFrame picture;

    return describe_format(&picture, format);
}

static enum AVPixelFormat software_format(const AVBufferRef *hw_frames)
{
    return ((const AVHWFramesContext *)hw_frames->data)->sw_format;
}

/**
 * Format of a link's pictures, also where they are in a GPU's memory.
 */
static enum AVPixelFormat picture_format(const AVFilterLink *link)
{
    const FilterLink *l = ff_filter_link((AVFilterLink *)link);

    return l->hw_frames_ctx ? software_format(l->hw_frames_ctx) : link->format;
}

static int init_conversion(Conversion *conversion, const AVFilterLink *link)
{
    const AVPixFmtDescriptor *desc = av_pix_fmt_desc_get(link->format);
    AVFrame *rgb;

    if (is_engine_format(picture_format(link)))
        return 0;

    rgb = conversion->rgb = av_frame_alloc();
    if (!rgb)
        return AVERROR(ENOMEM);
    /* Fine enough for YUV of any depth to come back as it was. */
    rgb->format = desc->flags & AV_PIX_FMT_FLAG_RGB && desc->comp[0].depth == 8 ?
                  AV_PIX_FMT_GBRP : AV_PIX_FMT_GBRP16;
    rgb->width  = link->w;
    rgb->height = link->h;
    return av_frame_get_buffer(rgb, 0);
}

static int is_full_range(const AVFilterLink *link)
{
    return link->color_range == AVCOL_RANGE_JPEG ||
           av_pix_fmt_desc_get(picture_format(link))->flags & AV_PIX_FMT_FLAG_RGB;
}

/**
 * Value that the scaler has in its 16-bit RGB for white of the link's frames. Where
 * they are YUV it gets to 16 bits by a shift.
 */
static int scaler_white(const AVFilterLink *link, int to_engine)
{
    const AVPixFmtDescriptor *desc = av_pix_fmt_desc_get(link->format);
    const int depth = desc->comp[0].depth;

    if (desc->flags & AV_PIX_FMT_FLAG_RGB)
        return UINT16_MAX;
#if LIBAVFILTER_VERSION_MAJOR >= 11
    /* On the way back the full range is made of the limited one. */
    if (!to_engine)
        return 255 << 8;
#endif
    return is_full_range(link) ? ((1 << depth) - 1) << (16 - depth) : 255 << 8;
}

/**
 * Where nothing is said, it is where MPEG-2, H.264 and HEVC have it.
 */
static enum AVChromaLocation known_siting(enum AVChromaLocation siting)
{
    return siting == AVCHROMA_LOC_UNSPECIFIED ? AVCHROMA_LOC_LEFT : siting;
}

/**
 * Tell the scaler where the chroma samples are, in 1/256 of a luma pixel.
 */
static void set_siting(struct SwsContext *sws, const char *h_name, const char *v_name,
                       const AVPixFmtDescriptor *desc, enum AVChromaLocation siting)
{
    int h, v;

    /* 0 to 256 over the luma pixels that share a chroma sample. */
    av_chroma_location_enum_to_pos(&h, &v, siting);
    if (desc->log2_chroma_w)
        av_opt_set_int(sws, h_name, h * ((1 << desc->log2_chroma_w) - 1), 0);
    if (desc->log2_chroma_h)
        av_opt_set_int(sws, v_name, v * ((1 << desc->log2_chroma_h) - 1), 0);
}

/**
 * Make the scaler ready for frames of the link whose chroma samples are there.
 *
 * @param to_engine the frames are the source, not the destination
 */
static int prepare_conversion(Conversion *conversion, AVFilterContext *ctx, const AVFilterLink *link,
                              int to_engine, enum AVChromaLocation siting)
{
    const AVPixFmtDescriptor *desc = av_pix_fmt_desc_get(link->format);
    const int rgb_format = conversion->rgb->format;
    const int is_full    = is_full_range(link);
    const int *table     = sws_getCoefficients(link->colorspace);
    const int contrast   = to_engine ? av_rescale(1 << 16, UINT16_MAX, scaler_white(link, 1)) : 1 << 16;
    struct SwsContext *sws;
    int ret;

    siting = known_siting(siting);
    if (conversion->sws && conversion->siting == siting)
        return 0;

    sws_freeContext(conversion->sws);
    sws = conversion->sws = sws_alloc_context();
    if (!sws)
        return AVERROR(ENOMEM);
    conversion->siting = siting;

    av_opt_set_int(sws, "srcw", link->w, 0);
    av_opt_set_int(sws, "srch", link->h, 0);
    av_opt_set_int(sws, "dstw", link->w, 0);
    av_opt_set_int(sws, "dsth", link->h, 0);
    av_opt_set_int(sws, "src_format", to_engine ? link->format : rgb_format, 0);
    av_opt_set_int(sws, "dst_format", to_engine ? rgb_format : link->format, 0);
    av_opt_set_int(sws, "src_range", to_engine ? is_full : 1, 0);
    av_opt_set_int(sws, "dst_range", to_engine ? 1 : is_full, 0);
    /* A sharp kernel: what goes down to the chroma grid has come up from it. */
    av_opt_set_int(sws, "sws_flags", SWS_LANCZOS | SWS_ACCURATE_RND | SWS_BITEXACT |
                                     SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP, 0);
    av_opt_set(sws, "sws_dither", "none", 0);
    av_opt_set_int(sws, "threads", ff_filter_get_nb_threads(ctx), 0);
    set_siting(sws, to_engine ? "src_h_chr_pos" : "dst_h_chr_pos",
               to_engine ? "src_v_chr_pos" : "dst_v_chr_pos", desc, siting);

    ret = sws_init_context(sws, NULL, NULL);
    if (ret < 0)
        return ret;
    /* Only the table of the side that is not RGB is used. */
    sws_setColorspaceDetails(sws, table, to_engine ? is_full : 1, table, to_engine ? 1 : is_full,
                             0, contrast, 1 << 16);
    return 0;
}

/**
 * Bring white from where the engine has it to where the scaler expects it.
 */
static void lower_white(AVFrame *rgb, unsigned white)
{
    if (white == UINT16_MAX)
        return;
    for (int plane = 0; plane < 3; plane++) {
        for (int y = 0; y < rgb->height; y++) {
            uint16_t *row = (uint16_t *)(rgb->data[plane] + y * rgb->linesize[plane]);

            for (int x = 0; x < rgb->width; x++)
                row[x] = (row[x] * white + UINT16_MAX / 2) / UINT16_MAX;
        }
    }
}

/**
 * Make a frame of the link of the engine's picture.
 */
static int convert_to_output(AVFilterContext *ctx, AVFrame *out)
{
    FlashVSRFilterContext *s = ctx->priv;
    const AVFilterLink *outlink = ctx->outputs[0];
    Conversion *conversion = &s->to_output;
    int ret;

    ret = prepare_conversion(conversion, ctx, outlink, 0, out->chroma_location);
    if (ret < 0)
        return ret;
    lower_white(conversion->rgb, scaler_white(outlink, 0));
    return sws_scale_frame(conversion->sws, out, conversion->rgb);
}

static int convert_from_input(AVFilterContext *ctx, const AVFrame *in)
{
    FlashVSRFilterContext *s = ctx->priv;
    Conversion *conversion = &s->from_input;
    int ret;

    ret = prepare_conversion(conversion, ctx, ctx->inputs[0], 1, in->chroma_location);
    if (ret < 0)
        return ret;
    return sws_scale_frame(conversion->sws, conversion->rgb, in);
}

static const AVComponentDescriptor *alpha_component(enum AVPixelFormat format)
{
    const AVPixFmtDescriptor *desc = av_pix_fmt_desc_get(format);

    return desc->flags & AV_PIX_FMT_FLAG_ALPHA ? &desc->comp[desc->nb_components - 1] : NULL;
}

static int is_big_endian(enum AVPixelFormat format)
{
    return !!(av_pix_fmt_desc_get(format)->flags & AV_PIX_FMT_FLAG_BE);
}

static int init_alpha(AVFilterContext *ctx)
{
    FlashVSRFilterContext *s = ctx->priv;
    const AVFilterLink *inlink  = ctx->inputs[0];
    const AVFilterLink *outlink = ctx->outputs[0];
    struct SwsContext *sws;
    int ret;

    if (!alpha_component(inlink->format) || !alpha_component(outlink->format))
        return 0;

    s->alpha        = av_frame_alloc();
    s->alpha_scaler = sws_alloc_context();
    if (!s->alpha || !s->alpha_scaler)
        return AVERROR(ENOMEM);
    s->alpha->format = AV_PIX_FMT_GRAY16;
    s->alpha->width  = outlink->w;
    s->alpha->height = outlink->h;
    ret = av_frame_get_buffer(s->alpha, 0);
    if (ret < 0)
        return ret;

    sws = s->alpha_scaler;
    av_opt_set_int(sws, "srcw", inlink->w, 0);
    av_opt_set_int(sws, "srch", inlink->h, 0);
    av_opt_set_int(sws, "dstw", outlink->w, 0);
    av_opt_set_int(sws, "dsth", outlink->h, 0);
    av_opt_set_int(sws, "src_format", AV_PIX_FMT_GRAY16, 0);
    av_opt_set_int(sws, "dst_format", AV_PIX_FMT_GRAY16, 0);
    av_opt_set_int(sws, "src_range", 1, 0);
    av_opt_set_int(sws, "dst_range", 1, 0);
    av_opt_set_int(sws, "sws_flags", SWS_BICUBIC | SWS_ACCURATE_RND | SWS_BITEXACT, 0);
    av_opt_set(sws, "sws_dither", "none", 0);
    av_opt_set_int(sws, "threads", ff_filter_get_nb_threads(ctx), 0);
    return sws_init_context(sws, NULL, NULL);
}

/**
 * Make 16-bit grey of the alpha of a frame.
 */
static int read_alpha(AVFrame *grey, const AVFrame *in)
{
    const AVComponentDescriptor *alpha = alpha_component(in->format);
    const int is_be = is_big_endian(in->format);
    const unsigned opaque = (1 << alpha->depth) - 1;
    int ret;

    grey->format = AV_PIX_FMT_GRAY16;
    grey->width  = in->width;
    grey->height = in->height;
    ret = av_frame_get_buffer(grey, 0);
    if (ret < 0)
        return ret;

    for (int y = 0; y < in->height; y++) {
        const uint8_t *src = in->data[alpha->plane] + y * in->linesize[alpha->plane] + alpha->offset;
        uint16_t *dst = (uint16_t *)(grey->data[0] + y * grey->linesize[0]);

        for (int x = 0; x < in->width; x++, src += alpha->step) {
            const unsigned value = alpha->depth == 8 ? *src : is_be ? AV_RB16(src) : AV_RL16(src);

            dst[x] = (value * UINT16_MAX + opaque / 2) / opaque;
        }
    }
    return 0;
}

/**
 * Set the alpha of a frame.
 *
 * @param grey of the same size, 16 bits; NULL makes it opaque
 */
static void write_alpha(AVFrame *out, const AVFrame *grey)
{
    const AVComponentDescriptor *alpha = alpha_component(out->format);
    const int is_be = is_big_endian(out->format);
    const unsigned opaque = (1 << alpha->depth) - 1;

    for (int y = 0; y < out->height; y++) {
        const uint16_t *src = grey ? (const uint16_t *)(grey->data[0] + y * grey->linesize[0]) : NULL;
        uint8_t *dst = out->data[alpha->plane] + y * out->linesize[alpha->plane] + alpha->offset;

        for (int x = 0; x < out->width; x++, dst += alpha->step) {
            const unsigned value = src ? (src[x] * opaque + UINT16_MAX / 2) / UINT16_MAX : opaque;

            if (alpha->depth == 8)
                *dst = value;
            else if (is_be)
                AV_WB16(dst, value);
            else
                AV_WL16(dst, value);
        }
    }
}

/**
 * Give a frame the alpha of the input frame whose properties these are.
 */
static int convert_alpha(AVFilterContext *ctx, AVFrame *out, const AVFrame *props)
{
    FlashVSRFilterContext *s = ctx->priv;
    int ret;

    if (s->alpha_scaler) {
        ret = sws_scale_frame(s->alpha_scaler, s->alpha, props);
        if (ret < 0)
            return ret;
    }
    write_alpha(out, s->alpha);
    return 0;
}

/**
 * Check that frames in a GPU's memory can be taken and given.
 */
static int check_hw_frames(AVFilterContext *ctx)
{
    const AVFilterLink *inlink  = ctx->inputs[0];
    const AVFilterLink *outlink = ctx->outputs[0];

    if ((inlink->format == AV_PIX_FMT_CUDA) != (outlink->format == AV_PIX_FMT_CUDA)) {
        av_log(ctx, AV_LOG_ERROR, "Frames come in as %s, but are wanted as %s; put %s this filter\n",
               av_get_pix_fmt_name(inlink->format), av_get_pix_fmt_name(outlink->format),
               inlink->format == AV_PIX_FMT_CUDA ? "hwdownload behind" : "hwupload_cuda in front of");
        return AVERROR(EINVAL);
    }
    if (inlink->format != AV_PIX_FMT_CUDA)
        return 0;
    if (!ff_filter_link(ctx->inputs[0])->hw_frames_ctx) {
        av_log(ctx, AV_LOG_ERROR, "CUDA frames come in without a hardware frames context\n");
        return AVERROR(EINVAL);
    }
    if (!is_engine_format(picture_format(inlink)) || alpha_component(picture_format(inlink))) {
        av_log(ctx, AV_LOG_ERROR, "CUDA frames of the format %s are not taken; "
               "those of nv12, p010, yuv420p and other YUV formats are\n",
               av_get_pix_fmt_name(picture_format(inlink)));
        return AVERROR(EINVAL);
    }
    return 0;
}

/**
 * Make output frames for the device of the input frames, and of their format.
 */
static int init_hw_frames(AVFilterContext *ctx)
{
    AVFilterLink *outlink = ctx->outputs[0];
    FilterLink *in  = ff_filter_link(ctx->inputs[0]);
    FilterLink *out = ff_filter_link(outlink);
    AVHWFramesContext *frames;
    int ret;

    if (outlink->format != AV_PIX_FMT_CUDA)
        return 0;

    frames = (AVHWFramesContext *)in->hw_frames_ctx->data;
    av_buffer_unref(&out->hw_frames_ctx);
    out->hw_frames_ctx = av_hwframe_ctx_alloc(frames->device_ref);
    if (!out->hw_frames_ctx)
        return AVERROR(ENOMEM);

    frames = (AVHWFramesContext *)out->hw_frames_ctx->data;
    frames->format    = AV_PIX_FMT_CUDA;
    frames->sw_format = picture_format(ctx->inputs[0]);
    frames->width     = outlink->w;
    frames->height    = outlink->h;
    ret = ff_filter_init_hw_frames(ctx, outlink, 1);
    if (ret < 0)
        return ret;
    return av_hwframe_ctx_init(out->hw_frames_ctx);
}

/**
 * The device option; where nothing is said, CUDA frames choose the GPU they are on.
 *
 * @param name memory for the name of a GPU
 */
static int choose_device(AVFilterContext *ctx, const char **device, char *name, size_t name_size)
{
    FlashVSRFilterContext *s = ctx->priv;

    *device = s->device;
#if CONFIG_CUDA
    if (ctx->inputs[0]->format == AV_PIX_FMT_CUDA && !s->multi_gpu && (!s->device || !strcmp(s->device, "auto"))) {
        const FilterLink *in = ff_filter_link(ctx->inputs[0]);
        const AVHWFramesContext *frames = (const AVHWFramesContext *)in->hw_frames_ctx->data;
        const AVCUDADeviceContext *cuda = frames->device_ctx->hwctx;
        CudaFunctions *cu = cuda->internal->cuda_dl;
        CUcontext popped;
        CUdevice gpu;
        CUresult result;

        result = cu->cuCtxPushCurrent(cuda->cuda_ctx);
        if (result == CUDA_SUCCESS) {
            result = cu->cuCtxGetDevice(&gpu);
            cu->cuCtxPopCurrent(&popped);
        }
        if (result != CUDA_SUCCESS) {
            av_log(ctx, AV_LOG_ERROR, "The GPU of the CUDA frames is not known (CUDA error %d)\n", result);
            return AVERROR_EXTERNAL;
        }
        snprintf(name, name_size, "cuda:%d", gpu);
        *device = name;
    }
#endif
    return 0;
}

static int config_output(AVFilterLink *outlink)
{
    AVFilterContext *ctx = outlink->src;
    const AVFilterLink *inlink = ctx->inputs[0];
    FlashVSRFilterContext *s = ctx->priv;
    FlashVSRSettings settings;
    char gpu[32];
    int ret;

    free_engine(s);

    ret = check_hw_frames(ctx);
    if (ret < 0)
        return ret;

    flashvsr_settings_default(&settings);
    ret = choose_device(ctx, &settings.device, gpu, sizeof(gpu));
    if (ret < 0)
        return ret;
    ret = eval_sizes(ctx, &settings.out_width, &settings.out_height);
    if (ret < 0)
        return ret;
    settings.width        = inlink->w;
    settings.height       = inlink->h;
    settings.scale        = s->scale;
    settings.model_dir    = s->model;
    settings.precision    = s->precision;
    settings.version      = !s->version     ? FLASHVSR_VERSION_AUTO :
                            s->version == 1 ? FLASHVSR_VERSION_1 : FLASHVSR_VERSION_1_1;
    settings.color_fix    = s->color_fix;
    settings.sparse_ratio = s->sparse_ratio;
    settings.kv_ratio     = s->kv_ratio;
    settings.local_range  = s->local_range;
    settings.seed         = s->seed;
    settings.first_frame  = s->first_frame;
    settings.multi_gpu    = s->multi_gpu;
    settings.overlap      = s->overlap;
    settings.segment      = s->segment;
    settings.tiled        = s->tiled;
    settings.tile_size    = s->tile_size;
    settings.tile_overlap = s->tile_overlap;
    settings.tile_batch   = s->tile_batch;
    settings.vram_limit   = s->vram_limit;
    settings.unload_dit   = s->unload_dit;
    settings.adaptive_batch = s->adaptive_batch;
    settings.log          = log_line;
    settings.log_opaque   = ctx;

    ret = flashvsr_open(&s->engine, &settings);
    if (ret < 0)
        return engine_error(ctx, "flashvsr_open()", ret);
    ret = flashvsr_output_size(&settings, &outlink->w, &outlink->h);
    if (ret < 0)
        return engine_error(ctx, "flashvsr_output_size()", ret);

    /* RGB has no matrix to keep, so the one that is chosen for it has to be told. */
    if (ff_fmt_is_regular_yuv(outlink->format) && !ff_fmt_is_regular_yuv(inlink->format) &&
        (outlink->colorspace == AVCOL_SPC_RGB || outlink->colorspace == AVCOL_SPC_UNSPECIFIED))
        outlink->colorspace = AVCOL_SPC_BT709;

    ret = init_hw_frames(ctx);
    if (ret < 0)
        return ret;
    ret = init_conversion(&s->from_input, inlink);
    if (ret < 0)
        return ret;
    ret = init_conversion(&s->to_output, outlink);
    if (ret < 0)
        return ret;
    ret = init_alpha(ctx);
    if (ret < 0)
        return ret;

    s->siting   = -1;
    s->in_w     = inlink->w;
    s->in_h     = inlink->h;
    /* The same scale is meant even where rounding the size makes a small difference. */
    s->keep_sar = !settings.out_width && !settings.out_height;
    outlink->sample_aspect_ratio = output_sar(outlink, inlink->sample_aspect_ratio);

#if LIBAVFILTER_VERSION_MAJOR >= 11
    if (outlink->w != inlink->w || outlink->h != inlink->h)
        av_frame_side_data_remove_by_props(&outlink->side_data, &outlink->nb_side_data,
                                           AV_SIDE_DATA_PROP_SIZE_DEPENDENT);
#endif

    av_log(ctx, AV_LOG_VERBOSE, "%dx%d %s sar:%d/%d -> %dx%d %s sar:%d/%d\n",
           inlink->w, inlink->h, av_get_pix_fmt_name(inlink->format),
           inlink->sample_aspect_ratio.num, inlink->sample_aspect_ratio.den,
           outlink->w, outlink->h, av_get_pix_fmt_name(outlink->format),
           outlink->sample_aspect_ratio.num, outlink->sample_aspect_ratio.den);
    return 0;
}

/**
 * Describe what the engine sees of the frames of a link.
 *
 * @param siting where their chroma samples are
 */
static FlashVSRFrame link_picture(const AVFilterLink *link, const Conversion *conversion,
                                  enum AVChromaLocation siting)
{
    enum AVColorSpace matrix = link->colorspace;
    FlashVSRFrame picture;

    /* YUV that is said to be RGB says as little as YUV that says nothing; swscale takes it the same way. */
    if (matrix == AVCOL_SPC_UNSPECIFIED || matrix == AVCOL_SPC_RGB)
        matrix = AVCOL_SPC_SMPTE170M;

    describe_format(&picture, conversion->rgb ? conversion->rgb->format : picture_format(link));
    picture.width  = link->w;
    picture.height = link->h;
    picture.memory = link->format == AV_PIX_FMT_CUDA ? FLASHVSR_MEMORY_CUDA : FLASHVSR_MEMORY_HOST;
    if (picture.format == FLASHVSR_PIXEL_FORMAT_YUV) {
        const AVLumaCoefficients *luma = av_csp_luma_coeffs_from_avcsp(matrix);

        picture.yuv.kr         = av_q2d(luma->cr);
        picture.yuv.kb         = av_q2d(luma->cb);
        picture.yuv.full_range = is_full_range(link);
        av_chroma_location_enum_to_pos(&picture.yuv.chroma_x, &picture.yuv.chroma_y, known_siting(siting));
        /* From the part of a chroma sample that it is to luma pixels. */
        picture.yuv.chroma_x *= (1 << picture.yuv.log2_chroma_w) - 1;
        picture.yuv.chroma_y *= (1 << picture.yuv.log2_chroma_h) - 1;
    }
    return picture;
}

static void map_planes(FlashVSRFrame *picture, const AVFrame *frame)
{
    static const uint8_t plane_of_rgb[] = { 2, 0, 1 };

    for (int i = 0; i < FF_ARRAY_ELEMS(plane_of_rgb); i++) {
        const int plane = picture->format == FLASHVSR_PIXEL_FORMAT_RGB ? plane_of_rgb[i] : i;

        picture->data[i]   = frame->data[plane];
        picture->stride[i] = frame->linesize[plane];
    }
#if CONFIG_CUDA
    if (frame->format == AV_PIX_FMT_CUDA) {
        const AVHWFramesContext *frames  = (const AVHWFramesContext *)frame->hw_frames_ctx->data;
        const AVCUDADeviceContext *cuda = frames->device_ctx->hwctx;

        picture->cuda_stream = cuda->stream;
    }
#endif
}

/**
 * Tell the engine in what form the frames that are sent from now on are wanted back.
 */
static int set_output_format(AVFilterContext *ctx, enum AVChromaLocation siting)
{
    FlashVSRFilterContext *s = ctx->priv;
    FlashVSRFrame picture;
    int ret;

    if (s->siting == siting)
        return 0;
    picture = link_picture(ctx->outputs[0], &s->to_output, siting);
    ret = flashvsr_set_output_format(s->engine, &picture);
    if (ret < 0)
        return engine_error(ctx, "flashvsr_set_output_format()", ret);
    s->siting = siting;
    return 0;
}

/**
 * Drop the side data that says something of places in the picture.
 */
static void drop_size_dependent(AVFrame *frame)
{
#if LIBAVFILTER_VERSION_MAJOR < 11
    static const enum AVFrameSideDataType types[] = {
        AV_FRAME_DATA_PANSCAN,
        AV_FRAME_DATA_MOTION_VECTORS,
        AV_FRAME_DATA_REGIONS_OF_INTEREST,
        AV_FRAME_DATA_DETECTION_BBOXES,
        AV_FRAME_DATA_LCEVC,
        AV_FRAME_DATA_SPHERICAL,
        AV_FRAME_DATA_VIDEO_HINT,
    };

    for (int i = 0; i < FF_ARRAY_ELEMS(types); i++)
        av_frame_remove_side_data(frame, types[i]);
#else
    av_frame_side_data_remove_by_props(&frame->side_data, &frame->nb_side_data,
                                       AV_SIDE_DATA_PROP_SIZE_DEPENDENT);
#endif
}

static int send_frame(AVFilterContext *ctx, const AVFrame *in)
{
    FlashVSRFilterContext *s = ctx->priv;
    const AVFilterLink *inlink = ctx->inputs[0];
    FlashVSRFrame picture;
    AVFrame *props;
    int ret;

    if (in->width != s->in_w || in->height != s->in_h || in->format != inlink->format) {
        av_log(ctx, AV_LOG_ERROR, "The frame changed from %dx%d %s to %dx%d %s in mid-stream; "
               "scale it to one size before this filter\n",
               s->in_w, s->in_h, av_get_pix_fmt_name(inlink->format),
               in->width, in->height, av_get_pix_fmt_name(in->format));
        return s->error = AVERROR(EINVAL);
    }
    if (in->format == AV_PIX_FMT_CUDA &&
        (!in->hw_frames_ctx || software_format(in->hw_frames_ctx) != picture_format(inlink))) {
        av_log(ctx, AV_LOG_ERROR, "The CUDA frames changed from %s to %s in mid-stream\n",
               av_get_pix_fmt_name(picture_format(inlink)),
               in->hw_frames_ctx ? av_get_pix_fmt_name(software_format(in->hw_frames_ctx)) : "none");
        return s->error = AVERROR(EINVAL);
    }

    if (in->flags & AV_FRAME_FLAG_INTERLACED && !s->is_interlaced) {
        s->is_interlaced = 1;
        av_log(ctx, AV_LOG_WARNING, "The input is interlaced, which the model takes for detail; "
               "deinterlace it before this filter, e.g. with bwdif\n");
    }

    if (s->from_input.rgb) {
        ret = convert_from_input(ctx, in);
        if (ret < 0)
            return ret;
    }

    props = av_frame_alloc();
    if (!props)
        return AVERROR(ENOMEM);
    ret = av_frame_copy_props(props, in);
    if (ret >= 0 && s->alpha_scaler)
        ret = read_alpha(props, in);
    if (ret >= 0)
        ret = av_fifo_write(s->props, &props, 1);
    if (ret < 0) {
        av_frame_free(&props);
        return ret;
    }

    ret = set_output_format(ctx, in->chroma_location);
    if (ret < 0)
        return ret;
    picture = link_picture(inlink, &s->from_input, in->chroma_location);
    map_planes(&picture, s->from_input.rgb ? s->from_input.rgb : in);
    ret = flashvsr_send_frame(s->engine, &picture);
    if (ret < 0)
        return engine_error(ctx, "flashvsr_send_frame()", ret);
    return 0;
}

/**
 * Send on the next frame of the engine, if there is one.
 *
 * @return 1 if there was one, 0 if the engine wants input first, a negative error code
 */
static int receive_frame(AVFilterContext *ctx)
{
    FlashVSRFilterContext *s = ctx->priv;
    AVFilterLink *outlink = ctx->outputs[0];
    FlashVSRFrame picture;
    AVFrame *out, *props;
    int ret;

    out = ff_get_video_buffer(outlink, outlink->w, outlink->h);
    if (!out)
        return AVERROR(ENOMEM);

    ret = av_fifo_peek(s->props, &props, 1, 0);
    av_assert0(ret >= 0);
    picture = link_picture(outlink, &s->to_output, props->chroma_location);
    map_planes(&picture, s->to_output.rgb ? s->to_output.rgb : out);
    ret = flashvsr_receive_frame(s->engine, &picture);
    if (ret < 0) {
        av_frame_free(&out);
        return ret == FLASHVSR_EAGAIN && !s->status ? 0 :
               engine_error(ctx, "flashvsr_receive_frame()", ret);
    }

    av_fifo_drain2(s->props, 1);
    ret = av_frame_copy_props(out, props);
    if (ret >= 0 && s->to_output.rgb)
        ret = convert_to_output(ctx, out);
    if (ret >= 0 && alpha_component(out->format))
        ret = convert_alpha(ctx, out, props);
    av_frame_free(&props);
    if (ret < 0) {
        av_frame_free(&out);
        return ret;
    }

    if (out->width != s->in_w || out->height != s->in_h)
        drop_size_dependent(out);
    out->sample_aspect_ratio = output_sar(outlink, out->sample_aspect_ratio);
    out->crop_top    = 0;
    out->crop_bottom = 0;
    out->crop_left   = 0;
    out->crop_right  = 0;
    out->colorspace  = outlink->colorspace;
    out->color_range = outlink->color_range;
#if LIBAVFILTER_VERSION_MAJOR >= 11
    out->alpha_mode  = outlink->alpha_mode;
#endif

    ret = ff_filter_frame(outlink, out);
    return ret < 0 ? ret : 1;
}

/**
 * Whether a frame has come to a link, or to any of the filters in front of it: these may have let none through.
 */
static int has_frames(AVFilterLink *link)
{
    if (ff_filter_link(link)->frame_count_in)
        return 1;
    for (unsigned i = 0; i < link->src->nb_inputs; i++)
        if (has_frames(link->src->inputs[i]))
            return 1;
    return 0;
}

static int activate(AVFilterContext *ctx)
{
    FlashVSRFilterContext *s = ctx->priv;
    AVFilterLink *inlink  = ctx->inputs[0];
    AVFilterLink *outlink = ctx->outputs[0];
    AVFrame *in;
    int64_t pts;
    int ret, status;

    status = ff_outlink_get_status(outlink);
    if (status) {
        /* Nobody waits for what the engine still works on. */
        free_engine(s);
        ff_inlink_set_status(inlink, status);
        return 0;
    }
    if (s->error)
        return s->error;

    /* Pictures are large: one is made when one is wanted, and only one. */
    if (!ff_outlink_frame_wanted(outlink))
        return FFERROR_NOT_READY;

    if (av_fifo_can_read(s->props)) {
        ret = receive_frame(ctx);
        if (ret)
            return FFMIN(ret, 0);
    } else if (s->status) {
        free_engine(s);
        ff_outlink_set_status(outlink, s->status, s->status_pts);
        return 0;
    }

    /* The engine has just asked for input, or holds nothing: it takes what comes now. */
    ret = ff_inlink_consume_frame(inlink, &in);
    if (ret < 0)
        return ret;
    if (ret) {
        ret = send_frame(ctx, in);
        av_frame_free(&in);
        ff_filter_set_ready(ctx, 100);
        return ret;
    }

    if (ff_inlink_acknowledge_status(inlink, &status, &pts)) {
        if (status == AVERROR_EOF && !has_frames(inlink)) {
            av_log(ctx, AV_LOG_ERROR, "The input has no frames, there is nothing to upscale\n");
            return s->error = AVERROR(EINVAL);
        }
        if (status == AVERROR_EOF && av_fifo_can_read(s->props)) {
            ret = flashvsr_send_frame(s->engine, NULL);
            if (ret < 0)
                return engine_error(ctx, "flashvsr_send_frame()", ret);
            s->status     = status;
            s->status_pts = pts;
            ff_filter_set_ready(ctx, 100);
        } else {
            free_engine(s);
            ff_outlink_set_status(outlink, status, pts);
        }
        return 0;
    }

    ff_inlink_request_frame(inlink);
    return 0;
}

static int process_command(AVFilterContext *ctx, const char *cmd, const char *arg,
                           char *res, int res_len, int flags)
{
    FlashVSRFilterContext *s = ctx->priv;
    const int color_fix = s->color_fix;
    int ret;

    ret = ff_filter_process_command(ctx, cmd, arg, res, res_len, flags);
    if (ret < 0 || s->color_fix == color_fix || !s->engine)
        return ret;

    ret = flashvsr_set_color_fix(s->engine, s->color_fix);
    return ret < 0 ? engine_error(ctx, "flashvsr_set_color_fix()", ret) : 0;
}

static av_cold int init(AVFilterContext *ctx)
{
    FlashVSRFilterContext *s = ctx->priv;

    if (s->version && s->version != 1 && fabs(s->version - 1.1) > 1e-6) {
        av_log(ctx, AV_LOG_ERROR, "version: %g is not one of auto, 1 and 1.1\n", s->version);
        return AVERROR(EINVAL);
    }

    s->props = av_fifo_alloc2(32, sizeof(AVFrame *), AV_FIFO_FLAG_AUTO_GROW);
    return s->props ? 0 : AVERROR(ENOMEM);
}

static av_cold void uninit(AVFilterContext *ctx)
{
    FlashVSRFilterContext *s = ctx->priv;
    const size_t inside = s->props ? av_fifo_can_read(s->props) : 0;

    /* Nothing tells a program that has what it wants from one that rebuilds its graph undrained. */
    if (inside && !s->error)
        av_log(ctx, AV_LOG_VERBOSE, "Closed before the end of its input: the last %zu frames "
               "that came in do not come out\n", inside);
    free_engine(s);
    av_fifo_freep2(&s->props);
}

#define OFFSET(x) offsetof(FlashVSRFilterContext, x)
#define FLAGS (AV_OPT_FLAG_VIDEO_PARAM | AV_OPT_FLAG_FILTERING_PARAM)
#define RUNTIME_FLAGS (FLAGS | AV_OPT_FLAG_RUNTIME_PARAM)

static const AVOption flashvsr_options[] = {
    { "model",        "model directory (default: the built-in model)", OFFSET(model), AV_OPT_TYPE_STRING, { .str = NULL }, .flags = FLAGS },
    { "model_dir",    "model directory (default: the built-in model)", OFFSET(model), AV_OPT_TYPE_STRING, { .str = NULL }, .flags = FLAGS },
    { "version",      "FlashVSR release that the model is of, 1 or 1.1", OFFSET(version), AV_OPT_TYPE_DOUBLE, { .dbl = 0 }, 0, 1.1, FLAGS, .unit = "version" },
        { "auto",     "what the model's config.json says, else the directory's name, else 1.1", 0, AV_OPT_TYPE_CONST, { .i64 = 0 }, .flags = FLAGS, .unit = "version" },
    { "scale",        "output size / input size", OFFSET(scale), AV_OPT_TYPE_DOUBLE, { .dbl = 4 }, 1, 8, FLAGS },
    { "w",            "output width expression, overrides the scale", OFFSET(w_expr), AV_OPT_TYPE_STRING, { .str = NULL }, .flags = FLAGS },
    { "h",            "output height expression, overrides the scale", OFFSET(h_expr), AV_OPT_TYPE_STRING, { .str = NULL }, .flags = FLAGS },
    { "device",       "devices to run on, such as auto, cpu, cuda:1, all, or a list such as 0|1", OFFSET(device), AV_OPT_TYPE_STRING, { .str = "auto" }, .flags = FLAGS },
    { "precision",    "numbers that the model computes in", OFFSET(precision), AV_OPT_TYPE_INT, { .i64 = FLASHVSR_PRECISION_AUTO }, FLASHVSR_PRECISION_AUTO, FLASHVSR_PRECISION_FP8, FLAGS, .unit = "precision" },
        { "auto",     "bf16 on a GPU, fp32 on the CPU", 0, AV_OPT_TYPE_CONST, { .i64 = FLASHVSR_PRECISION_AUTO }, .flags = FLAGS, .unit = "precision" },
        { "fp32",     "32-bit floating point", 0, AV_OPT_TYPE_CONST, { .i64 = FLASHVSR_PRECISION_FP32 }, .flags = FLAGS, .unit = "precision" },
        { "bf16",     "bfloat16, GPUs only", 0, AV_OPT_TYPE_CONST, { .i64 = FLASHVSR_PRECISION_BF16 }, .flags = FLAGS, .unit = "precision" },
        { "fp16",     "16-bit floating point, GPUs only", 0, AV_OPT_TYPE_CONST, { .i64 = FLASHVSR_PRECISION_FP16 }, .flags = FLAGS, .unit = "precision" },
        { "fp8",      "bf16 with products of 8-bit floating point, Hopper GPUs only", 0, AV_OPT_TYPE_CONST, { .i64 = FLASHVSR_PRECISION_FP8 }, .flags = FLAGS, .unit = "precision" },
    { "multi_gpu",    "how several devices share the work", OFFSET(multi_gpu), AV_OPT_TYPE_INT, { .i64 = FLASHVSR_MULTI_GPU_OFF }, FLASHVSR_MULTI_GPU_OFF, FLASHVSR_MULTI_GPU_TILES, FLAGS, .unit = "multi_gpu" },
        { "frames",   "each takes the next segment of frames", 0, AV_OPT_TYPE_CONST, { .i64 = FLASHVSR_MULTI_GPU_FRAMES }, .flags = FLAGS, .unit = "multi_gpu" },
        { "tiles",    "each takes some tiles of every frame", 0, AV_OPT_TYPE_CONST, { .i64 = FLASHVSR_MULTI_GPU_TILES }, .flags = FLAGS, .unit = "multi_gpu" },
    { "overlap",      "output frames that neighbouring segments share", OFFSET(overlap), AV_OPT_TYPE_INT, { .i64 = 10 }, 0, 1 << 20, FLAGS },
    { "segment",      "frames in a segment, 0 to choose from memory", OFFSET(segment), AV_OPT_TYPE_INT, { .i64 = 0 }, 0, INT_MAX, FLAGS },
    { "tiled_dit",    "cut frames into tiles", OFFSET(tiled), AV_OPT_TYPE_INT, { .i64 = FLASHVSR_TILED_AUTO }, FLASHVSR_TILED_OFF, FLASHVSR_TILED_AUTO, FLAGS, .unit = "tiled" },
    { "tiled",        "cut frames into tiles", OFFSET(tiled), AV_OPT_TYPE_INT, { .i64 = FLASHVSR_TILED_AUTO }, FLASHVSR_TILED_OFF, FLASHVSR_TILED_AUTO, FLAGS, .unit = "tiled" },
        { "auto",     "where a whole frame does not fit the memory", 0, AV_OPT_TYPE_CONST, { .i64 = FLASHVSR_TILED_AUTO }, .flags = FLAGS, .unit = "tiled" },
    { "tile_size",    "side of a tile in input pixels, with tiled_dit=1", OFFSET(tile_size), AV_OPT_TYPE_INT, { .i64 = 256 }, 16, FLASHVSR_MAX_SIZE, FLAGS },
    { "tile_overlap", "input pixels that neighbouring tiles share", OFFSET(tile_overlap), AV_OPT_TYPE_INT, { .i64 = 24 }, 0, FLASHVSR_MAX_SIZE / 2, FLAGS },
    { "adaptive_batch",      "choose the tile batch from free memory", OFFSET(adaptive_batch), AV_OPT_TYPE_BOOL, { .i64 = 0 }, 0, 1, FLAGS },
    { "adaptive_batch_size", "choose the tile batch from free memory", OFFSET(adaptive_batch), AV_OPT_TYPE_BOOL, { .i64 = 0 }, 0, 1, FLAGS },
    { "tile_batch",   "tiles that are run together", OFFSET(tile_batch), AV_OPT_TYPE_INT, { .i64 = 1 }, 1, 64, FLAGS },
    { "vram_limit",   "device memory to plan for, bytes or a fraction, 0 for all but a margin", OFFSET(vram_limit), AV_OPT_TYPE_DOUBLE, { .dbl = 0 }, 0, DBL_MAX, FLAGS },
    { "unload_dit",   "keep only one of transformer and decoder on a GPU at a time", OFFSET(unload_dit), AV_OPT_TYPE_BOOL, { .i64 = 0 }, 0, 1, FLAGS },
    { "sparse_ratio", "attention budget, as a multiple of what was published for 1280x768", OFFSET(sparse_ratio), AV_OPT_TYPE_DOUBLE, { .dbl = 2.0 }, 0, FLT_MAX, FLAGS },
    { "kv_ratio",     "memory of the attention in groups of 8 frames", OFFSET(kv_ratio), AV_OPT_TYPE_DOUBLE, { .dbl = 3.0 }, 0, FLT_MAX, FLAGS },
    { "local_range",  "width of the attention window in blocks of 128 output pixels", OFFSET(local_range), AV_OPT_TYPE_INT, { .i64 = 11 }, 1, INT_MAX, FLAGS },
    { "color_fix",    "how the colours of the input are restored", OFFSET(color_fix), AV_OPT_TYPE_INT, { .i64 = FLASHVSR_COLOR_FIX_AUTO }, FLASHVSR_COLOR_FIX_AUTO, FLASHVSR_COLOR_FIX_WAVELET, RUNTIME_FLAGS, .unit = "color_fix" },
        { "auto",     "what the model's config.json says, else adain", 0, AV_OPT_TYPE_CONST, { .i64 = FLASHVSR_COLOR_FIX_AUTO }, .flags = RUNTIME_FLAGS, .unit = "color_fix" },
        { "none",     "not at all", 0, AV_OPT_TYPE_CONST, { .i64 = FLASHVSR_COLOR_FIX_NONE }, .flags = RUNTIME_FLAGS, .unit = "color_fix" },
        { "adain",    "mean and deviation of each channel", 0, AV_OPT_TYPE_CONST, { .i64 = FLASHVSR_COLOR_FIX_ADAIN }, .flags = RUNTIME_FLAGS, .unit = "color_fix" },
        { "wavelet",  "low frequencies", 0, AV_OPT_TYPE_CONST, { .i64 = FLASHVSR_COLOR_FIX_WAVELET }, .flags = RUNTIME_FLAGS, .unit = "color_fix" },
    { "seed",         "noise seed", OFFSET(seed), AV_OPT_TYPE_UINT64, { .i64 = 0 }, 0, (double)UINT64_MAX, FLAGS },
    { "first_frame",  "place in the whole video of the first frame that comes in", OFFSET(first_frame), AV_OPT_TYPE_INT, { .i64 = 0 }, 0, INT_MAX, FLAGS },
    { NULL }
};

AVFILTER_DEFINE_CLASS(flashvsr);

static const AVFilterPad flashvsr_outputs[] = {
    {
        .name         = "default",
        .type         = AVMEDIA_TYPE_VIDEO,
        .config_props = config_output,
    },
};

static int add_formats(AVFilterFormats **formats, int (*is_supported)(enum AVPixelFormat))
{
    const int excluded = AV_PIX_FMT_FLAG_HWACCEL | AV_PIX_FMT_FLAG_BITSTREAM | AV_PIX_FMT_FLAG_PAL |
                         AV_PIX_FMT_FLAG_BAYER | AV_PIX_FMT_FLAG_XYZ | AV_PIX_FMT_FLAG_FLOAT;
    const AVPixFmtDescriptor *desc = NULL;
    int ret;

    while ((desc = av_pix_fmt_desc_next(desc))) {
        const enum AVPixelFormat format = av_pix_fmt_desc_get_id(desc);
        const AVComponentDescriptor *alpha = alpha_component(format);

        if (!is_engine_format(format) &&
            (desc->flags & excluded || desc->comp[0].depth < 8 || !is_supported(format)))
            continue;
        if (alpha && (alpha->depth < 8 || alpha->depth > 16 || alpha->shift))
            continue;
        ret = ff_add_format(formats, format);
        if (ret < 0)
            return ret;
    }
#if CONFIG_CUDA
    return ff_add_format(formats, AV_PIX_FMT_CUDA);
#else
    return 0;
#endif
}

static int query_formats(const AVFilterContext *ctx, AVFilterFormatsConfig **cfg_in,
                         AVFilterFormatsConfig **cfg_out)
{
    static const int color_spaces[] = {
        AVCOL_SPC_UNSPECIFIED,
        AVCOL_SPC_RGB,
        AVCOL_SPC_BT709,
        AVCOL_SPC_BT470BG,
        AVCOL_SPC_SMPTE170M,
        AVCOL_SPC_FCC,
        AVCOL_SPC_SMPTE240M,
        AVCOL_SPC_BT2020_NCL,
        -1
    };
    AVFilterFormats *formats;
    int ret;

    formats = NULL;
    if ((ret = add_formats(&formats, sws_isSupportedInput)) < 0 ||
        (ret = ff_formats_ref(formats, &cfg_in[0]->formats)) < 0)
        return ret;
    formats = NULL;
    if ((ret = add_formats(&formats, sws_isSupportedOutput)) < 0 ||
        (ret = ff_formats_ref(formats, &cfg_out[0]->formats)) < 0)
        return ret;

    /* What the input has goes on to the output wherever that takes it. */
    if ((ret = ff_formats_ref(ff_make_format_list(color_spaces), &cfg_in[0]->color_spaces)) < 0 ||
        (ret = ff_formats_ref(ff_make_format_list(color_spaces), &cfg_out[0]->color_spaces)) < 0 ||
        (ret = ff_formats_ref(ff_all_color_ranges(), &cfg_in[0]->color_ranges)) < 0 ||
        (ret = ff_formats_ref(ff_all_color_ranges(), &cfg_out[0]->color_ranges)) < 0)
        return ret;
    return 0;
}

#if LIBAVFILTER_VERSION_MAJOR < 11
const AVFilter ff_vf_flashvsr = {
    .name          = "flashvsr",
    .description   = NULL_IF_CONFIG_SMALL("Upscale video with FlashVSR."),
    .priv_class    = &flashvsr_class,
#else
const FFFilter ff_vf_flashvsr = {
    .p.name        = "flashvsr",
    .p.description = NULL_IF_CONFIG_SMALL("Upscale video with FlashVSR."),
    .p.priv_class  = &flashvsr_class,
#endif
    .priv_size     = sizeof(FlashVSRFilterContext),
    .init          = init,
    .uninit        = uninit,
    .activate      = activate,
    .process_command = process_command,
    .flags_internal = FF_FILTER_FLAG_HWFRAME_AWARE,
    FILTER_INPUTS(ff_video_default_filterpad),
    FILTER_OUTPUTS(flashvsr_outputs),
    FILTER_QUERY_FUNC2(query_formats),
};
