"""A small U-Net without normalisation, smooth, for pictures of any size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ebm.energies.ebt.recomputing import Blockwise
from ebm.energies.restoration.convolutions import convolved, spread
from ebm.energies.restoration.elu import elu

BRIGHT, LOUD = 2.0, 5.0  # what pictures of [-1, 1] and the noise's deviation are multiplied by on entry


class UNet(Blockwise):
    """Maps pictures (B, C, H, W) and their noise's deviation (B,), or None, to pictures.

    Pixels enter in blocks of 2 x 2 as channels, the deviation as one more. Each scale halves the
    sides: residual blocks x + W₂ elu(W₁ x) on the way down and, with what was there added, on the
    way up. There is no norm, because chains must not see each other and brightness counts. ELU is
    smooth once, as is needed where ∇E is trained. Sides that are no multiple of the coarsest
    scale's pixels are reflected.

    Arguments:
        channels: C.
        widths: channels at each scale, from the finest.
        blocks: residual blocks at each scale, once down and once up.
        told: whether the deviation is an input.
    """

    def __init__(self, channels: int, widths: Sequence[int], blocks: Sequence[int], told: bool) -> None:
        super().__init__()
        self.told, self.side = told, 2 ** len(widths)
        self.head = Convolution(4 * channels + told, widths[0], bias=True)
        *scales, (coarsest, count) = zip(widths, blocks, strict=True)
        self.down = nn.ModuleList(nn.Sequential(*(Residual(width) for _ in range(number))) for width, number in scales)
        self.up = nn.ModuleList(nn.Sequential(*(Residual(width) for _ in range(number))) for width, number in scales)
        pairs = [*pairwise(widths)]
        self.shrink = nn.ModuleList(Convolution(wide, narrow, side=2) for wide, narrow in pairs)
        self.grow: Any = nn.ModuleList(
            Convolution(wide, narrow, side=2, gain=math.sqrt(4 * wide / narrow)) for wide, narrow in pairs
        )
        self.middle = nn.Sequential(*(Residual(coarsest) for _ in range(count)))
        self.tail = Convolution(widths[0], 4 * channels, gain=0.3)

    def forward(self, y: Tensor, std: Tensor | None) -> Tensor:
        height, width = y.shape[-2:]
        x = rearrange(padded(y, self.side), "b c (h p) (w q) -> b (c p q) h w", p=2, q=2) * BRIGHT
        if self.told:
            assert std is not None
            x = torch.cat([x, (std * LOUD).to(x).reshape(-1, 1, 1, 1).expand(-1, 1, *x.shape[-2:])], 1)
        kind = y.device.type
        x = x.to(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else y.dtype)
        x, kept = self.head(x.contiguous(memory_format=torch.channels_last)), []
        for blocks, shrink in zip(self.down, self.shrink, strict=True):
            kept.append(self._each(blocks, x))
            x = shrink(kept[-1])
        x = self._each(self.middle, x)
        for blocks, grow, beside in zip(reversed(self.up), reversed(self.grow), reversed(kept), strict=True):
            x = self._each(blocks, grow.back(x) + beside)
        found = rearrange(self.tail(x).to(y.dtype), "b (c p q) h w -> b c (h p) (w q)", p=2, q=2)
        return found[..., :height, :width]

    def _each(self, blocks: Any, x: Tensor) -> Tensor:
        for block in blocks:
            x = self.through([block], block, x)
        return x


class Residual(nn.Module):
    """Adds to x what two convolutions with an ELU between them make of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = Convolution(width, width, bias=True, gain=1.4), Convolution(width, width, gain=0.4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(elu(self.first(x)))


class Convolution(nn.Module):
    """Convolves by 3 x 3, or by 2 x 2 with stride 2, which halves the sides; `back` doubles them."""

    def __init__(self, wide: int, narrow: int, side: int = 3, bias: bool = False, gain: float = 1.0) -> None:
        super().__init__()
        weight = torch.randn(narrow, wide, side, side) * gain / math.sqrt(wide * side**2)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.zeros(narrow)) if bias else None
        self.stride, self.padding = (1, 1) if side == 3 else (side, 0)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return convolved(x, self.weight.to(x.dtype), bias, self.stride, self.padding)

    def back(self, x: Tensor) -> Tensor:
        return spread(x, self.weight.to(x.dtype), self.stride, self.padding)


def padded(y: Tensor, side: int) -> Tensor:
    """Extends pictures (B, C, H, W) below and on the right to multiples of a side, as a mirror does.

    >>> padded(torch.arange(5.0).reshape(1, 1, 1, 5), 4)[0, 0, 3]
    tensor([0., 1., 2., 3., 4., 3., 2., 1.])
    """
    for axis, size in ((-2, y.shape[-2]), (-1, y.shape[-1])):
        while (missing := min(-size % side, max(size - 1, 1))) > 0:  # a mirror shows no more than there is
            more = y.narrow(axis, size - 1 - missing, missing).flip(axis) if size > 1 else y
            y = torch.cat([y, more], axis)
            size += missing
    return y
