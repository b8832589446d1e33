"""A small convolutional autoencoder, which learns from the training frames themselves."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ebm.encoders.base import Encoder, signed
from ebm.randomness import own_randomness, subseed

PATCHES = 20_000  # that principal components are taken of: many times the numbers of one
STRIDE = 4  # pixels a side of what the decoder's last layer draws at once: convolutions at full size take most of the time
WARMUP = 50  # steps


class Autoencoder(Encoder):
    """Learns linear features of patches, and a convolutional network that decodes them.

    Projections start as patches' principal components; the network's output is added to their
    reconstruction. Features are channels (size / downsample)², channel by channel. Raises
    FloatingPointError if the loss is not finite, ValueError for encoding before learning.

    Arguments:
        size: pixels a side of a frame.
        channels: numbers that a patch becomes.
        downsample: pixels a side of a patch: 4, 8, 16, …
        width: the network's channels at a quarter of the frame's size; they double at each halving.
        steps: of learning.
        batch_size: frames a step.
        lr: the learning rate, which is warmed up, then falls to zero as a cosine.

    >>> frames = torch.randint(256, (20, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    >>> autoencoder = Autoencoder(size=16, channels=4, downsample=8, width=8, steps=2)
    >>> sorted(autoencoder.learn(frames))
    ['loss', 'psnr']
    >>> autoencoder.decode(autoencoder.encode(frames)).shape
    torch.Size([20, 3, 16, 16])
    """

    learns = True
    decodes = True
    learned: Tensor

    def __init__(
        self,
        size: int = 64,
        channels: int = 32,
        downsample: int = 16,
        width: int = 16,
        steps: int = 1000,
        batch_size: int = 16,
        lr: float = 2e-3,
    ) -> None:
        halvings = downsample.bit_length() - STRIDE.bit_length()
        if halvings < 0 or downsample != STRIDE << halvings or size < 1 or size % downsample:
            call = f"Autoencoder(size={size}, downsample={downsample})"
            raise ValueError(f"{call}: choose a downsample of 4, 8, 16, … that divides size")
        if not 1 <= channels <= 3 * downsample**2 or min(width, steps, batch_size) < 1 or lr <= 0:
            raise ValueError(
                f"Autoencoder(channels={channels}, downsample={downsample}, width={width}, steps={steps}, "
                f"batch_size={batch_size}, lr={lr}): all are positive, and a patch has {3 * downsample**2} numbers at most"
            )
        super().__init__(size, channels * (size // downsample) ** 2)
        self.channels, self.downsample, self.steps, self.batch_size, self.lr = channels, downsample, steps, batch_size, lr
        with own_randomness(0):  # `learn` draws the weights anew
            self.project = nn.Conv2d(3, channels, downsample, stride=downsample)
            self.back = nn.ConvTranspose2d(channels, 3, downsample, stride=downsample)
            wide = width * 2**halvings
            layers: list[nn.Module] = [nn.Conv2d(channels, wide, 3, padding=1), Residual(wide)]
            for _ in range(halvings):
                layers += [nn.SiLU(), nn.ConvTranspose2d(wide, wide // 2, 4, stride=2, padding=1), Residual(wide // 2)]
                wide //= 2
            layers += [nn.SiLU(), nn.Conv2d(wide, 3 * STRIDE**2, 3, padding=1), nn.PixelShuffle(STRIDE)]
            self.draw = nn.Sequential(*layers)
        self.register_buffer("learned", torch.tensor(False))  # a buffer, so that a saved state knows
        self.float().requires_grad_(False)

    def _encode(self, pixels: Tensor) -> Tensor:
        self._check_learned()
        return self.project(pixels).flatten(1)

    def _decode(self, features: Tensor) -> Tensor:
        self._check_learned()
        return self._draw(features.unflatten(1, (self.channels, *[self.size // self.downsample] * 2)))

    def _draw(self, latents: Tensor) -> Tensor:
        return self.back(latents) + self.draw(latents)

    def _check_learned(self) -> None:
        if not self.learned:
            raise ValueError("this Autoencoder has not learned yet: call learn(frames), or load the state of one that has")

    @torch.enable_grad()
    def learn(self, frames: Tensor, *, seed: int = 0, progress: bool = False) -> dict[str, float]:
        """Learns anew; returns the last tenth's mean squared error (pixels in [-1, 1]) and PSNR."""
        self._check(frames)
        if not len(frames):
            raise ValueError("Autoencoder.learn(frames) has 0 frames to learn from: pass at least one")
        self.learned.fill_(False)
        losses: list[float] = []
        with own_randomness(subseed(seed, "autoencoder")):
            self._initialise(frames)
            self.requires_grad_(True)
            optimizer = torch.optim.AdamW(self.parameters(), self.lr, betas=(0.9, 0.99))
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._decay)
            try:
                bar = tqdm(range(self.steps), "autoencoder", disable=None if progress else True, dynamic_ncols=True)
                for step in bar:
                    rows = torch.randint(len(frames), (self.batch_size,))
                    flip = torch.rand(self.batch_size) < 0.5
                    pixels = signed(frames[rows.to(frames.device)])
                    pixels = torch.where(flip.to(frames.device).view(-1, 1, 1, 1), pixels.flip(-1), pixels)
                    loss = F.mse_loss(self._draw(self.project(pixels)), pixels)
                    losses.append(loss.item())
                    if not math.isfinite(losses[-1]):
                        raise FloatingPointError(f"the autoencoder's loss is {losses[-1]} at step {step}: lower lr={self.lr}")
                    optimizer.zero_grad()
                    loss.backward()
                    nn.utils.clip_grad_norm_(self.parameters(), 1.0)
                    optimizer.step()
                    schedule.step()
                    bar.set_postfix(loss=f"{losses[-1]:.4f}", refresh=False)
            finally:
                self.zero_grad()
                self.requires_grad_(False)
        self.learned.fill_(True)
        last = losses[-max(1, self.steps // 10) :]
        mean = sum(last) / len(last)
        return {"loss": mean, "psnr": 10 * math.log10(4 / max(mean, 1e-12))}

    def _decay(self, step: int) -> float:
        return min(1, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / self.steps)) / 2

    @torch.no_grad()
    def _initialise(self, frames: Tensor) -> None:
        """Draws the network's weights, and sets projections to patches' principal components."""
        for module in self.draw.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.reset_parameters()
        for parameter in self.draw[-2].parameters():
            parameter.zero_()
        side = self.downsample
        some = torch.randperm(len(frames))[: max(1, PATCHES * side**2 // self.size**2)].to(frames.device)
        patches = rearrange(signed(frames[some]), "n c (h p) (w q) -> (n h w) (c p q)", p=side, q=side)
        mean = patches.mean(0)
        patches -= mean
        axes = torch.linalg.eigh(patches.T @ patches)[1].flip(1)[:, : self.channels].T  # largest variance first
        axes = axes * axes.sum(1, keepdim=True).sign()  # of the two directions of each, one
        self.project.weight.copy_(axes.reshape(-1, 3, side, side))
        self.back.weight.copy_(axes.reshape(-1, 3, side, side))
        assert self.project.bias is not None
        assert self.back.bias is not None
        self.project.bias.copy_(-axes @ mean)
        self.back.bias.copy_(mean.reshape(3, -1).mean(1))


class Residual(nn.Module):
    """Adds what two convolutions make of x: x + f(x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers = [nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)]
        self.layers = nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)
