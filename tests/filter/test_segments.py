#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Segments on several workers: every frame comes out once, at its own time, whatever the clip's length."""

import re

from support import Case, FrameList, flashvsr, main

LENGTHS = [1, 2, 20, 21, 22, 29, 30, 31, 60, 61, 100, 145, 300]
# Workers, overlap, length of a segment (0: chosen by the engine).
SEGMENTS = [(2, 0, 7), (2, 0, 21), (3, 0, 50), (2, 1, 9), (3, 1, 22), (2, 10, 20), (3, 10, 45), (2, 10, 0),
            (2, 25, 50), (3, 25, 100)]
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
        self.in_parallel(self.check, [(length, segments) for length in LENGTHS for segments in SEGMENTS])

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


if __name__ == "__main__":
    main()
