#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the pictures look like on their way through: planes, depths, options, several filters at once."""

import re
import struct
import subprocess

from support import BIN, ROOT, Case, FrameList, environment, flashvsr, main, model

OPTIONS = {
    "model": None, "model_dir": None, "version": None, "scale": "4", "w": None, "h": None, "device": "auto",
    "precision": "auto", "sparse_ratio": "2", "kv_ratio": "3", "local_range": "11", "color_fix": "auto", "seed": "0",
    "multi_gpu": "0", "overlap": "10", "segment": "0", "tiled": "auto", "tiled_dit": "auto", "tile_size": "256",
    "tile_overlap": "24", "tile_batch": "1", "adaptive_batch": "false", "adaptive_batch_size": "false",
    "vram_limit": "0", "unload_dit": "false", "first_frame": "0",
}
COLOR_FIXES = ["auto", "none", "adain", "wavelet"]
PRECISIONS = ["auto", "fp32", "bf16", "fp16", "fp8"]


def means(content, samples):
    """Mean of each of the planes of a picture: samples is a struct code."""
    size = struct.calcsize(samples)
    plane = len(content) // 3
    values = struct.unpack(f"<{len(content) // size}{samples}", content)
    count = plane // size
    return [sum(values[i * count:(i + 1) * count]) / count for i in range(3)]


