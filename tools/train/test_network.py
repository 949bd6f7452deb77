#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
r"""Tests of the training code: its network is the engine's, and a training goes on where it stopped.

    FLASHVSR_GOLDEN_RUNNER=build/cpu/bin/flashvsr_golden FLASHVSR_REFERENCE=reference.py \
        python3 test_network.py

FLASHVSR_GOLDEN_RUNNER names the runner of the golden tests, which runs the engine's own code on the inputs of
a golden folder. FLASHVSR_REFERENCE names a Python file with the same pipeline in plain PyTorch: load(),
pipeline(), LQProj, DiT and TCDec. The tests that need one of them are skipped without it. Needs torch, numpy,
safetensors and Pillow.
"""

import dataclasses
import importlib.util
import io
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest
import zipfile

import numpy as np
import torch

import coordinates
import export
import muon
import network as network_module
import passthrough
import resample
from network import Network, Widths, noise_like

TOLERANCE = 1e-4  # of the largest value
FRAMES = 41  # three chunks: the last one no longer sees all of the past
RUNNER, REFERENCE = os.environ.get("FLASHVSR_GOLDEN_RUNNER"), os.environ.get("FLASHVSR_REFERENCE")
BUILT_IN = pathlib.Path(__file__).resolve().parents[2] / "models" / "flashvsr-mini"
TOY = Widths(dim=256, blocks=2, feed_forward=96, projector=(24, 32), decoder=(52, 32, 8, 7))


