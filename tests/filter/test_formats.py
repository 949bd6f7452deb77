#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pixel formats and colour: frames leave as they came, and what the filter converts inside is worth nothing more than
rounding. Most of it with the identity in place of the model.

From the environment: FLASHVSR_TEST_IDENTITY, the library of identity.cpp, which is preloaded into ffmpeg.
"""

import math
import os
import re
import struct
import unittest
from array import array

from support import ROOT, SANITIZE, Case, flashvsr, main

IDENTITY = os.environ.get("FLASHVSR_TEST_IDENTITY", "")
WIDTH, HEIGHT, FRAMES = 192, 108, 8  # more frames than the identity delays
# Bits of a sample, how far up they are in its word, and the decibels that the round trip has to keep.
FORMATS = {
    "yuv420p": (8, 0, 50), "yuv422p": (8, 0, 50), "yuv444p": (8, 0, 50), "yuvj420p": (8, 0, 50),
    "yuv411p": (8, 0, 50), "nv12": (8, 0, 50), "nv16": (8, 0, 50), "yuyv422": (8, 0, 50),
    "yuv420p10": (10, 0, 60), "yuv422p10": (10, 0, 60), "yuv444p10": (10, 0, 60), "p010": (10, 6, 60),
    "yuv420p12": (12, 0, 60), "yuv422p12": (12, 0, 60), "yuv444p12": (12, 0, 60), "yuv420p16": (16, 0, 60),
    "yuv444p16": (16, 0, 60), "gray": (8, 0, 50), "gray10": (10, 0, 60), "gray16": (16, 0, 60),
    "rgb24": (8, 0, 99), "bgr24": (8, 0, 99), "bgr0": (8, 0, 99), "rgb48": (16, 0, 99),
    "gbrp": (8, 0, 99), "gbrp10": (10, 0, 99), "gbrp12": (12, 0, 99), "gbrp16": (16, 0, 99),
}
# Kr and Kb of H.273, by the names of -colorspace.
MATRICES = {"bt709": (0.2126, 0.0722), "smpte170m": (0.299, 0.114), "bt470bg": (0.299, 0.114),
            "smpte240m": (0.212, 0.087), "fcc": (0.30, 0.11), "bt2020nc": (0.2627, 0.0593)}
COLOR = re.compile(r"color_range:(\S+) color_space:(\S+) color_primaries:(\S+) color_trc:(\S+)")


def samples(content, depth):
    values = array("B" if depth == 8 else "H")
    values.frombytes(content)
    return values


def psnr(one, other, depth, shift):
    peak = ((1 << depth) - 1) << shift
    error = sum((a - b) ** 2 for a, b in zip(samples(one, depth), samples(other, depth)))
    error /= len(one) // (1 if depth == 8 else 2)
    return 10 * math.log10(peak ** 2 / error) if error else math.inf


def rgb_of(y, u, v, matrix, full, depth):
    """H.273, as fractions of white."""
    kr, kb = MATRICES[matrix]
    one = 1 << (depth - 8)
    luma, chroma = ((255 * one + one - 1,) * 2) if full else (219 * one, 224 * one)
    y = (y - (0 if full else 16 * one)) / luma
    u, v = (u - 128 * one) / chroma, (v - 128 * one) / chroma
    r, b = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    return r, (y - kr * r - kb * b) / (1 - kr - kb), b


@unittest.skipIf(SANITIZE, "a sanitizer does not let libraries be preloaded")
class Identity(Case):
    def setUp(self):
        super().setUp()
        self.assertTrue(os.access(IDENTITY, os.R_OK), f"FLASHVSR_TEST_IDENTITY: {IDENTITY!r} cannot be read")

    def convert(self, *given):
        return self.ffmpeg(*given, env={"LD_PRELOAD": IDENTITY})

    def raw(self, pixels):
        """Frames of a real film in a format, and how they are read."""
        path = self.folder / f"{pixels}.raw"
        self.ffmpeg("-i", ROOT / "examples" / "clip.mp4", "-frames:v", FRAMES, "-vf",
                    f"crop={WIDTH}:{HEIGHT},scale=flags=lanczos+accurate_rnd+full_chroma_inp+full_chroma_int,"
                    f"format={pixels}",
                    "-f", "rawvideo", path)
        return path, ["-f", "rawvideo", "-pixel_format", pixels, "-video_size", f"{WIDTH}x{HEIGHT}", "-i", path]

    def check_round_trip(self, pixels):
        depth, shift, least = FORMATS[pixels]
        path, source = self.raw(pixels)
        run = self.convert(*source, "-vf", "flashvsr=scale=1,showinfo", "-f", "rawvideo", "-")
        self.assertRegex(run.stderr, rf"fmt:{pixels}(le)? ")
        self.assertNotRegex(run.stderr, "auto_scale")
        content = path.read_bytes()
        self.assertEqual(len(run.stdout), len(content))
        found = psnr(run.stdout, content, depth, shift)
        print(f"{pixels:10} {found:6.2f} dB")
        self.assertGreaterEqual(found, least, pixels)

    def test_round_trip(self):
        for pixels in FORMATS:
            with self.subTest(pixels):
                self.check_round_trip(pixels)

    def color(self, y, u, v, depth, matrix, full):
        """Mean R, G and B that the engine gets of one YUV colour, as fractions of white."""
        path = self.folder / "color.raw"
        code = "B" if depth == 8 else "H"
        planes = b"".join(struct.pack("=" + code, value) * 16 * 16 for value in (y, u, v))
        path.write_bytes(planes)
        pixels = "yuv444p" if depth == 8 else f"yuv444p{depth}le"
        run = self.convert("-f", "rawvideo", "-pixel_format", pixels, "-video_size", "16x16",
                           "-color_range", "pc" if full else "tv", "-colorspace", matrix, "-i", path,
                           "-vf", "flashvsr=scale=1,format=gbrp16le", "-f", "rawvideo", "-")
        values = samples(run.stdout, 16)
        g, b, r = (sum(values[i * 256:(i + 1) * 256]) / 256 / 65535 for i in range(3))
        return r, g, b

    def test_matrix_and_range(self):
        for matrix in MATRICES:
            for full in (False, True):
                for depth in (8, 10):
                    one = 1 << (depth - 8)
                    given = 120 * one + 1, 110 * one + 1, 140 * one + 1
                    with self.subTest(matrix=matrix, full=full, depth=depth):
                        found = self.color(*given, depth, matrix, full)
                        for value, expected in zip(found, rgb_of(*given, matrix, full, depth)):
                            self.assertAlmostEqual(value, expected, delta=0.0006)

    def test_chroma_siting(self):
        """A ramp of chroma: where its samples are decides what a pixel gets of it."""
        width, height, slope = 64, 16, 2
        path = self.folder / "ramp.raw"
        chroma = bytes(96 + slope * i for i in range(width // 2)) * (height // 2)
        path.write_bytes(bytes([128]) * (width * height) + chroma + bytes([128]) * (width * height // 4))
        for siting, shift in (("left", 0), ("center", 0.5), ("unspecified", 0), ("topleft", 0)):
            with self.subTest(siting):
                run = self.convert("-f", "rawvideo", "-pixel_format", "yuv420p", "-video_size", f"{width}x{height}",
                                   "-color_range", "tv", "-colorspace", "bt709", "-chroma_sample_location", siting,
                                   "-i", path, "-vf", "flashvsr=scale=1,format=gbrp16le", "-f", "rawvideo", "-")
                blue = samples(run.stdout, 16)[width * height:2 * width * height]
                row = blue[8 * width:9 * width]
                for x in range(12, width - 12):
                    expected = rgb_of(128, 96 + slope * (x - shift) / 2, 128, "bt709", False, 8)[2]
                    self.assertAlmostEqual(row[x] / 65535, expected, delta=0.0012, msg=f"pixel {x}")

    def test_tags_stay(self):
        path, source = self.raw("yuv420p10")
        for matrix, primaries, transfer, limits in (("bt709", "bt709", "bt709", "tv"),
                                                    ("bt2020nc", "bt2020", "smpte2084", "tv"),
                                                    ("bt2020nc", "bt2020", "arib-std-b67", "tv"),
                                                    ("smpte170m", "smpte170m", "smpte170m", "pc"),
                                                    ("unknown", "unknown", "unknown", "unknown")):
            with self.subTest(matrix=matrix, transfer=transfer):
                tags = ["-colorspace", matrix, "-color_primaries", primaries, "-color_trc", transfer,
                        "-color_range", limits]
                run = self.convert(*tags, *source, "-vf", "flashvsr=scale=1,showinfo", "-f", "rawvideo", "-")
                self.assertEqual(set(COLOR.findall(run.stderr)), {(limits, matrix, primaries, transfer)})
                self.assertGreaterEqual(psnr(run.stdout, path.read_bytes(), 10, 0), 60)

    def test_yuv_that_is_said_to_be_rgb(self):
        """As a stream with matrix_coefficients 0 is; it comes out as it went in."""
        path, source = self.raw("yuv420p")
        run = self.convert("-colorspace", "rgb", *source, "-vf", "flashvsr=scale=1,showinfo", "-f", "rawvideo", "-")
        self.assertEqual({found[1] for found in COLOR.findall(run.stderr)}, {"gbr"})
        self.assertGreaterEqual(psnr(run.stdout, path.read_bytes(), 8, 0), 50)

    def test_more_bits_out_than_in(self):
        """The filter itself gives the format that is asked for, with bits that the input does not have."""
        _, source = self.raw("yuv420p")
        run = self.convert(*source, "-vf", "flashvsr=scale=1,format=yuv420p10,showinfo", "-f", "rawvideo", "-")
        self.assertNotIn("auto_scale", run.stderr)
        self.assertGreater(len({value % 4 for value in samples(run.stdout, 10)}), 1)

    def test_rgb_to_yuv_is_tagged(self):
        path = self.folder / "red.raw"
        path.write_bytes(bytes([180, 60, 30]) * 16 * 16)
        run = self.convert("-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", "16x16", "-i", path,
                           "-vf", "flashvsr=scale=1,format=yuv444p,showinfo", "-f", "rawvideo", "-")
        self.assertEqual({found[1] for found in COLOR.findall(run.stderr)}, {"bt709"})
        y, u, v = (run.stdout[i * 256] for i in range(3))
        for value, expected in zip(rgb_of(y, u, v, "bt709", False, 8), (180, 60, 30)):
            self.assertAlmostEqual(value * 255, expected, delta=1.5)


class Alpha(Case):
    """Alpha leaves as the bicubic upscale of what came, in the format that it came in."""

    SIDE = 32
    # Bits, and where the samples are: the first of each frame in samples per pixel, and the distance of two.
    FORMATS = {"rgba": (8, 3, 4), "argb": (8, 0, 4), "gbrap": (8, 3, 1), "ya8": (8, 1, 2), "yuva420p": (8, 1.5, 1),
               "yuva444p": (8, 3, 1), "yuva420p10le": (10, 1.5, 1), "yuva422p10le": (10, 2, 1),
               "gbrap10le": (10, 3, 1), "gbrap12le": (12, 3, 1), "rgba64le": (16, 3, 4), "ya16le": (16, 1, 2)}

    def alpha_of(self, content, pixels, side):
        """Alpha of the first frame."""
        depth, first, step = self.FORMATS[pixels]
        if step == 1:
            first = int(first * side * side)
        return samples(content, depth)[first:first + step * side * side:step]

    def source(self, pixels, alpha):
        """A frame in the format: alpha is a function of x and y that is opaque at 1, colours are a ramp."""
        depth, first, step = self.FORMATS[pixels]
        count, white = self.SIDE ** 2, (1 << depth) - 1
        before = int(first * count) if step == 1 else 0  # samples of whole planes
        values = array("B" if depth == 8 else "H", (i * white // (8 * count) for i in range(before + step * count)))
        start = before if step == 1 else first
        values[start::step] = array(values.typecode, (round(white * alpha(i % self.SIDE, i // self.SIDE))
                                                      for i in range(count)))
        path = self.folder / f"{pixels}.raw"
        path.write_bytes(values.tobytes())
        return path, ["-f", "rawvideo", "-pixel_format", pixels, "-video_size", f"{self.SIDE}x{self.SIDE}", "-i",
                      path]

    def bicubic(self, plane, depth, side):
        """A plane of full range as FFmpeg's scaler upscales it."""
        grey = "gray" if depth == 8 else f"gray{depth}le"
        path = self.folder / "plane.raw"
        path.write_bytes(plane.tobytes())
        run = self.ffmpeg("-f", "rawvideo", "-pixel_format", grey, "-video_size", f"{self.SIDE}x{self.SIDE}",
                          "-color_range", "pc", "-i", path, "-vf",
                          f"scale={side}:{side}:flags=bicubic+accurate_rnd", "-pix_fmt", grey, "-f", "rawvideo", "-")
        return run.stdout

    def test_alpha_is_the_bicubic_upscale(self):
        for pixels, (depth, _, _) in self.FORMATS.items():
            for scale in (2, 3.25) if depth == 8 else (2,):
                with self.subTest(pixels, scale=scale):
                    path, source = self.source(pixels, lambda x, y: (1 + math.sin(x / 3) * math.cos(y / 4)) / 2)
                    side = int(self.SIDE * scale)
                    run = self.ffmpeg(*source, "-vf", f"{flashvsr(scale=scale)},showinfo", "-f", "rawvideo", "-")
                    self.assertRegex(run.stderr, rf"fmt:{pixels} ")
                    given = self.alpha_of(path.read_bytes(), pixels, self.SIDE)
                    self.assertGreater(len(set(given)), 100)
                    found = psnr(self.alpha_of(run.stdout, pixels, side).tobytes(),
                                 self.bicubic(given, depth, side), depth, 0)
                    print(f"{pixels:12} x {scale:4} {found:6.2f} dB")
                    self.assertGreaterEqual(found, 50)

    def test_opaque_stays_opaque_and_clear_stays_clear(self):
        for pixels in ("rgba", "yuva420p", "yuva420p10le", "gbrap10le", "rgba64le"):
            for alpha, value in ((1, (1 << self.FORMATS[pixels][0]) - 1), (0, 0)):
                with self.subTest(pixels, alpha=alpha):
                    _, source = self.source(pixels, lambda x, y: alpha)
                    run = self.ffmpeg(*source, "-vf", flashvsr(scale=2), "-f", "rawvideo", "-")
                    self.assertEqual(set(self.alpha_of(run.stdout, pixels, 2 * self.SIDE)), {value})

    def test_colours_are_those_without_alpha(self):
        for pixels, bare in (("gbrap", "gbrp"), ("yuva420p", "yuv420p"), ("yuva420p10le", "yuv420p10le")):
            with self.subTest(pixels):
                _, source = self.source(pixels, lambda x, y: x / self.SIDE)
                found = self.ffmpeg(*source, "-vf", flashvsr(scale=2), "-f", "rawvideo", "-").stdout
                colours = self.ffmpeg(*source, "-vf", f"format={bare},{flashvsr(scale=2)}", "-f", "rawvideo",
                                      "-").stdout
                self.assertEqual(found[:len(colours)], colours)

    def test_each_frame_keeps_its_own(self):
        source = "nullsrc=size=16x16:rate=25:duration=1.4,format=gbrap,geq=r=90:g=120:b=30:a='7*N'"
        content = self.frames(flashvsr(), source=source, pixels="gbrap")
        plane = 64 * 64
        self.assertEqual(len(content), 35 * 4 * plane)
        for i in range(35):
            self.assertEqual(set(content[(4 * i + 3) * plane:(4 * i + 4) * plane]), {7 * i}, f"frame {i}")

    def test_where_only_one_side_has_it(self):
        """An encoder without alpha gets the colours, one that wants it gets an opaque picture."""
        for pixels, other, alpha in (("rgba", "gbrp", None), ("gbrp", "gbrap", 3), ("yuv420p", "yuva420p", 1.5)):
            with self.subTest(pixels, other=other):
                run = self.ffmpeg("-f", "lavfi", "-i", f"testsrc2=size=16x16:rate=25,format={pixels}", "-frames:v", 1,
                                  "-vf", f"{flashvsr(scale=2)},format={other},showinfo", "-f", "rawvideo", "-")
                self.assertNotIn("auto_scale", run.stderr)
                self.assertRegex(run.stderr, rf"fmt:{other} ")
                if alpha:
                    self.assertEqual(set(run.stdout[int(alpha * 32 * 32):]), {255})


