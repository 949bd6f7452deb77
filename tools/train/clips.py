# SPDX-License-Identifier: LGPL-2.1-or-later
"""Clips out of still photographs, and what real video does to them: motion, reduction, noise, chroma
subsampling."""

import math

import torch
import torch.nn.functional as F

import resample

STILL_SHARE = 0.2  # clips in which nothing moves at all
CUT_SHARE = 0.05  # clips with a hard cut
REPEAT_SHARE = 0.2  # clips with repeated frames
SOFT_SHARE = 0.25  # clips of enlarged pictures: most video holds less detail than its pixels could
LUMA = (0.299, 0.587, 0.114)


def uniform(*size, device, low=0.0, high=1.0):
    return low + (high - low) * torch.rand(*size, device=device)


def _times(batch, frames, still, device):
    """(B,T) moment of each frame: steady, repeated by a fixed cadence, frozen at random, or all the same."""
    steady = torch.arange(frames, device=device, dtype=torch.float32).expand(batch, -1)
    cadence = torch.randint(2, 4, (batch, 1), device=device)
    repeated = torch.div(steady, cadence, rounding_mode="floor") * cadence
    frozen = (uniform(batch, frames, device=device) > 0.3).float().cumsum(1)
    choice = uniform(batch, 1, device=device)
    moments = torch.where(
        choice < REPEAT_SHARE / 2, repeated, torch.where(choice < REPEAT_SHARE, frozen, steady)
    )
    return torch.where(still[:, None], torch.zeros_like(moments), moments)


def camera(times, size, source_size):
    """(B,T,S,S,2) sampling positions in [-1,1] of a camera that pans, shakes, zooms and turns over a square
    picture."""
    b, device = len(times), times.device
    t = times - times.mean(1, keepdim=True)
    kind = uniform(b, device=device)  # pixels a frame: from a slow pan to a fast one
    speed = torch.where(
        kind < 0.45,
        uniform(b, device=device, high=1.5),
        torch.where(
            kind < 0.85, uniform(b, device=device, low=1, high=6), uniform(b, device=device, low=5, high=16)
        ),
    )
    heading = uniform(b, device=device, high=2 * math.pi)
    pan = torch.stack([heading.cos(), heading.sin()], 1) * speed[:, None]
    shake = uniform(b, 1, 2, device=device, high=3) * torch.sin(
        uniform(b, 1, 2, device=device, low=0.1, high=0.6) * times[..., None]
        + uniform(b, 1, 2, device=device, high=6.3)
    )
    centre = (
        source_size / 2
        + uniform(b, 1, 2, device=device, low=-60, high=60)
        + pan[:, None] * t[..., None]
        + shake
    )
    reach = torch.where(
        uniform(b, 1, device=device) < SOFT_SHARE,
        uniform(b, 1, device=device, low=0.35, high=0.9),
        uniform(b, 1, device=device, low=0.9, high=1.35),
    )
    zoom = reach * (1 + uniform(b, 1, device=device, low=-0.003, high=0.003) * t).clamp(0.8, 1.25)
    turned = torch.randint(0, 4, (b, 1), device=device) * (math.pi / 2) + torch.where(
        uniform(b, 1, device=device) < 0.5,
        torch.zeros(b, 1, device=device),
        uniform(b, 1, device=device, low=-0.6, high=0.6),
    )
    angle = turned + uniform(b, 1, device=device, low=-0.008, high=0.008) * t
    mirror = torch.where(uniform(b, 1, 1, 1, device=device) < 0.5, -1.0, 1.0)
    axis = torch.arange(size, device=device) - (size - 1) / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    x = mirror * x
    cos, sin = (zoom * angle.cos())[..., None, None], (zoom * angle.sin())[..., None, None]
    at = torch.stack(
        [centre[..., 0, None, None] + cos * x - sin * y, centre[..., 1, None, None] + sin * x + cos * y], -1
    )
    return at * 2 / source_size - 1


def _film(pictures, positions):
    """pictures (B,C,N,N), positions (B,T,S,S,2) -> (B,T,C,S,S)"""
    b, t, s = positions.shape[:3]
    out = F.grid_sample(
        pictures,
        positions.reshape(b, t * s, s, 2),
        mode="bicubic",
        padding_mode="reflection",
        align_corners=False,
    )
    return out.reshape(b, pictures.shape[1], t, s, s).transpose(1, 2)


