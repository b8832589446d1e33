"""Pixels as they are, or averaged, as features."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from ebm.encoders.base import Encoder


class Pixels(Encoder):
    """Takes pixels in [-1, 1] as features, averaged over squares, patch by patch.

    Features are 3 (size / pool)²: for each patch in turn, its pixels (rows, columns, colours).

    Arguments:
        size: pixels a side of a frame.
        patch: averages a side of a patch, whose features are next to each other.
        pool: pixels a side of the square that an average is of; patch * pool divides size.

    >>> import torch
    >>> pixels, frames = Pixels(size=8, patch=2, pool=2), torch.full((5, 3, 8, 8), 255, dtype=torch.uint8)
    >>> features = pixels.encode(frames)
    >>> features.shape, features.unique()
    (torch.Size([5, 48]), tensor([1.]))
    >>> pixels.decode(features).shape
    torch.Size([5, 3, 8, 8])
    """

    decodes = True

    def __init__(self, size: int = 32, patch: int = 1, pool: int = 1) -> None:
        if min(size, patch, pool) < 1 or size % (patch * pool):
            raise ValueError(f"Pixels(size={size}, patch={patch}, pool={pool}): choose a size that patch * pool divides")
        super().__init__(size, 3 * (size // pool) ** 2)
        self.patch, self.pool = patch, pool

    def _encode(self, pixels: Tensor) -> Tensor:
        averages = F.avg_pool2d(pixels, self.pool)
        return rearrange(averages, "n c (h p) (w q) -> n (h w p q c)", p=self.patch, q=self.patch)

    def _decode(self, features: Tensor) -> Tensor:
        patches = self.size // self.pool // self.patch
        sides = {"h": patches, "w": patches, "p": self.patch, "q": self.patch}
        averages = rearrange(features, "n (h w p q c) -> n c (h p) (w q)", **sides)
        return averages.repeat_interleave(self.pool, -1).repeat_interleave(self.pool, -2)
