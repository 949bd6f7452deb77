#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Measure a model on real clips against bicubic and Lanczos, with ffmpeg's own psnr and ssim filters.

    evaluate.py --ffmpeg ffmpeg --model FOLDER --work FOLDER CLIP...

Each clip is cropped to multiples of 8, reduced by 4 (area), kept lossless ("clean") or sent through x264
("crf28"), and brought back: by us (the filter, or --engine pytorch for this folder's network), by bicubic, by
Lanczos. Also measured on the luma: the error of frame-to-frame differences, how much still frames change (the
first frame repeated), and the error by position within a chunk of 8.
"""

import argparse
import json
import pathlib
import re
import subprocess

import numpy as np
import torch

from export import read_model
from network import Network, noise_like, without_content
from resample import upscale

CHUNK = 8
ABLATIONS = {
    "codes alone": without_content,
    "constant latents": lambda latents: latents.mean((0, 2, 3, 4), keepdim=True).expand_as(latents),
}
WARM_FRAMES = 21  # output frames of a stream's first chunk


class Tool:
    def __init__(self, ffmpeg, threads):
        self.ffmpeg, self.threads = ffmpeg, threads

    def run(self, *arguments, data=None, level="error"):
        done = subprocess.run(
            [self.ffmpeg, "-v", level, "-hide_banner", "-nostdin", "-y", *map(str, arguments)],
            input=data,
            capture_output=True,
        )
        if done.returncode:
            raise RuntimeError(
                f"ffmpeg {' '.join(map(str, arguments))}: {done.stderr.decode(errors='replace')}"
            )
        return done

    def frames(self, path, pixel_format):
        """(F,H,W) or (F,H,W,3) uint8"""
        probe = self.run("-i", path, "-frames:v", 1, "-f", "null", "-", level="info").stderr.decode()
        width, height = map(int, re.search(r"Video: .*?, (\d+)x(\d+)", probe).groups())
        raw = self.run(
            "-i", path, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", pixel_format, "pipe:1"
        ).stdout
        shape = (-1, height, width) + ((3,) if pixel_format == "rgb24" else ())
        return np.frombuffer(raw, np.uint8).reshape(shape)

    def compare(self, path, reference):
        """PSNR-Y in dB and SSIM-Y"""
        log = self.run(
            "-i",
            path,
            "-i",
            reference,
            "-lavfi",
            "[0:v]split[a][b];[1:v]split[c][d];[a][c]psnr[x];[b][d]ssim[y]",
            "-map",
            "[x]",
            "-map",
            "[y]",
            "-f",
            "null",
            "-",
            level="info",
        ).stderr.decode()
        return (
            float(re.search(r"PSNR y:([\d.]+|inf)", log).group(1)),
            float(re.search(r"SSIM Y:([\d.]+)", log).group(1)),
        )


LOSSLESS = ("-c:v", "ffv1", "-pix_fmt", "yuv420p")
# swscale's quick conversion from 4:2:0 to RGB and back darkens by 1.45 grey levels, which says nothing of a
# model.
EXACT = "scale=flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"


@torch.inference_mode()
def upscale_with_network(network, frames, scale=4, change=None):
    """frames (F,h,w,3) uint8 -> (F,scale*h,scale*w,3) uint8, by the rules of the engine for sizes and
    lengths. change: what is done to the latents."""
    count, h, w, _ = frames.shape
    height, width = scale * h, scale * w
    target_height, target_width = (-(-side // 128) * 128 for side in (height, width))
    needed = max(25, 8 * (-(-(count + 3) // 8)) + 1)
    index = np.minimum(np.arange(needed), count - 1)
    small = torch.from_numpy(frames[index]).permute(0, 3, 1, 2).float() / 255
    lq = upscale(small, height, width) * 2 - 1
    lq = torch.nn.functional.pad(lq, (0, target_width - width, 0, target_height - height), mode="replicate")
    lq = lq.transpose(0, 1)[None]
    latents = network.latents(lq, noise_like(lq, torch.Generator().manual_seed(0)))
    if change:
        latents = change(latents)
    out = network.decode(latents, lq[:, :, :-4])[0, :count, :, :height, :width]
    return (out.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


class Ours:
    def __init__(self, tool, args, change=None):
        self.tool, self.model, self.engine, self.change = tool, args.model, args.engine, change
        self.color_fix, self.exact = args.color_fix, not args.plain
        self.network = Network(state=read_model(args.model)) if args.engine == "pytorch" else None
        if self.network:
            self.network.eval()

    def __call__(self, source, target, rate=25):
        if self.engine == "filter":
            options = f"model={self.model}" + (f":color_fix={self.color_fix}" if self.color_fix else "")
            chain = (
                f"{EXACT},format=gbrp,flashvsr={options},{EXACT},format=yuv420p"
                if self.exact
                else f"flashvsr={options}"
            )
            self.tool.run("-i", source, "-vf", chain, *LOSSLESS, target)
            return
        out = upscale_with_network(self.network, self.tool.frames(source, "rgb24"), change=self.change)
        self.tool.run(
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-s",
            f"{out.shape[2]}x{out.shape[1]}",
            "-r",
            rate,
            "-i",
            "pipe:0",
            *LOSSLESS,
            target,
            data=np.ascontiguousarray(out).tobytes(),
        )


def prepare(tool, clip, frames, work):
    """Reference, reduced, reduced and coded, reduced and still: all lossless files of `frames` frames at 25 a
    second."""
    name = clip.stem
    files = {kind: work / f"{name}_{kind}.nut" for kind in ("reference", "clean", "crf28", "still")}
    crop = "crop=trunc(iw/8)*8:trunc(ih/8)*8:0:0,setpts=N/25/TB"
    tool.run("-i", clip, "-frames:v", frames, "-vf", crop, "-r", 25, *LOSSLESS, files["reference"])
    tool.run("-i", files["reference"], "-vf", "scale=iw/4:ih/4:flags=area", *LOSSLESS, files["clean"])
    coded = work / f"{name}_crf28.264.nut"
    tool.run(
        "-i", files["clean"], "-c:v", "libx264", "-preset", "medium", "-crf", 28, "-pix_fmt", "yuv420p", coded
    )
    tool.run("-i", coded, *LOSSLESS, files["crf28"])
    tool.run(
        "-i",
        files["clean"],
        "-vf",
        f"trim=end_frame=1,loop={frames - 1}:1:0,setpts=N/25/TB",
        "-frames:v",
        frames,
        *LOSSLESS,
        files["still"],
    )
    return files


def measure(tool, clip, args):
    files = prepare(tool, clip, args.frames, args.work)
    luma = lambda path: tool.frames(path, "gray").astype(np.float32)
    reference = luma(files["reference"])
    height, width = reference.shape[1:]
    methods = {"ours": Ours(tool, args)}
    if args.engine == "pytorch" and args.ablate:
        methods |= {name: Ours(tool, args, change) for name, change in ABLATIONS.items()}
    for kernel in ("bicubic", "lanczos"):
        methods[kernel] = lambda source, target, k=kernel: tool.run(
            "-i", source, "-vf", f"scale={width}:{height}:flags={k}", *LOSSLESS, target
        )
    results = {}
    for kind in ("clean", "crf28"):
        for name, method in methods.items():
            target = args.work / f"{clip.stem}_{kind}_{name.replace(' ', '_')}.nut"
            method(files[kind], target)
            psnr, ssim = tool.compare(target, files["reference"])
            error = luma(target) - reference
            by_frame = (error**2).mean((1, 2))
            by_position = [
                round(float(-10 * np.log10(by_frame[start::CHUNK].mean() / 255**2)), 2)
                for start in range(WARM_FRAMES % CHUNK, WARM_FRAMES % CHUNK + CHUNK)
            ]
            results.setdefault(kind, {})[name] = {
                "psnr_y": psnr,
                "ssim_y": ssim,
                "frame_difference_error": round(float(np.abs(np.diff(error, axis=0)).mean()), 4),
                "psnr_by_chunk_position": by_position,
            }
    target = args.work / f"{clip.stem}_still_ours.nut"
    methods["ours"](files["still"], target)
    change = np.abs(np.diff(luma(target), axis=0)).mean((1, 2))
    results["still"] = {
        "mean_change": round(float(change.mean()), 4),
        "largest_change": round(float(change.max()), 4),
    }
    return results


def table(results):
    lines = [
        "| clip | input | ours over bicubic, dB | Lanczos over bicubic, dB | SSIM ours / bicubic | frame-difference error ours / bicubic |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for clip, kinds in results.items():
        for kind in ("clean", "crf28"):
            ours, base, lanczos = (kinds[kind][m] for m in ("ours", "bicubic", "lanczos"))
            lines.append(
                f"| {clip} | {kind} | {ours['psnr_y'] - base['psnr_y']:+.2f} | {lanczos['psnr_y'] - base['psnr_y']:+.2f} | "
                f"{ours['ssim_y']:.4f} / {base['ssim_y']:.4f} | {ours['frame_difference_error']:.3f} / "
                f"{base['frame_difference_error']:.3f} |"
            )
            for name in ABLATIONS.keys() & kinds[kind].keys():
                lines.append(
                    f"| {clip} | {kind}, {name} | {kinds[kind][name]['psnr_y'] - base['psnr_y']:+.2f} | | | |"
                )
        lines.append(
            f"| {clip} | still | changes {kinds['still']['mean_change']} grey levels a frame, at most "
            f"{kinds['still']['largest_change']} | | | |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", nargs="+", type=pathlib.Path)
    parser.add_argument("--ffmpeg", default="ffmpeg")
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument(
        "--work", type=pathlib.Path, required=True, help="folder for intermediate files and results.json"
    )
    parser.add_argument("--engine", choices=("filter", "pytorch"), default="filter")
    parser.add_argument(
        "--ablate",
        action="store_true",
        help="with pytorch: also with latents that tell nothing of the picture",
    )
    parser.add_argument(
        "--color-fix", choices=("none", "adain", "wavelet"), help="instead of what the model asks for"
    )
    parser.add_argument(
        "--plain", action="store_true", help="give the filter 4:2:0, which the engine converts"
    )
    parser.add_argument("--frames", type=int, default=29)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    tool = Tool(args.ffmpeg, args.threads)
    results = {}
    for clip in args.clips:
        results[clip.stem] = measure(tool, clip, args)
        print(table({clip.stem: results[clip.stem]}), flush=True)
    (args.work / "results.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
