"""The feed-forward baseline: the energy's network without y, which answers in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ebm.interfaces import Batch, Energy, Prediction
from ebm_ired.energy import embed
from ebm_ired.network import CandidateBlock, check_sizes

__all__ = ["FeedForward"]


class FeedForward(Energy):
    """Fills a board in one forward pass, f(x), with the blocks of `DiffusedEnergy`.

    As an energy it is |y − f(x)|² / 2, whose one step of size 1 leads from anywhere to the
    prediction: so it trains and is judged through the toolkit's own `reconstruction`, and the same
    task.

    Arguments:
        box: (height, width) of a box.
        dim: the width of a candidate's features.
        depth: how many blocks there are, that is, how far a clue is heard.

    >>> model = FeedForward(dim=8, depth=1)
    >>> clues = torch.zeros(5, 6, 6, 6)
    >>> model.predict(Batch(clues, clues)).y.shape
    torch.Size([5, 6, 6, 6])
    """

    def __init__(self, box: tuple[int, int] = (2, 3), dim: int = 32, depth: int = 4) -> None:
        super().__init__()
        check_sizes("FeedForward", box, dim=dim, depth=depth)
        self.of_clues = nn.Linear(2, dim)
        self.blocks = nn.ModuleList([CandidateBlock(dim, (box[0], box[1])) for _ in range(depth)])
        self.head = nn.Linear(dim, 1, bias=False)

    def encode(self, context: Any = None, level: int = -1) -> Tensor:
        """Predicts the boards (*rows, side, side, side) of clues."""
        features = self.of_clues(embed(context))
        for block in self.blocks:
            features = block(features)
        return self.head(features).squeeze(-1)

    def forward(self, y: Tensor, code: Tensor | None = None) -> Tensor:
        """Maps y (*more, *rows, side, side, side) to half its squared distance (*more, *rows) from
        the prediction."""
        if code is None:
            raise ValueError("FeedForward scores boards beside the code of clues, as in energy.given(clues)(y)")
        return (y - code).square().sum((-3, -2, -1)) / 2

    def predict(self, batch: Batch, start: Any = None, *, generator: torch.Generator | None = None) -> Prediction:
        """Predicts in one forward pass; there is nothing to start from, and nothing to draw."""
        with torch.no_grad():
            return Prediction(self.encode(batch.context), None, 1)

    def score(self, batch: Batch, y: Tensor) -> Tensor:
        """Computes the energies (*chains,) of boards y."""
        with torch.no_grad():
            return self(y, self.encode(batch.context))
