"""Windowed: a large picture's energy, window by window, so that its gradient needs little memory."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ebm.interfaces import EnergyFn, Modified

SIDE, MARGIN = 384, 64  # pixels of a window, and those around it: further than the bundled U-Nets look, multiples of their scales


class Window(NamedTuple):
    """A part of a picture: rows and columns that are seen for it, which of those it is, and where it lies."""

    seen: tuple[slice, slice]
    inner: tuple[slice, slice]
    place: tuple[slice, slice]


def windows(height: int, width: int) -> list[Window]:
    """Lists the windows of a picture, row by row; it is one up to 448 pixels a side.

    >>> windows(100, 500)[1].seen[1], windows(100, 500)[1].inner[1], windows(100, 500)[1].place[1]
    (slice(320, 500, None), slice(64, 180, None), slice(384, 500, None))
    """
    return [Window(*zip(row, column, strict=True)) for row, column in product(_along(height), _along(width))]


def _along(size: int) -> list[tuple[slice, slice, slice]]:
    """Lists windows along an axis; the last one takes what is left, if it is no more than a margin."""
    found = []
    for start in range(0, max(size - MARGIN, 1), SIDE):
        first, end = max(start - MARGIN, 0), size if start + SIDE + MARGIN >= size else start + SIDE
        found.append((slice(first, min(end + MARGIN, size)), slice(start - first, end - first), slice(start, end)))
    return found


class Within(Modified):
    """Scores pictures (*chains, C, H, W) by what lies within some of their rows and columns; the rest is seen.

        E(y) = |R(y) within|² / 2

    Where an energy does not say its noise R, it is the share of E that falls to so many pixels.

    Arguments:
        energy: E = |R|² / 2 with a `noise`, R, such as `GradientStepUNet`; or any other.
        inner: rows and columns.

    >>> Within(lambda y: y.square().sum((-3, -2, -1)), (slice(0, 2), slice(0, 4)))(torch.ones(1, 1, 4, 4))
    tensor([8.])
    """

    def __init__(self, energy: EnergyFn, inner: tuple[slice, slice]) -> None:
        super().__init__(energy)
        self.inner = inner

    def forward(self, y: Tensor, code: Any = None) -> Tensor:
        """Maps y (*chains, C, H, W) to energies (*chains,)."""
        energy: Any = self.energy
        if hasattr(energy, "noise"):
            return energy.noise(y, code)[..., *self.inner].square().sum((-3, -2, -1)) / 2
        return energy(y, code) * (y[..., *self.inner].numel() / max(y.numel(), 1))


class Windowed(Modified):
    """Scores pictures (*chains, C, H, W) of any size as its energy does, a window at a time.

        E(y) = Σ_w |R(y around w) within w|² / 2

    A window is seen with 64 pixels around it, further than the bundled U-Nets look, so that values and
    gradients are those of the whole picture. What a window computes is computed again for its gradient and
    not kept: memory is that of one window. Pictures without a second window are scored whole.

    Arguments:
        energy: E = |R|² / 2 with a `noise`, R, such as `GradientStepUNet`.

    >>> from ebm.energies import GradientStepUNet
    >>> energy = GradientStepUNet(channels=1, widths=(4, 4), blocks=(1, 1))
    >>> y = torch.randn(1, 1, 8, 500)
    >>> torch.allclose(Windowed(energy).given(0.1)(y), energy.given(0.1)(y), rtol=1e-4)
    True
    """

    def forward(self, y: Tensor, code: Any = None) -> Tensor:
        """Maps y (*chains, C, H, W) to energies (*chains,)."""
        found = windows(*y.shape[-2:])
        if len(found) == 1:
            return self.energy(y, code)
        total = y.new_zeros(y.shape[:-3])
        for window in found:
            within, seen = Within(self.energy, window.inner), y[..., *window.seen]
            total = total + checkpoint(within, seen, code, use_reentrant=False, preserve_rng_state=False)
        return total