def synthesize(crops, batch, frames, size):
    """crops (N,3,P,P) uint8 -> clips (B,T,3,S,S) in [0,1], already rounded to 8 bits."""
    device, source_size = crops.device, crops.shape[-1]
    pick = lambda n: crops[torch.randint(0, len(crops), (n,), device=device)].float() / 255
    still = uniform(batch, device=device) < STILL_SHARE
    times = _times(batch, frames, still, device)
    clip = _film(pick(batch), camera(times, size, source_size))
    layered = (
        batch // 2
    )  # half of the clips have a second picture moving over the first, with sharp or soft edges
    blob = F.interpolate(
        torch.randn(layered, 1, 7, 7, device=device), (source_size, source_size), mode="bicubic"
    )
    edge = torch.exp(uniform(layered, 1, 1, 1, device=device, low=math.log(8), high=math.log(150)))
    over = _film(
        torch.cat([pick(layered), torch.sigmoid((blob - 0.3) * edge)], 1),
        camera(times[:layered], size, source_size),
    )
    alpha = over[:, :, 3:].clamp(0, 1)
    clip[:layered] = clip[:layered] * (1 - alpha) + over[:, :, :3] * alpha
    cut = torch.randint(4, frames - 4, (batch, 1), device=device)
    after = (torch.arange(frames, device=device) >= cut) & (uniform(batch, 1, device=device) < CUT_SHARE)
    clip = torch.where(after[:, :, None, None, None] & ~still.view(-1, 1, 1, 1, 1), clip.roll(1, 0), clip)
    shape = (batch, 1, 1, 1, 1)
    gain = uniform(*shape, device=device, low=0.6, high=1.15) * uniform(
        batch, 1, 3, 1, 1, device=device, low=0.95, high=1.05
    )
    gamma = uniform(*shape, device=device, low=0.75, high=1.25)
    lift = uniform(*shape, device=device, low=-0.03, high=0.03)
    clip = (clip.clamp(0, 1) ** gamma * gain + lift).clamp(0, 1)
    grey = (clip * torch.tensor(LUMA, device=device).view(3, 1, 1)).sum(2, keepdim=True).expand_as(clip)
    clip = torch.where(uniform(*shape, device=device) < 0.05, grey, clip)
    return torch.round(clip * 255) / 255


def reduction(size_in, size_out, rng, device):
    """One of the kernels that video is made smaller with, as a matrix: area, bicubic, Lanczos, Gaussian."""
    kind = rng.choices(("area", "bicubic", "lanczos", "gaussian"), (38, 38, 12, 12))[0]
    if kind == "gaussian":
        return resample.gaussian_matrix(size_in, size_out, rng.uniform(0.35, 0.65)).to(device)
    return getattr(resample, kind + "_matrix")(size_in, size_out).to(device)


def subsample_chroma(frames):
    """frames (B,T,3,h,w) in [0,1], h and w even: colour at half resolution, as in 4:2:0."""
    luma = (frames * torch.tensor(LUMA, device=frames.device).view(3, 1, 1)).sum(2, keepdim=True)
    colour = (frames - luma).flatten(0, 1)
    colour = F.interpolate(F.avg_pool2d(colour, 2), scale_factor=2, mode="bilinear").reshape_as(frames)
    # Only the chroma is smoothed: what the smoothing did to the luma is taken out again.
    drift = (colour * torch.tensor(LUMA, device=frames.device).view(3, 1, 1)).sum(2, keepdim=True)
    return luma + colour - drift


def reduce(clips, scale, rng, noise_share=0.2):
    """clips (B,T,3,S,S) -> the small clip (B,T,3,s,s) uint8, s even and about S/scale, before any codec.

    rng: random.Random for the choices that hold for the whole batch.
    """
    b, size, device = len(clips), clips.shape[-1], clips.device
    small = 2 * round(size / scale / 2)
    matrix = reduction(size, small, rng, device)
    frames = resample.resample(clips, matrix, matrix).clamp(0, 1)
    noisy = (uniform(b, 1, 1, 1, 1, device=device) < noise_share) * uniform(
        b, 1, 1, 1, 1, device=device, high=4 / 255
    )
    frames = frames + torch.randn_like(frames) * noisy
    subsampled = uniform(b, 1, 1, 1, 1, device=device) < 0.7
    frames = torch.where(subsampled, subsample_chroma(frames), frames)
    return torch.round(frames.clamp(0, 1) * 255).to(torch.uint8)


def draw_scale(rng):
    return rng.choices((4, 3, 2), (80, 10, 10))[0]


def detailed(crops, share):
    """The `share` of the crops (N,3,P,P) with the largest mean absolute Laplacian."""

    def detail(crop):
        y = crop.float().mean(0)
        return float(
            (4 * y[1:-1, 1:-1] - y[:-2, 1:-1] - y[2:, 1:-1] - y[1:-1, :-2] - y[1:-1, 2:]).abs().mean()
        )

    order = sorted(range(len(crops)), key=lambda index: -detail(crops[index]))
    return crops[order[: max(1, int(share * len(crops)))]]
