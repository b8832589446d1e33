"""Stopping: chains that have nothing to gain by further steps keep what they have."""

from __future__ import annotations

import torch
from torch import Tensor

from ebm.interfaces import left


class Stopping:
    """Freezes chains once their energy fell no further, or a step hardly moved them, or one step was due.

    Where energies decide (patience), a chain keeps its lowest state; where residuals alone do, its
    last.
    """

    def __init__(
        self,
        patience: int | None,
        tolerance: float,
        residual: float | None,
        energy: Tensor,
        y: Tensor,
        familiar: float | None = None,
    ) -> None:
        self.patience, self.tolerance, self.residual = patience, tolerance, residual
        size = y.numel() // max(energy.numel(), 1)
        # what starts with an energy that training knows takes one step, however little it gains
        self.brief = None if familiar is None else energy <= familiar * size
        self.energy, self.y = torch.full_like(energy, float("inf")), y
        self.waited = torch.zeros_like(energy, dtype=torch.long)
        self.taken = torch.zeros_like(self.waited)
        self.stopped = torch.zeros_like(energy, dtype=torch.bool)

    def see(self, energy: Tensor, y: Tensor, taken: int, moved: Tensor | None = None) -> Tensor:
        """Takes in y, its energy after `taken` steps, and how far the last of them moved each chain.

        Returns:
            energies, frozen where a chain has stopped.
        """
        better = ~self.stopped
        due = torch.zeros_like(self.stopped) if self.brief is None else self.brief & self.energy.isfinite()  # after a step
        if self.patience is not None:
            # Any first energy counts as a fall, whatever the tolerance.
            least = torch.where(self.energy.isfinite(), self.energy - self.tolerance * self.energy.abs(), self.energy)
            better = better & ((energy < least) | due)
        self.energy = torch.where(better, energy, self.energy)
        self.y = torch.where(left(better, y), y, self.y)
        self.waited = torch.where(better, 0, self.waited + 1)
        self.taken = torch.where(self.stopped, self.taken, taken)
        if self.patience is not None:
            self.stopped = self.stopped | (self.waited >= self.patience)
        if self.residual is not None and moved is not None:
            self.stopped = self.stopped | (moved < self.residual)
        self.stopped = self.stopped | due
        return torch.where(self.stopped, self.energy, energy)


def distance_moved(new: Tensor, old: Tensor, chains: int) -> Tensor:
    """Measures how far points moved, root mean square over the event: (*chains,)."""
    return (new - old).flatten(chains).square().mean(-1).sqrt() if new.ndim > chains else (new - old).abs()
