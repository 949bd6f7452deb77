#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What only a GPU shows. Skipped where there is none."""

import hashlib

from support import Case, flashvsr, main

SOURCE = ["-f", "lavfi", "-i", "testsrc2=size=96x64:rate=25:duration=1.6"]


class OnGpu(Case):
    def run_on_gpu(self, **options):
        """A run at level verbose, whose output are the pictures."""
        return self.run_ffmpeg("-loglevel", "level+verbose", *SOURCE, "-vf", flashvsr(**{"device": "cuda", **options}),
                               "-pix_fmt", "gbrp", "-f", "rawvideo", "-")

    def setUp(self):
        super().setUp()
        tried = self.run_on_gpu()
        if tried.returncode:
            self.skipTest((tried.filter_errors() or ["no GPU"])[0])

    def pictures(self, **options):
        run = self.run_on_gpu(**options)
        self.assertEqual((run.returncode, run.filter_errors(), run.filter_warnings()), (0, [], []), str(run))
        self.assertEqual(len(run.stdout), 40 * 3 * 384 * 256, str(run))
        self.assertEqual("take turns on cuda:0" in run.stderr, options.get("unload_dit", 0) == 1, str(run))
        return hashlib.sha256(run.stdout).hexdigest()


class Turns(OnGpu):
    """unload_dit: the same frames with the weights of one part on the GPU at a time."""

    def test_the_same_frames_come_out(self):
        for options in ({}, {"tiled": 1, "tile_size": 48, "tile_overlap": 8, "tile_batch": 2}, {"precision": "fp32"},
                        {"device": r"0\|0", "multi_gpu": "frames", "segment": 20, "overlap": 4}):
            with self.subTest(**options):
                self.assertEqual(self.pictures(unload_dit=1, **options), self.pictures(**options))


class SharedGpu(OnGpu):
    """Several workers on one GPU."""

    def test_tiles_come_out_as_from_one_worker(self):
        for precision in ("bf16", "fp32"):
            alone = {"precision": precision, "tiled": 1, "tile_size": 48, "tile_overlap": 8}
            expected = self.pictures(**alone)
            for device in (r"0\|0", r"0\|0\|0"):
                with self.subTest(device=device, precision=precision):
                    self.assertEqual(self.pictures(device=device, multi_gpu="tiles", **alone), expected)

    def test_segments_come_out_the_same_again_and_again(self):
        options = {"device": r"0\|0", "multi_gpu": "frames", "segment": 20, "overlap": 4}
        expected = self.pictures(**options)
        for run in range(6):
            with self.subTest(run=run):
                self.assertEqual(self.pictures(**options), expected)


if __name__ == "__main__":
    main()
