"""Sudoku as a task: fill a board from its clues; trained on many clues, judged on few as well."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ebm.interfaces import Batch, Prediction
from ebm.randomness import randn_like, stream, subseed
from ebm.tasks import InMemory
from ebm_ired.boards import dig, grids, one_hot

__all__ = ["Sudoku"]

HELD_OUT = ("validation", "test", "hard", "hardest")


class Sudoku(InMemory):
    """Sudokus with boxes of any size, made offline; each has a single solution, which singles find.

    `train`, `validation` and `test` have between low and high clues, drawn uniformly; `hard` has
    fewer than any of them, and `hardest` as few as logic by singles allows (6 x 6: 8 to 13, 10 on
    average). No two boards of the task share a solution.

    The target is the solution (side, side, side): row, column, digit, 1 for a cell's digit and −1
    for the others. The context is the clues, 1 for a clue's digit and 0 elsewhere. Chains start at
    standard normal noise.

    Arguments:
        box: (height, width) of a box; the side is their product.
        clues: (low, high), the clues of a board to train on.
        hard: the clues of a board of `hard`, fewer than low.
        n: how many grids are drawn; a twelfth is for each split but train.
        seed: fixes the boards.

    Raises:
        ValueError: numbers of clues that do not fit, too few grids, an unknown split.

    >>> task = Sudoku(box=(2, 2), clues=(7, 10), hard=6, n=120)
    >>> batch = next(iter(task.loader("test", 4)))
    >>> batch.target.shape, int(batch.context.sum((1, 2, 3)).max()) <= 10, task.spec
    (torch.Size([4, 4, 4, 4]), True, {'dim': 4, 'box': (2, 2)})
    """

    headline = "solved"
    rows_at_once = 100  # each board may have several candidates

    def __init__(
        self, box: tuple[int, int] = (2, 3), clues: tuple[int, int] = (16, 24), hard: int = 13, n: int = 6000, seed: int = 0
    ) -> None:
        if len(box) != 2 or min(box) < 1 or max(box) < 2:
            raise ValueError(f"box={box}: pass (height, width)")
        side = box[0] * box[1]
        if len(clues) != 2 or not 0 < hard < clues[0] <= clues[1] < side**2:
            raise ValueError(f"clues={clues}, hard={hard}: pass 0 < hard < low <= high < {side**2} cells")
        self.box = (box[0], box[1])
        self.spec: dict[str, Any] = {"dim": side, "box": self.box}
        solved, generator = grids(n, self.box, subseed(seed, "grids")), stream(seed, "clues")
        share = len(solved) // 12
        if not share:
            raise ValueError(f"n={n} gave {len(solved)} distinct grids: draw 12 or more")
        parts = solved.split([len(solved) - 4 * share, *[share] * 4])
        self.splits = {}
        for split, part in zip(("train", *HELD_OUT), parts, strict=True):
            least = torch.randint(clues[0], clues[1] + 1, (len(part),), generator=generator)
            least = least if split not in ("hard", "hardest") else torch.full_like(least, hard if split == "hard" else 0)
            dug = dig(part, least, self.box, generator)
            self.splits[split] = Batch(2 * one_hot(part) - 1, one_hot(dug))

    def start(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws standard normal noise of a board's shape."""
        return randn_like(batch.context, generator)

    def corrupt(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        """Fills some cells without a clue at random, each of a board with a chance in [0, 0.5]."""
        blank, device = batch.context.sum(-1) < 0.5, batch.target.device
        chance = torch.rand((len(blank), 1, 1), generator=generator, device=device) / 2
        wrong = blank & (torch.rand(blank.shape, generator=generator, device=device) < chance)
        digit = torch.randint(blank.shape[-1], blank.shape, generator=generator, device=device)
        return torch.where(wrong.unsqueeze(-1), 2 * one_hot(digit).to(batch.target) - 1, batch.target)

    def scores(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Scores boards; a cell's digit is its largest number.

        `evaluate` reports `solved`, the share of boards without a mistake; `cells`, the share of
        the cells without a clue that are right; `loss`, the mean squared error; `evaluations`,
        forward passes per board; `energy`, where the predictor has one.
        """
        right, blank = prediction.y.argmax(-1) == batch.target.argmax(-1), batch.context.sum(-1) < 0.5
        counts = {"cells": (right & blank).sum((1, 2)), "blank": blank.sum((1, 2))}
        return {"solved": right.flatten(1).all(1), **counts, "loss": self.distance(prediction.y, batch)}

    def conclude(self, scores: dict[str, Tensor], split: str) -> dict[str, float]:
        """Counts right cells among the cells without a clue."""
        means = super().conclude(scores, split)
        means["cells"] /= means.pop("blank")
        return means
