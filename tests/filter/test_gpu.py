#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What only a GPU shows. Skipped where there is none."""

import hashlib
import re

from support import ROOT, Case, FrameList, flashvsr, main

GUIDE = ROOT / "docs" / "guide.md"
NO_GPU = re.compile("^device 'cuda[^']*' (is not there|cannot be used|\\(.*\\) has compute capability)")
SOURCE = ["-f", "lavfi", "-i", "testsrc2=size=96x64:rate=25:duration=1.6"]


class OnGpu(Case):
    def run_on_gpu(self, **options):
        """A run at level verbose, whose output are the pictures."""
        return self.run_ffmpeg("-loglevel", "level+verbose", *SOURCE, "-vf", flashvsr(**{"device": "cuda", **options}),
                               "-pix_fmt", "gbrp", "-f", "rawvideo", "-")

    def setUp(self):
        super().setUp()
        tried = self.run_on_gpu()
        for error in tried.filter_errors():
            if NO_GPU.search(error):
                self.skipTest(error)
        self.assertEqual(tried.returncode, 0, str(tried))

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


class Instances(OnGpu):
    """Two filters in one process, which share the weights."""

    def test_each_gives_what_it_gives_alone(self):
        for options in ({}, {"unload_dit": 1}, {"precision": "fp32"}):
            given = {"device": "cuda", **options}
            for ending, kept in ((), None), (("-frames:v", 2), 2 * 3 * 384 * 256):
                with self.subTest(ending=ending, **options):
                    run = self.ffmpeg("-loglevel", "level+verbose", *SOURCE,
                                      "-map", "0:v", "-vf", flashvsr(seed=1, **given), *ending, "-pix_fmt", "gbrp",
                                      "-f", "rawvideo", "first",
                                      "-map", "0:v", "-vf", flashvsr(seed=2, **given), "-pix_fmt", "gbrp",
                                      "-f", "rawvideo", "second")
                    self.assertEqual(run.stderr.count(": model \""), 1, str(run))
                    self.assertIn(" on cuda:0 are shared with 1 other\n", run.stderr)
                    for name, seed, size in ("first", 1, kept), ("second", 2, None):
                        alone = self.run_on_gpu(seed=seed, **options).stdout
                        self.assertTrue((self.folder / name).read_bytes() == alone[:size], f"{name} of\n{run}")


