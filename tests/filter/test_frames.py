#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The frame contract: every frame comes out once, at its own time, and nothing else of a file changes."""

import unittest

from support import Case, FrameList, flashvsr, main

LENGTHS = [*range(1, 61), 100, 145, 200]
TIMESCALE = 12800
STEP = TIMESCALE // 25


class FrameContract:
    """Every length, for one kind of time stamps: EXPRESSION is the PTS of frame N as a filter writes it, pts()
    the same in Python."""

    PASS = ["-fps_mode", "passthrough", "-enc_time_base", "filter", "-c:v", "rawvideo", "-f", "framecrc"]

    def make_clips(self):
        """One file per length, cut from the longest one. In QuickTime every frame has its own duration."""
        longest = self.folder / "longest.mov"
        self.ffmpeg("-f", "lavfi", "-i", f"testsrc2=size=8x8:rate=25,settb=1/{TIMESCALE},setpts='{self.EXPRESSION}'",
                    "-frames:v", max(LENGTHS), *self.PASS[:4], "-video_track_timescale", TIMESCALE,
                    "-c:v", "rawvideo", "-pix_fmt", "rgb24", longest)
        outputs = []
        for length in LENGTHS:
            outputs += ["-map", "0:v", "-c", "copy", "-frames:v", length, f"{length}.mov"]
        self.ffmpeg("-i", longest, *outputs)

    def check_length(self, length):
        clip, before, after = (self.folder / f"{length}.{end}" for end in ("mov", "before", "after"))
        self.ffmpeg("-i", clip, "-map", "0:v", *self.PASS, before,
                    "-map", "0:v", "-vf", flashvsr(scale=4), *self.PASS, after)
        given, made = FrameList(before.read_text()), FrameList(after.read_text())
        self.assertEqual(given.pts, [self.pts(i) for i in range(length)], "the clip is not what was meant")
        self.assertEqual(given.durations[:-1], [self.pts(i + 1) - self.pts(i) for i in range(length - 1)])
        self.assertEqual(given.size, "8x8")
        self.assertEqual(len(made), length)
        self.assertEqual(made.time_base, given.time_base)
        self.assertEqual(made.pts, given.pts)
        self.assertEqual(made.durations, given.durations)
        self.assertEqual(made.size, "32x32")
        self.assertEqual(set(made.bytes), {32 * 32 * 3})

    def test_every_length_comes_back_whole(self):
        self.make_clips()
        outcomes = self.in_parallel(self.check_length, LENGTHS)
        self.assertEqual(len(outcomes), 63)


class Constant(FrameContract, Case):
    EXPRESSION = f"N*{STEP}"

    def pts(self, i):
        return i * STEP


class Jittered(FrameContract, Case):
    EXPRESSION = f"N*{STEP}+mod(N*N*97\\,211)"

    def pts(self, i):
        return i * STEP + i * i * 97 % 211


class Gapped(FrameContract, Case):
    EXPRESSION = f"N*{STEP}+floor(N/7)*30011+gte(N\\,20)*1000000"

    def pts(self, i):
        return i * STEP + i // 7 * 30011 + (1000000 if i >= 20 else 0)


class OddTimes(Case):
    """Time stamps that a file would not hold, made by a filter in front."""

    GRAPH = "settb={time_base},setpts='{pts}'"
    WRITE = ["-copyts", "-fps_mode", "passthrough", "-enc_time_base", "filter", "-f", "framecrc", "-"]

    def check(self, time_base, pts, frames=30):
        graph = self.GRAPH.format(time_base=time_base, pts=pts)
        source = ["-copyts", "-f", "lavfi", "-i", f"testsrc2=size=8x8:rate=25,trim=end_frame={frames},{graph}"]
        given = FrameList(self.ffmpeg(*source, "-vf", "format=gbrp", *self.WRITE).text)
        made = FrameList(self.ffmpeg(*source, "-vf", flashvsr(), *self.WRITE).text)
        self.assertEqual(len(given), frames)
        self.assertEqual(given.time_base, time_base)
        self.assertEqual((made.time_base, made.pts, made.durations),
                         (given.time_base, given.pts, given.durations))
        return made

    def test_starts_below_zero(self):
        self.assertEqual(self.check("1/25", "N-7").pts[0], -7)

    def test_starts_late(self):
        self.assertEqual(self.check("1/90000", "N*3003+8589934592").pts[0], 2 ** 33)

    def test_fine_time_base(self):
        self.check("1/1000000000", "N*41708333+mod(N*N\\,7)")


