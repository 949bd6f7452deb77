# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tiny FlashVSR pipeline (version 1.1) in a batched, time-parallel form for training.

The published network streams: projector and decoder keep caches from frame to frame. Over a whole clip each
cache is a shift in time, so all frames go through a layer at once. Parameters carry the published names;
`export.py` writes them. Frames F = 8n + 1 >= 25 in, F - 4 out; H and W multiples of 128. Attention goes by
the block mask at the engine's default settings. On pictures of up to 30 windows of 128x128 each head leaves
out one key window of one window in every temporal pair: little at 256x256, but a third of the first chunk at
128x128.
"""

import dataclasses
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

import coordinates
import passthrough

PARTS = ("dit", "lq", "tc")
HEAD_DIM = 128
LATENT_CHANNELS = 16
KV_GROUPS = 3  # groups of the key/value cache, kv_ratio 3
SPARSE_RATIO, LOCAL_RANGE = 2.0, 11
WINDOW = 128  # tokens of an attention window, 2x8x8
# Width of the two constant channels of the residual stream. LayerNorm divides by a deviation that these
# dominate, so the noise comes through with a gain that hardly depends on the picture, and the head can cancel
# it.
CONSTANT = 32.0
NOISE_GAIN = 0.25  # of the noise in the residual stream


@dataclasses.dataclass
class Widths:
    dim: int = 128
    blocks: int = 1
    feed_forward: int = 128
    text_dim: int = 32
    text_tokens: int = 8
    frequency_dim: int = 64
    projector: tuple = (16, 32)
    decoder: tuple = (80, 48, 24, 8)


class Part(nn.Module):
    """Tensors under their published, dotted names, held in the coordinates that they are trained in."""

    def __init__(self, tensors):
        super().__init__()
        self.tensors = nn.ParameterDict(
            {name.replace(".", "|"): nn.Parameter(t) for name, t in tensors.items()}
        )
        self.matrices, self.taps, self.means = (
            nn.ParameterDict(),
            nn.ParameterDict(),
            nn.ParameterDict(),
        )  # by `hold`

    def __getitem__(self, name):
        value = self.tensors[name.replace(".", "|")]
        layer, kind = name.replace(".", "|").rsplit("|", 1)
        if layer not in self.matrices:
            return value
        with torch.autocast(value.device.type, enabled=False):
            if kind == "bias":
                return self.convolution(name[:-5])[1]
            value = torch.einsum("oi...,ij->oj...", value, self.matrices[layer])
            return (value.flatten(2) @ self.taps[layer]).reshape(value.shape) if layer in self.taps else value

    def convolution(self, layer):
        """Weight and bias, None where there is none."""
        key, weight = layer.replace(".", "|"), self[layer + ".weight"]
        bias = self.tensors.get(key + "|bias")
        if bias is not None and key in self.means:
            with torch.autocast(bias.device.type, enabled=False):
                bias = bias - weight.flatten(2).sum(2) @ self.means[key]
        return weight, bias

    @torch.no_grad()
    def hold(self, layer, matrix, means=None, taps=None):
        """Holds a layer's weight in the coordinates M = matrix and S = taps, its bias as what remains when
        the inputs are seen less their means. What they are stays, as far as the matrix's rows span it."""
        key = layer.replace(".", "|")
        weight, bias = self.tensors[key + "|weight"], self.tensors.get(key + "|bias")
        if bias is not None:
            means = torch.zeros_like(matrix[0]) if means is None else means
            bias += weight.flatten(2).sum(2) @ means
            self.means[key] = nn.Parameter(means, requires_grad=False)
        weight = torch.einsum("oj...,ji->oi...", weight, torch.linalg.pinv(matrix.double()).to(weight.dtype))
        self.matrices[key] = nn.Parameter(matrix, requires_grad=False)
        if taps is not None:
            weight = (weight.flatten(2) @ torch.linalg.inv(taps)).reshape(weight.shape)
            self.taps[key] = nn.Parameter(taps, requires_grad=False)
        self.tensors[key + "|weight"] = nn.Parameter(weight.contiguous())

    @torch.no_grad()
    def published(self):
        """{published name: tensor}"""
        return {name: self[name].clone() for name in (key.replace("|", ".") for key in self.tensors)}

    def linear(self, x, name):
        return F.linear(x, self[name + ".weight"], self[name + ".bias"])


