# SPDX-License-Identifier: LGPL-2.1-or-later
"""Starting values of the conditional decoder with which its output is the upscaled picture that it is given.

The decoder has no path around it, so from random values the picture has to be found first. Here it starts on
a path whose pieces are linear, or exactly piecewise linear:

- The first layer takes the 2x2 pixels of a scale of 4 out of each 8x8 block, by short filters that stay in
  the block.
- Putting them back in their places is beyond nearest-neighbour upsampling and convolutions: these treat all
  blocks alike, and what differs between the two halves of every block in the same way is lost, which is the
  finest detail the picture has. So two channels of the latents say whether a block's column and row are even;
  after the upsampling a pixel finds from its neighbours' values which half of its block it is in, and lets one
  of the four pixels through.
- Luma goes that way, chroma by a linear interpolation. Two upsamplings with smoothing follow.

The picture's channels carry an offset that keeps them above ReLU's zero, and a constant channel takes the
offset away again where zero padding bends it.
"""

import torch

BLOCK = 8
OFFSET = 1.5  # of the picture's channels, which are within about +-1.3
MEMORY_START = 0.02  # gain of a memory block's last convolution
TANH_GAIN = 1.027  # the best line through the inverse of 3 tanh(x/3) on [-1,1]
# Fitted together to signals with a 1/f^0.6 to 1/f spectrum that bicubic interpolation enlarged by 4: a
# block's left small pixel (the right one's filter is its mirror image) and the side taps of the two smoothing
# kernels.
ANALYSIS = (-0.238, 0.308, 0.763, 0.600, 0.012, -0.362, -0.209, 0.126)
SIDE_TAPS = (0.224, 0.273)
# The same for chroma, which has no gates: a filter, and the taps that spread what it gives over the upsampled
# block.
CHROMA_ANALYSIS = (-0.543, 0.132, 0.773, 0.755, 0.197, -0.263, -0.252, -0.021)
CHROMA_TAPS = (-0.226, 0.409, 0.459)
# Luma and two colour differences of RGB.
COLOURS = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
# The latents' values at even and, negative, at odd columns (channel 0) and rows (channel 1). Large, so that 3
# tanh(x/3) flattens what noise is left on them.
CODE = 6.0
# The sum of a pixel's code, one neighbour's and minus the other's is 3 in the wanted half of a block (2 at
# the picture's rim) and at most 1 elsewhere.
CODE_EDGE, CODE_SLOPE = 1.25, 2.0
CLOSED = 5.0  # shuts a gate: more than any picture value with its offset
# Index of the constant channel in each stage's input, and channels that stay on the picture's path.
CONSTANTS, KEPT = (48, 24, 6, 3), (51, 31, 7, 4)
LEAST = (52, 32, 8, 7)


def _random(outputs, inputs, gain=1.0):
    return torch.randn(outputs, inputs, 3, 3) * gain * (2 / (inputs * 9)) ** 0.5


def _dirac(channels):
    return torch.nn.init.dirac_(torch.empty(channels, channels, 3, 3))


def _centred(weight, constant, kept):
    """Random rows see the picture's channels without their offset."""
    weight[:, constant] -= OFFSET * weight[:, :kept].sum(1) - OFFSET * weight[:, constant]
    return weight


def _place(taps):
    """Outer product of two triples of taps, rows first."""
    return torch.outer(torch.tensor(taps[0]), torch.tensor(taps[1]))


CENTRE = _place(((0.0, 1.0, 0.0),) * 2)


def _input_layer(c0):
    """Channels 0-15: luma (frame, row, column); 16-47: (colour difference, frame, row, column); 48: one; 49,
    50: codes."""
    kept = KEPT[0]
    weight, bias = _random(c0, 784), torch.zeros(c0)
    weight[:kept] = 0
    left = torch.tensor((ANALYSIS, CHROMA_ANALYSIS, CHROMA_ANALYSIS)) * TANH_GAIN**0.5
    filters = torch.stack([left, left.flip(1)], 1)
    picture = torch.einsum("kc,kay,kbx->kabcyx", torch.tensor(COLOURS), filters, filters)  # (3,2,2,3,8,8)
    centre = weight[:, :768, 1, 1].view(c0, 3, 4, BLOCK, BLOCK)
    for frame in range(4):
        for component in range(3):
            start = 4 * (4 * component + frame)
            centre[start : start + 4, :, frame] = picture[component].flatten(0, 1)
    weight[:, :768, 1, 1] = centre.flatten(1)
    bias[:kept] = OFFSET
    bias[CONSTANTS[0]] = 1
    for axis in range(2):
        weight[49 + axis, 768 + axis, 1, 1] = 1 / float(3 * torch.tanh(torch.tensor(CODE / 3)))
    return weight, bias


