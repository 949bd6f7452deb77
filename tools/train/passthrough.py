# SPDX-License-Identifier: LGPL-2.1-or-later
"""Starting values of the conditional decoder that pass the picture through.

The decoder has no path around it: every output pixel comes out of its first layer, which sees 8x8 blocks. From random
values the picture has to be found first, which costs most of a short training. So the first layer starts with
least-squares analysis filters whose two phases per block and direction, after the chain of nearest-neighbour
upsamplings and binomial filters of the later layers, give back the sharp picture. The picture's channels carry an offset that
keeps them above ReLU's zero, and one constant channel takes the offset away again where zero padding bends it.
"""
import numpy as np
import torch

BLOCK = 8
OFFSET = 1.0  # of the first layer's channels, whose picture part is about +-0.5
STAGE_OFFSET = 1.25  # of the later stages, whose picture part is about +-1
BINOMIAL = (0.25, 0.5, 0.25)
PHASE_KERNELS = ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0))  # put a phase on the left or right half of its block
MEMORY_START = 0.02  # gain of a memory block's last convolution


def _synthesis():
    """(2,5,8): what a one in phase p of block 2 gives in blocks 0 to 4, through three upsamplings."""
    response = np.zeros((2, 5, BLOCK))
    for phase, kernel in enumerate(PHASE_KERNELS):
        signal = np.zeros(5)
        signal[2] = 1
        for taps in (kernel, BINOMIAL, BINOMIAL):
            signal = np.convolve(np.repeat(signal, 2), taps[::-1], mode="same")
        response[phase] = signal.reshape(5, BLOCK)
    return response


def analysis_filters(seed=0, ridge=1e-5):
    """(2,24) filters over a block and its two neighbours, fitted to a signal with a 1/f spectrum, reduced by 4 and
    brought back by bicubic interpolation, as the network's input is."""
    from resample import bicubic_matrix
    rng = np.random.RandomState(seed)
    blocks = 3000
    count = BLOCK * blocks
    frequency = np.fft.rfftfreq(count)
    spectrum = np.where(frequency > 0, 1 / np.maximum(frequency, 2e-4), 0) * np.exp(2j * np.pi * rng.rand(len(frequency)))
    sharp = np.fft.irfft(spectrum, count)
    sharp *= 0.5 / sharp.std()
    # One period of the interpolation's taps is all that the matrix holds: small pixels 8 to 15 of 24.
    taps = bicubic_matrix(24, 96).double().numpy()
    small = sharp.reshape(-1, 4).mean(1)
    soft = np.zeros(count)
    for phase in range(4):
        for shift in range(-3, 4):
            soft[phase::4] += taps[48 + phase, 12 + shift] * np.roll(small, -shift)
    window = np.stack([np.roll(soft, BLOCK - k)[::BLOCK] for k in range(3 * BLOCK)], 1)  # (blocks, 24)
    response = _synthesis()
    design = np.zeros((blocks, BLOCK, 2, 3 * BLOCK))
    for phase in range(2):
        for block in range(5):
            design[:, :, phase] += response[phase, block][None, :, None] * np.roll(window, block - 2, 0)[:, None]
    design = design.reshape(count, -1)
    normal = design.T @ design + ridge * count * np.eye(design.shape[1])
    filters = np.linalg.solve(normal, design.T @ sharp).reshape(2, -1)
    return torch.tensor(filters * (0.5 / filters.sum(1).mean()), dtype=torch.float32)


def _random(outputs, inputs, size=3, gain=1.0):
    return torch.randn(outputs, inputs, size, size) * gain * (2 / (inputs * size * size)) ** 0.5


def _dirac(channels):
    return torch.nn.init.dirac_(torch.empty(channels, channels, 3, 3))


def _phase_channel(frame, colour, y, x):
    return ((frame * 3 + colour) * 2 + y) * 2 + x


