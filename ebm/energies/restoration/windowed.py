"""Windowed: a large picture's energy, window by window, so that its gradient needs little memory."""

from __future__ import annotations

from itertools import product
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ebm.interfaces import Modified

WINDOW, MARGIN = 384, 64  # pixels a side of a window, and those around that count: multiples of the U-Nets' scales


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
        rows, columns = (range(0, max(size - MARGIN, 1), WINDOW) for size in y.shape[-2:])
        if len(rows) * len(columns) == 1:
            return self.energy(y, code)
        total = y.new_zeros(y.shape[:-3])
        for top, left in product(rows, columns):
            total = total + checkpoint(self._within, y, code, top, left, use_reentrant=False, preserve_rng_state=False)
        return total

    def _within(self, y: Tensor, code: Any, top: int, left: int) -> Tensor:
        """Sums the energy of the window that begins there; the last one takes what is left."""
        ends = [
            size if start + WINDOW + MARGIN >= size else start + WINDOW
            for start, size in zip((top, left), y.shape[-2:], strict=True)
        ]
        first = [max(start - MARGIN, 0) for start in (top, left)]
        seen = y[..., first[0] : ends[0] + MARGIN, first[1] : ends[1] + MARGIN]
        see: Any = self.energy
        noise = see.noise(seen, code)
        inner = noise[..., top - first[0] : ends[0] - first[0], left - first[1] : ends[1] - first[1]]
        return inner.square().sum((-3, -2, -1)) / 2
