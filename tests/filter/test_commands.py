#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runtime commands: they hold for the frames that come after them, and options that are none stay as they are."""

from support import Case, FrameList, flashvsr, main

FRAMES, SIZE = 60, 3 * 32 * 32


class Commands(Case):
    def pictures(self, *commands, **options):
        """Frames of a clip that gets commands, as in "1.2 flashvsr color_fix none"."""
        graph = flashvsr(**{"color_fix": "adain", **options})
        if commands:
            graph = f"sendcmd=c='{';'.join(commands)}',{graph}"
        content = self.frames(graph, source=f"testsrc2=size=8x8:rate=25,trim=end_frame={FRAMES}")
        self.assertEqual(len(content), FRAMES * SIZE)
        return [content[i:i + SIZE] for i in range(0, len(content), SIZE)]

    def test_color_fix_holds_from_the_next_frame_on(self):
        for options in ({}, {"device": r"cpu\|cpu", "multi_gpu": "frames", "segment": 25, "overlap": 0},
                        {"first_frame": 40}):
            with self.subTest(**options):
                before, after = self.pictures(**options), self.pictures(**{**options, "color_fix": "none"})
                self.assertFalse(any(one == other for one, other in zip(before, after)))
                self.assertTrue(self.pictures("1.2 flashvsr color_fix none", **options) == before[:30] + after[30:])
                # In the middle of a chunk, twice, and back to what the model's directory leaves open.
                self.assertTrue(self.pictures("0.2 flashvsr color_fix none", "1.4 flashvsr color_fix auto", **options)
                                == before[:5] + after[5:35] + before[35:])

    def test_what_is_no_command_changes_nothing(self):
        base = self.pictures(color_fix="none")
        for command in ("seed 7", "kv_ratio 1", "nosuch 1"):
            with self.subTest(command):
                self.assertTrue(self.pictures(f"0.4 flashvsr {command}", color_fix="none") == base)

    def test_a_value_that_is_not_known_is_reported(self):
        graph = f"sendcmd=c='0.4 flashvsr color_fix nosuch',{flashvsr()}"
        run = self.run_ffmpeg("-f", "lavfi", "-i", "testsrc2=size=8x8:rate=25:duration=1.2", "-vf", graph, "-f",
                              "framecrc", "-")
        self.assertEqual((run.returncode, len(FrameList(run.text))), (0, 30), str(run))
        self.assertTrue(any("color_fix" in error and "nosuch" in error for error in run.filter_errors()), str(run))


if __name__ == "__main__":
    main()
