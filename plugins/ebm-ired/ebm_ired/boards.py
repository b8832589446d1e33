"""Sudoku boards, which the toolkit draws, as candidates of 0 and 1."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ebm.tasks.puzzles.sudoku import by_logic, dig, grids, solutions

__all__ = ["by_logic", "dig", "grids", "one_hot", "solutions"]


def one_hot(grid: Tensor) -> Tensor:
    """Turns digits (…, side, side), −1 for an empty cell, into candidates (…, side, side, side) of
    0 and 1."""
    return F.one_hot(grid + 1, grid.shape[-1] + 1)[..., 1:].float()