class Encoded(Case):
    """An ordinary transcode with the filter put into it."""

    def test_the_encoder_gets_what_it_got_without_the_filter(self):
        for pixels, matrix in (("yuv420p", "bt709"), ("yuv422p10le", "smpte170m"), ("nv12", "bt709")):
            with self.subTest(pixels):
                self.ffmpeg("-f", "lavfi", "-i", "testsrc2=size=32x32:rate=25:duration=0.4", "-vf",
                            f"scale=out_color_matrix={matrix}:out_range=tv,format={pixels}", "-c:v", "libx264",
                            "-colorspace", matrix, "-color_range", "tv", "in.mkv")
                keys = ("pix_fmt", "color_range", "color_space", "chroma_location")

                def stream(*filters):
                    self.ffmpeg("-i", "in.mkv", *filters, "-c:v", "libx264", "out.mkv")
                    found = self.probe("-show_streams", "out.mkv")["streams"][0]
                    return {key: found.get(key) for key in keys}

                self.assertEqual(stream("-vf", flashvsr(scale=2)), stream())

    def test_hdr_stays_hdr(self):
        """Tags and mastering metadata of 10-bit PQ go through the decoder, the filter and the encoder."""
        display = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
        tags = "setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc=smpte2084:range=tv"
        self.ffmpeg("-f", "lavfi", "-i", "testsrc2=size=32x32:rate=25:duration=0.4", "-vf",
                    f"format=yuv420p10,{tags}", "-c:v", "libx264", "-x264-params",
                    f"mastering-display={display}:cll=1000,400", "in.mkv")
        self.ffmpeg("-i", "in.mkv", "-vf", flashvsr(scale=2), "-c:v", "libx264", "out.mkv")

        def described(name):
            found = self.probe("-show_frames", "-read_intervals", "%+#1", name)["frames"][0]
            keys = ("pix_fmt", "color_range", "color_space", "color_primaries", "color_transfer")
            side = {data["side_data_type"]: data for data in found.get("side_data_list", [])}
            return [found.get(key) for key in keys], {name: side.get(name) for name in (
                "Mastering display metadata", "Content light level metadata")}

        given, made = described("in.mkv"), described("out.mkv")
        self.assertEqual(given[0], ["yuv420p10le", "tv", "bt2020nc", "bt2020", "smpte2084"])
        self.assertEqual(given[1]["Content light level metadata"]["max_content"], 1000)
        self.assertEqual(made, given)

    def test_interlaced_input_is_warned_of_once(self):
        source = ["-f", "lavfi", "-i", "testsrc2=size=32x32:rate=25:duration=0.4"]
        warned = self.ffmpeg(*source, "-vf", f"setfield=tff,{flashvsr(scale=2)}", "-f", "null", "-")
        self.assertEqual(len(warned.filter_warnings()), 1, str(warned))
        self.assertIn("bwdif", warned.filter_warnings()[0])
        quiet = self.ffmpeg(*source, "-vf", flashvsr(scale=2), "-f", "null", "-")
        self.assertEqual(quiet.filter_warnings(), [], str(quiet))


if __name__ == "__main__":
    main()
