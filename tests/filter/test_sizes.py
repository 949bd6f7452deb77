#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The output is exactly as large as asked, and keeps its aspect ratio."""

import itertools
from fractions import Fraction

from support import Case, flashvsr, main

SIZES = [(2, 2), (37, 21), (129, 127), (320, 180), (128, 512)]
SCALES = [1, 1.5, 2, 3, 4]
ASPECTS = ["1:1", "16:11", None]  # None: unknown


class Sizes(Case):
    def upscaled(self, width, height, filter_text, aspect=None, name="out"):
        """Size and sample aspect ratio (None: unknown) of a frame that went through a filter and a file."""
        file = self.folder / f"{name}.nut"
        shape = f",setsar={aspect.replace(':', '/')}" if aspect else ",setsar=0"
        # The source makes only even sizes.
        self.ffmpeg("-f", "lavfi", "-i", f"testsrc2=size={width + 8 & ~1}x{height + 8 & ~1}:rate=25",
                    "-vf", f"format=gbrp,crop={width}:{height}:0:0{shape},{filter_text}",
                    "-frames:v", 1, "-c:v", "rawvideo", "-pix_fmt", "gbrp", file, timeout=300)
        found = self.probe("-show_streams", "-show_packets", file)
        stream, packets = found["streams"][0], found["packets"]
        self.assertEqual(len(packets), 1)
        self.assertEqual(int(packets[0]["size"]), stream["width"] * stream["height"] * 3)
        file.unlink()
        ratio = stream.get("sample_aspect_ratio", "0:1")
        return stream["width"], stream["height"], None if ratio in ("0:1", "N/A") else ratio

    def test_exactly_as_large_as_asked(self):
        cases = [(size, scale, ASPECTS[i % 3])
                 for i, (size, scale) in enumerate(itertools.product(SIZES, SCALES))]

        def check(case):
            (width, height), scale, aspect = case
            # round() takes ties to even, as the filter promises.
            expected = (round(width * scale), round(height * scale), aspect)
            found = self.upscaled(width, height, flashvsr(scale=scale), aspect, f"{width}x{height}-{scale}")
            self.assertEqual(found, expected)

        self.in_parallel(check, cases)

    def test_every_aspect_ratio_is_kept(self):
        for aspect in ASPECTS:
            with self.subTest(aspect=aspect):
                self.assertEqual(self.upscaled(37, 21, flashvsr(scale=1.5), aspect), (56, 32, aspect))

    def test_scale_that_is_not_a_short_fraction(self):
        self.assertEqual(self.upscaled(31, 17, flashvsr(scale=2.3)), (round(31 * 2.3), round(17 * 2.3), None))

    def test_largest_scale(self):
        self.assertEqual(self.upscaled(9, 5, flashvsr(scale=8)), (72, 40, None))

    def test_size_expressions(self):
        for options, width, height in [
                ({"w": "iw*2", "h": "ih*3"}, 64, 72),
                ({"w": "in_w*2", "h": "in_h*2"}, 64, 48),
                ({"w": "100", "h": "50"}, 100, 50),
                ({"w": "'trunc(iw*2.6/2)*2'", "h": "ow/a"}, 82, 61),
                ({"w": "oh*dar", "h": "ih*2"}, 64, 48),
                ({"w": "96", "h": "-1"}, 96, 72),
                ({"w": "-2", "h": "60"}, 80, 60),
                ({"w": "80"}, 80, 96),
                ({"h": "80", "scale": "2"}, 64, 80),
        ]:
            with self.subTest(**options):
                self.assertEqual(self.upscaled(32, 24, flashvsr(**options))[:2], (width, height))

    def test_display_aspect_ratio_stays_where_the_size_changes_it(self):
        for aspect in ("1:1", "16:11"):
            with self.subTest(aspect=aspect):
                width, height, found = self.upscaled(32, 32, flashvsr(w="64", h="128"), aspect)
                self.assertEqual((width, height), (64, 128))
                given = Fraction(*map(int, aspect.split(":")))
                made = Fraction(*map(int, found.split(":")))
                self.assertEqual(made * width / height, given)


if __name__ == "__main__":
    main()
