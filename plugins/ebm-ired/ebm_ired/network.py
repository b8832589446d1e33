"""A network that knows what a sudoku's candidates compete for, and nothing about who may win.

A candidate is a digit in a cell. It has four groups of rivals: the other digits of its cell, and
its digit elsewhere in its row, its column and its box. All candidates share weights, as do all
groups of a kind, so that it makes no difference what digits are called, or in which order boxes,
and lines within a box, come.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CandidateBlock", "check_sizes", "group_means"]


def group_means(h: Tensor, box: tuple[int, int]) -> list[Tensor]:
    """Averages features h (…, row, column, digit, d) over each candidate's cell, row, column and
    box; shapes broadcast with h's.

    >>> import torch
    >>> [tuple(mean.shape) for mean in group_means(torch.zeros(2, 6, 6, 6, 8), box=(2, 3))]
    [(2, 6, 6, 1, 8), (2, 6, 1, 6, 8), (2, 1, 6, 6, 8), (2, 6, 6, 6, 8)]
    """
    height, width = box
    boxed = h.unflatten(-3, (-1, width)).unflatten(-5, (-1, height))  # …, band, row, stack, column, digit, d
    of_box = boxed.mean((-5, -3), keepdim=True).expand_as(boxed).flatten(-4, -3).flatten(-5, -4)
    return [h.mean(-2, keepdim=True), h.mean(-3, keepdim=True), h.mean(-4, keepdim=True), of_box]


class CandidateBlock(nn.Module):
    """Lets each candidate hear its groups: h + W silu(U n + Σ_g V_g mean_g n), n = LayerNorm(h), g
    its cell, row, column, box.

    Arguments:
        dim: the width d of a candidate's features.
        box: (height, width) of a box.
    """

    def __init__(self, dim: int, box: tuple[int, int]) -> None:
        super().__init__()
        self.box, self.norm, self.own = box, nn.LayerNorm(dim), nn.Linear(dim, 2 * dim)
        self.groups = nn.ModuleList([nn.Linear(dim, 2 * dim, bias=False) for _ in range(4)])
        self.out = nn.Linear(2 * dim, dim)

    def forward(self, h: Tensor) -> Tensor:
        """Maps features (…, side, side, side, dim) to features of the same shape."""
        normed = self.norm(h)
        heard = self.own(normed)
        for weigh, mean in zip(self.groups, group_means(normed, self.box), strict=True):
            heard = heard + weigh(mean)
        return h + self.out(F.silu(heard))


def check_sizes(name: str, box: tuple[int, int], **sizes: int) -> None:
    """Raises ValueError for a box that is no pair, or a size below 1."""
    if len(box) != 2 or min(*box, *sizes.values()) < 1 or max(box) < 2:
        told = ", ".join(f"{key}={value}" for key, value in sizes.items())
        raise ValueError(f"{name}(box={box}, {told}): pass (height, width) of a box, and sizes of at least 1")
