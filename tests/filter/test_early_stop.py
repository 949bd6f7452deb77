#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs that end before the input does, or go wrong elsewhere: nothing hangs, leaks or breaks.

The sources have no end, so a filter that does not stop is found by the time limit.
"""

import contextlib
import random
import signal
import subprocess

from support import Case, FrameList, Run, arguments, environment, flashvsr, main

ENDLESS = ["-f", "lavfi", "-i", "testsrc2=size=16x16:rate=25"]
SLOW = ["-f", "lavfi", "-i", "testsrc2=size=16x16:rate=25,realtime"]


class EarlyStop(Case):
    def stop(self, *given, frames, source=ENDLESS):
        run = self.ffmpeg(*source, *given, "-fps_mode", "passthrough", "-f", "framecrc", "-", timeout=60)
        self.assertEqual(len(FrameList(run.text)), frames, str(run))
        self.assertEqual(run.filter_warnings(), [], str(run))

    def fail_elsewhere(self, reason, *given, source=ENDLESS):
        """A run that fails for a reason that is not the filter's."""
        run = self.run_ffmpeg(*source, *given, timeout=60)
        self.assertNotEqual(run.returncode, 0, str(run))
        self.assertIn(reason, run.stderr)
        self.assertEqual(run.filter_errors(), [], str(run))

    @contextlib.contextmanager
    def started(self, command):
        """A program that runs with its standard output in a pipe, and is ended in any case."""
        with open(self.folder / "log", "wb") as log:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                                     env=environment())
        try:
            yield child
        finally:
            child.kill()
            child.wait()
            child.stdout.close()

    def finished(self, child):
        child.wait(timeout=60)
        return self.check_sound(Run(child.args, child.returncode, b"", (self.folder / "log").read_bytes()))

    def test_first_frames(self):
        for frames in (1, 2, 20, 21, 22, 30):
            with self.subTest(frames=frames):
                self.stop("-vf", flashvsr(), "-frames:v", frames, frames=frames)

    def test_frames_that_stay_inside_are_told_of_to_who_asks(self):
        run = self.ffmpeg("-loglevel", "level+verbose", *ENDLESS, "-vf", flashvsr(), "-frames:v", 30, "-f", "null", "-")
        self.assertRegex(run.stderr, r"\[verbose\] Closed before the end of its input: the last \d+ frames ")

    def test_duration_of_the_output(self):
        self.stop("-vf", flashvsr(), "-t", 0.2, frames=5)
        self.stop("-vf", flashvsr(), "-t", 1.2, frames=30)

    def test_duration_of_the_input(self):
        self.stop("-vf", flashvsr(), frames=30, source=["-t", 1.2, *ENDLESS])

    def test_trimmed_behind_the_filter(self):
        self.stop("-filter_complex", f"[0:v]{flashvsr()},trim=end_frame=3[out]", "-map", "[out]", frames=3)
        self.stop("-filter_complex", f"[0:v]{flashvsr()},trim=start_frame=23:end_frame=26[out]", "-map", "[out]",
                  frames=3)

    def test_one_of_two_branches_ends(self):
        first, second = self.folder / "first", self.folder / "second"
        self.ffmpeg(*ENDLESS, "-filter_complex", f"[0:v]{flashvsr()},split[a][b];[a]trim=end_frame=2[c]",
                    "-map", "[c]", "-f", "framecrc", first,
                    "-map", "[b]", "-frames:v", 30, "-f", "framecrc", second)
        self.assertEqual(len(FrameList(first.read_text())), 2)
        self.assertEqual(len(FrameList(second.read_text())), 30)

    def test_one_of_two_instances_ends(self):
        graph = f"[0:v]split[a][b];[a]{flashvsr()},trim=end_frame=2[c];[b]{flashvsr(scale=2)}[d]"
        for kept in (30, 60):
            with self.subTest(kept=kept):
                self.ffmpeg(*ENDLESS, "-filter_complex", graph, "-map", "[c]", "-f", "framecrc", "first",
                            "-map", "[d]", "-frames:v", kept, "-f", "framecrc", "second", timeout=60)
                self.assertEqual(len(FrameList((self.folder / "first").read_text())), 2)
                self.assertEqual(len(FrameList((self.folder / "second").read_text())), kept)

    def test_wherever_it_ends(self):
        """Converted on the way in and out or not, in the middle of a chunk or between two."""
        chance = random.Random(50)
        stops = [(chance.randint(1, 70), chance.choice(["gbrp", "yuv420p", "rgb24"])) for _ in range(50)]

        def check(stop):
            frames, pixels = stop
            self.stop("-vf", f"format={pixels},{flashvsr(scale=2)}", "-frames:v", frames, frames=frames)

        self.in_parallel(check, stops)

    def test_ends_with_the_shorter_sound(self):
        out = "out.nut"
        self.ffmpeg(*ENDLESS, "-f", "lavfi", "-i", "sine=duration=1.2", "-vf", flashvsr(), "-c:v", "rawvideo",
                    "-c:a", "pcm_s16le", "-shortest", out, timeout=60)
        found = self.probe("-select_streams", "v", "-count_packets", "-show_streams", out)["streams"][0]
        self.assertGreaterEqual(int(found["nb_read_packets"]), 25)

    def test_encoder_that_does_not_open(self):
        self.fail_elsewhere("invalid preset 'nosuch'", "-vf", flashvsr(), "-c:v", "libx264", "-preset", "nosuch",
                            "-f", "null", "-")

    def test_output_that_is_full(self):
        self.fail_elsewhere("No space left on device", "-vf", flashvsr(), "-c:v", "rawvideo", "-flush_packets", 1,
                            "-f", "rawvideo", "/dev/full")

    def test_output_that_closes(self):
        command = arguments(*ENDLESS, "-vf", flashvsr(), "-c:v", "rawvideo", "-f", "rawvideo", "-")
        with self.started(command) as child:
            self.assertEqual(len(child.stdout.read(1000)), 1000)
            child.stdout.close()
            run = self.finished(child)
        self.assertNotEqual(run.returncode, 0, str(run))

    def test_graph_that_fails_behind_the_filter(self):
        self.fail_elsewhere("100000", "-vf", f"{flashvsr()},crop=w=100000", "-f", "null", "-")

    def interrupt(self, wanted, with_signal, source=ENDLESS):
        """Interrupt a run once ffmpeg has reported a number of frames; returns the frames that were written."""
        out = self.folder / "out.nut"
        command = arguments("-stats_period", 0.05, "-progress", "pipe:1", *source, "-vf", flashvsr(),
                            "-c:v", "rawvideo", out)
        with self.started(command) as child:
            for line in child.stdout:
                if line.startswith(b"frame=") and int(line.split(b"=")[1]) >= wanted:
                    break
            child.send_signal(with_signal)
            run = self.finished(child)
        self.assertEqual(run.returncode, 255, f"ffmpeg's status after a signal\n{run}")
        self.assertIn(f"received signal {int(with_signal)}", run.stderr)
        if not wanted:
            return 0
        found = self.probe("-count_packets", "-show_streams", out)["streams"][0]
        return int(found["nb_read_packets"])

    def test_interrupted_in_the_middle(self):
        self.assertGreaterEqual(self.interrupt(40, signal.SIGINT), 40)

    def test_terminated_in_the_middle(self):
        self.assertGreaterEqual(self.interrupt(40, signal.SIGTERM), 40)

    def test_interrupted_before_the_first_frame(self):
        self.interrupt(0, signal.SIGINT, source=SLOW)


if __name__ == "__main__":
    main()
