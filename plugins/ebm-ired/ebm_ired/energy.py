"""The energy: how far a noised board is from what the network makes of it, at each of K noise
levels."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ebm.interfaces import Energy
from ebm_ired.levels import Level, levels
from ebm_ired.network import CandidateBlock, check_sizes

__all__ = ["Code", "DiffusedEnergy"]


class Code(NamedTuple):
    """What does not depend on y: the clues' features (*rows, side, side, side, dim), and the
    landscape's level."""

    features: Tensor
    level: Level


class DiffusedEnergy(Energy):
    """Scores noised boards against clues, on K landscapes: is y = a y* + s ε with an answer y* that
    fits the clues?

        E_k(y | x) = |y − a_k f(y, x, k)|² / (2 s_k),

    the squared norm of the residual of a network's guess f of the clean board.
    For a guess that did not depend on y, ∇E would be the noise (y − a f) / s, which the objective
    asks for; and a step of size s_k from anywhere would lead to a f.

    A board is (side, side, side): row, column, digit; 1 for the digit of a cell and −1 for others.
    The context holds the clues in this form with 1 for a clue's digit and 0 elsewhere. f is made of
    `CandidateBlock`s.

    Arguments:
        box: (height, width) of a box; a board's side is height * width.
        dim: the width of a candidate's features.
        depth: how many blocks there are.
        levels: K, the number of landscapes.

    Raises:
        ValueError: for sizes that cannot work, and (at the call) boards of another shape or without
            a code.

    Source: arXiv 2406.11179, section 3; the authors' code has |network|² and |y − network|² as
    energies of sudokus.

    >>> energy = DiffusedEnergy(box=(2, 3), dim=8, depth=1, levels=4)
    >>> clues = torch.zeros(5, 6, 6, 6)
    >>> energy.given(clues, level=0)(torch.randn(2, 5, 6, 6, 6)).shape     # two candidates for each of five boards
    torch.Size([2, 5])
    """

    def __init__(self, box: tuple[int, int] = (2, 3), dim: int = 32, depth: int = 4, levels: int = 10) -> None:
        super().__init__()
        check_sizes("DiffusedEnergy", box, dim=dim, depth=depth, levels=levels)
        self.box, self.levels = (box[0], box[1]), levels
        self.event = (box[0] * box[1],) * 3
        self.of_clues, self.of_y = nn.Linear(2, dim), nn.Linear(1, dim, bias=False)
        self.of_level = nn.Parameter(torch.randn(levels, dim) / dim**0.5)
        self.blocks = nn.ModuleList([CandidateBlock(dim, self.box) for _ in range(depth)])
        self.head = nn.Linear(dim, 1, bias=False)
        nn.init.normal_(self.head.weight, std=0.02)  # a guess near 0 at first: the energy is then a bowl

    def encode(self, context: Any = None, level: int = -1) -> Code:
        """Embeds the clues (*rows, side, side, side) and the level: both the same for every y."""
        if not isinstance(context, Tensor) or context.shape[-3:] != self.event:
            shape = tuple(context.shape) if isinstance(context, Tensor) else type(context).__name__
            raise ValueError(f"the context is {shape}: pass clues (*rows, {', '.join(map(str, self.event))})")
        clues = embed(context)
        return Code(self.of_clues(clues) + self.of_level[level], levels(self.levels)[level])

    def forward(self, y: Tensor, code: Code | None = None) -> Tensor:
        """Maps y (*more, *rows, side, side, side) to energies (*more, *rows)."""
        if code is None or y.shape[-3:] != self.event:
            raise ValueError(
                f"y has shape {tuple(y.shape)}, the code is {type(code).__name__}: this energy scores (*chains, "
                f"{', '.join(map(str, self.event))}) beside the code of clues, as in energy.given(clues)(y)"
            )
        features = code.features + self.of_y(y.unsqueeze(-1))
        for block in self.blocks:
            features = block(features)
        guess = self.head(features).squeeze(-1)
        return (y - code.level.signal * guess).square().sum((-3, -2, -1)) / (2 * code.level.noise)


def embed(clues: Tensor) -> Tensor:
    """Says of each candidate (…, side, side, side, 2) whether it is a clue, and whether its cell
    has one."""
    return torch.stack([clues, clues.sum(-1, keepdim=True).expand_as(clues)], -1)
