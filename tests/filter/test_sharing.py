#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Several instances in one process: they share the weights of one model, and nothing else."""

from support import Case, flashvsr, main

CLIP = "testsrc2=size=32x32:rate=25:duration=1.6,format=gbrp"
RAW = ["-fps_mode", "passthrough", "-pix_fmt", "gbrp", "-f", "rawvideo"]
FIRST, SECOND = {"seed": 1}, {"seed": 2, "scale": 2}
FRAME = 3 * 128 * 128  # bytes of one of the first's


class Sharing(Case):
    def alone(self, **options):
        """Frames of a run with one instance."""
        content = self.frames(flashvsr(**options), source=CLIP)
        self.assertNotEqual(content, b"")
        return content

    def check(self, *given, loads, first, second):
        """A run whose outputs are the files first and second."""
        run = self.ffmpeg("-loglevel", "repeat+level+verbose", "-f", "lavfi", "-i", CLIP, *given)
        self.assertEqual(run.stderr.count(": model \""), loads, str(run))
        self.assertEqual("the weights of \"random weights\" on cpu are shared with 1 other\n" in run.stderr,
                         loads == 1, str(run))
        self.assertEqual(run.filter_warnings(), [], str(run))
        self.assertTrue((self.folder / "first").read_bytes() == first, str(run))
        self.assertTrue((self.folder / "second").read_bytes() == second, str(run))

    def check_graph(self, first, second, loads, ending="", frames=None):
        """Two instances in one graph, of which what `ending` leaves of the first is kept."""
        graph = f"[0:v]split[a][b];[a]{flashvsr(**first)}{ending}[c];[b]{flashvsr(**second)}[d]"
        self.check("-filter_complex", graph, "-map", "[c]", *RAW, "first", "-map", "[d]", *RAW, "second",
                   loads=loads, first=self.alone(**first)[:frames and frames * FRAME], second=self.alone(**second))

    def test_two_instances_in_one_graph(self):
        self.check_graph(FIRST, SECOND, 1)

    def test_two_models_in_one_graph(self):
        self.check_graph(FIRST, {**SECOND, "name": "wide"}, 2)

    def test_two_versions_in_one_graph(self):
        self.check_graph({**FIRST, "version": "1"}, {**SECOND, "version": "1.1"}, 2)

    def test_one_after_the_other(self):
        graph = f"{flashvsr(scale=1)},{flashvsr(**SECOND)}"
        once = self.folder / "once"
        once.write_bytes(self.alone(scale=1))
        raw = ["-f", "rawvideo", "-pixel_format", "gbrp", "-video_size", "32x32", "-framerate", "25"]
        expected = self.ffmpeg(*raw, "-i", once, "-vf", flashvsr(**SECOND), *RAW, "-").stdout
        self.check("-vf", graph, *RAW, "first", "-vf", "null", *RAW, "second", loads=1, first=expected,
                   second=self.frames("null", source=CLIP))

    def test_one_branch_is_trimmed(self):
        self.check_graph(FIRST, SECOND, 1, ",trim=end_frame=3", 3)

    def test_one_graph_is_closed_before_the_other(self):
        """Two graphs, which are opened and closed by threads of their own."""
        for ending, frames in ((("-frames:v", 2), 2), (("-t", 0.2), 5)):
            with self.subTest(ending=ending):
                self.check("-map", "0:v", "-vf", flashvsr(**FIRST), *ending, *RAW, "first",
                           "-map", "0:v", "-vf", flashvsr(**SECOND), *RAW, "second",
                           loads=1, first=self.alone(**FIRST)[:frames * FRAME], second=self.alone(**SECOND))


if __name__ == "__main__":
    main()