class CudaFrames(OnGpu):
    """Frames in the GPU's memory come out as through the host."""

    CLIP = ROOT / "examples" / "clip.mp4"
    DEVICE = ["-init_hw_device", "cuda=gpu:0", "-filter_hw_device", "gpu"]
    TAGS = "setparams=colorspace=bt709:range=tv"

    def setUp(self):
        super().setUp()
        tried = self.run_ffmpeg(*self.DEVICE, *SOURCE, "-vf", "format=nv12,hwupload", "-frames:v", "1",
                                "-f", "null", "-")
        if tried.returncode:
            self.skipTest("ffmpeg has no CUDA frames: " + (tried.stderr.splitlines() or [""])[-1])

    def filtered(self, graph, pixels, *given):
        return self.ffmpeg(*(given or self.DEVICE), *SOURCE, "-vf", graph, "-fps_mode", "passthrough", "-pix_fmt",
                           pixels, "-f", "rawvideo", "-").stdout

    def check_uploaded(self, pixels, *given, **options):
        """By hwupload and hwdownload, against the same without them."""
        upscale = flashvsr(**{"device": "cuda", **options})
        host = self.filtered(f"format={pixels},{self.TAGS},{upscale}", pixels)
        gpu = self.filtered(f"format={pixels},{self.TAGS},hwupload,{upscale},hwdownload,format={pixels}", pixels,
                            *given)
        self.assertEqual(len(gpu), len(host))
        self.assertGreater(len(gpu), 40 * 384 * 256)
        return host, gpu

    def test_every_format_has_the_bits_of_the_host(self):
        for pixels in ("nv12", "p010le", "yuv420p", "yuv444p", "p016le", "yuv444p16le"):
            with self.subTest(pixels):
                host, gpu = self.check_uploaded(pixels)
                self.assertEqual(hashlib.sha256(gpu).hexdigest(), hashlib.sha256(host).hexdigest())

    def test_the_primary_context_gives_the_same(self):
        host, gpu = self.check_uploaded("nv12", "-init_hw_device", "cuda=gpu:0,primary_ctx=1", "-filter_hw_device",
                                        "gpu")
        self.assertEqual(hashlib.sha256(gpu).hexdigest(), hashlib.sha256(host).hexdigest())

    def test_tiles_of_two_workers_give_the_same(self):
        host, gpu = self.check_uploaded("nv12", device=r"0\|0", multi_gpu="tiles", tiled=1, tile_size=48,
                                        tile_overlap=8)
        self.assertEqual(hashlib.sha256(gpu).hexdigest(), hashlib.sha256(host).hexdigest())

    def test_segments_are_cross_faded(self):
        for options in ({"segment": 20, "overlap": 4},
                        {"segment": 20, "overlap": 4, "device": r"0\|0", "multi_gpu": "frames"}):
            with self.subTest(**options):
                host, gpu = self.check_uploaded("nv12", **options)
                # Rounded on the processor there and on the GPU here.
                self.assertLessEqual(max(abs(a - b) for a, b in zip(host, gpu)), 1)

    def test_filters_follow_each_other_on_the_gpu(self):
        double = flashvsr(device="auto", scale=2)
        host = self.filtered(f"format=nv12,{self.TAGS},{double},{double}", "nv12")
        gpu = self.filtered(f"format=nv12,{self.TAGS},hwupload,{double},{double},hwdownload,format=nv12", "nv12")
        self.assertEqual(hashlib.sha256(gpu).hexdigest(), hashlib.sha256(host).hexdigest())

    def refused(self, graph, sentence):
        run = self.run_ffmpeg(*self.DEVICE, *SOURCE, "-vf", graph, "-pix_fmt", "nv12", "-f", "rawvideo", "-")
        self.assertNotEqual(run.returncode, 0, str(run))
        self.assertEqual(len(run.filter_errors()), 1, str(run))
        self.assertIn(sentence, run.filter_errors()[0], str(run))

    def test_what_cannot_be_is_one_sentence(self):
        upload = "format=nv12,hwupload,"
        self.refused(upload + flashvsr(device="cpu") + ",hwdownload,format=nv12", "the device that was opened is cpu")
        self.refused(upload + flashvsr(), "put hwdownload behind this filter")
        self.refused("format=nv12," + flashvsr() + ",hwdownload,format=nv12", "put hwupload_cuda in front of")
        self.refused("format=rgb0,hwupload," + flashvsr() + ",hwdownload,format=rgb0", "rgb0")

    def decode_on_gpu(self, *given):
        decoded = ["-hwaccel", "cuda", "-hwaccel_output_format", "cuda", "-i", self.CLIP, "-an"]
        tried = self.run_ffmpeg(*decoded, "-vf", "hwdownload,format=nv12", "-frames:v", "1", "-f", "null", "-")
        if tried.returncode:
            self.skipTest("the GPU or its driver decodes no H.264: " + (tried.stderr.splitlines() or [""])[-1])
        return self.ffmpeg(*decoded, *given, timeout=300)

    def test_what_the_gpu_decodes_stays_there(self):
        """More frames than the decoder has surfaces."""
        upscale = flashvsr(device="auto", scale=2)
        raw = ["-fps_mode", "passthrough", "-f", "rawvideo"]
        self.decode_on_gpu("-vf", f"{upscale},hwdownload,format=nv12", *raw, "gpu.raw")
        self.ffmpeg("-i", self.CLIP, "-an", "-vf", f"format=nv12,{upscale},format=nv12", *raw, "host.raw", timeout=300)
        picture = ["-f", "rawvideo", "-video_size", "1280x720", "-pixel_format", "nv12", "-i"]
        compared = self.ffmpeg(*picture, "gpu.raw", *picture, "host.raw", "-lavfi", "psnr", "-f", "null", "-",
                               timeout=300)
        psnr = re.search(r"PSNR .*average:(\S+)", compared.stderr)[1]
        self.assertGreaterEqual(float(psnr), 50, str(compared))
        times = [FrameList(run.text) for run in (
            self.decode_on_gpu("-vf", f"{upscale},hwdownload,format=nv12", "-fps_mode", "passthrough", "-f", "framecrc",
                               "-"),
            self.ffmpeg("-i", self.CLIP, "-an", "-fps_mode", "passthrough", "-f", "framecrc", "-"))]
        self.assertEqual(len(times[0]), 100)
        self.assertEqual(times[0].size, "1280x720")
        self.assertEqual((times[0].time_base, times[0].pts), (times[1].time_base, times[1].pts))

    def test_the_gpu_decodes_upscales_and_encodes(self):
        """The guide's command, as it stands there. Not every GPU has an encoder."""
        tried = self.run_ffmpeg(*self.DEVICE, *SOURCE, "-vf", "format=nv12,scale=256:256,hwupload", "-c:v",
                                "hevc_nvenc", "-frames:v", "2", "-f", "null", "-")
        if tried.returncode:
            self.skipTest("the GPU or its driver encodes no HEVC: " + (tried.stderr.splitlines() or [""])[-1])
        self.decode_on_gpu("-frames:v", "1", "-f", "null", "-")  # skips where it decodes nothing
        command = re.search(r"^## Decoding and encoding on the GPU\n\n((?:    .*\n)+)", GUIDE.read_text(),
                            re.MULTILINE)[1]
        (self.folder / "in.mp4").symlink_to(self.CLIP)
        self.shell(command)
        stream = self.probe("-count_frames", "-show_streams", "out.mp4")["streams"][0]
        self.assertEqual((stream["codec_name"], stream["width"], stream["height"], stream["nb_read_frames"]),
                         ("hevc", 4 * 640, 4 * 360, "100"))


if __name__ == "__main__":
    main()