def initial_decoder(widths):
    """{name: tensor} for channels (c0,c1,c2,c3); c0 >= 49, c1 >= 13, c2 >= 7, c3 >= 4."""
    picture = (48, 12, 6, 3)  # channels that carry the picture: 4 frames x 3 colours x 2x2 phases, then fewer
    if any(width <= needed for width, needed in zip(widths, picture)):
        raise ValueError(f"decoder channels {widths} leave no room beside the picture's {picture}")
    c0, c1, c2, c3 = widths
    t = {}
    filters = analysis_filters().reshape(2, 3, BLOCK)
    first = _random(c0, 784)
    first[:, 768:] *= 3
    first[:49] = 0
    bias = torch.zeros(c0)
    conditioning = first[:, :768].view(c0, 3, 4, BLOCK, BLOCK, 3, 3)
    for frame in range(4):
        for colour in range(3):
            for y in range(2):
                for x in range(2):
                    channel = _phase_channel(frame, colour, y, x)
                    conditioning[channel, colour, frame] = torch.einsum("ai,bj->ijab", filters[y], filters[x])
                    bias[channel] = OFFSET
    bias[48] = 1
    t["decoder.1.weight"], t["decoder.1.bias"] = first, bias
    t["decoder.3.weight"] = _dirac(c0)
    t["decoder.3.weight"][49:] += _random(c0 - 49, c0, gain=0.1)
    for start, width, kept in ((5, c0, 49), (11, c1, 13), (17, c2, 7)):
        for index in range(start, start + 3):
            for layer, inputs in ((0, 2 * width), (2, width), (4, width)):
                t[f"decoder.{index}.conv.{layer}.weight"] = _random(width, inputs,
                                                                    gain=MEMORY_START if layer == 4 else 1.0)
                t[f"decoder.{index}.conv.{layer}.bias"] = torch.zeros(width)
            t[f"decoder.{index}.conv.4.weight"][:kept] = 0
    centre = torch.zeros(3, 3)
    centre[1, 1] = 1

    t["decoder.9.conv.weight"] = torch.eye(c0)[:, :, None, None].clone()
    kernel = _random(c1, c0, gain=0.7)
    kernel[:13] = 0
    taps = torch.tensor(PHASE_KERNELS)
    for frame in range(4):
        for colour in range(3):
            for y in range(2):
                for x in range(2):
                    kernel[frame * 3 + colour, _phase_channel(frame, colour, y, x)] = torch.outer(taps[y], taps[x])
    # The four phases' offsets add up to 4 OFFSET, less at the picture's rim: there the constant channel makes it up.
    covered = torch.outer(taps.sum(0), taps.sum(0))
    kernel[:12, 48] = OFFSET * (4 * centre - covered)
    kernel[12, 48] = centre
    t["decoder.10.weight"] = kernel
    t["decoder.11.conv.4.bias"][:12] = STAGE_OFFSET - 4 * OFFSET

    def grow(width, kept):
        """(2C,C,1,1): sub-frame s takes the picture channels s*kept .. (s+1)*kept"""
        point = torch.randn(2 * width, width, 1, 1) * width**-0.5
        for frame in range(2):
            rows = point[frame * width:(frame + 1) * width]
            rows[:kept + 1] = 0
            for channel in range(kept):
                rows[channel, frame * kept + channel] = 1
            rows[kept, 2 * kept] = 1
        return point

    def smooth(outputs, inputs, kept):
        kernel = _random(outputs, inputs, gain=0.7)
        kernel[:kept + 1] = 0
        binomial = torch.outer(torch.tensor(BINOMIAL), torch.tensor(BINOMIAL))
        for channel in range(kept):
            kernel[channel, channel] = binomial
            kernel[channel, kept] = STAGE_OFFSET * (centre - binomial)
        kernel[kept, kept] = centre
        return kernel

    t["decoder.15.conv.weight"], t["decoder.16.weight"] = grow(c1, 6), smooth(c2, c1, 6)
    t["decoder.21.conv.weight"], t["decoder.22.weight"] = grow(c2, 3), smooth(c3, c2, 3)
    t["decoder.24.weight"] = _dirac(c3)
    last = torch.zeros(3, c3, 3, 3)
    for colour in range(3):
        last[colour, colour, 1, 1] = 0.5
    t["decoder.26.weight"], t["decoder.26.bias"] = last, torch.full((3,), 0.5 - 0.5 * STAGE_OFFSET)
    return t