class Pictures(Case):
    def constant(self, color, **options):
        """Mean G, B and R of the first frame made of a constant colour; the target is 128x128."""
        content = self.frames(flashvsr(**options), "-frames:v", 1,
                              source=f"color={color}:size=32x32:rate=25,format=gbrp")
        self.assertEqual(len(content), 3 * 128 * 128)
        return means(content, "B")

    def test_planes_are_in_the_right_order(self):
        for color, expected in (("0x808080", (128, 128, 128)), ("red", (0, 0, 255)), ("lime", (255, 0, 0)),
                                ("blue", (0, 255, 0)), ("0x2060C0", (0x60, 0xC0, 0x20)), ("black", (0, 0, 0)),
                                ("white", (255, 255, 255))):
            for fix, allowed in (("adain", 2), ("wavelet", 12)):
                with self.subTest(color, color_fix=fix):
                    for found, value in zip(self.constant(color, color_fix=fix), expected):
                        self.assertAlmostEqual(found, value, delta=allowed)

    def check_depth(self, pixels, value, samples, allowed):
        """A value that 8 bits do not have comes out as it went in, without a conversion on the way."""
        source = f"nullsrc=size=32x32:rate=25,format={pixels},geq=r='{value}':g='{value}':b='{value}'"
        run = self.ffmpeg("-f", "lavfi", "-i", source, "-vf", f"{flashvsr(color_fix='adain')},showinfo",
                          "-frames:v", 1, "-f", "rawvideo", "-")
        self.assertRegex(run.stderr, f"fmt:{pixels}(le)? ")
        self.assertEqual(len(run.stdout), 3 * 128 * 128 * struct.calcsize(samples))
        for found in means(run.stdout, samples):
            self.assertAlmostEqual(found, value, delta=allowed)

    def test_depths(self):
        for pixels, value, samples, allowed in (
                ("gbrp", 77, "B", 0.5), ("gbrp9", 155, "H", 0.5), ("gbrp10", 301, "H", 0.5), ("gbrp12", 1201, "H", 2),
                ("gbrp14", 4801, "H", 8), ("gbrp16", 19201, "H", 32), ("gbrpf32", 0.293, "f", 0.0005)):
            with self.subTest(pixels):
                self.check_depth(pixels, value, samples, allowed)

    def test_other_formats_are_taken(self):
        for pixels in ("yuv420p", "nv12", "rgb24", "gray", "yuv422p10le", "rgba"):
            with self.subTest(pixels):
                run = self.ffmpeg("-f", "lavfi", "-i", "testsrc2=size=32x32:rate=25", "-vf",
                                  f"format={pixels},{flashvsr()}", "-frames:v", 1, "-f", "framecrc", "-")
                self.assertEqual(FrameList(run.text).size, "128x128")

    def test_two_runs_give_the_same(self):
        def checksums():
            return self.ffmpeg("-f", "lavfi", "-i", "testsrc2=size=32x32:rate=25:duration=1.6", "-vf", flashvsr(),
                               "-f", "framemd5", "-").text
        first = checksums()
        self.assertEqual(len([line for line in first.splitlines() if not line.startswith("#")]), 40)
        self.assertEqual(checksums(), first)

    def test_a_longer_video_begins_with_the_same_frames(self):
        """All but what looks ahead into the padding at the end: a chunk of 8 frames and the 4 after it."""
        def checksums(frames):
            graph = f"trim=end_frame={frames},{flashvsr()}"
            return FrameList(self.ffmpeg("-f", "lavfi", "-i", "testsrc2=size=32x32:rate=25", "-vf", graph,
                                         "-f", "framecrc", "-").text).checksums
        long = checksums(45)
        for frames, same in ((25, 21), (33, 29), (41, 37)):
            found = checksums(frames)
            self.assertEqual(len(found), frames)
            self.assertEqual(found[:same], long[:same])

    def test_every_option_reaches_the_engine(self):
        source = "testsrc2=size=64x64:rate=25:duration=1.8"

        def pictures(**options):
            return self.digest(flashvsr(**{"color_fix": "none", **options}), source=source)
        base = pictures()
        for options in ({"seed": 1}, {"seed": 2 ** 63}, {"sparse_ratio": 0.1}, {"kv_ratio": 1}, {"version": 1},
                        {"first_frame": 4}, {"local_range": 1}, {"color_fix": "adain"}, {"color_fix": "wavelet"},
                        {"scale": 3.5}, {"tiled": 1, "tile_size": 32, "tile_overlap": 8}):
            with self.subTest(**options):
                self.assertNotEqual(pictures(**options), base)
        for options in ({"seed": 0}, {"version": 1.1}, {"device": "cpu"}, {"precision": "fp32"}, {"kv_ratio": 3.9},
                        {"scale": 4.0}, {"w": 256, "h": "ih*4"}, {"tiled": 0}, {"tile_size": 32}, {"segment": 400, "overlap": 25},
                        {"vram_limit": 0.9}, {"unload_dit": 1}):
            with self.subTest(**options):
                self.assertEqual(pictures(**options), base)

    def test_batches_are_chosen_within_the_limit(self):
        """With 2 bytes there is room for nothing beside the tile that has to run."""
        for options, chosen in (({}, 0), ({"adaptive_batch": 1}, 1), ({"adaptive_batch": 1, "vram_limit": 2}, 0)):
            with self.subTest(**options):
                run = self.ffmpeg("-loglevel", "level+verbose", "-f", "lavfi", "-i",
                                  "testsrc2=size=64x64:rate=25", "-frames:v", 1, "-vf",
                                  flashvsr(tiled=1, tile_size=32, tile_overlap=8, **options), "-f", "null", "-")
                self.assertEqual(run.stderr.count("tile batch 1 -> "), chosen, str(run))

    def test_unload_dit_says_that_it_does_nothing_on_the_cpu(self):
        for device in ("cpu", r"cpu\|cpu"):
            for given, lines in ((1, 1), (0, 0)):
                with self.subTest(device=device, unload_dit=given):
                    run = self.ffmpeg("-f", "lavfi", "-i", "testsrc2=size=16x16:rate=25", "-frames:v", 1, "-vf",
                                      flashvsr(device=device, unload_dit=given), "-f", "null", "-")
                    self.assertEqual(run.stderr.count("[info] unload_dit does nothing on the CPU"), lines, str(run))

    def test_both_names_of_the_model(self):
        one = self.digest(f"flashvsr=model={model('wide')}")
        other = self.digest(f"flashvsr=model_dir={model('wide')}")
        self.assertEqual(one, other)
        self.assertNotEqual(one, self.digest(flashvsr("mini")))

    def test_model_from_the_environment(self):
        command = ["-f", "lavfi", "-i", "testsrc2=size=16x16:rate=25", "-frames:v", 1]
        given = self.ffmpeg(*command, "-vf", flashvsr(), "-f", "framecrc", "-").text
        found = self.ffmpeg(*command, "-vf", "flashvsr", "-f", "framecrc", "-",
                            env={"FLASHVSR_MODEL_DIR": model("mini")}).text
        self.assertEqual(found, given)

    def test_path_with_odd_letters(self):
        odd = self.folder / "modèle d'été, 1:1"
        odd.symlink_to(model("mini"))
        escaped = re.sub(r"([\\':,])", r"\\\1", re.sub(r"([\\':])", r"\\\1", str(odd)))
        self.assertEqual(self.digest(f"flashvsr=model={escaped}"), self.digest(flashvsr()))

    def test_one_filter_behind_another(self):
        run = self.ffmpeg("-f", "lavfi", "-i", "testsrc2=size=16x16:rate=25:duration=1.4", "-vf",
                          f"{flashvsr(scale=2)},{flashvsr('wide', scale=1.5)}", "-f", "framecrc", "-")
        found = FrameList(run.text)
        self.assertEqual((found.size, found.pts), ("48x48", list(range(35))))

    def test_two_filters_beside_each_other(self):
        run = self.ffmpeg("-f", "lavfi", "-i", "testsrc2=size=16x16:rate=25:duration=1.4", "-filter_complex",
                          f"split[a][b];[a]{flashvsr()}[c];[b]{flashvsr()}[d];[c][d]hstack", "-f", "framecrc", "-")
        found = FrameList(run.text)
        self.assertEqual((found.size, found.pts), ("128x64", list(range(35))))

    def test_help_lists_every_option(self):
        done = subprocess.run([BIN / "ffmpeg", "-hide_banner", "-h", "filter=flashvsr"], capture_output=True, text=True,
                              env=environment(), timeout=60, check=True)
        listed = dict(re.findall(r"^ {2,3}-?(\w+) +<\w+> +\S+ (.*)$", done.stdout, re.MULTILINE))
        self.assertEqual(sorted(listed), sorted(OPTIONS))
        for name, default in OPTIONS.items():
            if default is not None:
                self.assertRegex(listed[name], rf'\(default "?{re.escape(default)}"?\)')
        for name in [*COLOR_FIXES, *PRECISIONS]:
            self.assertRegex(done.stdout, rf"(?m)^ {{4,}}{name} ")

    def test_documentation_has_every_option(self):
        text = (ROOT / "vf_flashvsr" / "flashvsr.texi").read_text()
        for name in [*OPTIONS, *COLOR_FIXES, *PRECISIONS]:
            self.assertRegex(text, rf"(?m)^@item {name}$")


if __name__ == "__main__":
    main()
