#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory does not grow with the length of the video."""

import os
import subprocess
import unittest

from support import SANITIZE, Case, FrameList, Run, arguments, environment, flashvsr, main

LENGTHS = [100, 400, 1000]
ALLOWED = 0.03
# What the program holds, not what the allocator keeps of what was freed: large blocks go back to the system at once.
# Left to itself, glibc moves them into its heaps, whose holes come and go by some MiB with the threads' timing.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


class Memory(Case):
    def peak(self, frames):
        """Peak resident memory in bytes of a run over so many frames."""
        out = self.folder / "frames"
        command = arguments("-f", "lavfi", "-i", "testsrc2=size=32x32:rate=25", "-vf",
                            f"trim=end_frame={frames},{flashvsr(scale=4)}", "-f", "framecrc", out)
        with open(self.folder / "log", "w+b") as log:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(ALLOCATOR))
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            log.seek(0)
            run = self.check_sound(Run(command, child.returncode, b"", log.read()))
        self.assertEqual(run.returncode, 0, str(run))
        self.assertEqual(len(FrameList(out.read_text())), frames)
        return usage.ru_maxrss * 1024

    @unittest.skipIf(SANITIZE, "a sanitizer keeps freed memory")
    def test_flat_over_100_400_and_1000_frames(self):
        peaks = {frames: self.peak(frames) for frames in LENGTHS}
        print("peak resident memory:",
              ", ".join(f"{frames} frames {bytes / 2 ** 20:.1f} MiB" for frames, bytes in peaks.items()))
        base = peaks[LENGTHS[0]]
        for frames, found in peaks.items():
            self.assertLessEqual(found, base * (1 + ALLOWED), f"{frames} frames: {peaks}")


if __name__ == "__main__":
    main()
