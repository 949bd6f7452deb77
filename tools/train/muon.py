# SPDX-License-Identifier: LGPL-2.1-or-later
"""Muon (Jordan et al., 2024): momentum whose matrices are brought near the closest orthogonal one before each
step, so that a step of size s moves an output by about s for inputs of variance one, whichever direction they
lie in.
"""

import torch

# Of the odd quintic polynomial that five times over takes singular values in (0,1] to about 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
TINY = 1e-12


def orthogonalized(matrices):
    """(N,R,C): each with its singular values brought near 1"""
    x = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.transpose(1, 2)
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) + TINY)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if matrices.shape[1] <= matrices.shape[2] else x.transpose(1, 2)


class Muon:
    """parameters: weights (O,I,...), seen as (O, I*...). step_sizes: a factor for each. rate: a tensor."""

    def __init__(self, parameters, step_sizes, rate, momentum=0.95):
        self.rate, self.momentum = rate, momentum
        self.groups = {}  # equally shaped matrices go through the iterations together
        for parameter, size in zip(parameters, step_sizes):
            rows, columns = len(parameter), parameter[0].numel()
            self.groups.setdefault((rows, columns), []).append((parameter, size))
        device = rate.device
        self.sizes = {
            shape: torch.tensor([size for _, size in members], device=device).view(-1, 1, 1)
            for shape, members in self.groups.items()
        }
        self.buffers = {
            shape: torch.zeros(len(members), *shape, device=device) for shape, members in self.groups.items()
        }

    @torch.no_grad()
    def step(self, wanted):
        """wanted: a tensor, 1, or 0 for no step"""
        for shape, members in self.groups.items():
            gradient = torch.stack([parameter.grad.reshape(shape) for parameter, _ in members])
            buffer = self.buffers[shape]
            buffer.lerp_(gradient, (1 - self.momentum) * wanted)
            update = orthogonalized(gradient.lerp(buffer, self.momentum)) * (
                wanted * self.rate * self.sizes[shape]
            )
            torch._foreach_sub_(
                [parameter for parameter, _ in members],
                [change.view_as(parameter) for change, (parameter, _) in zip(update, members)],
            )

    def state_dict(self):
        return dict(self.buffers)

    def load_state_dict(self, state):
        for shape, buffer in self.buffers.items():
            buffer.copy_(state[shape])
