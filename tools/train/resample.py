# SPDX-License-Identifier: LGPL-2.1-or-later
"""Resampling as matrices: the engine's bicubic upscaling and the reductions that training degrades with."""

import functools

import torch


def cubic(x, a=-0.5):
    """Keys' cubic kernel."""
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _distance(size_in, size_out):
    """(size_out, size_in): distance of input pixels from output pixels, in the larger of the two pixel
    sizes."""
    ratio = size_in / size_out
    centre = (torch.arange(size_out, dtype=torch.float64) + 0.5) * ratio
    at = torch.arange(size_in, dtype=torch.float64) + 0.5
    return (at[None] - centre[:, None]) / max(ratio, 1.0)


def bicubic_matrix(size_in, size_out):
    """(size_out, size_in): Pillow's bicubic, in float."""
    weight = cubic(_distance(size_in, size_out))
    return (weight / weight.sum(1, keepdim=True)).float()


def area_matrix(size_in, size_out):
    """(size_out, size_in): the mean over each output pixel's area; for reductions."""
    ratio = size_in / size_out
    distance = _distance(size_in, size_out).abs() * ratio
    weight = (ratio / 2 + 0.5 - distance).clamp(0, 1)
    return (weight / weight.sum(1, keepdim=True)).float()


def gaussian_matrix(size_in, size_out, sigma):
    """(size_out, size_in): Gaussian of `sigma` output pixels, sampled; a soft lens."""
    weight = torch.exp(-0.5 * (_distance(size_in, size_out) / sigma) ** 2)
    return (weight / weight.sum(1, keepdim=True)).float()


def lanczos_matrix(size_in, size_out, lobes=3):
    """(size_out, size_in): windowed sinc."""
    x = _distance(size_in, size_out)
    weight = torch.where(x.abs() < lobes, torch.sinc(x) * torch.sinc(x / lobes), torch.zeros_like(x))
    return (weight / weight.sum(1, keepdim=True)).float()


def resample(frames, rows, columns):
    """frames (..., H, W) by rows (H', H) and columns (W', W) -> (..., H', W')."""
    return rows @ (frames @ columns.transpose(-1, -2))


@functools.lru_cache(maxsize=32)
def bicubic_on(size_in, size_out, device):
    return bicubic_matrix(size_in, size_out).to(device)


def upscale(frames, height, width):
    """frames (..., h, w) in [0,1] -> (..., height, width), bicubic, clamped to [0,1]."""
    h, w = frames.shape[-2:]
    return resample(frames, bicubic_on(h, height, frames.device), bicubic_on(w, width, frames.device)).clamp(
        0, 1
    )
