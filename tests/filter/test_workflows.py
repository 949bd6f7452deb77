#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every command of docs/workflows.md runs as it stands there and makes what it says, on small inputs."""

import re

from support import ROOT, Case, main

PAGE = ROOT / "docs" / "workflows.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FRAMES = 30
# By what a block has in it: the videos that it makes, with their size and pixel format.
RESULTS = {
    "-vf flashvsr -c:a copy out.mp4": {"out.mp4": (128, 128, "yuv420p")},
    "-map 0 -c copy": {"out.mkv": (96, 96, "yuv420p")},
    "for file in": {"upscaled/a.mp4": (128, 128, "yuv420p"), "upscaled/b c.mp4": (128, 128, "yuv420p")},
    "large/%04d.png": {"large/%04d.png": (128, 128, "rgb24")},
    "cat in.ts": {"out.ts": (64, 64, "yuv420p")},
    "cat frames.yuv": {"out.y4m": (64, 64, "yuv420p")},
    "format=yuv420p10": {"out.mkv": (128, 128, "yuv420p10le")},
    "hdr.mkv": {"out.mkv": (64, 64, "yuv420p10le")},
    "bwdif": {"out.mp4": (64, 64, "yuv420p")},
    "split[a][b]": {"half.mp4": (64, 64, "yuv420p"), "full.mp4": (128, 128, "yuv420p")},
    "sizes.ts": {"out.mp4": (64, 64, "yuv420p")},
}


class Workflows(Case):
    def make_inputs(self):
        video = ["-f", "lavfi", "-i", f"testsrc2=size=32x32:rate=25,trim=end_frame={FRAMES}"]
        sound = ["-f", "lavfi", "-i", "sine=sample_rate=48000", "-shortest", "-c:a", "aac"]
        coded = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]
        for folder in ("clips", "frames"):
            (self.folder / folder).mkdir()
        for name in ("in.mp4", "in.mkv", "in.ts", "clips/a.mp4", "clips/b c.mp4"):
            self.ffmpeg(*video, *sound, *coded, name)
        self.ffmpeg(*video, "frames/%04d.png")
        self.ffmpeg(*video, "-pix_fmt", "yuv420p", "-f", "rawvideo", "frames.yuv")
        tags = "setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc=smpte2084:range=tv"
        self.ffmpeg(*video, *sound, *coded[:-1], "yuv420p10", "-vf", f"format=yuv420p10,{tags}", "hdr.mkv")
        self.ffmpeg(*video, *sound, *coded, "-vf", "setfield=tff", "-flags", "+ildct+ilme", "interlaced.ts")
        parts = []
        for size in (32, 48):
            self.ffmpeg(*video, *sound, *coded, "-bf", 0, "-s", f"{size}x{size}", "-frames:v", FRAMES // 2,
                        f"{size}.ts")
            parts.append((self.folder / f"{size}.ts").read_bytes())
        (self.folder / "sizes.ts").write_bytes(b"".join(parts))

    def check_result(self, name, expected):
        found = self.probe("-select_streams", "v", "-count_frames", "-show_streams", name)["streams"][0]
        self.assertEqual((found["width"], found["height"], found["pix_fmt"], found["nb_read_frames"]),
                         (*expected, str(FRAMES)), name)

    def test_every_command(self):
        self.make_inputs()
        blocks = BLOCK.findall(PAGE.read_text())
        self.assertEqual(len(blocks), len(RESULTS))
        for block in blocks:
            with self.subTest(block):
                key, = [key for key in RESULTS if key in block]
                self.assertNotIn("is interlaced", self.shell(block).stderr)
                for name, expected in RESULTS[key].items():
                    self.check_result(name, expected)
                    for made in self.folder.glob(name.replace("%04d", "*")):
                        made.unlink()


if __name__ == "__main__":
    main()
