# SPDX-License-Identifier: LGPL-2.1-or-later
"""H.264 as a degradation: batches of small clips through ffmpeg's x264 and back, on the CPU's idle cores."""

import concurrent.futures
import os
import subprocess

import numpy as np

CRF_RANGE = (17, 33)
PRESETS = ("veryfast", "fast", "medium")


class Codec:
    """ffmpeg: the program's path. library_path: folder of its shared libraries, or None."""

    def __init__(self, ffmpeg, workers, library_path=None):
        self.ffmpeg = ffmpeg
        self.environment = dict(os.environ)
        if library_path:
            self.environment["LD_LIBRARY_PATH"] = library_path
        self.pool = concurrent.futures.ThreadPoolExecutor(max_workers=workers)

    def _run(self, arguments, data):
        done = subprocess.run(
            [self.ffmpeg, "-v", "error", "-nostdin", "-threads", "1", *arguments],
            input=data,
            env=self.environment,
            capture_output=True,
        )
        if done.returncode:
            raise RuntimeError(f"{self.ffmpeg} failed: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout

    def compress(self, clips, crf, preset):
        """clips (B,T,h,w,3) uint8, h and w even -> the same after x264. Each clip starts with a key frame."""
        batch, frames, height, width, _ = clips.shape
        raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", "25", "-i", "pipe:0")
        stream = self._run(
            [
                *raw,
                "-c:v",
                "libx264",
                "-preset",
                preset,
                "-crf",
                str(crf),
                "-pix_fmt",
                "yuv420p",
                "-threads",
                "1",
                "-x264-params",
                f"keyint={frames}:min-keyint={frames}:scenecut=0",
                "-f",
                "nut",
                "pipe:1",
            ],
            np.ascontiguousarray(clips).tobytes(),
        )
        decoded = self._run(
            ["-i", "pipe:0", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"],
            stream,
        )
        if len(decoded) != clips.size:
            raise RuntimeError(f"x264 gave {len(decoded)} bytes for {clips.size}")
        return np.frombuffer(decoded, np.uint8).reshape(clips.shape)

    def submit(self, clips, crf, preset):
        """A future of compress()."""
        return self.pool.submit(self.compress, clips, crf, preset)

    def close(self):
        self.pool.shutdown(cancel_futures=True)
