#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Train the built-in model.

    train.py --crops crops.zip --ffmpeg ffmpeg --out FOLDER --minutes 17

Stops by itself after --minutes of training (or --steps), or earlier with --pause-after; run it again with the same
--out and it goes on from FOLDER/checkpoint.pt. Writes FOLDER/average.pt, the averaged weights that `export.py` turns into
a model directory, and FOLDER/log.txt.
"""
import argparse
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
from network import Network, Widths, noise_like

LUMA_601 = (65.481 / 255, 128.553 / 255, 24.966 / 255)
LOSS_SCALE = 2.0**13  # keeps fp16 gradients off zero
LARGEST_GRADIENT = 0.5
BETAS = (0.9, 0.99)


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", type=pathlib.Path, required=True, help="zip of prepare_data.py")
    parser.add_argument("--ffmpeg", help="ffmpeg with libx264; without it no clip is compressed")
    parser.add_argument("--library-path", help="folder of that ffmpeg's shared libraries")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for checkpoint, weights and log")
    parser.add_argument("--start-from", type=pathlib.Path, help="average.pt to start from, with a new optimizer")
    parser.add_argument("--minutes", type=float, default=17, help="training time in all")
    parser.add_argument("--steps", type=int, help="steps in all, instead of --minutes: repeatable schedule")
    parser.add_argument("--pause-after", type=float, default=math.inf, help="minutes after which to save and stop")
    parser.add_argument("--checkpoint-every", type=float, default=3, help="minutes between checkpoints")
    parser.add_argument("--validate-every", type=float, default=1, help="minutes between validations")
    parser.add_argument("--rate", type=float, default=3e-4, help="Adam's rate for a fan-in of 576")
    parser.add_argument("--warm-up", type=int, default=300, help="steps over which the rate rises")
    parser.add_argument("--average", type=float, default=0.999, help="decay of the averaged weights")
    parser.add_argument("--shapes", default="10x25x256,32x25x128,10x25x256,5x41x256",
                        help="clips x frames x pixels of the batches, in turn; frames 8n+1, pixels a multiple of 128")
    parser.add_argument("--decoder", default="128,64,24,8", help="channels of the decoder's four stages")
    parser.add_argument("--blocks", type=int, default=1, help="transformer blocks")
    parser.add_argument("--dim", type=int, default=128, help="transformer width, a multiple of 128")
    parser.add_argument("--temporal", type=float, default=0.3, help="weight of the frame-difference loss")
    parser.add_argument("--still", type=float, default=1.5, help="that loss's extra weight where nothing changes")
    parser.add_argument("--bank", type=int, default=1500, help="clips kept ready")
    parser.add_argument("--bank-start", type=int, default=480, help="clips made before training starts")
    parser.add_argument("--renew-every", type=int, default=4, help="steps between new batches of clips")
    parser.add_argument("--coded-share", type=float, default=0.45, help="share of clips that go through x264")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 2), help="codec processes")
    parser.add_argument("--detailed-share", type=float, default=0.5, help="share of the crops used: the sharpest")
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


def relative_rate(parameter):
    """Adam moves every weight alike, so a layer's output moves with its fan-in: this evens it out."""
    if parameter.dim() == 4:
        return min(5.0, 576 / parameter[0].numel())
    return 1.5 if parameter.dim() == 2 else 1.0


def charbonnier(difference, epsilon):
    return (difference.square() + epsilon**2).sqrt()


def loss_of(frames, truth, temporal, still):
    """frames, truth (B,F,3,H,W)"""
    error = frames - truth
    loss = 0.5 * charbonnier(error, 1e-3).mean() + 0.5 * charbonnier(luma(error) * (255 / 219), 1e-3).mean()
    step = truth[:, 1:] - truth[:, :-1]
    weight = temporal + still * (step == 0).all(2, keepdim=True)
    return loss + (weight * charbonnier(error[:, 1:] - error[:, :-1], 3e-4)).mean()