def _small_pixels(c1, c0):
    """decoder.10. Channels 0-15: luma of the four pixels (frame, row, column); 16-23: (colour difference,
    frame); 24: one; 25, 26: codes without offset; 27-30: empty, for the luma of each frame."""
    kernel = _centred(_random(c1, c0, gain=0.7), CONSTANTS[0], KEPT[0])
    kernel[: KEPT[1]] = 0
    for channel in range(16):
        kernel[channel, channel] = CENTRE
    taps = (CHROMA_TAPS, CHROMA_TAPS[::-1])
    covered = sum(_place((rows, columns)) for rows in taps for columns in taps)
    for channel in range(16, 24):
        for place in range(4):
            kernel[channel, 16 + 4 * (channel - 16) + place] = _place((taps[place // 2], taps[place % 2]))
        kernel[channel, CONSTANTS[0]] = OFFSET * (CENTRE - covered)
    kernel[24, CONSTANTS[0]] = CENTRE
    for axis in range(2):
        kernel[25 + axis, 49 + axis] = CENTRE
        kernel[25 + axis, CONSTANTS[0]] = -OFFSET * CENTRE
    return kernel


def _shuffle(t):
    """Memory block 11: the luma of each frame out of its four pixels."""
    first, second, last = (t[f"decoder.11.conv.{layer}.weight"] for layer in (0, 2, 4))
    bias = t["decoder.11.conv.0.bias"]
    # 0-7: above zero in one half of the blocks (axis, half, sign of the code); 8-23: the sixteen pixels
    units = 24
    first[:units], second[:16] = 0, 0
    bias[:8] = -CODE_SLOPE * CODE_EDGE
    for axis in range(2):
        for half in range(2):
            for sign in range(2):
                unit = 4 * axis + 2 * half + sign
                side = torch.tensor((-1.0, 1.0, 1.0) if half == 0 else (1.0, 1.0, -1.0)) * (1 - 2 * sign)
                line = first[unit, 25, 1] if axis == 0 else first[unit, 26, :, 1]
                line.copy_(side * CODE_SLOPE)
    for channel in range(16):
        first[8 + channel, channel] = CENTRE
        second[channel, 8 + channel] = CENTRE
        for axis, half in ((0, channel % 2), (1, channel // 2 % 2)):
            elsewhere = 4 * axis + 2 * (1 - half)
            second[channel, elsewhere : elsewhere + 2] = -CLOSED * CENTRE
        last[27 + channel // 4, channel] = CENTRE


def _rim_taps(axis):
    """Of the constant channel: one where a neighbour along the axis is missing, else none."""
    line = (-1.0, 2.0, -1.0)
    return _place((line, (0.0, 1.0, 0.0)) if axis == 0 else ((0.0, 1.0, 0.0), line))


def _mend_rim(t):
    """Memory block 17: at the picture's rim smoothing has drawn the luma towards grey; what is missing is
    added."""
    first, second, last = (t[f"decoder.17.conv.{layer}.weight"] for layer in (0, 2, 4))
    units, constant = 6, CONSTANTS[2]  # the rim along each axis; gates (frame, axis)
    missing = SIDE_TAPS[0] / (1 - SIDE_TAPS[0])
    first[:units], second[:units] = 0, 0
    for unit in range(units):
        second[unit, unit] = CENTRE
    for axis in range(2):
        first[axis, constant] = _rim_taps(axis)
        for frame in range(2):
            gate = 2 + 2 * frame + axis
            first[gate, frame] = CENTRE
            first[gate, constant] = CLOSED * (_rim_taps(axis) - CENTRE)
            last[frame, gate] = missing * CENTRE
            last[frame, axis] = -missing * OFFSET * CENTRE


def _output_layers(c3):
    """decoder.24, whose channels 4 and 5 hold the luma at the rim along each axis, and decoder.26"""
    pick, last = _dirac(c3), torch.zeros(3, c3, 3, 3)
    missing = SIDE_TAPS[1] / (1 - SIDE_TAPS[1])
    rgb = 0.5 * torch.linalg.inv(torch.tensor(COLOURS))
    last[:, :3] = rgb[:, :, None, None] * CENTRE
    for axis in range(2):
        pick[4 + axis] = 0
        pick[4 + axis, 0] = CENTRE
        pick[4 + axis, 3] = CLOSED * (_rim_taps(axis) - CENTRE)
        last[:, 4 + axis] = missing * rgb[:, :1, None] * CENTRE
        last[:, 3] -= missing * OFFSET * rgb[:, :1, None] * _rim_taps(axis)
    return pick, last, 0.5 - OFFSET * rgb.sum(1)


def _grow(width, sources, kept):
    """(2C,C,1,1): sub-frame s has the channels sources[s] first, then the constant."""
    point = torch.randn(2 * width, width, 1, 1) * width**-0.5
    for frame, channels in enumerate(sources):
        rows = point[frame * width : (frame + 1) * width]
        rows[:kept] = 0
        for row, channel in enumerate(channels):
            rows[row, channel] = 1
    return point


def _smooth(outputs, inputs, kept, side):
    """3x3 kernels: the picture's channels smoothed, the offset kept up to the rim."""
    constant = kept - 1
    kernel = _centred(_random(outputs, inputs, gain=0.7), constant, kept)
    kernel[:kept] = 0
    smoothing = _place(((side, 1 - 2 * side, side),) * 2)
    for channel in range(constant):
        kernel[channel, channel] = smoothing
        kernel[channel, constant] = OFFSET * (CENTRE - smoothing)
    kernel[constant, constant] = CENTRE
    return kernel


def initial_decoder(widths):
    """{name: tensor} for channels (c0,c1,c2,c3), each at least LEAST."""
    if any(width < needed for width, needed in zip(widths, LEAST)):
        raise ValueError(
            f"decoder channels {widths} leave no room beside the picture: at least {LEAST} are needed"
        )
    c0, c1, c2, c3 = widths
    t = {}
    t["decoder.1.weight"], t["decoder.1.bias"] = _input_layer(c0)
    t["decoder.3.weight"] = _dirac(c0)
    t["decoder.3.weight"][KEPT[0] :] += _centred(_random(c0 - KEPT[0], c0, gain=0.1), CONSTANTS[0], KEPT[0])
    for start, width, kept, constant in zip((5, 11, 17), widths, KEPT, CONSTANTS):
        for index in range(start, start + 3):
            for layer, inputs in ((0, 2 * width), (2, width), (4, width)):
                t[f"decoder.{index}.conv.{layer}.weight"] = _random(
                    width, inputs, MEMORY_START if layer == 4 else 1.0
                )
                t[f"decoder.{index}.conv.{layer}.bias"] = torch.zeros(width)
            both = t[f"decoder.{index}.conv.0.weight"].view(width, 2, width, 3, 3)
            for half in range(2):
                _centred(both[:, half], constant, kept)
            t[f"decoder.{index}.conv.4.weight"][:kept] = 0
    _shuffle(t)
    _mend_rim(t)
    t["decoder.9.conv.weight"] = torch.eye(c0)[:, :, None, None].clone()
    t["decoder.10.weight"] = _small_pixels(c1, c0)
    pairs = [
        [27 + 2 * frame, 28 + 2 * frame]
        + [16 + 4 * colour + 2 * frame + i for colour in range(2) for i in range(2)]
        for frame in range(2)
    ]
    t["decoder.15.conv.weight"] = _grow(c1, [pair + [CONSTANTS[1]] for pair in pairs], KEPT[2])
    t["decoder.16.weight"] = _smooth(c2, c1, KEPT[2], SIDE_TAPS[0])
    t["decoder.21.conv.weight"] = _grow(
        c2, [[frame, 2 + frame, 4 + frame, CONSTANTS[2]] for frame in range(2)], KEPT[3]
    )
    t["decoder.22.weight"] = _smooth(c3, c2, KEPT[3], SIDE_TAPS[1])
    t["decoder.24.weight"], t["decoder.26.weight"], t["decoder.26.bias"] = _output_layers(c3)
    return t
