#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A size that changes in mid-stream costs no frame: ffmpeg makes a new filter graph, after it has taken what is
inside the old one, and scales what comes later to the size that the output began with."""

from support import Case, FrameList, flashvsr, main

WRITE = ["-pix_fmt", "gbrp", "-c:v", "rawvideo", "-f", "framecrc", "-"]
# With delimiters between pictures, so that the MPEG-TS muxer need not make them: UBSan reports how it does.
H264 = ["-c:v", "libx264", "-bf", 0, "-x264-params", "aud=1", "-pix_fmt", "yuv420p"]


def source(*parts):
    """A video whose parts are of another size each. A part is a number of frames and the side of their square."""
    side, end = "", 0
    for frames, pixels in parts:
        end += frames
        side += f"if(lte(n\\,{end})\\,{pixels}\\,"  # the scaler counts from 1
    side += "0" + ")" * len(parts)
    return ["-f", "lavfi", "-i", f"testsrc2=size=64x64:rate=25,trim=end_frame={end},scale={side}:{side}:eval=frame"]


class SizeChange(Case):
    def changed(self, *given, **settings):
        """A run that says that the graph was made anew, and loses nothing."""
        run = self.ffmpeg(*given, **settings)
        self.assertIn("Reconfiguring filter graph", run.stderr)
        self.assertEqual(run.filter_warnings(), [], str(run))
        return run

    def check(self, *parts):
        frames = FrameList(self.changed(*source(*parts), "-vf", flashvsr(), *WRITE).text)
        self.assertEqual(frames.pts, [*range(sum(count for count, _ in parts))], parts)
        self.assertEqual(set(frames.bytes), {3 * (4 * parts[0][1]) ** 2}, parts)

    def test_wherever_it_changes(self):
        """Before the first chunk is whole, when it is, and in the middle and at the end of later ones."""
        self.in_parallel(lambda count: self.check((count, 16), (30, 24)), [1, 2, 20, 21, 24, 25, 26, 32, 33, 34, 60])

    def test_however_little_follows(self):
        self.in_parallel(lambda count: self.check((40, 24), (count, 16)), [1, 2, 20, 21, 25, 26, 33])

    def test_again_and_again(self):
        self.check((12, 16), (30, 24), (1, 32), (27, 16), (3, 24), (40, 32))

    def test_each_part_is_as_if_it_were_alone(self):
        parts = [(40, 16), (30, 24)]
        both = FrameList(self.changed(*source(*parts), "-vf", flashvsr(), "-noautoscale", *WRITE).text)
        alone = FrameList(self.ffmpeg(*source(parts[0]), "-vf", flashvsr(), *WRITE).text)
        self.assertEqual(both.checksums[:40], alone.checksums)
        # The second part's own frames, without those of the first one.
        later = ["-vf", f"select=gte(n\\,40),{flashvsr()}", "-fps_mode", "passthrough", "-copyts"]
        alone = FrameList(self.ffmpeg(*source((70, 24)), *later, *WRITE).text)
        self.assertEqual(both.bytes[40:], alone.bytes)
        self.assertEqual(both.pts[40:], alone.pts)
        self.assertEqual(both.checksums[40:], alone.checksums)

    def two_streams(self, suffix, *given):
        """A file of 40 frames of 16x16 and 40 of 32x32, put together of two encoded ones."""
        both = self.folder / f"both.{suffix}"
        content = b""
        for size in (16, 32):
            part = self.folder / f"{size}.{suffix}"
            self.ffmpeg("-f", "lavfi", "-i", f"testsrc2=size={size}x{size}:rate=25", *given, "-t", 1.6,
                        *H264, part)
            content += part.read_bytes()
        both.write_bytes(content)
        return both

    def test_elementary_stream(self):
        both = self.two_streams("h264")
        frames = FrameList(self.changed("-framerate", 25, "-i", both, "-vf", flashvsr(), *WRITE).text)
        self.assertEqual(frames.pts, [*range(80)])
        self.assertEqual(set(frames.bytes), {3 * 64 ** 2})

    def test_transport_stream_with_sound(self):
        both = self.two_streams("ts", "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000", "-c:a", "aac")
        out = self.folder / "out.ts"
        self.changed("-i", both, "-vf", flashvsr(), *H264, "-c:a", "copy", out)
        video = self.probe("-select_streams", "v", "-count_frames", "-show_streams", out)["streams"][0]
        self.assertEqual((video["nb_read_frames"], video["width"], video["height"]), ("80", 64, 64))

        def sound(name):
            return self.ffmpeg("-i", name, "-map", "0:a", "-c", "copy", "-f", "streamhash", "-").text

        self.assertIn("SHA256=", sound(both))
        self.assertEqual(sound(out), sound(both))

    def test_nothing_wanted_before_it(self):
        """The graph that is made anew has had no frame for the filter; input from a pipe is trimmed in the graph."""
        both = self.two_streams("ts")
        for name in ("trim", "pipe"):
            with self.subTest(name):
                counts = []
                for graph in (flashvsr(), "null"):
                    if name == "trim":
                        run = self.changed("-i", both, "-vf", f"trim=start=2,{graph}", *WRITE)
                    else:
                        run = self.shell(f"ffmpeg -ss 2 -i pipe:0 -vf '{graph}' -pix_fmt gbrp -f framecrc - <{both}")
                        self.assertIn("Reconfiguring filter graph", run.stderr)
                    counts.append(len(FrameList(run.text)))
                self.assertEqual(*counts)
                self.assertGreater(counts[0], 0)

    def test_filters_that_move_frames_past_it(self):
        for moved, pts in (("setpts=PTS+4/TB", range(100, 170)), ("setpts=2*PTS", range(0, 140, 2))):
            for graph in (f"{flashvsr()},{moved}", f"{moved},{flashvsr()}", f"{flashvsr()},{moved},tpad=stop=-1"):
                with self.subTest(graph):
                    frames = FrameList(self.changed(*source((40, 16), (30, 24)), "-vf", graph, "-fps_mode",
                                                    "passthrough", "-frames:v", 70, *WRITE).text)
                    self.assertEqual(frames.pts, [*pts])
                    self.assertEqual(len(set(frames.checksums)), 70)

    def test_change_of_the_sound_beside_it(self):
        """It makes the graph that both are in anew, long before the end of the video."""
        both = self.folder / "both.ts"
        content = b""
        for channels in (1, 2):
            part = self.folder / f"{channels}.ts"
            self.ffmpeg("-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000", "-t", 1.6, "-ac", channels,
                        "-c:a", "aac", part)
            content += part.read_bytes()
        both.write_bytes(content)
        run = self.changed(*source((200, 16)), "-i", both, "-filter_complex", f"[0:v]{flashvsr()}[v];[1:a]anull[a]",
                           "-map", "[v]", *WRITE, "-map", "[a]", "-f", "null", "-")
        self.assertEqual(FrameList(run.text).pts, [*range(200)])

    def test_filter_behind_it_that_never_ends(self):
        graph = f"{flashvsr()},tpad=stop=-1:stop_mode=clone"
        frames = FrameList(self.changed(*source((40, 16), (30, 24)), "-vf", graph, "-t", 4, *WRITE).text)
        self.assertEqual(frames.pts, [*range(100)])
        self.assertEqual(len(set(frames.checksums[:70])), 70, "frames were repeated before the end")
        self.assertEqual(len(set(frames.checksums[69:])), 1)

    def test_two_outputs(self):
        graph = f"[0:v]split[a][b];[a]{flashvsr()}[c];[b]{flashvsr(scale=2)}[d]"
        self.changed(*source((40, 16), (30, 24)), "-filter_complex", graph, "-map", "[c]", *WRITE[:-1], "first",
                     "-map", "[d]", *WRITE[:-1], "second")
        for name, side in (("first", 64), ("second", 32)):
            frames = FrameList((self.folder / name).read_text())
            self.assertEqual(frames.pts, [*range(70)], name)
            self.assertEqual(set(frames.bytes), {3 * side ** 2}, name)

    def test_stopped_around_the_change(self):
        for count in (10, 39, 40, 41, 60):
            with self.subTest(count):
                run = self.ffmpeg(*source((40, 16), (30, 24)), "-vf", flashvsr(), "-frames:v", count, *WRITE)
                self.assertEqual(FrameList(run.text).pts, [*range(count)])

    def test_size_that_is_too_large(self):
        """What came before it comes out, and the run fails with a sentence."""
        large = "if(lte(n\\,30)\\,16\\,8200)"
        run = self.run_ffmpeg("-f", "lavfi", "-i", "testsrc2=size=16x16:rate=25:duration=2,"
                              f"scale={large}:2:eval=frame", "-vf", flashvsr(scale=8), *WRITE)
        self.assertNotEqual(run.returncode, 0, str(run))
        errors = run.filter_errors()
        self.assertEqual(len(errors), 1, str(run))
        for needle in ("scale", "8200", "32768"):
            self.assertIn(needle, errors[0])
        self.assertEqual(FrameList(run.text).pts, [*range(30)])

    def test_without_a_new_graph(self):
        """A scaler to one size in front makes the same of all frames."""
        graph = f"scale=16:16,{flashvsr()}"
        run = self.ffmpeg("-reinit_filter", 0, *source((40, 16), (30, 24)), "-vf", graph, *WRITE)
        self.assertNotIn("Reconfiguring", run.stderr)
        self.assertEqual(FrameList(run.text).bytes, [3 * 64 ** 2] * 70)


if __name__ == "__main__":
    main()
