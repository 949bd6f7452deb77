#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make a golden folder of miniature models, to be cut down and packed by make_subset.py.

The goldens come from a plain PyTorch implementation of the pipeline (--reference), run in float32; its run in float64
gives the tolerances. The reference is not the engine and shares no code with it. Needs numpy, torch and
safetensors, which building and testing do not.

The widths are the smallest at which nothing coincides: two heads, two blocks, two linear layers of the projector,
channel counts that all differ. Weights have few significant bits, so that they pack well.
"""
import argparse
import importlib.util
import json
import math
import pathlib
import shutil

import numpy as np
import safetensors.torch
import torch

MODELS = {
    "v1.1": dict(dim=256, ffn=128, blocks=2, text=24, length=40, freq=32, hidden=(8, 20), layers=2,
                 channels=(16, 12, 8, 10), dtype=torch.bfloat16, bits=5, seed=11),
    "v1": dict(dim=128, ffn=192, blocks=1, text=16, length=9, freq=64, hidden=(6, 10), layers=1,
               channels=(12, 10, 8, 6), dtype=torch.float32, bits=9, seed=10),
}

CASES = [
    dict(name="v1.1_256x128_f33_crop_kv2", model="v1.1", hw=(75, 40), frames=31, scale=3.5, sparse_ratio=0.05,
         kv_ratio=2.0, local_range=9, stored=[20, 28], float_frame=21, record=True),
    dict(name="v1_256x128_f25_empty_rows", model="v1", hw=(64, 32), frames=21, scale=4.0, sparse_ratio=0.02,
         kv_ratio=3.0, local_range=11, stored=[10], float_frame=None, record=False),
]

# Of the recorded case: what is small, and few large tensors.
RECORDED = ["chunk0_block0_draft_prob", "chunk0_block0_mask", "chunk0_block1_draft_prob", "chunk0_block1_mask",
            "chunk1_block0_draft_prob", "chunk1_block0_mask", "chunk1_block1_draft_prob", "chunk1_block1_mask",
            "chunk1_b0_attn_core_windowed", "chunk1_block1_out", "chunk1_head_out", "chunk1_noise_pred",
            "lq_call1_tokens"]


def coarse(x, bits):
    """x rounded to that many significant bits."""
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp((mantissa * 2 ** bits).round() / 2 ** bits, exponent)


class Weights:
    def __init__(self, model):
        self.random = torch.Generator().manual_seed(model["seed"])
        self.model, self.tensors = model, {}

    def normal(self, *shape):
        return torch.randn(shape, generator=self.random)

    def put(self, name, value):
        self.tensors[name] = coarse(value, self.model["bits"]).to(self.model["dtype"]).contiguous()

    def layer(self, name, out, *fan, bias=True, gain=1.0):
        self.put(name + ".weight", self.normal(out, *fan) * gain / math.sqrt(math.prod(fan)))
        if bias:
            self.put(name + ".bias", self.normal(out) * 0.1)


def make_dit(model):
    w, dim = Weights(model), model["dim"]
    w.layer("patch_embedding", dim, 16, 1, 2, 2)
    w.layer("text_embedding.0", dim, model["text"])
    w.layer("text_embedding.2", dim, dim)
    w.layer("time_embedding.0", dim, model["freq"])
    w.layer("time_embedding.2", dim, dim)
    w.layer("time_projection.1", 6 * dim, dim)
    for i in range(model["blocks"]):
        block = f"blocks.{i}."
        w.put(block + "modulation", w.normal(1, 6, dim) * 0.3)
        for attention in ("self_attn.", "cross_attn."):
            for name in "qkvo":
                w.layer(block + attention + name, dim, dim)
            for name in ("norm_q", "norm_k"):
                w.put(block + attention + name + ".weight", 1 + 0.3 * w.normal(dim))
        w.put(block + "norm3.weight", 1 + 0.2 * w.normal(dim))
        w.put(block + "norm3.bias", 0.2 * w.normal(dim))
        w.layer(block + "ffn.0", model["ffn"], dim)
        w.layer(block + "ffn.2", dim, model["ffn"])
    w.put("head.modulation", w.normal(1, 2, dim) * 0.3)
    w.layer("head.head", 64, dim)
    return w.tensors


def make_projector(model):
    w, (h1, h2) = Weights(dict(model, seed=model["seed"] + 100)), model["hidden"]
    w.layer("conv1", h1, 768, 4, 3, 3)
    w.put("norm1.gamma", 1 + 0.2 * w.normal(h1, 1, 1, 1))
    w.layer("conv2", h2, h1, 4, 3, 3)
    w.put("norm2.gamma", 1 + 0.2 * w.normal(h2, 1, 1, 1))
    for i in range(model["layers"]):
        w.layer(f"linear_layers.{i}", model["dim"], h2)
    return w.tensors


def make_decoder(model):
    w, c = Weights(dict(model, seed=model["seed"] + 200)), model["channels"]
    w.layer("decoder.1", c[0], 784, 3, 3)
    w.layer("decoder.3", c[0], c[0], 3, 3, bias=False, gain=1.4)
    for stage, first in enumerate((5, 11, 17)):
        width = c[stage]
        for i in range(first, first + 3):
            w.layer(f"decoder.{i}.conv.0", width, 2 * width, 3, 3)
            w.layer(f"decoder.{i}.conv.2", width, width, 3, 3)
            w.layer(f"decoder.{i}.conv.4", width, width, 3, 3)
        w.layer(f"decoder.{first + 4}.conv", width * (1 if stage == 0 else 2), width, 1, 1, bias=False)
        w.layer(f"decoder.{first + 5}", c[stage + 1], width, 3, 3, bias=False)
    w.layer("decoder.24", c[3], c[3], 3, 3, bias=False, gain=1.4)
    w.layer("decoder.26", 3, c[3], 3, 3, gain=0.3)
    w.tensors["decoder.26.bias"] += 0.5
    return w.tensors


def write_model(folder, version, model):
    folder.mkdir(parents=True)
    safetensors.torch.save_file(make_dit(model), str(folder / "diffusion_pytorch_model_streaming_dmd.safetensors"))
    torch.save(make_projector(model), folder / "LQ_proj_in.ckpt")
    torch.save(make_decoder(model), folder / "TCDecoder.ckpt")
    w = Weights(dict(model, seed=model["seed"] + 300))
    w.put("prompt", w.normal(1, model["length"], model["text"]))
    torch.save(w.tensors["prompt"], folder / "posi_prompt.pth")
    (folder / "oracle_config.json").write_text(json.dumps({"version": version}) + "\n")


def make_clip(frames, height, width, seed):
    """Drifting waves and a hard-edged moving box."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    clip = np.empty((frames, height, width, 3), np.uint8)
    for t in range(frames):
        for colour in range(3):
            wave = np.sin(x * (0.13 + 0.05 * colour) + 0.3 * t) + np.sin(y * 0.21 - 0.2 * t + colour)
            box = 70 * ((x > 5 + t % 9) & (x < 17 + t % 9) & (y > 8) & (y < 26))
            clip[t, :, :, colour] = np.clip(120 + 40 * wave + box + random.integers(-6, 7), 0, 255)
    return clip


