"""Sudoku as a task: fill a board from its clues; trained on many clues, judged on few as well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ebm.interfaces import Batch, Predictor, Task
from ebm.randomness import randn_like, stream, subseed
from ebm.words import nearest
from ebm_ired.boards import dig, grids, one_hot

__all__ = ["Sudoku"]

HELD_OUT = ("validation", "test", "hard", "hardest")
CHUNK = 100  # boards that are thought about at a time; each may have several candidates


class Sudoku(Task):
    """Sudokus with boxes of any size, made offline; each has a single solution, which singles find.

    `train`, `validation` and `test` have between low and high clues, drawn uniformly; `hard` has fewer than any of them, and
    `hardest` as few as logic by singles allows (6 x 6: 8 to 13, 10 on average). No two boards of the task share a solution.

    The target is the solution (side, side, side): row, column, digit, 1 for a cell's digit and −1 for the others. The context is
    the clues, 1 for a clue's digit and 0 elsewhere. Chains start at standard normal noise.

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

    def __init__(
        self,
        box: tuple[int, int] = (2, 3),
        clues: tuple[int, int] = (16, 24),
        hard: int = 13,
        n: int = 6000,
        seed: int = 0,
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
        self.splits: dict[str, Batch] = {}
        for split, part in zip(("train", *HELD_OUT), parts, strict=True):
            least = torch.randint(clues[0], clues[1] + 1, (len(part),), generator=generator)
            least = least if split not in ("hard", "hardest") else torch.full_like(least, hard if split == "hard" else 0)
            dug = dig(part, least, self.box, generator)
            self.splits[split] = Batch(2 * one_hot(part) - 1, one_hot(dug))

    def rows(self, split: str) -> Batch:
        """Returns all boards of a split as one batch."""
        if split not in self.splits:
            raise ValueError(f"unknown split {split!r}: {nearest(split, self.splits)}")
        return self.splits[split]

    def loader(self, split: str, batch_size: int, *, seed: int = 0, workers: int = 0) -> DataLoader[Batch]:
        """Makes a loader of `Batch`es; train is shuffled, and leaves out a last batch that is short, unless it is alone."""
        rows, training = self.rows(split), split == "train"
        return DataLoader(
            _Boards(rows),
            batch_size,
            shuffle=training,
            drop_last=training and len(rows.target) >= batch_size,
            num_workers=workers,
            collate_fn=_whole,
            generator=stream(seed, "loader"),
        )

    def start(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws standard normal noise of a board's shape."""
        return randn_like(batch.context, generator)

    def distance(self, y: Tensor, batch: Batch) -> Tensor:
        """Averages the squared error over a board: y (*more, rows, side, side, side) -> (*more, rows)."""
        return (y - batch.target).square().mean((-3, -2, -1))

    def corrupt(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        """Fills some cells without a clue at random: each of a board with one probability, which is uniform in [0, 0.5]."""
        blank, device = batch.context.sum(-1) < 0.5, batch.target.device
        chance = torch.rand((len(blank), 1, 1), generator=generator, device=device) / 2
        wrong = blank & (torch.rand(blank.shape, generator=generator, device=device) < chance)
        digit = torch.randint(blank.shape[-1], blank.shape, generator=generator, device=device)
        return torch.where(wrong.unsqueeze(-1), 2 * one_hot(digit).to(batch.target) - 1, batch.target)

    @torch.no_grad()
    def evaluate(
        self,
        predictor: Predictor,
        *,
        split: str = "test",
        limit: int | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, float]:
        """Judges a predictor on the first `limit` boards of a split (all if None); a cell's digit is its largest number.

        Returns:
            `solved`, the share of boards without a mistake; `cells`, the share of the cells without a clue that are right;
            `loss`, the mean squared error; `evaluations`, forward passes a board; `energy`, where the predictor has one.

        Raises:
            ValueError: for an unknown split.
            FloatingPointError: a prediction is not finite.
        """
        found: dict[str, list[Tensor]] = {}
        for batch in self._chunks(split, limit, generator):
            start = self.starts(predictor, batch, generator=generator)
            y, energy, evaluations = predictor.predict(batch, start, generator=generator)
            if not bool(torch.isfinite(y).all()):
                raise FloatingPointError(f"split {split!r}: a predicted board is not finite")
            right, blank = y.argmax(-1) == batch.target.argmax(-1), batch.context.sum(-1) < 0.5
            scores = {
                "solved": right.flatten(1).all(1).double(),
                "cells": right[blank].double(),
                "loss": self.distance(y, batch).double(),
                "evaluations": torch.full((len(y),), float(evaluations)),
            }
            for name, score in (scores if energy is None else {**scores, "energy": energy.double()}).items():
                found.setdefault(name, []).append(score.cpu())
        return {name: torch.cat(scores).mean().item() for name, scores in found.items()}

    def _chunks(self, split: str, limit: int | None, generator: torch.Generator | None) -> Iterator[Batch]:
        device = "cpu" if generator is None else generator.device
        target, context, _ = self.rows(split)
        for some, clues in zip(target[:limit].split(CHUNK), context[:limit].split(CHUNK), strict=True):
            yield Batch(some.to(device), clues.to(device))


class _Boards(Dataset[Batch]):
    """Serves boards to a DataLoader, a whole batch at a time."""

    def __init__(self, rows: Batch) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows.target)

    def __getitems__(self, index: list[int]) -> Batch:
        return Batch(self.rows.target[index], self.rows.context[index])


def _whole(batch: Any) -> Any:
    return batch
