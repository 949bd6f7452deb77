#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Segments on several workers: every frame comes out once, at its own time, whatever the clip's length.

From the environment: FLASHVSR_TEST_LENGTHS=all, for every length from 1 to 300 with more kinds of segments, which
takes hours.
"""

import itertools
import os
import re

from support import Case, FrameList, flashvsr, main

LENGTHS = [1, 2, 20, 21, 22, 29, 30, 31, 60, 61, 100, 145, 300]
# Workers, overlap, length of a segment (0: chosen by the engine).
SEGMENTS = [(2, 0, 7), (2, 0, 21), (3, 0, 50), (2, 1, 9), (3, 1, 22), (2, 10, 20), (3, 10, 45), (2, 10, 0),
            (2, 25, 50), (3, 25, 100)]
if os.environ.get("FLASHVSR_TEST_LENGTHS") == "all":
    LENGTHS = [*range(1, 301)]
    SHARED = [*itertools.product((2, 3), (0, 1, 10, 25))]
    SEGMENTS = [(*shared, 100) for shared in SHARED] + [(*shared, 2 * shared[1] + 7) for shared in SHARED]
TIMESCALE = 12800
STEP = TIMESCALE // 25
WRITE = ["-fps_mode", "passthrough", "-enc_time_base", "filter", "-pix_fmt", "gbrp", "-c:v", "rawvideo",
         "-f", "framecrc", "-"]


def split(workers, overlap, segment):
    """The filter with that many workers on the CPU, as it is written in a filter graph."""
    return flashvsr(device=r"\|".join(["cpu"] * workers), multi_gpu="frames", overlap=overlap, segment=segment)


class Segments(Case):
    def check(self, case):
        length, segments = case
        source = (f"testsrc2=size=8x8:rate=25,settb=1/{TIMESCALE},"
                  f"setpts='N*{STEP}+mod(N*N*97\\,211)',trim=end_frame={length}")
        run = self.ffmpeg("-copyts", "-f", "lavfi", "-i", source, "-vf", split(*segments), *WRITE, timeout=300)
        made = FrameList(run.text)
        self.assertEqual(run.filter_warnings(), [])
        self.assertEqual(made.pts, [i * STEP + i * i * 97 % 211 for i in range(length)])
        self.assertEqual(made.time_base, f"1/{TIMESCALE}")
        self.assertEqual((made.size, set(made.bytes)), ("32x32", {32 * 32 * 3}))

    def test_every_length_comes_back_whole(self):
        for segments in SEGMENTS:
            with self.subTest("workers, overlap and segment", segments=segments):
                self.in_parallel(self.check, [(length, segments) for length in LENGTHS])
                print(f"{len(LENGTHS)} lengths: {segments[0]} workers, overlap {segments[1]}, segment {segments[2]}",
                      flush=True)

    def test_the_work_of_every_worker_is_summed_up(self):
        run = self.ffmpeg("-f", "lavfi", "-i", "testsrc2=size=8x8:rate=25:duration=3.2", "-vf",
                          split(2, 10, 30), "-f", "null", "-")
        lines = [line for line in run.stderr.splitlines() if "[info] device cpu: " in line]
        self.assertEqual(len(lines), 2, str(run))
        at_work = [line for line in lines if not line.endswith(": no work")]
        self.assertGreater(len(at_work), 0, str(run))
        for line in at_work:
            found = re.search(r"device cpu: (\d+) chunks, [\d.e-]+ s at work, tiles of 128x128 output pixels in "
                              r"batches \((\d+) of 1\), 0 times out of memory$", line)
            self.assertIsNotNone(found, line)
            self.assertEqual(found[1], found[2])


class FirstFrame(Case):
    """A part of a clip that says where it begins sees the noise of the whole clip."""

    SEGMENT, FRAMES, LOOK_AHEAD = 32, 72, 4
    SIZE = 3 * 32 * 32

    def pictures(self, begin=0, end=FRAMES, **options):
        """Frames of a part, without a colour fix, which would hide some of the noise."""
        graph = f"trim=start_frame={begin}:end_frame={end},{flashvsr(color_fix='none', **options)}"
        content = self.frames(graph, source="testsrc2=size=8x8:rate=25")
        return [content[i:i + self.SIZE] for i in range(0, len(content), self.SIZE)]

    def test_a_part_is_that_segment_of_the_whole(self):
        """Both start cold at the same frame. The segment looks at four frames after its end, too."""
        whole = self.pictures(segment=self.SEGMENT, overlap=0)
        self.assertEqual(len(whole), self.FRAMES)
        for begin in (0, 32, 64):
            end = min(begin + self.SEGMENT, self.FRAMES)
            seen = min(end + self.LOOK_AHEAD, self.FRAMES)
            with self.subTest(begin=begin):
                part = self.pictures(begin, seen, first_frame=begin)
                self.assertEqual(len(part), seen - begin)
                self.assertTrue(part[:end - begin] == whole[begin:end], "other pictures than in the whole clip")
        self.assertFalse(self.pictures(32, 68)[:32] == whole[32:64], "the noise is the same everywhere")


if __name__ == "__main__":
    main()