class Folder:
    """Collects goldens of a float32 run, then the same tensors of a float64 run, and writes the manifest."""

    def __init__(self, root, reference):
        self.root, self.reference = root, reference
        self.values, self.meanings, self.inputs, self.wide = {}, {}, set(), {}

    def input(self, group, name, value, meaning):
        self.values[group, name], self.meanings[group, name] = value, meaning
        self.inputs.add((group, name))

    def tensor(self, group, name):
        value = torch.from_numpy(self.values[group, name])
        return value.to(self.reference.DT) if value.is_floating_point() else value

    def golden(self, group, name, value, meaning=""):
        value = (value.numpy() if torch.is_tensor(value) else np.asarray(value)).copy()
        if self.reference.DT == torch.float64:
            self.wide[group, name] = value
        else:
            self.values[group, name], self.meanings[group, name] = value, meaning

    def tolerance(self, key):
        value, wide = self.values[key], self.wide[key]
        if key[1] == "out_u8":
            return {"metric": "uint8", "max_abs_diff": 1, "max_fraction_different": 0.001}
        if value.dtype in (np.bool_, np.uint8):
            assert np.array_equal(value, wide), key
            return {"metric": "exact"}
        error = np.abs(value - wide).max() / np.abs(wide).max()
        bound = 1e-12 if value.dtype == np.float64 else max(1e-5, 10 * float(error))
        digit = 10.0 ** math.floor(math.log10(bound) + 1e-9)
        return {"metric": "max_abs_diff / max_abs_ref", "max": float(f"{math.ceil(bound / digit - 1e-6) * digit:.0e}")}

    def write(self, cases):
        files = []
        for (group, name), value in sorted(self.values.items()):
            path = pathlib.Path("goldens", group, name + ".npy")
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            np.save(self.root / path, np.ascontiguousarray(value))
            entry = dict(file=str(path), group=group, name=name, shape=list(value.shape), dtype=str(value.dtype),
                         role="input" if (group, name) in self.inputs else "golden",
                         meaning=self.meanings[group, name])
            if entry["role"] == "golden":
                entry["tolerance"] = self.tolerance((group, name))
            files.append(entry)
        manifest = dict(format="raw .npy (C order, little endian)", cases=cases, files=files)
        (self.root / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def to_range(frames):
    return frames.permute(3, 0, 1, 2)[None].float() / 255 * 2 - 1


def run_parts(out, ref):
    weights = ref.load(str(out.root / "models/v1.1"))
    dit = ref.DiT(weights["dit"], weights["prompt"])

    group = "parts/v1.1/embed"
    out.golden(group, "sinusoidal_1000", dit.sin)
    out.golden(group, "t", dit.t)
    out.golden(group, "t_mod", dit.tmod[None])
    out.golden(group, "context", dit.ctx[:, :32], "first 32 tokens")
    for i in range(dit.nb):
        out.golden(group, f"cross_k_block{i}", dit.ck[i][:, :32], "first 32 tokens")
        out.golden(group, f"cross_v_block{i}", dit.cv[i][:, :32], "first 32 tokens")
    for axis, frequencies in (("t", dit.ft), ("h", dit.fs), ("w", dit.fs)):
        angles = torch.arange(48)[:, None] * frequencies
        out.golden(group, f"rope_{axis}_f64", torch.stack([angles.cos(), angles.sin()], -1),
                   "positions 0..47, (48,pairs,2)=cos,sin in float64")

    group, w = "parts/v1.1/norms", weights["dit"]
    rows, channels = out.tensor(group, "in"), out.tensor(group, "chan_in")
    out.golden(group, "ln_norm1", ref.ln(rows))
    out.golden(group, "ln_norm3", ref.ln(rows) * w["blocks.0.norm3.weight"] + w["blocks.0.norm3.bias"])
    out.golden(group, "rms_norm_q", ref.rms(rows, w["blocks.0.self_attn.norm_q.weight"]))
    out.golden(group, "chan_norm1", ref.chan_rms(channels, weights["lq"]["norm1.gamma"]))
    out.golden(group, "adain_out", ref.adain(out.tensor(group, "adain_hq"), out.tensor(group, "adain_lq")))

    group, decoder = "parts/v1.1/tcdecoder", ref.TCDec(weights["tc"])
    latents, frames = out.tensor(group, "latents"), to_range(out.tensor(group, "cond_u8")).to(ref.DT)
    for call, (a, b, c, d) in enumerate(((0, 6, 0, 21), (6, 8, 21, 29))):
        out.golden(group, f"out_call{call}", decoder.decode(latents[:, :, a:b], frames[:, :, c:d]))
    for name, value in decoder.R.items():
        out.golden(group, name, value)

    for version in MODELS:
        group = f"parts/{version}/lq_proj"
        projector = ref.LQProj(ref.load(str(out.root / "models" / version))["lq"], version == "v1.1")
        frames = to_range(out.tensor(group, "in_u8")).to(ref.DT)
        for call in range(1 + (frames.shape[2] - 1) // 4):
            tokens = projector.step(frames[:, :, max(0, 4 * call - 3):4 * call + 1])
            out.golden(group, f"act1_call{call}", projector.act1)
            if tokens is not None:
                out.golden(group, f"tokens_call{call}", tokens[0])


def run_case(out, ref, case):
    group = "e2e/" + case["name"]
    clip = out.values[group, "in_frames_u8"]
    u8, frames = ref.prepare(clip, case["scale"])
    height, width, count = frames.shape[3], frames.shape[4], frames.shape[2]
    ratio = case["sparse_ratio"] * 768 * 1280 / (height * width)
    gaps, empty_rows = [], [0]
    draft = ref.DiT.draft

    def watched_draft(self, pq, pk, bh, bw, topk, lr, groups):
        probabilities, mask = draft(self, pq, pk, bh, bw, topk, lr, groups)
        values = probabilities.reshape(self.nh * groups, -1).sort(1, descending=True).values
        kept = min(values.shape[1] - 1, topk)
        gaps.append(((values[:, kept - 1] - values[:, kept]) / values[:, kept - 1]).min().item())
        empty_rows[0] += int((~mask.any(-1)).sum())
        return probabilities, mask

    ref.DiT.draft = watched_draft
    weights = ref.load(str(out.root / "models" / case["model"]))
    latents, result, inner = ref.pipeline(weights, case["model"], frames.to(ref.DT), out.tensor(group, "noise"), ratio,
                                          case["kv_ratio"], case["local_range"])
    ref.DiT.draft = draft
    assert min(gaps) > 1e-4, (case["name"], "a near tie at the top-k threshold; take another seed", min(gaps))

    out.golden(group, "lq_u8_frame0", u8[0], "frame 0 after bicubic upscale + centre crop (H,W,3)")
    out.golden(group, "latents", latents, "denoised latents (1,16,T,H/8,W/8)")
    out.golden(group, "out_u8", ref.to_u8(result)[case["stored"]], f"output frames {case['stored']} (T',H,W,3)")
    i = case["float_frame"]
    if i is not None:
        out.golden(group, f"out_f32_frame{i}", result[:, i], f"final frame {i} (3,H,W)")
    if case["record"]:
        for name in RECORDED:
            out.golden(f"parts/{case['model']}/dit", name, inner[name])

    chunks = [dict(chunk=c, latents=[0, 6] if c == 0 else [4 + 2 * c, 6 + 2 * c],
                   rope_t_start=0 if c == 0 else 4 + 2 * c,
                   output_frames=[0, 21] if c == 0 else [8 * c + 13, 8 * c + 21]) for c in range((count - 1) // 8 - 2)]
    entry = dict(name=case["name"], model="models/" + case["model"], pipeline="tiny", scale=case["scale"],
                 sparse_ratio=case["sparse_ratio"], topk_ratio=ratio,
                 topk=int((height // 128 * (width // 128)) ** 2 * ratio) - 1, kv_ratio=case["kv_ratio"],
                 local_range=case["local_range"], color_fix=True, input_frames=case["frames"], F=count, H=height,
                 W=width, output_frames=count - 4, tiled=False, stored_output_frames=case["stored"],
                 empty_query_rows=empty_rows[0], min_topk_gap_rel=min(gaps),
                 schedule=dict(F=count, output_frames=count - 4, chunks=chunks))
    if case["record"]:
        entry["parts_group"] = f"parts/{case['model']}/dit"
    return entry


def make_inputs(out):
    random = np.random.default_rng(77)
    normal = lambda *shape: random.standard_normal(shape).astype(np.float32)
    group = "parts/v1.1/norms"
    magnitudes = np.array([1, 0.1, 1e-2, 1e-3, 1e-4, 0], np.float32)
    out.input(group, "in", normal(6, 256) * magnitudes[:, None], "rows of decreasing magnitude (6,dim)")
    channels = normal(1, 8, 1, 2, 3)
    channels[..., 0, 0] = 0
    out.input(group, "chan_in", channels, "(1,H1,1,2,3), position (0,0) all zero")
    out.input(group, "adain_hq", 0.2 + 1e-3 * normal(1, 3, 2, 24, 32), "nearly flat content")
    out.input(group, "adain_lq", np.clip(0.4 * normal(1, 3, 2, 24, 32), -1, 1), "style")
    group = "parts/v1.1/tcdecoder"
    out.input(group, "latents", normal(1, 16, 8, 4, 3), "latents (1,16,8,4,3): calls use [0:6],[6:8]")
    out.input(group, "cond_u8", make_clip(29, 32, 24, 1), "frames uint8 (x/255*2-1): calls use [0:21],[21:29]")
    for version in MODELS:
        out.input(f"parts/{version}/lq_proj", "in_u8", make_clip(21, 48, 32, 2),
                  "LQ frames uint8; x/255*2-1. call i uses frames [max(0,4i-3), 4i+1)")
    for case in CASES:
        group, (height, width) = "e2e/" + case["name"], case["hw"]
        out.input(group, "in_frames_u8", make_clip(case["frames"], height, width, 3), "input frames (N,h,w,3) RGB")
        count = (case["frames"] + 3) // 8 * 8 + 1
        sides = [round(side * case["scale"]) // 128 * 16 for side in case["hw"]]
        noise = torch.from_numpy(normal(1, 16, (count - 1) // 4, *sides)).bfloat16().float().numpy()
        out.input(group, "noise", noise, "initial latents (1,16,(F-1)/4,H/8,W/8), used instead of the RNG")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, help="folder to make; must not exist")
    parser.add_argument("--reference", type=pathlib.Path, required=True,
                        help="reference.py: a plain PyTorch implementation of the pipeline")
    args = parser.parse_args()
    spec = importlib.util.spec_from_file_location("reference", args.reference)
    ref = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ref)
    torch.set_grad_enabled(False)

    args.out.mkdir(parents=True)
    try:
        for version, model in MODELS.items():
            write_model(args.out / "models" / version, version, model)
        out = Folder(args.out, ref)
        make_inputs(out)
        for ref.DT in (torch.float64, torch.float32):
            run_parts(out, ref)
            cases = [run_case(out, ref, case) for case in CASES]
        out.write(cases)
    except BaseException:
        shutil.rmtree(args.out)
        raise
    for case in cases:
        print(case["name"], "empty rows:", case["empty_query_rows"], "smallest gap:", case["min_topk_gap_rel"])


if __name__ == "__main__":
    main()
