# SPDX-License-Identifier: LGPL-2.1-or-later
"""Well-conditioned coordinates for training convolutions.

A step of gradient descent moves an output the more, the larger and the more alike the inputs are. Frames of a
picture, pixels of a block, neighbours and channels on an offset are all alike, so a step that is small for
what they share is none at all for the detail in which they differ. A weight is therefore held as P with

    weight[o,j,s] = sum over i and t of P[o,i,t] M[i,j] S[t,s],

M on the input channels and S on the taps being fixed matrices such that P sees uncorrelated inputs of mean
zero and variance one. The network that is computed, and exported, stays what it is.
"""

import torch
import torch.nn.functional as F

FRAMES_OF_TAPS = 4  # that their covariance is taken from
SMALLEST_DEVIATION = 0.05  # of a direction; quieter ones are not blown up further


def block_basis(size, kept, frames):
    """(3*frames*kept^2, 3*frames*size^2), orthonormal rows: cosines over colours, frames and the block's
    pixels, with the `kept` lowest frequencies in each direction: an enlarged picture has no others. Column =
    ((colour*frames + t)*size + y)*size + x."""

    def cosines(count, rows):
        place, frequency = torch.arange(count, dtype=torch.float64) + 0.5, torch.arange(
            rows, dtype=torch.float64
        )
        matrix = torch.cos(torch.pi / count * frequency[:, None] * place) * (2 / count) ** 0.5
        matrix[0] /= 2**0.5
        return matrix

    space, time, colour = cosines(size, kept), cosines(frames, frames), cosines(3, 3)
    return torch.kron(torch.kron(colour, time), torch.kron(space, space)).float()


def inverse_root(covariance):
    """covariance^(-1/2), symmetric, with deviations of SMALLEST_DEVIATION at least"""
    values, vectors = torch.linalg.eigh(covariance.double())
    return (vectors / values.clamp_min(SMALLEST_DEVIATION**2).sqrt() @ vectors.T).float()


def whitening(x, constants=()):
    """M and the means left over for activations x (N,C,h,w). constants: indices of channels that hold one,
    the k-th of n standing for the k-th n-th of the channels; a channel's mean is taken off by its constant,
    so also where zero padding leaves nothing. Without constants the means are the bias's to take off."""
    flat = x.float().transpose(0, 1).flatten(1)  # (C, N*h*w)
    channels, mean = len(flat), flat.mean(1)
    varying = [channel for channel in range(channels) if channel not in constants]
    rest = (flat - mean[:, None])[varying]
    root = inverse_root(rest @ rest.T / rest.shape[1])
    matrix = torch.eye(channels, device=x.device)
    index = torch.tensor(varying, device=x.device)
    matrix[index[:, None], index] = root
    if not constants:
        return matrix, mean
    part = channels // len(constants)
    for half, constant in enumerate(constants):
        own = torch.tensor([c for c in varying if c // part == half], device=x.device)
        matrix[:, constant] -= matrix[:, own] @ mean[own]
    return matrix, torch.zeros_like(mean)


def onto_basis(basis, x):
    """M for inputs x (N,C,h,w) that are seen through an orthonormal basis (K,C')."""
    seen = torch.einsum("kc,nchw->nkhw", basis, x[:, : basis.shape[1]].float())
    rest = x[:, basis.shape[1] :]
    deviation = torch.cat(
        [part.float().std((0, 2, 3), correction=0) for part in (seen, rest) if part.shape[1]]
    )
    deviation = deviation.clamp_min(SMALLEST_DEVIATION)
    matrix = torch.block_diag(basis, torch.eye(rest.shape[1], device=x.device))
    return matrix / deviation[:, None]


def whitening_taps(matrix, means, x):
    """S of a 3x3 convolution: (9,9), for the mean covariance of neighbours in M (x - means)."""
    some = x[:: -(-len(x) // FRAMES_OF_TAPS)]
    z = torch.einsum("kc,nchw->nkhw", matrix, some.float() - means[:, None, None])
    near = F.unfold(z.flatten(0, 1)[:, None], 3)  # (N*K, 9, L)
    return inverse_root(torch.einsum("ntl,nsl->ts", near, near) / (near.shape[0] * near.shape[2]))
