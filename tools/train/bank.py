# SPDX-License-Identifier: LGPL-2.1-or-later
"""A store of degraded clips on the training device, renewed while training runs."""

import collections

import torch

import clips as clip_maker
import codec as codec_module
import resample

LEAD_IN_FRAMES = (
    8  # coded ahead of half of the clips and thrown away, so that not every clip starts with a key frame
)


class Bank:
    """lq and gt: (capacity,T,3,S,S) uint8. Clips are made on the device, coded on the CPU, and come back in
    order, so the contents depend on the seed alone."""

    def __init__(self, crops, capacity, frames, size, codec, coded_share, rng, batch=16):
        shape = (capacity, frames, 3, size, size)
        self.lq = torch.zeros(shape, dtype=torch.uint8, device=crops.device)
        self.gt = torch.zeros_like(self.lq)
        self.filled = torch.zeros((), dtype=torch.long, device=crops.device)
        self.crops, self.codec, self.coded_share, self.rng, self.batch = crops, codec, coded_share, rng, batch
        self.frames, self.size, self.next, self.count = frames, size, 0, 0
        self.jobs = collections.deque()

    @torch.no_grad()
    def order(self):
        """Starts making one batch."""
        lead = LEAD_IN_FRAMES * (self.rng.random() < 0.5)
        clips = clip_maker.synthesize(self.crops, self.batch, self.frames + lead, self.size)
        small = clip_maker.reduce(clips, clip_maker.draw_scale(self.rng), self.rng)
        truth = torch.round(clips[:, lead:] * 255).to(torch.uint8)
        coded = None
        if self.codec and self.rng.random() < self.coded_share:
            crf = self.rng.randint(*codec_module.CRF_RANGE)
            pixels = small.permute(0, 1, 3, 4, 2).contiguous().cpu().numpy()
            coded = self.codec.submit(pixels, crf, self.rng.choice(codec_module.PRESETS))
        self.jobs.append((truth, small[:, lead:], coded, lead))

    @torch.no_grad()
    def receive(self):
        """Waits for the oldest batch and puts it over the oldest clips."""
        truth, small, coded, lead = self.jobs.popleft()
        if coded:
            pixels = torch.from_numpy(coded.result()[:, lead:].copy()).to(self.lq.device)
            small = pixels.permute(0, 1, 4, 2, 3)
        self._put(truth, resample.upscale(small.float() / 255, self.size, self.size))

    def _put(self, truth, lq):
        place = (torch.arange(len(truth), device=self.lq.device) + self.next) % len(self.lq)
        self.gt[place] = truth
        self.lq[place] = torch.round(lq * 255).to(torch.uint8)
        self.next = (self.next + len(truth)) % len(self.lq)
        self.count = min(self.count + len(truth), len(self.lq))
        self.filled.fill_(self.count)

    def fill(self, count, in_flight):
        """Brings the bank to `count` clips, with `in_flight` batches under way afterwards."""
        for _ in range(-(-count // self.batch)):
            self.order()
            if len(self.jobs) > in_flight:
                self.receive()
        while self.count < min(count, len(self.lq)):
            self.receive()
            self.order()

    def draw(self, batch, frames, size):
        """Random clips, cut in time and space, turned and mirrored: lq (B,3,F,S,S) in [-1,1], gt (B,F,3,S,S)
        in [0,1]."""
        device = self.lq.device
        index = (torch.rand(batch, device=device) * self.filled).long()
        time = (torch.rand(batch, 1, device=device) * (self.frames - frames + 1)).long()
        time = time + torch.arange(frames, device=device)
        # cuts start at multiples of 8: the network's blocks; the parity of small pixels stays what it was
        corner = (torch.rand(2, batch, 1, device=device) * ((self.size - size) // 8 + 1)).long() * 8
        axis = torch.arange(size, device=device)
        y, x = axis + corner[0], axis + corner[1]
        flip = torch.rand(3, batch, 1, device=device) < 0.5
        y = torch.where(flip[0], y.flip(1), y)
        x = torch.where(flip[1], x.flip(1), x)
        flat = (y * self.size)[:, :, None] + x[:, None, :]
        turned = (y * self.size)[:, None, :] + x[:, :, None]
        flat = torch.where(flip[2][..., None], turned, flat)  # (B,S,S)
        plane = self.size * self.size
        start = (index[:, None] * self.frames + time)[:, :, None] * 3 + torch.arange(3, device=device)
        where = start[..., None, None] * plane + flat[:, None, None]
        lq = self.lq.view(-1)[where].float() / 127.5 - 1
        return lq.transpose(1, 2), self.gt.view(-1)[where].float() / 255
