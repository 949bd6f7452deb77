#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""How visible the borders of tiles and of segments are: seams.py [--bin FOLDER] [--clip FILE] [--model FOLDER]

The clip is made smaller by 4 and upscaled back: whole, in tiles, and in segments. Printed are

  tiles     mean absolute step between neighbouring pixels where a tile begins or ends, divided by that at all
            other places. What the picture itself has there is measured on the whole output and divided out.
  segments  mean absolute difference of neighbouring frames where an overlap begins, lies or ends, divided by that
            of the same frames of the one-stream output.

1 is a border that cannot be told from the inside. Exit status 1 where a ratio is above --bar.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy

ROOT = Path(__file__).resolve().parent.parent.parent
SCALE = 4
BLOCK, LATENT = 128, 8  # pixels that tiles' sides and corners are multiples of


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, default=ROOT / "build/cpu/bin", help="folder of ffmpeg and ffprobe")
    parser.add_argument("--clip", type=Path, default=ROOT / "examples/clip.mp4")
    parser.add_argument("--model", help="model directory (default: the built-in one)")
    parser.add_argument("--tile-size", type=int, default=64, help="input pixels")
    parser.add_argument("--tile-overlap", type=int, default=24, help="input pixels")
    parser.add_argument("--segment", type=int, default=40, help="frames")
    parser.add_argument("--overlap", type=int, default=10, help="frames")
    parser.add_argument("--bar", type=float, default=1.05)
    return parser.parse_args()


def small_size(options):
    """Width and height of the clip made smaller, even."""
    answer = subprocess.run([options.bin / "ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries",
                             "stream=width,height", "-of", "csv=p=0", options.clip],
                            check=True, capture_output=True, text=True).stdout
    return [int(side) // (2 * SCALE) * 2 for side in answer.strip().split(",")[:2]]


def upscale(options, size, **settings):
    """The clip's luma after the filter, (frames, height, width) in 16 bits."""
    if options.model:
        settings["model"] = options.model
    graph = (f"crop={size[0] * SCALE}:{size[1] * SCALE}:0:0,scale={size[0]}:{size[1]}:flags=area,flashvsr=" +
             ":".join(f"{key}={value}" for key, value in {"scale": SCALE, **settings}.items()))
    content = subprocess.run([options.bin / "ffmpeg", "-hide_banner", "-nostdin", "-loglevel", "error", "-i",
                              options.clip, "-vf", f"format=gbrp16,{graph}", "-fps_mode", "passthrough",
                              "-pix_fmt", "gray16le", "-f", "rawvideo", "-"],
                             check=True, stdout=subprocess.PIPE).stdout
    return numpy.frombuffer(content, "<u2").reshape(-1, size[1] * SCALE, size[0] * SCALE)


def tile_borders(picture, tile, overlap):
    """Where tiles begin or end inside a picture's side, output pixels: see make_tile_grid()."""
    padded = -(-picture // BLOCK) * BLOCK
    tile = min(-(-tile // BLOCK) * BLOCK, padded)
    corners = [0]
    while corners[-1] + tile < padded:
        corners.append(min(corners[-1] + (tile - overlap) // LATENT * LATENT, padded - tile))
    borders = {border for corner in corners for border in (corner, corner + tile)}
    return sorted(border for border in borders if 0 < border < picture)


def border_ratio(frames, borders, axis):
    """Mean step into the borders' pixels divided by the mean step into all others."""
    others = tuple(i for i in range(3) if i != axis)
    steps = numpy.zeros(frames.shape[axis] - 1)
    for frame in frames:  # one at a time: differences need more room than pixels
        difference = numpy.abs(numpy.diff(frame.astype(numpy.int32), axis=axis - 1))
        steps += difference.mean(axis=others[1] - 1)
    at_border = numpy.zeros(len(steps), bool)
    at_border[[border - 1 for border in borders]] = True
    return steps[at_border].mean() / steps[~at_border].mean()


def frame_steps(frames):
    """Mean absolute difference of each frame to the one before; the first has none."""
    return numpy.array([0] + [numpy.abs(frames[i].astype(numpy.int32) - frames[i - 1]).mean()
                              for i in range(1, len(frames))])


def overlaps(frames, segment, overlap):
    """First frame and frame after the last of what neighbouring segments share."""
    stride = segment - overlap
    return [(begin, begin + overlap) for begin in range(stride, frames, stride) if begin + overlap < frames]


def main():
    options = parse()
    size = small_size(options)
    whole = upscale(options, size, tiled_dit=0)
    ratios = {}

    tiled = upscale(options, size, tiled_dit=1, tile_size=options.tile_size, tile_overlap=options.tile_overlap)
    for axis, name in ((2, "columns"), (1, "rows")):
        borders = tile_borders(whole.shape[axis], options.tile_size * SCALE, options.tile_overlap * SCALE)
        if not borders:
            print(f"tiles, {name}: one tile holds them all")
            continue
        here, own = border_ratio(tiled, borders, axis), border_ratio(whole, borders, axis)
        ratios[f"tiles, {name}"] = here / own
        print(f"tiles, {name}: {here / own:.4f} ({here:.4f} in tiles, {own:.4f} in the whole; at {borders})")

    split = upscale(options, size, tiled_dit=0, device=r"cpu\|cpu", multi_gpu="frames", segment=options.segment,
                    overlap=options.overlap)
    shared = overlaps(len(whole), options.segment, options.overlap)
    if len(split) != len(whole) or not shared:
        sys.exit(f"{len(whole)} frames whole, {len(split)} in segments, {len(shared)} overlaps")
    steps, own_steps = frame_steps(split), frame_steps(whole)
    places = [i for begin, end in shared for i in range(begin, end + 1)]
    ratios["segments"] = steps[places].mean() / own_steps[places].mean()
    print(f"segments: {ratios['segments']:.4f} over the overlaps {shared}, "
          f"{(steps[places] / own_steps[places]).max():.4f} at the worst frame")

    failed = [name for name, ratio in ratios.items() if ratio > options.bar]
    if failed:
        sys.exit(f"above {options.bar}: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
