#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Train the built-in model.

    train.py --crops crops.zip --ffmpeg ffmpeg --out FOLDER

Stops by itself after --minutes of training (or --steps), or earlier with --pause-after; run it again with the
same --out and it goes on from FOLDER/checkpoint.pt. Writes FOLDER/average.pt, the averaged weights that
`export.py` turns into a model directory, and FOLDER/log.txt.
"""

import argparse
import contextlib
import io
import json
import math
import os
import pathlib
import random
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

import clips as clip_maker
import resample
from bank import Bank
from codec import Codec
from muon import Muon
from network import Network, Widths, noise_like, without_content

LUMA_601 = (65.481 / 255, 128.553 / 255, 24.966 / 255)
LOSS_SCALE = 2.0**7  # keeps fp16 gradients off zero
LARGEST_GRADIENT = 1.0
CORNER = 4 / 255  # errors below it count by their square, above by their size
FLOOR = 0.5 / 255  # added to bicubic's loss: a clip that bicubic does perfectly teaches nothing
FIRST_STAGE, LAST_OF_FIRST_STAGE = 0.3, 10
LONGEST_STEP_S = 1.0  # of the clock's; what takes longer was a pause from outside
BETAS = (0.9, 0.99)


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--crops", type=pathlib.Path, required=True, help="zip of prepare_data.py")
    parser.add_argument("--ffmpeg", help="ffmpeg with libx264; without it no clip is compressed")
    parser.add_argument("--library-path", help="folder of that ffmpeg's shared libraries")
    parser.add_argument(
        "--out", type=pathlib.Path, required=True, help="folder for checkpoint, weights and log"
    )
    parser.add_argument(
        "--start-from", type=pathlib.Path, help="average.pt to start from, with a new optimizer"
    )
    parser.add_argument(
        "--resume", action="store_true", help="fail where there is no checkpoint to go on from"
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="training time in all")
    parser.add_argument("--steps", type=int, help="steps in all, instead of --minutes: repeatable schedule")
    parser.add_argument(
        "--pause-after", type=float, default=math.inf, help="minutes after which to save and stop"
    )
    parser.add_argument("--checkpoint-every", type=float, default=3, help="minutes between checkpoints")
    parser.add_argument("--validate-every", type=float, default=1, help="minutes between validations")
    parser.add_argument(
        "--rate", type=float, default=7e-4, help="Muon's step at its largest, for convolutions"
    )
    parser.add_argument("--adam-rate", type=float, default=2e-4, help="Adam's, for all else")
    parser.add_argument("--warm-up", type=int, default=200, help="steps over which the rate rises")
    parser.add_argument("--average", type=float, default=0.999, help="decay of the averaged weights")
    parser.add_argument(
        "--shapes",
        default="4x25x256,12x25x128,4x25x256,3x41x256",
        help="clips x frames x pixels of the batches, in turn; frames 8n+1, pixels a multiple of 128",
    )
    parser.add_argument("--decoder", default="80,48,24,8", help="channels of the decoder's four stages")
    parser.add_argument("--blocks", type=int, default=1, help="transformer blocks")
    parser.add_argument("--dim", type=int, default=128, help="transformer width, a multiple of 128")
    parser.add_argument("--temporal", type=float, default=0.25, help="weight of the frame-difference loss")
    parser.add_argument(
        "--still", type=float, default=1.5, help="that loss's extra weight where nothing changes"
    )
    parser.add_argument(
        "--flicker-corner",
        type=float,
        default=0.5,
        help="grey levels below which an error of a frame difference counts by its square",
    )
    parser.add_argument("--bank", type=int, default=1500, help="clips kept ready")
    parser.add_argument("--bank-batch", type=int, default=16, help="clips made at once")
    parser.add_argument("--bank-start", type=int, default=800, help="clips made before training starts")
    parser.add_argument("--renew-every", type=int, default=24, help="steps between new batches of clips")
    parser.add_argument("--coded-share", type=float, default=0.45, help="share of clips that go through x264")
    parser.add_argument(
        "--workers", type=int, default=max(1, (os.cpu_count() or 1) - 2), help="codec processes"
    )
    parser.add_argument(
        "--detailed-share", type=float, default=0.7, help="share of the crops used: the sharpest"
    )
    parser.add_argument("--held-out", type=int, default=80, help="first crops, kept for validation")
    parser.add_argument("--validation-clips", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(arguments)


def load_crops(path, device):
    """(N,3,P,P) uint8"""
    from PIL import Image

    with zipfile.ZipFile(path) as archive:
        files = [archive.read(name) for name in sorted(archive.namelist()) if name.endswith(".webp")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pictures = list(pool.map(lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), files))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous().to(device)


def luma(frames):
    """(...,3,H,W) -> (...,H,W), BT.601 without its offset."""
    red, green, blue = frames.unbind(-3)
    return LUMA_601[0] * red + LUMA_601[1] * green + LUMA_601[2] * blue


def step_size(name):
    """Of a convolution's weight for Muon. The first stage's channels each act on a whole block of the
    picture."""
    layer = int(name.split("|")[1]) if name.startswith("tc.") else None
    return FIRST_STAGE if layer is not None and layer <= LAST_OF_FIRST_STAGE else 1.0


def charbonnier(difference, corner=CORNER):
    return (difference.square() + corner**2).sqrt() - corner


def loss_of(frames, soft, truth, temporal, still, flicker_corner):
    """frames, soft (bicubic's) and truth (B,F,3,H,W). Each clip's loss is in units of bicubic's, so that
    clips count as they do in a mean of decibels."""
    error = frames - truth
    bright = luma(error)
    unit = charbonnier(luma(soft - truth)).mean((1, 2, 3)) + FLOOR
    unchanged = (truth[:, 1:] == truth[:, :-1]).all(2)
    flicker = (temporal + still * unchanged) * charbonnier(bright[:, 1:] - bright[:, :-1], flicker_corner)
    loss = (
        charbonnier(bright).mean((1, 2, 3))
        + 0.3 * charbonnier(error).mean((1, 2, 3, 4))
        + flicker.mean((1, 2, 3))
    )
    return (loss / unit).mean()


class Stopwatch:
    """Seconds that the training really ran: a process that was stopped and continued does not lose its
    schedule."""

    def __init__(self):
        self.seconds, self.last = 0.0, time.monotonic()

    def tick(self):
        """Adds the time since the last call, LONGEST_STEP_S at most, and gives the sum."""
        now = time.monotonic()
        self.seconds += min(now - self.last, LONGEST_STEP_S)
        self.last = now
        return self.seconds


class Trainer:
    def __init__(self, args, log):
        self.args, self.log, self.device = args, log, torch.device(args.device)
        self.cuda = self.device.type == "cuda"
        torch.manual_seed(args.seed)
        rng = random.Random(args.seed)
        self.graphs, self.step, self.elapsed = {}, 0, 0.0
        self.pool = torch.cuda.graph_pool_handle() if self.cuda else None
        crops = load_crops(args.crops, self.device)
        self.shapes = [tuple(int(n) for n in shape.split("x")) for shape in args.shapes.split(",")]
        self.codec = Codec(args.ffmpeg, args.workers, args.library_path) if args.ffmpeg else None
        self.bank = Bank(
            clip_maker.detailed(crops[args.held_out :], args.detailed_share),
            args.bank,
            max(s[1] for s in self.shapes),
            max(s[2] for s in self.shapes),
            self.codec,
            args.coded_share,
            rng,
            args.bank_batch,
        )
        self.validation = self.make_validation(
            clip_maker.detailed(crops[: args.held_out], args.detailed_share)
        )
        begun = time.monotonic()
        self.bank.fill(args.bank_start, in_flight=2 * args.workers)
        self.log(
            f"{len(crops)} crops; {self.bank.count} clips made in {time.monotonic() - begun:.1f} s, bicubic on them "
            f"{self.psnr_of_bank():.2f} dB"
        )
        self.network = Network(
            Widths(dim=args.dim, blocks=args.blocks, decoder=tuple(int(c) for c in args.decoder.split(","))),
            args.seed,
        )
        self.network.to(self.device)
        if args.start_from:
            self.network.assign(
                torch.load(args.start_from, map_location=self.device, weights_only=True)["average"]
            )
        self.network.hold_in_coordinates(self.bank.draw(4, *self.shapes[0][1:])[0])
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.averaged = [p.detach().clone() for p in self.parameters]
        named = [(name, p) for name, p in self.network.named_parameters() if p.requires_grad]
        convolutions = [(name, p) for name, p in named if p.dim() >= 4 and not name.startswith("dit.")]
        chosen = {name for name, _ in convolutions}
        # Rates live on the device, so that a captured graph sees them change.
        self.rates = {
            "muon": torch.zeros((), device=self.device),
            "adam": torch.zeros((), device=self.device),
        }
        self.muon = Muon(
            [p for _, p in convolutions], [step_size(name) for name, _ in convolutions], self.rates["muon"]
        )
        self.adam = torch.optim.Adam(
            [p for name, p in named if name not in chosen],
            lr=self.rates["adam"],
            betas=BETAS,
            fused=True,
            capturable=self.cuda,
        )
        self.decay = torch.zeros((), device=self.device)
        self.tally = torch.zeros(3, device=self.device)  # sum of losses, last gradient norm, skipped steps
        self.log(
            "parameters "
            + ", ".join(
                f"{part} {sum(t.numel() for t in tensors.values())}"
                for part, tensors in self.network.parts().items()
            )
        )

    # ---- one step
    def compute_step(self, shape):
        lq, truth = self.bank.draw(*shape)
        with torch.autocast(
            self.device.type,
            torch.float16 if self.cuda else torch.bfloat16,
            enabled=self.cuda,
            cache_enabled=False,
        ):
            frames = self.network(lq, noise_like(lq))
        soft = (lq[:, :, :-4].transpose(1, 2) + 1) / 2
        loss = loss_of(
            frames.float(),
            soft,
            truth[:, :-4],
            self.args.temporal,
            self.args.still,
            self.args.flicker_corner / 255,
        )
        (loss * LOSS_SCALE).backward()
        gradients = [p.grad for p in self.parameters]
        norm = torch.nn.utils.get_total_norm(gradients) / LOSS_SCALE
        finite = torch.isfinite(norm)
        factor = torch.where(finite, (LARGEST_GRADIENT / (norm + 1e-6)).clamp(max=1), 0.0) / LOSS_SCALE
        for gradient in gradients:
            gradient.nan_to_num_(0, 0, 0)
        torch._foreach_mul_(gradients, factor)
        self.adam.step()
        self.muon.step(finite.float())
        with torch.no_grad():
            torch._foreach_mul_(self.averaged, self.decay)
            torch._foreach_add_(
                self.averaged, torch._foreach_mul([p.detach() for p in self.parameters], 1 - self.decay)
            )
        self.tally[0] += torch.where(finite, loss.detach(), 0.0)
        self.tally[1] = norm
        self.tally[2] += (~finite).float()

    def run_step(self, shape):
        if not self.cuda:
            self.compute_step(shape)
            self.forget_gradients()
            return
        if shape not in self.graphs:
            self.graphs[shape] = self.capture(shape)
        self.graphs[shape].replay()

    def capture(self, shape):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self.compute_step(shape)
                self.forget_gradients()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):  # one pool: no graph's tensors outlive its replay
            self.compute_step(shape)
        self.forget_gradients()
        return graph

    def forget_gradients(self):
        for parameter in self.parameters:
            parameter.grad = None

    def set_rates(self, progress):
        warm = min(1, (self.step + 1) / self.args.warm_up)
        share = warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1, progress))))
        self.rates["muon"].fill_(self.args.rate * share)
        self.rates["adam"].fill_(self.args.adam_rate * share)
        self.decay.fill_(min(self.args.average, (self.step + 1) / (self.step + 20)))
        return self.args.rate * share

    # ---- the whole training
    def train(self):
        args = self.args
        for shape in dict.fromkeys(self.shapes):  # capture runs steps: at a rate of zero they change nothing
            self.set_zero_rates()
            self.run_step(shape)
        self.synchronize()
        self.tally.zero_()
        self.validate()
        before, watch = self.elapsed, Stopwatch()
        last_step, last_validation, last_checkpoint = self.step, self.elapsed, self.elapsed
        while True:
            self.elapsed = before + watch.tick() / 60
            progress = self.step / args.steps if args.steps else self.elapsed / args.minutes
            if progress >= 1 or self.elapsed - before > args.pause_after:
                break
            rate = self.set_rates(progress)
            self.run_step(self.shapes[self.step % len(self.shapes)])
            self.step += 1
            if self.step % args.renew_every == 0:
                self.bank.order()
                self.bank.receive()
            if self.step % 16 == 0:
                self.synchronize()
            if self.elapsed - last_validation > args.validate_every:
                loss, norm, skipped = self.tally.tolist()
                self.tally[0] = 0
                steps = max(1, self.step - last_step)
                self.log(
                    f"step {self.step}, {self.elapsed:.2f} min, rate {rate:.2e}, loss {loss / steps:.5f}, gradient "
                    f"{norm:.3f}, skipped {skipped:.0f}, {(self.elapsed - last_validation) * 6e4 / steps:.1f} ms a step"
                )
                self.validate()
                self.elapsed = before + watch.tick() / 60
                last_step, last_validation = self.step, self.elapsed
            if self.elapsed - last_checkpoint > args.checkpoint_every:
                self.save()
                last_checkpoint = self.elapsed
        self.synchronize()
        self.log(f"stopped at step {self.step}, {self.elapsed:.2f} min")
        self.validate()
        self.save()

    def set_zero_rates(self):
        for value in self.rates.values():
            value.zero_()
        self.decay.fill_(1)

    def synchronize(self):
        if self.cuda:
            torch.cuda.synchronize()

    def psnr_of_bank(self):
        lq, truth = self.bank.draw(16, *self.shapes[0][1:])
        error = luma((lq.transpose(1, 2) + 1) / 2 - truth).square().mean((-1, -2)).clamp_min(1e-9)
        return float(-10 * error.log10().mean())

    # ---- validation
    @torch.no_grad()
    def make_validation(self, crops):
        """[(name, lq (B,3,F,S,S), gt (B,F,3,S,S))]: clips of held-out pictures, drawn with a seed of their
        own."""
        count, frames, size, sets = self.args.validation_clips, 33, 256, []
        with torch.random.fork_rng(devices=[self.device] if self.cuda else []):
            torch.manual_seed(1234)
            for name, kernel in (
                ("area", resample.area_matrix),
                ("bicubic", resample.bicubic_matrix),
                ("crf28", resample.area_matrix),
                ("still", resample.area_matrix),
            ):
                truth = clip_maker.synthesize(crops, count, frames, size)
                if name == "still":
                    truth = truth[:, :1].expand(-1, frames, -1, -1, -1)
                matrix = kernel(size, size // 4).to(self.device)
                small = torch.round(resample.resample(truth, matrix, matrix).clamp(0, 1) * 255) / 255
                if name == "crf28":
                    if not self.codec:
                        continue
                    pixels = (small * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).cpu().numpy()
                    small = torch.from_numpy(self.codec.compress(pixels, 28, "medium").copy()).to(self.device)
                    small = small.permute(0, 1, 4, 2, 3).float() / 255
                sets.append(
                    (name, resample.upscale(small, size, size).transpose(1, 2) * 2 - 1, truth[:, :-4])
                )
        return sets

    @torch.no_grad()
    def validate(self):
        """Logs, for the averaged weights: PSNR-Y over bicubic, the same with latents that tell nothing of the
        picture, the error of frame differences relative to bicubic's, and the mean change of still frames in
        grey levels.
        """
        with self.averaged_weights():
            self.measure_validation()

    def measure_validation(self):
        psnr = lambda x, y: float(
            (-10 * luma(x.clamp(0, 1) - y).square().mean((-1, -2)).clamp_min(1e-9).log10()).mean()
        )
        difference = lambda x: x[:, 1:] - x[:, :-1]
        words = []
        for name, lq, truth in self.validation:
            generator = torch.Generator(self.device).manual_seed(5)
            with torch.autocast(self.device.type, torch.float16, enabled=self.cuda):
                latents = self.network.latents(lq, noise_like(lq, generator))
                frames = self.network.decode(latents, lq[:, :, :-4]).float()
                constant = without_content(latents)
                ablated = self.network.decode(constant, lq[:, :, :-4]).float()
            if name == "still":
                change = float(difference(frames).abs().mean()) * 255
                words.append(
                    f"still {change:.3f} grey levels a frame ({float(difference(ablated).abs().mean()) * 255:.3f})"
                )
                continue
            soft = (lq[:, :, :-4].transpose(1, 2) + 1) / 2
            base = psnr(soft, truth)
            motion = float(
                (difference(frames) - difference(truth)).abs().mean()
                / (difference(soft) - difference(truth)).abs().mean()
            )
            words.append(
                f"{name} {psnr(frames, truth) - base:+.3f} ({psnr(ablated, truth) - base:+.3f}) dB, "
                f"motion x{motion:.3f}"
            )
        self.log(f"  validation at {self.elapsed:.2f} min: " + "; ".join(words))

    # ---- checkpoints
    def save(self):
        out = self.args.out
        with self.averaged_weights():
            average = {
                part: {name: t.half().cpu() for name, t in tensors.items()}
                for part, tensors in self.network.parts().items()
            }
        save_whole(
            {
                "average": average,
                "prompt": self.network.prompt.cpu(),
                "step": self.step,
                "minutes": self.elapsed,
                "arguments": {k: str(v) for k, v in vars(self.args).items()},
            },
            out / "average.pt",
        )
        save_whole(
            {
                "network": self.network.state_dict(),
                "averaged": self.averaged,
                "step": self.step,
                "adam": self.adam.state_dict(),
                "muon": self.muon.state_dict(),
                "minutes": self.elapsed,
                "random": self.bank.rng.getstate(),
            },
            out / "checkpoint.pt",
        )

    @contextlib.contextmanager
    def averaged_weights(self):
        present = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            for parameter, value in zip(self.parameters, self.averaged):
                parameter.copy_(value)
            yield
            for parameter, value in zip(self.parameters, present):
                parameter.copy_(value)

    def resume(self):
        path = self.args.out / "checkpoint.pt"
        if not path.exists():
            if self.args.resume:
                raise FileNotFoundError(f"{path}: no checkpoint to go on from")
            return
        state = torch.load(path, map_location=self.device, weights_only=False)
        self.network.load_state_dict(state["network"])
        for mine, saved in zip(self.averaged, state["averaged"]):
            mine.copy_(saved)
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
        for group in self.adam.param_groups:
            group["lr"] = self.rates["adam"]  # the tensor that set_rates fills
        self.step, self.elapsed = state["step"], state["minutes"]
        self.bank.rng.setstate(state["random"])
        torch.manual_seed(self.args.seed + self.step)
        self.log(f"resumed at step {self.step}, {self.elapsed:.2f} min")


def save_whole(state, path):
    """An interrupted save leaves the last good file."""
    torch.save(state, f"{path}.new")
    os.replace(f"{path}.new", path)


def main():
    args = parse_arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    with open(args.out / "log.txt", "a") as file:

        def log(line):
            print(line, flush=True)
            print(line, file=file, flush=True)

        log(json.dumps(vars(args), default=str))
        trainer = Trainer(args, log)
        trainer.resume()
        trainer.train()
        if trainer.codec:
            trainer.codec.close()


if __name__ == "__main__":
    sys.exit(main())
