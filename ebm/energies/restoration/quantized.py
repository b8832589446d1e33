"""What a JPEG file says of a picture: each coefficient of each block lies in a cell."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ebm.energies.restoration.operators import cosines
from ebm.interfaces import Unconditional, left

SIDE = 8  # pixels of a block


class Quantized(Unconditional):
    """Scores pictures by how far the coefficients of their blocks lie outside what JPEG rounded them to:

        E(x) = Σ max(0, |u − q k| − q / 2)² / (2 s²),    u = C x of blocks of 8 x 8,

    C the orthonormal DCT-II, q the file's quantisation table, k the whole numbers that it holds. It is
    0 for all pictures of which JPEG makes this file. `prox` is exact: a small s projects onto the cells.
    k is read off the decoded picture; where a block has black or white pixels, which may have been cut
    off in decoding, its cells count as twice as wide.
    Sides that are no multiples of 8 are continued by their last pixels, as encoders do; there `prox`
    is near. Source: projection onto the quantisation constraint set (Zakhor, 1992).

    Arguments:
        seen: a decoded picture (H, W) of greys, or the brightness of colours, 0 to 255.
        table: q (8, 8), in rows of growing frequency across.
        std: s, in grey levels of 255.

    Raises:
        ValueError: the std is not positive, or shapes or numbers cannot be; at the call, pictures of
            another size or of several channels.

    >>> energy = Quantized(torch.full((8, 8), 200), torch.full((8, 8), 16.0))
    >>> energy(torch.full((1, 1, 8, 8), 200 / 127.5 - 1)), energy(torch.zeros(1, 1, 8, 8)) > 0
    (tensor([0.]), tensor([True]))
    """

    centres: Tensor
    halves: Tensor

    def __init__(self, seen: Tensor, table: Tensor, std: float = 0.01) -> None:
        super().__init__()
        if seen.ndim != 2 or table.shape != (SIDE, SIDE) or not bool((table >= 1).all()) or not 0 < std < math.inf:
            sizes = f"seen {tuple(seen.shape)}, table {tuple(table.shape)} of {float(table.min()):g} at least, std={std}"
            raise ValueError(f"{sizes}: pass a picture (H, W), a table (8, 8) of numbers from 1, and a positive deviation")
        self.std, self.size = std / 127.5, tuple(seen.shape)
        table, coefficients = table.to(seen.device).float(), self._coefficients(seen.float()[None, None] / 127.5 - 1)[0, 0]
        self.register_buffer("centres", table * (coefficients / table).round(), persistent=False)
        cut = _blocks(((seen <= 0) | (seen >= 255))[None, None].float())[0, 0].amax((-2, -1), keepdim=True)
        self.register_buffer("halves", table / 2 * (1 + cut), persistent=False)

    def forward(self, y: Tensor, code: None = None) -> Tensor:
        """Maps pictures (*chains, 1, H, W) of [-1, 1] to energies (*chains,)."""
        outside = self._outside(self._coefficients(y)) / 127.5
        return outside.square().sum((-5, -4, -3, -2, -1)) / (2 * self.std**2)

    def prox(self, y: Tensor, step: float | Tensor) -> Tensor:
        """Finds argmin_z |z − y|²/2 + ε E(z) for pictures (*chains, 1, H, W): each coefficient moves towards its cell."""
        weight = torch.as_tensor(step, dtype=y.dtype, device=y.device) / self.std**2
        share = left((weight / (1 + weight)).expand(y.shape[:-3]), self._coefficients(y))
        moved = self._pixels(share * self._outside(self._coefficients(y))) / 127.5
        return y - moved[..., : y.shape[-2], : y.shape[-1]]

    def _outside(self, coefficients: Tensor) -> Tensor:
        error, halves = coefficients - self.centres.to(coefficients), self.halves.to(coefficients)
        return error - torch.maximum(torch.minimum(error, halves), -halves)

    def _coefficients(self, y: Tensor) -> Tensor:
        """Computes the blocks' coefficients (*chains, 1, rows, columns, 8, 8), in grey levels."""
        if y.ndim < 3 or y.shape[-3:] != (1, *self.size):
            raise ValueError(f"y has shape {tuple(y.shape)}, and a file of {self.size} was seen: pass (*chains, 1, H, W) of that")
        blocks = _blocks(y.reshape(-1, *y.shape[-3:])) * 127.5 - 0.5  # around 128, as JPEG has it
        return cosines(cosines(blocks).mT).mT.reshape(*y.shape[:-2], *blocks.shape[2:])

    def _pixels(self, coefficients: Tensor) -> Tensor:
        matrix = cosines(torch.eye(SIDE, dtype=coefficients.dtype, device=coefficients.device))  # rows are pixels
        return rearrange(matrix @ coefficients @ matrix.mT, "... h w p q -> ... (h p) (w q)")


def _blocks(pictures: Tensor) -> Tensor:
    """Cuts pictures (n, C, H, W), continued where they end within a block, into (n, C, rows, columns, 8, 8)."""
    rest = [-size % SIDE for size in pictures.shape[-2:]]
    wide = F.pad(pictures, (0, rest[1], 0, rest[0]), mode="replicate")
    return rearrange(wide, "n c (h p) (w q) -> n c h w p q", p=SIDE, q=SIDE)
