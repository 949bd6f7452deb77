#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pack chosen groups of golden folders, with the models they need, into one archive: a golden folder again.

    make_subset.py data/golden.tar.xz FULL:parts/*/bicubic,parts/*/color MINIATURE:parts/*,e2e/*

Each source is a golden folder and patterns of the groups to take from it; a group that two sources have is taken
from the first. All models come from one source, since their names must not clash. The archive is the same byte for
byte whenever it is made from the same files.
"""
import argparse
import fnmatch
import io
import json
import lzma
import os
import pathlib
import sys
import tarfile

# Parts whose goldens do not come from a model's weights.
WITHOUT_MODEL = ("bicubic", "color", "draft_mask", "local_mask", "to_u8")
# Weights of the full pipeline alone.
FULL_PIPELINE = "Wan2.1_VAE.pth"


def sentence(text):
    sys.exit("make_subset.py: " + text)


def model_of(manifest, group):
    """The model folder that a group's goldens come from, or None."""
    for case in manifest["cases"]:
        if group in ("e2e/" + case["name"], case.get("parts_group")):
            return case["model"]
    _, version, kind = group.split("/")
    if kind in WITHOUT_MODEL:
        return None
    for case in manifest["cases"]:
        if case["model"].split("/")[-1] == version:
            return case["model"]
    return "models/" + version


def needs_vae(manifest, group):
    return group.endswith("/vae") or any(
        group in ("e2e/" + case["name"], case.get("parts_group")) and case["pipeline"] == "full"
        for case in manifest["cases"])


def collect(sources):
    """The manifest of the subset, and its files: path in the archive -> path here."""
    cases, entries, files, taken, models_from = [], [], {}, set(), None
    for source in sources:
        folder, _, patterns = source.partition(":")
        folder, patterns = pathlib.Path(folder), patterns.split(",")
        manifest = json.loads((folder / "manifest.json").read_text())
        groups = sorted({entry["group"] for entry in manifest["files"]})
        chosen = {g for g in groups if g not in taken and any(fnmatch.fnmatchcase(g, p) for p in patterns)}
        for pattern in patterns:
            if not fnmatch.filter(groups, pattern):
                sentence(f"{folder} has no group like {pattern}")
        # A group that was recorded from a case can only be checked by running the case.
        for case in manifest["cases"]:
            if case.get("parts_group") in chosen:
                chosen.add("e2e/" + case["name"])
        taken |= chosen
        cases += [case for case in manifest["cases"] if "e2e/" + case["name"] in chosen]
        for case in cases:
            if case.get("parts_group") not in taken:
                case.pop("parts_group", None)
        for entry in manifest["files"]:
            if entry["group"] in chosen:
                entries.append(entry)
                files[entry["file"]] = folder / entry["file"]
        for group in sorted(chosen):
            model = model_of(manifest, group)
            if model is None:
                continue
            if models_from not in (None, folder):
                sentence(f"{group} of {folder} needs a model, but the models come from {models_from}")
            models_from = folder
            for path in sorted((folder / model).iterdir()):
                if path.name != FULL_PIPELINE or needs_vae(manifest, group):
                    files[model + "/" + path.name] = path
    manifest = dict(format="raw .npy (C order, little endian)", cases=cases, files=entries)
    return manifest, files


def pack(manifest, files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        contents = {name: path.read_bytes() for name, path in files.items()}
        contents["manifest.json"] = (json.dumps(manifest, indent=1) + "\n").encode()
        for name in sorted(contents):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(contents[name]), 0o644
            tar.addfile(info, io.BytesIO(contents[name]))
    return lzma.compress(buffer.getvalue(), preset=9 | lzma.PRESET_EXTREME)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, help="the .tar.xz to write")
    parser.add_argument("sources", nargs="+", metavar="FOLDER:PATTERN[,PATTERN...]")
    parser.add_argument("--max-bytes", type=int, default=8 * 10 ** 6, help="write nothing larger (%(default)s)")
    args = parser.parse_args()
    manifest, files = collect(args.sources)
    archive = pack(manifest, files)
    total = sum(path.stat().st_size for path in files.values())
    print(f"{len(manifest['files'])} tensors, {len(manifest['cases'])} cases, {total} bytes, packed {len(archive)}")
    if len(archive) > args.max_bytes:
        sentence(f"{len(archive)} bytes are more than {args.max_bytes}")
    temporary = args.out.with_name(args.out.name + ".part")
    temporary.write_bytes(archive)
    os.replace(temporary, args.out)


if __name__ == "__main__":
    main()