# ------------------------------------------------------------------------------------------------ starting values


def _linear(tensors, name, outputs, inputs, std=None):
    tensors[name + ".weight"] = torch.randn(outputs, inputs) * (inputs**-0.5 if std is None else std)
    tensors[name + ".bias"] = torch.zeros(outputs)


def initial_dit(widths):
    """The residual stream holds the noise (64 channels), what comes from the picture, and two constants. The
    noise goes through to the prediction unchanged, so latent = noise - prediction starts as a function of the
    picture alone. One more channel holds minus the noise's sum: LayerNorm's mean is then free of noise
    too."""
    dim, noise = widths.dim, 4 * LATENT_CHANNELS
    if dim < noise + 5:
        raise ValueError(f"dim {dim} leaves no room beside {noise} noise channels")
    deviation = math.sqrt((2 * CONSTANT**2 + 2 * noise * NOISE_GAIN**2 + (dim - noise - 2) * 0.1) / dim)
    t = {}
    patch = torch.zeros(dim, LATENT_CHANNELS, 1, 2, 2)
    for index in range(noise):
        y, x, channel = index // 32, index // 16 % 2, index % 16
        patch[index, channel, 0, y, x] = NOISE_GAIN
    patch[noise] = -patch[:noise].sum(0)
    bias = torch.zeros(dim)
    bias[-2], bias[-1] = CONSTANT, -CONSTANT
    t["patch_embedding.weight"], t["patch_embedding.bias"] = patch, bias
    _linear(t, "text_embedding.0", dim, widths.text_dim)
    _linear(t, "text_embedding.2", dim, dim)
    _linear(t, "time_embedding.0", dim, widths.frequency_dim)
    _linear(t, "time_embedding.2", dim, dim, 0.01)
    _linear(t, "time_projection.1", 6 * dim, dim, 0.01)
    for block in range(widths.blocks):
        prefix = f"blocks.{block}."
        modulation = torch.zeros(1, 6, dim)
        modulation[:, (1, 4)] = deviation - 1  # undo the division by the constants' deviation
        modulation[:, (1, 4), -2:] = -1  # and keep the constants out of the projections
        modulation[:, (2, 5)] = 0.5
        t[prefix + "modulation"] = modulation
        for attention in ("self_attn", "cross_attn"):
            for name in "qkv":
                _linear(t, f"{prefix}{attention}.{name}", dim, dim)
            _linear(t, f"{prefix}{attention}.o", dim, dim, 0.01)
            t[f"{prefix}{attention}.norm_q.weight"] = torch.ones(dim)
            t[f"{prefix}{attention}.norm_k.weight"] = torch.ones(dim)
        t[prefix + "norm3.weight"] = torch.full((dim,), deviation)
        t[prefix + "norm3.weight"][-2:] = 0
        t[prefix + "norm3.bias"] = torch.zeros(dim)
        _linear(t, prefix + "ffn.0", widths.feed_forward, dim)
        _linear(t, prefix + "ffn.2", dim, widths.feed_forward, 0.02)
        for name in (
            "self_attn.q",
            "self_attn.k",
            "self_attn.v",
            "cross_attn.q",
            "ffn.0",
        ):  # blind to the noise
            t[f"{prefix}{name}.weight"][:, : noise + 1] = 0
        for name in (
            "self_attn.o",
            "cross_attn.o",
            "ffn.2",
        ):  # nothing is written over the noise or the constants
            t[f"{prefix}{name}.weight"][: noise + 1] = 0
            t[f"{prefix}{name}.weight"][-2:] = 0
    head_modulation = torch.zeros(1, 2, dim)
    head_modulation[:, 1] = deviation - 1
    head_modulation[:, 1, -2:] = -1
    t["head.modulation"] = head_modulation
    head = torch.randn(noise, dim) * 0.1
    head[:, :noise] = torch.eye(noise) / NOISE_GAIN
    head[:, (noise, -2, -1)] = 0
    bias = torch.zeros(2, 2, LATENT_CHANNELS)  # (row, column, channel) of a token's latents
    for channel, code in enumerate((torch.tensor([[1, -1], [1, -1]]), torch.tensor([[1, 1], [-1, -1]]))):
        bias[:, :, channel] = -passthrough.CODE * code
        head[channel::LATENT_CHANNELS, noise:] = 0
    t["head.head.weight"], t["head.head.bias"] = head, bias.flatten()
    return t