class Trainer:
    def __init__(self, args, log):
        self.args, self.log, self.device = args, log, torch.device(args.device)
        self.cuda = self.device.type == "cuda"
        torch.manual_seed(args.seed)
        rng = random.Random(args.seed)
        self.network = Network(Widths(dim=args.dim, blocks=args.blocks,
                                      decoder=tuple(int(c) for c in args.decoder.split(","))), args.seed)
        self.network.to(self.device)
        self.parameters = list(self.network.parameters())
        self.averaged = [p.detach().clone() for p in self.parameters]
        groups = {}
        for parameter in self.parameters:
            groups.setdefault(relative_rate(parameter), []).append(parameter)
        # Rates live on the device, so that a captured graph sees them change.
        self.rates = {relative: torch.zeros((), device=self.device) for relative in groups}
        self.optimizer = torch.optim.AdamW([{"params": groups[r], "lr": self.rates[r]} for r in groups], betas=BETAS,
                                           weight_decay=1e-4, fused=True, capturable=self.cuda)
        self.decay = torch.zeros((), device=self.device)
        self.tally = torch.zeros(3, device=self.device)  # sum of losses, last gradient norm, skipped steps
        self.graphs, self.step, self.elapsed = {}, 0, 0.0
        self.pool = torch.cuda.graph_pool_handle() if self.cuda else None
        crops = load_crops(args.crops, self.device)
        log(f"{len(crops)} crops, parameters " + ", ".join(
            f"{part} {sum(p.numel() for p in getattr(self.network, part).parameters())}" for part in ("lq", "dit", "tc")))
        self.shapes = [tuple(int(n) for n in shape.split("x")) for shape in args.shapes.split(",")]
        self.codec = Codec(args.ffmpeg, args.workers, args.library_path) if args.ffmpeg else None
        self.bank = Bank(clip_maker.detailed(crops[args.held_out:], args.detailed_share), args.bank, max(s[1] for s in self.shapes),
                         max(s[2] for s in self.shapes), self.codec, args.coded_share, rng)
        self.validation = self.make_validation(crops[:args.held_out])
        if args.start_from:
            self.load_average(args.start_from)

    # ---- one step
    def compute_step(self, shape):
        lq, truth = self.bank.draw(*shape)
        with torch.autocast(self.device.type, torch.float16 if self.cuda else torch.bfloat16, enabled=self.cuda,
                            cache_enabled=False):
            frames = self.network(lq, noise_like(lq))
        loss = loss_of(frames.float(), truth[:, :-4], self.args.temporal, self.args.still)
        (loss * LOSS_SCALE).backward()
        gradients = [p.grad for p in self.parameters]
        norm = torch.nn.utils.get_total_norm(gradients) / LOSS_SCALE
        finite = torch.isfinite(norm)
        factor = torch.where(finite, (LARGEST_GRADIENT / (norm + 1e-6)).clamp(max=1), 0.0) / LOSS_SCALE
        for gradient in gradients:
            gradient.nan_to_num_(0, 0, 0)
        torch._foreach_mul_(gradients, factor)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_mul_(self.averaged, self.decay)
            torch._foreach_add_(self.averaged, torch._foreach_mul([p.detach() for p in self.parameters],
                                                                  1 - self.decay))
        self.tally[0] += torch.where(finite, loss.detach(), 0.0)
        self.tally[1] = norm
        self.tally[2] += (~finite).float()

    def run_step(self, shape):
        if not self.cuda:
            self.compute_step(shape)
            self.optimizer.zero_grad(set_to_none=True)
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
                self.optimizer.zero_grad(set_to_none=True)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):  # one pool: no graph's tensors outlive its replay
            self.compute_step(shape)
        self.optimizer.zero_grad(set_to_none=True)
        return graph

    def set_rates(self, progress):
        warm = min(1, (self.step + 1) / self.args.warm_up)
        rate = self.args.rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1, progress))))
        for relative, value in self.rates.items():
            value.fill_(rate * relative)
        self.decay.fill_(min(self.args.average, (self.step + 1) / (self.step + 20)))
        return rate

    # ---- the whole training
    def train(self):
        args = self.args
        begun = time.time()
        self.bank.fill(args.bank_start, in_flight=2 * args.workers)
        self.log(f"{self.bank.count} clips made in {time.time() - begun:.1f} s; bicubic on them "
                 f"{self.psnr_of_bank():.2f} dB")
        for shape in dict.fromkeys(self.shapes):  # capture runs steps: at a rate of zero they change nothing
            self.set_zero_rates()
            self.run_step(shape)
        self.synchronize()
        self.tally.zero_()
        self.validate()
        begun = time.time()
        before, last_log, last_validation, last_checkpoint = self.elapsed, self.step, begun, begun
        while True:
            now = time.time()
            self.elapsed = before + (now - begun) / 60
            progress = self.step / args.steps if args.steps else self.elapsed / args.minutes
            if progress >= 1 or (now - begun) / 60 > args.pause_after:
                break
            rate = self.set_rates(progress)
            self.run_step(self.shapes[self.step % len(self.shapes)])
            self.step += 1
            if self.step % args.renew_every == 0:
                self.bank.order()
                self.bank.receive()
            if self.step % 16 == 0:
                self.synchronize()
            if now - last_validation > 60 * args.validate_every:
                loss, norm, skipped = self.tally.tolist()
                self.tally[0] = 0
                self.log(f"step {self.step}, {self.elapsed:.2f} min, rate {rate:.2e}, loss "
                         f"{loss / max(1, self.step - last_log):.5f}, gradient {norm:.3f}, skipped {skipped:.0f}, "
                         f"{(now - last_validation) / max(1, self.step - last_log) * 1e3:.1f} ms a step")
                self.validate()
                last_log, last_validation = self.step, time.time()
            if now - last_checkpoint > 60 * args.checkpoint_every:
                self.save()
                last_checkpoint = time.time()
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
        """[(name, lq (B,3,F,S,S), gt (B,F,3,S,S))]: clips of held-out pictures, drawn with a seed of their own."""
        count, frames, size, sets = self.args.validation_clips, 33, 256, []
        with torch.random.fork_rng(devices=[self.device] if self.cuda else []):
            torch.manual_seed(1234)
            for name, kernel in (("area", resample.area_matrix), ("bicubic", resample.bicubic_matrix),
                                 ("crf28", resample.area_matrix), ("still", resample.area_matrix)):
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
                sets.append((name, resample.upscale(small, size, size).transpose(1, 2) * 2 - 1, truth[:, :-4]))
        return sets

    @torch.no_grad()
    def validate(self):
        """Logs, for the averaged weights: PSNR-Y over bicubic, the same with latents replaced by their mean, the error of
        frame differences relative to bicubic's, and the mean change of still frames in grey levels."""
        present = [p.detach().clone() for p in self.parameters]
        for parameter, value in zip(self.parameters, self.averaged):
            parameter.copy_(value)
        psnr = lambda x, y: float((-10 * luma(x.clamp(0, 1) - y).square().mean((-1, -2)).clamp_min(1e-9).log10()).mean())
        difference = lambda x: x[:, 1:] - x[:, :-1]
        words = []
        for name, lq, truth in self.validation:
            generator = torch.Generator(self.device).manual_seed(5)
            with torch.autocast(self.device.type, torch.float16, enabled=self.cuda):
                latents = self.network.latents(lq, noise_like(lq, generator))
                frames = self.network.decode(latents, lq[:, :, :-4]).float()
                constant = latents.mean((0, 2, 3, 4), keepdim=True).expand_as(latents)
                ablated = self.network.decode(constant, lq[:, :, :-4]).float()
            if name == "still":
                change = float(difference(frames).abs().mean()) * 255
                words.append(f"still {change:.3f} grey levels a frame ({float(difference(ablated).abs().mean()) * 255:.3f})")
                continue
            soft = (lq[:, :, :-4].transpose(1, 2) + 1) / 2
            base = psnr(soft, truth)
            motion = float((difference(frames) - difference(truth)).abs().mean() /
                           (difference(soft) - difference(truth)).abs().mean())
            words.append(f"{name} {psnr(frames, truth) - base:+.3f} ({psnr(ablated, truth) - base:+.3f}) dB, "
                         f"motion x{motion:.3f}")
        for parameter, value in zip(self.parameters, present):
            parameter.copy_(value)
        self.log(f"  validation at {self.elapsed:.2f} min: " + "; ".join(words))

    # ---- checkpoints
    def save(self):
        out = self.args.out
        names = [name for name, _ in self.network.named_parameters()]
        save_whole({"average": {n: a.half() for n, a in zip(names, self.averaged)}, "prompt": self.network.prompt,
                    "step": self.step, "minutes": self.elapsed, "arguments": {k: str(v) for k, v in vars(self.args).items()}}, out / "average.pt")
        save_whole({"network": self.network.state_dict(), "averaged": self.averaged, "step": self.step,
                    "optimizer": self.optimizer.state_dict(), "minutes": self.elapsed,
                    "random": self.bank.rng.getstate()}, out / "checkpoint.pt")

    def resume(self):
        path = self.args.out / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=False)
        self.network.load_state_dict(state["network"])
        for mine, saved in zip(self.averaged, state["averaged"]):
            mine.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        for group, rate in zip(self.optimizer.param_groups, self.rates.values()):
            group["lr"] = rate  # the tensors that set_rates fills
        self.step, self.elapsed = state["step"], state["minutes"]
        self.bank.rng.setstate(state["random"])
        torch.manual_seed(self.args.seed + self.step)
        self.log(f"resumed at step {self.step}, {self.elapsed:.2f} min")

    def load_average(self, path):
        saved = torch.load(path, map_location=self.device, weights_only=False)["average"]
        with torch.no_grad():
            for (name, parameter), averaged in zip(self.network.named_parameters(), self.averaged):
                parameter.copy_(saved[name])
                averaged.copy_(saved[name])


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