@torch.no_grad()
def randomized(network, seed):
    """Starting values are near zero where training has to begin gently. Here every tensor counts."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        if "norm" in name and not name.endswith("bias"):
            values = 1 + 0.2 * values
        elif name.endswith("modulation"):
            values *= 0.3
        elif name.endswith("bias"):
            values *= 0.1
        else:
            values /= math.sqrt(parameter[0].numel())
        parameter.copy_(values)
    return network


def clip_u8(height, width, frames, seed):
    """(F,H,W,3) uint8: broad shapes that move, under fine grain."""
    rng = np.random.default_rng(seed)
    broad = rng.integers(0, 256, (height // 16 + 8, width // 16 + 8, 3)).repeat(16, 0).repeat(16, 1)
    moved = [broad[2 * t : 2 * t + height, t : t + width] for t in range(frames)]
    return np.clip(np.stack(moved) + rng.integers(-20, 21, (frames, height, width, 3)), 0, 255).astype(
        np.uint8
    )


@dataclasses.dataclass
class Run:
    """One clip through network.py, with a model directory of the same weights."""

    folder: pathlib.Path
    network: Network
    clip: np.ndarray  # (F,H,W,3) uint8
    lq: torch.Tensor  # (1,3,F,H,W)
    noise: torch.Tensor
    tokens: torch.Tensor  # (T,h*w,dim) in the order of rows and columns
    prediction: torch.Tensor
    latents: torch.Tensor
    frames: torch.Tensor  # (F-4,3,H,W), about [0,1]


def run(folder, network, height, width, seed):
    """Exports the network, reads it back (fp16 rounds it) and runs it on a clip."""
    export.write_model(
        export.to_half(network.parts()),
        network.prompt,
        folder,
        {"version": "1.1", "color_fix": "none", "name": "test", "licence": "CC0-1.0"},
    )
    network = Network(state=export.read_model(folder))
    clip = clip_u8(height, width, FRAMES, seed)
    clip[-4:] = clip[-5]  # the engine's look-ahead at the end of a clip
    lq = torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() / 255 * 2 - 1
    noise = noise_like(lq, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        tokens = network.project(lq)
        prediction = network.predict(noise, tokens)
        latents = noise - prediction
        frames = network.decode(latents, lq[:, :, :-4])[0]
    steps, h, w = (FRAMES - 1) // 4, height // 16, width // 16
    tokens = network_module.from_windows(tokens, steps, h, w)[0].flatten(1, 2)
    return Run(folder, network, clip, lq, noise, tokens, prediction, latents, frames)


class NetworkCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.holder = tempfile.TemporaryDirectory()
        cls.root = pathlib.Path(cls.holder.name)
        torch.manual_seed(0)
        cls.runs = {}
        for name, network, height, width in (
            ("random", randomized(Network(TOY), 1), 256, 128),
            ("random_small", randomized(Network(TOY), 2), 128, 128),  # a third of the windows is left out
            ("starting", Network(TOY, seed=3), 128, 256),
            ("built_in", Network(state=export.read_model(BUILT_IN)), 128, 128),
        ):
            cls.runs[name] = run(cls.root / name / "models" / "v1.1", network, height, width, len(cls.runs))

    @classmethod
    def tearDownClass(cls):
        cls.holder.cleanup()

    def assert_close(self, got, expected, what):
        self.assertEqual(tuple(got.shape), tuple(expected.shape), what)
        error = float((got - expected).abs().max() / expected.abs().max())
        self.assertLessEqual(error, TOLERANCE, what)
        return error


@unittest.skipUnless(RUNNER, "FLASHVSR_GOLDEN_RUNNER names no runner of the golden tests")
class Engine(NetworkCase):
    def write_goldens(self, name, run):
        """A golden folder around the run's model, with what network.py makes of the inputs as the goldens."""
        folder, files = self.root / name, []
        height, width = run.clip.shape[1:3]
        chunks = [(0, 6)] + [(start, start + 2) for start in range(6, (FRAMES - 1) // 4, 2)]

        def add(group, tensor, values, golden=True):
            values = np.ascontiguousarray(values)
            file = f"goldens/{group}/{tensor}.npy"
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            np.save(folder / file, values)
            files.append(
                {
                    "file": file,
                    "group": group,
                    "name": tensor,
                    "role": "golden" if golden else "input",
                    "shape": values.shape,
                    "dtype": str(values.dtype),
                }
            )
            if golden:
                files[-1]["tolerance"] = {"metric": "max_abs_diff / max_abs_ref", "max": TOLERANCE}

        add(f"e2e/{name}", "in_frames_u8", run.clip[:-4], golden=False)
        add(f"e2e/{name}", "noise", run.noise.numpy(), golden=False)
        add(f"e2e/{name}", "latents", run.latents.numpy())
        add(f"e2e/{name}", "out_f32", (run.frames * 2 - 1).transpose(0, 1).numpy())
        for index, tokens in enumerate(run.tokens, 1):
            add("parts/v1.1/dit", f"lq_call{index}_tokens", tokens[None].numpy())
        for index, (start, end) in enumerate(chunks):
            add("parts/v1.1/dit", f"chunk{index}_noise_pred", run.prediction[:, :, start:end].numpy())
        case = {
            "name": name,
            "model": "models/v1.1",
            "pipeline": "tiny",
            "scale": 1.0,
            "kv_ratio": 3.0,
            "sparse_ratio": network_module.SPARSE_RATIO,
            "local_range": network_module.LOCAL_RANGE,
            "output_frames": FRAMES - 4,
            "color_fix": False,
            "parts_group": "parts/v1.1/dit",
        }
        (folder / "manifest.json").write_text(json.dumps({"cases": [case], "files": files}))
        return folder, sum(file["role"] == "golden" for file in files)

    def check(self, name):
        run = self.runs[name]
        folder, count = self.write_goldens(name, run)
        done = subprocess.run([RUNNER, str(folder)], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        used = [float(share) for share in re.findall(r"([\d.]+) % of allowed +worst", done.stdout)]
        self.assertEqual(len(used), count, done.stdout)  # every golden was compared
        print(f"{name}: at worst {max(used) / 100 * TOLERANCE:.1e} of the largest value", file=sys.stderr)

    def test_random_network(self):
        self.check("random")

    def test_random_network_on_one_window(self):
        self.check("random_small")

    def test_starting_values(self):
        self.check("starting")

    def test_built_in_model(self):
        self.check("built_in")


@unittest.skipUnless(REFERENCE, "FLASHVSR_REFERENCE names no reference.py")
class Reference(NetworkCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        spec = importlib.util.spec_from_file_location("reference", REFERENCE)
        cls.reference = importlib.util.module_from_spec(spec)
        with torch.enable_grad():  # the file turns gradients off for good
            spec.loader.exec_module(cls.reference)
        torch.set_grad_enabled(True)

    @torch.no_grad()
    def check(self, name):
        run, reference = self.runs[name], self.reference
        height, width = run.clip.shape[1:3]
        weights = reference.load(str(run.folder))
        topk_ratio = network_module.SPARSE_RATIO * 768 * 1280 / (height * width)
        latents, _, parts = reference.pipeline(
            weights, "v1.1", run.lq, run.noise, topk_ratio, 3.0, network_module.LOCAL_RANGE, decoder="none"
        )
        worst = max(
            self.assert_close(tokens, parts[f"lq_call{index}_tokens"][0], f"tokens {index}")
            for index, tokens in enumerate(run.tokens, 1)
        )
        errors = [worst, self.assert_close(run.latents, latents, "latents")]
        decoder = reference.TCDec(weights["tc"])  # on network.py's own latents
        decoded = [
            decoder.decode(run.latents[:, :, latent : latent + count], run.lq[:, :, first:last])
            for latent, count, first, last in ((0, 6, 0, 21), (6, 2, 21, 29), (8, 2, 29, 37))
        ]
        errors.append(self.assert_close(run.frames, torch.cat(decoded, 1)[0], "frames"))
        print(
            "{}: tokens {:.1e}, latents {:.1e}, frames {:.1e} of the largest value".format(name, *errors),
            file=sys.stderr,
        )

    def test_random_network(self):
        self.check("random")

    def test_random_network_on_one_window(self):
        self.check("random_small")

    def test_starting_values(self):
        self.check("starting")

    def test_built_in_model(self):
        self.check("built_in")

    @torch.no_grad()
    def test_block_mask_of_large_pictures(self):
        """Windows out of reach, a budget that prunes, and both."""
        network, heads = self.runs["random"].network, 2
        for rows, columns, groups in ((5, 2, 3), (2, 9, 4), (6, 8, 4), (4, 13, 4)):
            windows = rows * columns
            generator = torch.Generator().manual_seed(windows)
            q, k = (
                torch.randn(1, heads, count, 128, generator=generator) * 2
                for count in (windows, groups * windows)
            )
            spread = lambda x: x.repeat_interleave(128, 2)  # every token its window's mean
            mask = network.block_mask(spread(q), spread(k), rows, columns)[0]
            dit = self.reference.DiT.__new__(self.reference.DiT)
            dit.nh, dit.hd = heads, 128
            flat = lambda x: x[0].transpose(0, 1).flatten(1)
            topk = int(windows**2 * (network_module.SPARSE_RATIO * 768 * 1280 / (windows * 128 * 128))) - 1
            _, expected = dit.draft(flat(q), flat(k), rows, columns, topk, network_module.LOCAL_RANGE, 1)
            self.assertTrue(torch.equal(mask, expected), f"{rows}x{columns} windows, {groups} pairs")


def picture_like(size, seed):
    """(3,S,S) in [0,1] with the 1/f spectrum of photographs, colours weaker than luma."""
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.fft.fftfreq(size)
    radius = (frequency[:, None] ** 2 + frequency[None, : size // 2 + 1] ** 2).sqrt()
    radius[0, 0] = math.inf
    phase = torch.rand(3, *radius.shape, generator=generator) * 2 * math.pi
    grain = torch.fft.irfft2(torch.polar(1 / radius.expand_as(phase), phase), (size, size))
    grain = grain / grain.std((1, 2), keepdim=True) * torch.tensor([0.2, 0.02, 0.02])[:, None, None]
    colours = torch.linalg.inv(torch.tensor(passthrough.COLOURS))
    return (0.5 + torch.einsum("kc,cyx->kyx", colours, grain)).clamp(0, 1)


class StartingValues(unittest.TestCase):
    def psnr(self, x, y):
        return float(-10 * (x - y).square().mean().log10())

    @torch.no_grad()
    def test_output_is_the_upscaled_picture(self):
        network, size, rim = Network(), 256, 16
        area = resample.area_matrix(size, size // 4)
        luma = torch.tensor(passthrough.COLOURS[0])
        for seed in range(2):
            small = resample.resample(picture_like(size, seed), area, area)
            upscaled = resample.upscale(small, size, size)
            lq = (upscaled * 2 - 1)[None, :, None].repeat(1, 1, 25, 1, 1)
            out = network(lq, noise_like(lq, torch.Generator().manual_seed(seed)))[0, -1]
            bright = [torch.einsum("c,cyx->yx", luma, x) for x in (out, upscaled)]
            self.assertGreater(self.psnr(*bright), 45)
            inside = [x[:, rim:-rim, rim:-rim] for x in (out, upscaled)]
            self.assertGreater(self.psnr(*inside), 45)

    @torch.no_grad()
    def test_coordinates_change_nothing(self):
        network = Network(TOY, seed=4)
        lq = (
            torch.stack([picture_like(128, seed) for seed in (5, 6)])[:, :, None].repeat(1, 1, 25, 1, 1) * 2
            - 1
        )
        noise = noise_like(lq, torch.Generator().manual_seed(7))
        for weight, basis in (
            (network.lq["conv1.weight"], coordinates.block_basis(16, 8, 1)),
            (network.tc["decoder.1.weight"], coordinates.block_basis(8, 5, 4)),
        ):
            weight[:, :768] = torch.einsum(
                "oj...,kj,ki->oi...", weight[:, :768], basis, basis
            )  # what a basis can hold
        before, held = network(lq, noise), {name: t for name, t in network.tc.published().items()}
        network.hold_in_coordinates(lq)
        after = network(lq, noise)
        self.assertLess(float((after - before).abs().max()), TOLERANCE)
        for name, tensor in network.tc.published().items():
            self.assertLess(
                float((tensor - held[name]).abs().max()), TOLERANCE * float(held[name].abs().max() + 1), name
            )


class Steps(unittest.TestCase):
    def test_muon_gives_orthogonal_steps(self):
        generator = torch.Generator().manual_seed(0)
        for rows, columns in ((8, 72), (40, 12)):
            values = muon.orthogonalized(torch.randn(3, rows, columns, generator=generator))
            singular = torch.linalg.svdvals(values)
            self.assertGreater(float(singular.min()), 0.5)
            self.assertLess(float(singular.max()), 1.3)


class Attention(unittest.TestCase):
    def test_window_without_keys_gives_zeros(self):
        network = Network(TOY)
        q, k, v = (torch.randn(1, 2, 3 * 128, 128) for _ in range(3))
        kept = torch.ones(1, 2, 3, 3, dtype=torch.bool)
        kept[:, 1, 2] = False
        network.block_mask = lambda *_: kept
        out = network.attend(q, k, v, 1, 3)
        self.assertTrue((out[:, 1, 256:] == 0).all())
        dense = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        self.assertLess(float((out[:, 0] - dense[:, 0]).abs().max()), 1e-5)


class Training(unittest.TestCase):
    """A few steps on the CPU, without a codec."""

    def arguments(self, root, out, *more):
        import train

        return train.parse_arguments(
            [
                "--crops",
                str(root / "crops.zip"),
                "--out",
                str(root / out),
                "--device",
                "cpu",
                "--shapes",
                "1x25x128",
                "--decoder",
                "52,32,8,7",
                "--bank",
                "4",
                "--bank-batch",
                "2",
                "--bank-start",
                "2",
                "--renew-every",
                "2",
                "--workers",
                "1",
                "--held-out",
                "1",
                "--validation-clips",
                "1",
                "--detailed-share",
                "1",
                "--warm-up",
                "1",
                *more,
            ]
        )

    def trainer(self, *arguments):
        import train

        args = self.arguments(*arguments)
        args.out.mkdir(exist_ok=True)
        lines = []
        trainer = train.Trainer(args, lines.append)
        return trainer, lines

    def test_resume_and_start_from(self):
        from PIL import Image

        with tempfile.TemporaryDirectory() as name:
            root = pathlib.Path(name)
            with zipfile.ZipFile(root / "crops.zip", "w") as archive:
                for index, picture in enumerate(clip_u8(384, 384, 3, 0)):
                    data = io.BytesIO()
                    Image.fromarray(picture).save(data, "WEBP", quality=90)
                    archive.writestr(f"{index:05d}.webp", data.getvalue())

            first, lines = self.trainer(root, "run", "--steps", "2")
            before = [p.detach().clone() for p in first.parameters]
            first.train()
            self.assertEqual(first.step, 2)
            moved = sum(not torch.equal(old, new) for old, new in zip(before, first.parameters))
            self.assertGreater(moved, len(before) // 2)
            self.assertEqual(sum("validation at" in line for line in lines), 2)

            second, lines = self.trainer(root, "run", "--steps", "3")
            second.validation = []  # most of the time, and no more to learn from it
            second.resume()
            self.assertEqual(second.step, 2)
            self.assertIn("resumed at step 2", lines[-1])
            for mine, saved in zip(second.parameters + second.averaged, first.parameters + first.averaged):
                self.assertTrue(torch.equal(mine, saved))
            for shape, buffer in second.muon.buffers.items():
                self.assertTrue(torch.equal(buffer, first.muon.buffers[shape]))
            for mine, saved in zip(
                second.adam.param_groups[0]["params"], first.adam.param_groups[0]["params"]
            ):
                self.assertTrue(
                    torch.equal(second.adam.state[mine]["exp_avg"], first.adam.state[saved]["exp_avg"])
                )
            second.train()
            self.assertEqual(second.step, 3)
            self.assertFalse(
                all(torch.equal(mine, old) for mine, old in zip(second.parameters, first.parameters))
            )

            third, _ = self.trainer(
                root, "other", "--steps", "1", "--start-from", str(root / "run" / "average.pt")
            )
            saved = torch.load(root / "run" / "average.pt", weights_only=True)["average"]
            for part, tensors in third.network.parts().items():
                for name, tensor in tensors.items():
                    expected = saved[part][name].float()
                    # There and back through the coordinates; large weights within the file's half step of fp16.
                    self.assertLess(
                        float((tensor - expected).abs().max()),
                        max(1e-4, 2.0**-11 * float(expected.abs().max())),
                        f"{part} {name}",
                    )
            third.validation = []
            third.train()
            self.assertEqual(third.step, 1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