def initial_projector(widths):
    first, second = widths.projector
    noise = 4 * LATENT_CHANNELS
    t = {}
    t["conv1.weight"] = torch.randn(first, 768, 4, 3, 3) * (2 / (768 * 36)) ** 0.5
    t["conv1.bias"] = torch.zeros(first)
    t["norm1.gamma"] = torch.ones(first, 1, 1, 1)
    t["conv2.weight"] = torch.randn(second, first, 4, 3, 3) * (2 / (first * 36)) ** 0.5
    t["conv2.bias"] = torch.zeros(second)
    t["norm2.gamma"] = torch.ones(second, 1, 1, 1)
    _linear(t, "linear_layers.0", widths.dim, second, 0.5 * second**-0.5)
    t["linear_layers.0.weight"][: noise + 1] = 0
    t["linear_layers.0.weight"][-2:] = 0
    return t


# ------------------------------------------------------------------------------------------------ the network


def to_windows(x):
    """(B,T,h,w,D) -> (B, T*h*w, D): temporal pairs, block rows, block columns, then the window's own 2x8x8
    tokens."""
    b, t, h, w, d = x.shape
    return x.reshape(b, t // 2, 2, h // 8, 8, w // 8, 8, d).permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(b, -1, d)


def from_windows(x, t, h, w):
    b, _, d = x.shape
    return (
        x.reshape(b, t // 2, h // 8, w // 8, 2, 8, 8, d)
        .permute(0, 1, 4, 2, 5, 3, 6, 7)
        .reshape(b, t, h, w, d)
    )


def channel_norm(x, gamma):
    """(N,C,h,w): unit length over channels, times sqrt(C) gamma."""
    x = x.float()
    return F.normalize(x, dim=1, eps=1e-12) * math.sqrt(x.shape[1]) * gamma.view(1, -1, 1, 1)


class Network(nn.Module):
    def __init__(self, widths=Widths(), seed=0, state=None):
        """state: {"dit", "lq", "tc": {name: tensor}, "prompt"} of a model directory instead of starting
        values."""
        super().__init__()
        if state is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                state = {
                    "dit": initial_dit(widths),
                    "lq": initial_projector(widths),
                    "tc": passthrough.initial_decoder(widths.decoder),
                    "prompt": torch.randn(1, widths.text_tokens, widths.text_dim),
                }
        self.dit, self.lq, self.tc = (Part(state[part]) for part in PARTS)
        self.register_buffer("prompt", state["prompt"].clone())
        self.dim = self.dit["patch_embedding.weight"].shape[0]
        self.blocks = 1 + max(int(n.split("|")[1]) for n in self.dit.tensors if n.startswith("blocks|"))
        self.heads = self.dim // HEAD_DIM
        half = self.dit["time_embedding.0.weight"].shape[1] // 2
        angle = 1000.0 * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        self.register_buffer(
            "timestep", torch.cat([angle.cos(), angle.sin()])[None].float(), persistent=False
        )
        # Nearest-neighbour x2 followed by a 3x3 convolution is, for each of the 2x2 output phases, a 3x3
        # convolution of the small picture: phase_taps[phase, small tap, tap] collects the taps that fall on
        # the same small pixel.
        taps = torch.zeros(2, 3, 3)
        taps[0, 0, 0] = taps[0, 1, 1] = taps[0, 1, 2] = 1
        taps[1, 1, 0] = taps[1, 1, 1] = taps[1, 2, 2] = 1
        self.register_buffer("phase_taps", taps, persistent=False)
        self._rope, self._reach, self._watcher = {}, {}, None

    def forward(self, lq, noise):
        """lq (B,3,F,H,W) in [-1,1], noise (B,16,(F-1)/4,H/8,W/8) -> frames (B,F-4,3,H,W), about [0,1]."""
        return self.decode(self.latents(lq, noise), lq[:, :, :-4])

    def latents(self, lq, noise):
        """(B,16,(F-1)/4,H/8,W/8)"""
        return noise - self.predict(noise, self.project(lq))

    # ---- LQ projector: (B,3,F,H,W) -> tokens (B, (F-1)/4*h*w, D) in window order
    def project(self, lq):
        b, c, f, height, width = lq.shape
        h, w = height // 16, width // 16
        x = lq.reshape(b, c, f, h, 16, w, 16).permute(0, 2, 1, 4, 6, 3, 5).reshape(b, f, c * 256, h, w)
        x = torch.cat(
            [x[:, :1].expand(-1, 5, -1, -1, -1), x], 1
        )  # frame 0 four times, after two copies as its past
        for layer in ("1", "2"):
            x = self._strided(x, "conv" + layer)
        return to_windows(self.lq.linear(x.permute(0, 1, 3, 4, 2), "linear_layers.0"))

    def _strided(self, x, layer):
        """Causal convolution, kernel 4x3x3, stride 2 in time, then norm and SiLU: (B,T,C,h,w) ->
        (B,(T-4)/2+1,C',h,w)"""
        self._watch(self.lq, layer, x.flatten(0, 1))
        weight, bias = self.lq.convolution(layer)
        b, t, _, h, w = x.shape
        steps = (t - 4) // 2 + 1
        x = torch.cat([x[:, k : k + 2 * steps - 1 : 2] for k in range(4)], 2).flatten(0, 1)
        weight = weight.permute(0, 2, 1, 3, 4).flatten(1, 2)
        y = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight, bias)
        return F.silu(channel_norm(y, self.lq[f"norm{layer[-1]}.gamma"])).reshape(b, steps, -1, h, w)

    # ---- DiT
    def rope(self, t, h, w, device):
        key = (t, h, w)
        if key not in self._rope:
            grid = torch.meshgrid(torch.arange(t), torch.arange(h), torch.arange(w), indexing="ij")
            space = HEAD_DIM // 3
            angles = []
            for position, size in zip(grid, (HEAD_DIM - 2 * space, space, space)):
                rate = 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64)[: size // 2] / size)
                angles.append(position[..., None] * rate)
            angle = to_windows(torch.cat(angles, -1)[None])[0]
            self._rope[key] = (angle.cos().float().to(device), angle.sin().float().to(device))
        return self._rope[key]

    def _rms(self, x, name):
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.dit[name]

    def _heads(self, x):
        return x.reshape(x.shape[0], -1, self.heads, HEAD_DIM).transpose(1, 2)

    def _rotate(self, x, cos, sin):
        a, b = self._heads(x).unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)

    def reach(self, rows, columns, device):
        """(windows, windows) bool: which windows of a picture are near enough to be seen, the same for all
        pairs."""
        key = (rows, columns)
        if key not in self._reach:
            near = lambda size: (
                (torch.arange(size)[None] - torch.arange(size)[:, None]).abs() <= LOCAL_RANGE // 2
            )
            both = near(rows)[:, None, :, None] & near(columns)[None, :, None, :]
            self._reach[key] = both.reshape(rows * columns, -1).to(device)
        return self._reach[key]

    @torch.no_grad()
    def block_mask(self, q, k, rows, columns):
        """(B,heads,windows,key windows) bool for q (B,heads,L,128) of one temporal pair, k (B,heads,S,128) of
        several. Kept are the probabilities above the (budget+1)-th largest of a head's list, so at least one
        always goes.
        """
        with torch.autocast(q.device.type, enabled=False):
            q, k = (x.float().unflatten(2, (-1, WINDOW)).mean(3) for x in (q, k))
            windows, keys = q.shape[2], k.shape[2]
            far = ~self.reach(rows, columns, q.device).repeat(1, keys // windows)
            scores = (q @ k.transpose(-1, -2) / math.sqrt(HEAD_DIM)).masked_fill(far, -math.inf)
            probability = scores.softmax(-1)
        pixels = rows * columns * 128 * 128
        budget = int(windows**2 * (SPARSE_RATIO * 768 * 1280 / pixels)) - 1
        flat = probability.flatten(2)
        rank = min(flat.shape[-1] - 1, budget)
        threshold = flat.topk(rank + 1).values[..., -1]
        return probability > threshold[..., None, None]

    def attend(self, q, k, v, rows, columns):
        """q (B,heads,L,128) of one temporal pair, k and v (B,heads,S,128) of all that it sees ->
        (B,heads,L,128)"""
        kept = self.block_mask(q, k, rows, columns)
        seen = kept.any(
            -1, keepdim=True
        )  # a window left without any key gives zeros, where softmax would give NaN
        shape = (*kept.shape[:3], WINDOW, kept.shape[3], WINDOW)
        mask = (kept | ~seen)[:, :, :, None, :, None].expand(shape).reshape(*q.shape[:3], k.shape[2])
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return (attended.unflatten(2, (-1, WINDOW)) * seen[..., None]).flatten(2, 3)

    def predict(self, noise, tokens):
        """noise (B,16,T,H/8,W/8), tokens in window order -> prediction, shaped like noise"""
        b, _, t, height, width = noise.shape
        h, w = height // 2, width // 2
        group = 2 * h * w  # tokens of one temporal pair
        dit, norm = self.dit, lambda x: F.layer_norm(x.float(), (self.dim,), eps=1e-6)
        patches = (
            noise.reshape(b, LATENT_CHANNELS, t, h, 2, w, 2)
            .permute(0, 2, 3, 5, 1, 4, 6)
            .reshape(b, t, h, w, -1)
        )
        x = F.linear(
            to_windows(patches), dit["patch_embedding.weight"].flatten(1), dit["patch_embedding.bias"]
        )
        x = x.float() + tokens.float()
        time = dit.linear(F.silu(dit.linear(self.timestep, "time_embedding.0")), "time_embedding.2").float()
        shared = dit.linear(F.silu(time), "time_projection.1").float().reshape(6, self.dim)
        context = dit.linear(
            F.gelu(dit.linear(self.prompt, "text_embedding.0"), approximate="tanh"), "text_embedding.2"
        )
        cos, sin = self.rope(t, h, w, noise.device)
        for block in range(self.blocks):
            name = f"blocks.{block}."
            m = dit[name + "modulation"][0] + shared
            y = norm(x) * (1 + m[1]) + m[0]
            v = self._heads(dit.linear(y, name + "self_attn.v"))
            q, k = (
                self._rotate(
                    self._rms(dit.linear(y, f"{name}self_attn.{p}"), f"{name}self_attn.norm_{p}.weight"),
                    cos,
                    sin,
                ).to(v.dtype)
                for p in "qk"
            )
            attended = []
            for pair in range(t // 2):
                # The first chunk is three pairs that see each other; a later one sees itself and the cache.
                oldest, newest = (0, KV_GROUPS) if pair < KV_GROUPS else (pair - KV_GROUPS, pair + 1)
                keys = slice(oldest * group, newest * group)
                attended.append(
                    self.attend(
                        q[:, :, pair * group : (pair + 1) * group],
                        k[:, :, keys],
                        v[:, :, keys],
                        h // 8,
                        w // 8,
                    )
                )
            attended = torch.cat(attended, 2)
            x = x + m[2] * dit.linear(attended.transpose(1, 2).flatten(2), name + "self_attn.o").float()
            y = norm(x) * dit[name + "norm3.weight"] + dit[name + "norm3.bias"]
            v = self._heads(dit.linear(context, name + "cross_attn.v"))
            q, k = (
                self._heads(
                    self._rms(
                        dit.linear(source, f"{name}cross_attn.{p}"), f"{name}cross_attn.norm_{p}.weight"
                    )
                ).to(v.dtype)
                for p, source in (("q", y), ("k", context))
            )
            attended = F.scaled_dot_product_attention(q, k.expand(b, -1, -1, -1), v.expand(b, -1, -1, -1))
            x = x + dit.linear(attended.transpose(1, 2).flatten(2), name + "cross_attn.o").float()
            y = norm(x) * (1 + m[4]) + m[3]
            x = (
                x
                + m[5]
                * dit.linear(
                    F.gelu(dit.linear(y, name + "ffn.0"), approximate="tanh"), name + "ffn.2"
                ).float()
            )
        m = dit["head.modulation"][0] + time
        # Cancelling the noise wants all the digits there are.
        with torch.autocast(x.device.type, enabled=False):
            out = dit.linear(norm(x) * (1 + m[1]) + m[0], "head.head")
        out = from_windows(out, t, h, w).reshape(b, t, h, w, 2, 2, LATENT_CHANNELS)
        return out.permute(0, 6, 1, 2, 4, 3, 5).reshape(b, LATENT_CHANNELS, t, height, width)

    # ---- decoder: latents (B,16,T,h,w), LQ frames (B,3,4T-3,8h,8w) -> (B,4T-3,3,8h,8w)
    def decode(self, latents, lq):
        b, _, t, h, w = latents.shape
        lq = torch.cat([lq[:, :, :1].expand(-1, -1, 3, -1, -1), lq], 2)
        blocks = lq.reshape(b, 3, t, 4, h, 8, w, 8).permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b * t, h, w, 768)
        x = torch.cat([blocks.to(latents.dtype), latents.permute(0, 2, 3, 4, 1).reshape(b * t, h, w, -1)], -1)
        x = 3 * torch.tanh(x.permute(0, 3, 1, 2) / 3)  # channels last in memory
        x = F.relu(self._conv(x, "decoder.1"))
        x = F.relu(self._conv(x, "decoder.3", 0))
        for stage, (memory, grow, conv) in enumerate(((5, 9, 10), (11, 15, 16), (17, 21, 22))):
            for index in range(memory, memory + 3):
                x = self._memory_block(x, index, b, stage)
            x = self._grow(x, f"decoder.{grow}.conv", f"decoder.{conv}", stage)
        x = F.relu(self._conv(F.relu(x), "decoder.24", 3))
        x = self._conv(x, "decoder.26", 3)
        return x.reshape(b, 4 * t, *x.shape[1:])[:, 3:]

    def _conv(self, x, layer, stage=None, copies=1):
        """stage: that whose constant channel x has, in each of `copies` parts of its channels."""
        self._watch(self.tc, layer, x, stage, copies)
        return F.conv2d(x, *self.tc.convolution(layer), padding=1)

    def _memory_block(self, x, index, b, stage):
        """(B*T,C,h,w), one frame's past being the frame before"""
        frames = x.permute(0, 2, 3, 1).unflatten(0, (b, -1))
        past = F.pad(frames[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
        y = torch.cat([frames, past], -1).flatten(0, 1).permute(0, 3, 1, 2)
        y = F.relu(self._conv(y, f"decoder.{index}.conv.0", stage, 2))
        y = F.relu(self._conv(y, f"decoder.{index}.conv.2"))
        return F.relu(self._conv(y, f"decoder.{index}.conv.4") + x)

    def _grow(self, x, grow, conv, stage):
        """Nearest x2, 1x1 to s*C channels as s frames, 3x3 to C' channels: one 3x3 convolution of the small
        picture. (N,C,h,w) -> (N*s,C',2h,2w)"""
        self._watch(self.tc, grow, x, stage)
        self._watch(
            self.tc,
            conv,
            lambda: F.interpolate(
                F.conv2d(x, self.tc[grow + ".weight"]).unflatten(1, (-1, x.shape[1])).flatten(0, 1),
                scale_factor=2,
            ),
            stage and stage + 1,
        )
        with torch.autocast(x.device.type, enabled=False):
            point, kernel = self.tc[grow + ".weight"][:, :, 0, 0], self.tc[conv + ".weight"]
            point = point.unflatten(0, (-1, kernel.shape[1]))  # (s, C, C)
            weight = torch.einsum(
                "ocyx,ray,sbx,tci->trsoiab", kernel, self.phase_taps, self.phase_taps, point
            )
            frames, outputs = point.shape[0], kernel.shape[0]
            weight = weight.reshape(-1, kernel.shape[1], 3, 3)
        y = F.conv2d(x, weight, padding=1)
        n, _, h, w = y.shape
        y = y.reshape(n, frames, 2, 2, outputs, h, w).permute(0, 1, 5, 2, 6, 3, 4)
        return y.reshape(n * frames, 2 * h, 2 * w, outputs).permute(0, 3, 1, 2)

    def parts(self):
        """{part: {published name: tensor}}"""
        return {part: getattr(self, part).published() for part in PARTS}

    @torch.no_grad()
    def assign(self, state):
        """Takes {part: {published name: tensor}}."""
        for part, tensors in state.items():
            for name, tensor in tensors.items():
                getattr(self, part).tensors[name.replace(".", "|")].copy_(tensor)

    # ---- coordinates
    def _watch(self, part, layer, x, stage=None, copies=1):
        """Tells `_watcher`, if there is one, what a layer gets: x, or what x() gives."""
        if self._watcher:
            self._watcher(part, layer, x() if callable(x) else x, stage, copies)

    @torch.no_grad()
    def hold_in_coordinates(self, lq):
        """Puts the convolutions' weights into coordinates that suit what they get for clips lq (B,3,F,H,W).
        For a network with starting values, whose constant channels are known. Makes new parameters."""
        found = []

        def watcher(part, layer, x, stage, copies):
            width, means, taps = x.shape[1] // copies, None, None
            if layer == "decoder.1":
                matrix = coordinates.onto_basis(self._basis(8, 5, 4, x.device), x)
            elif layer == "conv1":
                matrix = coordinates.onto_basis(self._basis(16, 8, 1, x.device), x)
            else:
                constants = (
                    [] if stage is None else [passthrough.CONSTANTS[stage] + i * width for i in range(copies)]
                )
                matrix, means = coordinates.whitening(x, constants)
            if part is self.tc and part[layer + ".weight"].shape[-1] == 3:
                taps = coordinates.whitening_taps(
                    matrix, torch.zeros_like(x[0, :, 0, 0]) if means is None else means, x
                )
            found.append((part, layer, matrix, means, taps))

        self._watcher = watcher
        self(lq, noise_like(lq))
        self._watcher = None
        for part, layer, *change in found:
            part.hold(layer, *change)

    @staticmethod
    def _basis(size, kept, frames, device):
        return coordinates.block_basis(size, kept, frames).to(device)


def without_content(latents):
    """latents (B,16,T,h,w) with all that depends on picture, noise and time replaced by its mean. Kept is
    what each of a token's 2x2 places has of its own: the codes by which the decoder finds its way in a
    block."""
    b, c, t, h, w = latents.shape
    mean = latents.reshape(b * c, t, h // 2, 2, w // 2, 2).unflatten(0, (b, c)).mean((0, 2, 3, 5))  # (C,2,2)
    return mean.repeat(1, h // 2, w // 2)[None, :, None].expand_as(latents)


def noise_like(lq, generator=None):
    """Standard normal noise for clips lq (B,3,F,H,W)."""
    b, _, f, h, w = lq.shape
    return torch.randn(
        b, LATENT_CHANNELS, (f - 1) // 4, h // 8, w // 8, device=lq.device, generator=generator
    )
