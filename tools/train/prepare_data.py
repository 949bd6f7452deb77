#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cut the training crops of the built-in model from photographs in Debian packages.

    prepare_data.py --work FOLDER --out crops.zip

Fetches the packages with `apt-get download`, unpacks them with `dpkg-deb -x` (nothing is installed), and
writes a zip of square crops (WebP) plus `sources.json`: for each picture its package, path, size and number
of crops, and for each package the text of its licence file. Pictures that are drawn or rendered are left out.
"""

import argparse
import io
import json
import pathlib
import random
import subprocess
import zipfile

import numpy as np
from PIL import Image

# Photographs only, by file name below the package's root.
PHOTOGRAPHS = {
    "lomiri-wallpapers-16.04": ["usr/share/backgrounds/*.jpg"],
    "lomiri-wallpapers-20.04": ["usr/share/backgrounds/Kleiber_by_Lukas_Baubkus.jpg"],
    "mate-backgrounds": ["usr/share/backgrounds/mate/nature/*.jpg"],
    "plasma-workspace-wallpapers": [
        f"usr/share/wallpapers/{name}/contents/images/2560x1600.jpg"
        for name in (
            "BytheWater",
            "ColdRipple",
            "ColorfulCups",
            "DarkestHour",
            "EveningGlow",
            "FallenLeaf",
            "Grey",
            "Kite",
            "OneStandsOut",
            "Path",
            "summer_1am",
        )
    ]
    + ["usr/share/wallpapers/Volna/contents/images/5120x2880.jpg"],
    "gnome-backgrounds": [],
    "ukui-wallpapers": [],
}
# A video frame shows more of the world per pixel than a wallpaper does, so crops come from reduced pictures
# too.
SHORT_SIDES_PX = (400, 560, 800, 1120, 1600)
LARGEST_REDUCTION = 0.75  # a camera's own pixels are softer than a video's
CROP_PX = 384
SMALLEST_DETAIL = 1.2  # mean absolute Laplacian, in grey levels; below it a crop is empty sky


def unpack(package, work):
    """Downloads and unpacks one Debian package; returns the folder of its files."""
    root = work / package
    if not root.exists():
        subprocess.run(["apt-get", "download", package], cwd=work, check=True, stdout=subprocess.DEVNULL)
        (archive,) = work.glob(f"{package}_*.deb")
        subprocess.run(["dpkg-deb", "-x", archive, root], check=True)
    return root


def detail(crop):
    """Mean absolute Laplacian of the luma, in grey levels."""
    y = np.asarray(crop.convert("L"), dtype=np.float32)
    return float(np.abs(4 * y[1:-1, 1:-1] - y[:-2, 1:-1] - y[2:, 1:-1] - y[1:-1, :-2] - y[1:-1, 2:]).mean())


def crops_of(picture, rng, most_per_level):
    """Yields crops of one picture at several reductions, the detailed ones only."""
    for short_side in SHORT_SIDES_PX:
        ratio = short_side / min(picture.size)
        if ratio > LARGEST_REDUCTION:
            continue
        level = picture.resize((round(picture.width * ratio), round(picture.height * ratio)), Image.LANCZOS)
        wanted = min(most_per_level, max(2, round(level.width * level.height / CROP_PX**2)))
        found = []
        for _ in range(3 * wanted):
            left, top = rng.randint(0, level.width - CROP_PX), rng.randint(0, level.height - CROP_PX)
            if any(abs(left - x) + abs(top - y) < CROP_PX // 2 for x, y in found):
                continue
            crop = level.crop((left, top, left + CROP_PX, top + CROP_PX))
            if detail(crop) >= SMALLEST_DETAIL:
                found.append((left, top))
                yield crop
            if len(found) == wanted:
                break


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for the downloaded packages")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="zip to write")
    parser.add_argument(
        "--most-per-level", type=int, default=12, help="crops of one picture at one reduction"
    )
    parser.add_argument("--quality", type=int, default=90, help="WebP quality")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    rng = random.Random(args.seed)
    pictures = []
    licences = {}
    for package, patterns in PHOTOGRAPHS.items():
        if not patterns:
            continue
        root = unpack(package, args.work)
        licences[package] = (root / "usr/share/doc" / package / "copyright").read_text(errors="replace")
        files = sorted({file for pattern in patterns for file in root.glob(pattern) if not file.is_symlink()})
        pictures += [(package, root, file) for file in files]
    rng.shuffle(pictures)  # the first pictures' crops are held out for validation: let them be any
    sources, number = [], 0
    with zipfile.ZipFile(args.out, "w", zipfile.ZIP_STORED) as archive:
        for package, root, file in pictures:
            picture = Image.open(file)
            size = picture.size
            picture.draft("RGB", (size[0] // 2, size[1] // 2) if min(size) >= 3600 else size)
            first = number
            for crop in crops_of(picture.convert("RGB"), rng, args.most_per_level):
                data = io.BytesIO()
                crop.save(data, "WEBP", quality=args.quality, method=3)
                archive.writestr(f"{number:05d}.webp", data.getvalue())
                number += 1
            sources.append(
                {
                    "package": package,
                    "file": str(file.relative_to(root)),
                    "size": size,
                    "crops": [first, number],
                }
            )
            print(
                f"{number:5d} crops, {args.out.stat().st_size >> 20} MiB: {package} {file.name}", flush=True
            )
        archive.writestr(
            "sources.json",
            json.dumps({"crop_px": CROP_PX, "pictures": sources, "licences": licences}, indent=1),
        )


if __name__ == "__main__":
    main()
