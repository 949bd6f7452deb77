#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write trained weights as a model directory in the published layout, in fp16.

export.py average.pt FOLDER --name flashvsr-mini --licence CC0-1.0
"""

import argparse
import json
import pathlib

import torch
from safetensors.torch import load_file, save_file

DIT_FILE, PROJECTOR_FILE = "diffusion_pytorch_model_streaming_dmd.safetensors", "LQ_proj_in.ckpt"
DECODER_FILE, PROMPT_FILE = "TCDecoder.ckpt", "posi_prompt.pth"


def to_half(parts):
    """{part: {published name: tensor}} in fp16, whatever does not fit being an error"""
    for part, tensors in parts.items():
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor.half()).all():
                raise ValueError(f"{part} {name} does not fit fp16")
    return {
        part: {name: tensor.half().cpu().contiguous() for name, tensor in tensors.items()}
        for part, tensors in parts.items()
    }


def write_model(parts, prompt, folder, config):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(parts["dit"], str(folder / DIT_FILE))
    torch.save(parts["lq"], folder / PROJECTOR_FILE)
    torch.save(parts["tc"], folder / DECODER_FILE)
    torch.save(prompt.half().cpu(), folder / PROMPT_FILE)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def read_model(folder):
    """The state that network.Network takes, in fp32."""
    folder = pathlib.Path(folder)
    widen = lambda tensors: {name: tensor.float() for name, tensor in tensors.items()}
    load = lambda name: torch.load(folder / name, map_location="cpu", weights_only=True)
    return {
        "dit": widen(load_file(str(folder / DIT_FILE))),
        "lq": widen(load(PROJECTOR_FILE)),
        "tc": widen(load(DECODER_FILE)),
        "prompt": load(PROMPT_FILE).float(),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("average", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--name", default="flashvsr-mini")
    parser.add_argument("--licence", default="LGPL-2.1-or-later")
    parser.add_argument("--color-fix", default="none", choices=("none", "adain", "wavelet"))
    args = parser.parse_args()
    saved = torch.load(args.average, map_location="cpu", weights_only=True)
    write_model(
        to_half(saved["average"]),
        saved["prompt"],
        args.folder,
        {"version": "1.1", "color_fix": args.color_fix, "name": args.name, "licence": args.licence},
    )
    size = sum(file.stat().st_size for file in args.folder.iterdir())
    print(f"{args.folder}: {size / 1e6:.1f} MB, step {saved['step']}, {saved['minutes']:.1f} minutes")


if __name__ == "__main__":
    main()