class Pipeline(Case):
    """What stands around the filter in an ordinary transcode."""

    SOURCE = ["-f", "lavfi", "-i", "testsrc2=size=16x16:rate=25:duration=1.64",
              "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100:duration=1.64"]
    FRAMES = 41

    def check_sound_is_untouched(self, codec, suffix):
        clip, out = f"in.{suffix}", f"out.{suffix}"
        self.ffmpeg(*self.SOURCE, "-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", codec, clip)
        self.ffmpeg("-i", clip, "-vf", flashvsr(), "-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "copy", out)

        def packets(name):
            """Contents and times of the sound's packets."""
            return self.ffmpeg("-i", name, "-map", "0:a", "-c", "copy", "-f", "framecrc", "-").text

        def stream_hash(name):
            return self.ffmpeg("-i", name, "-map", "0:a", "-c", "copy", "-f", "streamhash", "-").text

        self.assertIn("SHA256=", stream_hash(clip))
        self.assertEqual(stream_hash(out), stream_hash(clip))
        self.assertEqual(packets(out), packets(clip))
        self.assertGreater(len(packets(clip).splitlines()), 20)
        video = self.probe("-select_streams", "v", "-count_frames", "-show_streams", out)["streams"][0]
        self.assertEqual((video["nb_read_frames"], video["width"], video["height"]), (str(self.FRAMES), 64, 64))
        before = self.probe("-select_streams", "v", "-show_entries", "frame=pts_time,duration_time", clip)
        after = self.probe("-select_streams", "v", "-show_entries", "frame=pts_time,duration_time", out)
        self.assertEqual(after["frames"], before["frames"])

    def test_sound_passes_bit_exact_in_mp4(self):
        self.check_sound_is_untouched("aac", "mp4")

    def test_sound_passes_bit_exact_in_matroska(self):
        self.check_sound_is_untouched("pcm_s16le", "mkv")

    def test_metadata_stays_with_its_frame(self):
        key = "lavfi.signalstats.YAVG"
        source = ["-f", "lavfi", "-i", "nullsrc=size=16x16:rate=25:duration=1.64,format=yuv444p,"
                  "geq=lum='16+5*N':cb=128:cr=128,signalstats"]
        report = f"metadata=print:key={key}:file=-"
        given = self.ffmpeg(*source, "-vf", f"format=gbrp,{report}", "-f", "null", "-").text
        made = self.ffmpeg(*source, "-vf", f"{flashvsr()},{report}", "-f", "null", "-").text
        self.assertEqual(given.count(key), self.FRAMES)
        self.assertEqual(len(set(line for line in given.splitlines() if key in line)), self.FRAMES)
        self.assertEqual(made, given)

    def test_each_picture_belongs_to_its_frame(self):
        """The colour fix gives a frame the mean of the input frame with the same index."""
        source = "nullsrc=size=32x32:rate=25:duration=1.64,format=gbrp," \
                 "geq=r='40+4*N':g='210-4*N':b='60+mod(N*37\\,120)'"
        content = self.frames(flashvsr(color_fix="adain"), source=source)
        plane = 128 * 128
        self.assertEqual(len(content), self.FRAMES * 3 * plane)
        for i in range(self.FRAMES):
            expected = [210 - 4 * i, 60 + i * 37 % 120, 40 + 4 * i]
            for channel, value in enumerate(expected):
                start = (3 * i + channel) * plane
                mean = sum(content[start:start + plane]) / plane
                self.assertAlmostEqual(mean, value, delta=1.5, msg=f"frame {i}, plane {channel} of G, B, R")


if __name__ == "__main__":
    main()
