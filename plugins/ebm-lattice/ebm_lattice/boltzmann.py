"""The Boltzmann machine without hidden units: every pixel is coupled to every other, or to those
near it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ebm.energies import Unconditional

__all__ = ["Pairwise"]


class Pairwise(Unconditional):
    """Scores images of spins by learned fields and couplings: E(y) = −Σᵢ hᵢ yᵢ − Σ_{i<j} Jᵢⱼ yᵢ yⱼ.

    Of all distributions with the data's means and correlations this is the one of largest entropy.
    Everything starts at zero.

    Source: Ackley, Hinton and Sejnowski, 1985, without hidden units.

    Arguments:
        image_size: the side of a square image, or (height, width).
        channels: C.
        radius: how far apart coupled pixels are at most, in pixels along the farther axis; none
            means any distance.

    Raises:
        ValueError: for sizes below 1, and (at the call) a y whose last three axes are not an image
            of that size.

    >>> energy = Pairwise(image_size=8, radius=1)
    >>> energy(torch.ones(5, 1, 8, 8)).shape, energy.couplings.shape
    (torch.Size([5]), torch.Size([210]))
    """

    pairs: Tensor

    def __init__(self, image_size: int | tuple[int, int], channels: int = 1, radius: int | None = None) -> None:
        super().__init__()
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if min(height, width, channels) < 1 or (radius is not None and radius < 1):
            raise ValueError(
                f"Pairwise(image_size={image_size}, channels={channels}, radius={radius}): pass numbers of at least 1"
            )
        self.event = (channels, height, width)
        places = torch.ones(self.event).nonzero()[:, 1:]
        apart = (places[:, None] - places[None]).abs().amax(-1)
        near = torch.ones_like(apart, dtype=torch.bool) if radius is None else apart <= radius
        self.register_buffer("pairs", near.triu(1).nonzero().T, persistent=False)
        self.fields = nn.Parameter(torch.zeros(self.event))
        self.couplings = nn.Parameter(torch.zeros(self.pairs.shape[1]))

    def encode(self, context: object = None, level: int = -1) -> Tensor:
        """Lays the couplings out as a matrix (sites, sites), those above its diagonal."""
        sites = self.fields.numel()
        return self.couplings.new_zeros(sites, sites).index_put((self.pairs[0], self.pairs[1]), self.couplings)

    def forward(self, y: Tensor, code: Tensor | None = None) -> Tensor:
        """Maps y (*chains, C, H, W) to energies (*chains,)."""
        if y.shape[-3:] != self.event:
            raise ValueError(f"y has shape {tuple(y.shape)}, but this energy scores images (*chains, *{self.event})")
        couplings, flat = self.encode() if code is None else code, y.flatten(-3)
        return -((flat @ couplings.to(y) + self.fields.flatten().to(y)) * flat).sum(-1)

    def extra_repr(self) -> str:
        return f"event={self.event}, couplings={len(self.couplings)}"
