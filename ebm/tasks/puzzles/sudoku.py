"""Sudokus: grids by random search, and clues taken away while simple logic still fills the grid."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ebm.figures import INK
from ebm.interfaces import Batch
from ebm.randomness import stream, subseed
from ebm.tasks.puzzles.answers import shuffled
from ebm.tasks.puzzles.marks import Mark

DIGITS = "123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Sudoku:
    """Sudokus with boxes of any size; each has a single solution, which singles find.

    `train`, `validation` and `test` have between low and high clues, drawn uniformly; `hard` has
    `hard` clues, fewer than any of them; and `hardest` as few as logic by singles allows (6 x 6: 8
    to 13). No two boards share a solution.

    Arguments:
        box: (height, width) of a box; the side is their product.
        clues: (low, high), the clues of a board to train on.
        hard: the clues of a board of `hard`, fewer than low.
    """

    box: tuple[int, int] = (2, 3)
    clues: tuple[int, int] = (16, 24)
    hard: int = 13

    def __post_init__(self) -> None:
        if len(self.box) != 2 or min(self.box) < 1 or not 2 <= self.side <= len(DIGITS):
            raise ValueError(f"box={self.box}: pass (height, width), whose product is from 2 to {len(DIGITS)}")
        if len(self.clues) != 2 or not 0 < self.hard < self.clues[0] <= self.clues[1] < self.side**2:
            wanted = f"0 < hard < low <= high < {self.side**2} cells"
            raise ValueError(f"clues={self.clues}, hard={self.hard}: pass {wanted}")

    @property
    def side(self) -> int:
        return self.box[0] * self.box[1]

    @property
    def spec(self) -> dict[str, Any]:
        relations = {"kind": "boxes", "height": self.box[0], "width": self.box[1]}
        return {"vocab_size": self.side, "length": self.side**2, "relations": relations}

    def draw(self, n: int, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Draws boards: split -> solutions (n, S) and clues (n, S), −1 where empty."""
        solved, generator = grids(n, self.box, subseed(seed, "grids")), stream(seed, "clues")
        share = len(solved) // 12
        if not share:
            raise ValueError(f"n={n} gave {len(solved)} distinct grids: draw 12 or more")
        parts = solved.split([len(solved) - 4 * share, *[share] * 4])
        found = {}
        for split, part in zip(("train", "validation", "test", "hard", "hardest"), parts, strict=True):
            least = torch.randint(self.clues[0], self.clues[1] + 1, (len(part),), generator=generator)
            least = least if split not in ("hard", "hardest") else torch.full_like(least, self.hard if split == "hard" else 0)
            found[split] = (part.flatten(1), dig(part, least, self.box, generator).flatten(1))
        return found

    def accepts(self, answer: Tensor, batch: Batch) -> Tensor:
        """Tells which boards (*more, B, S) hold every digit once in each row, column and box, and the clues."""
        board = F.one_hot(answer, self.side).unflatten(-2, (self.side, self.side))
        height, width = self.box
        boxes = board.unflatten(-3, (-1, height)).unflatten(-2, (-1, width)).transpose(-4, -3)
        once = [(board.sum(axis) == 1).flatten(-2).all(-1) for axis in (-3, -2)]
        once.append((boxes.flatten(-5, -4).flatten(-3, -2).sum(-2) == 1).flatten(-2).all(-1))
        return once[0] & once[1] & once[2] & keeps(answer, batch.context)

    def turned(self, batch: Batch, generator: Generator) -> Batch:
        """Renames digits, and changes the order of bands, stacks, and the lines in each."""
        (height, width), rows = self.box, len(batch.target)
        down, right = shuffled(rows, width, height, generator), shuffled(rows, height, width, generator)
        place = (down[:, :, None] * self.side + right[:, None]).flatten(1)
        names = torch.rand(rows, self.side, generator=generator).argsort(-1)
        names = torch.cat([torch.full((rows, 1), -1), names], 1)  # what is empty stays so
        target, context = (names.gather(1, values.gather(1, place) + 1) for values in batch[:2])
        return Batch(target, context)

    def read(self, text: str) -> Tensor:
        """Reads digits (S,) from text, −1 for ".", "0" or "_"; other signs are left out.

        Raises:
            ValueError: there are too few or too many cells.
        """
        signs = [sign for sign in text.upper() if sign in ".0_" or sign in DIGITS[: self.side]]
        if len(signs) != self.side**2:
            raise ValueError(f"{text[:40]!r} has {len(signs)} cells: write {self.side**2}, digits to {self.side} and . for empty")
        return torch.tensor([DIGITS.find(sign) for sign in signs])

    def show(self, answer: Tensor, context: Tensor | None = None) -> str:
        """Writes digits (S,) as lines of text, "." where empty."""
        signs = ["." if digit < 0 else DIGITS[digit] for digit in answer.tolist()]
        lines = []
        for row in range(self.side):
            line = signs[row * self.side : (row + 1) * self.side]
            parts = [" ".join(line[start : start + self.box[1]]) for start in range(0, self.side, self.box[1])]
            lines += [""] if row and row % self.box[0] == 0 else []
            lines.append("  ".join(parts))
        return "\n".join(lines)

    def draw_on(self, axes: Any, marks: Sequence[Mark]) -> None:
        """Draws a board on matplotlib's axes."""
        for line in range(self.side + 1):
            axes.axhline(line, color=INK, linewidth=1.2 if line % self.box[0] == 0 else 0.3)
            axes.axvline(line, color=INK, linewidth=1.2 if line % self.box[1] == 0 else 0.3)
        size = 8.5 if self.side <= 6 else 6.0
        for place, mark in enumerate(marks):
            row, column = divmod(place, self.side)
            style: dict[str, Any] = {"color": mark.color, "alpha": mark.alpha, "fontsize": size, "ha": "center", "va": "center"}
            axes.text(column + 0.5, row + 0.54, DIGITS[mark.symbol], **style)
        axes.set(xlim=(0, self.side), ylim=(self.side, 0))


def keeps(answer: Tensor, context: Tensor) -> Tensor:
    """Tells which answers (*more, B, S) agree with what is known (B, S)."""
    return ((answer == context) | (context < 0)).all(-1)


def solutions(
    board: Sequence[int], box: tuple[int, int], limit: int = 2, rng: random.Random | None = None
) -> list[tuple[int, ...]]:
    """Lists at most `limit` ways to fill a board (digits from 0, −1 for empty), by search.

    >>> solutions([0, 1, -1, -1, -1, -1, 0, 1, 1, 0, -1, -1, -1, -1, 1, 0], box=(2, 2))
    [(0, 1, 2, 3, 2, 3, 0, 1, 1, 0, 3, 2, 3, 2, 1, 0), (0, 1, 2, 3, 3, 2, 0, 1, 1, 0, 3, 2, 2, 3, 1, 0)]
    """
    height, width = box
    side = height * width
    filled, found = list(board), []
    units = [
        (row, side + column, 2 * side + row // height * height + column // width) for row in range(side) for column in range(side)
    ]
    taken = [0] * 3 * side  # the digits, as bits, of every row, column and box
    for cell, digit in enumerate(filled):
        if digit >= 0:
            for unit in units[cell]:
                taken[unit] |= 1 << digit

    def fill() -> None:
        best, choices = -1, list[int]()
        for cell, digit in enumerate(filled):
            if digit < 0:
                a, b, c = units[cell]
                free = ~(taken[a] | taken[b] | taken[c])
                these = [digit for digit in range(side) if free >> digit & 1]
                if best < 0 or len(these) < len(choices):
                    best, choices = cell, these
                if not these:
                    break
        if best < 0:
            found.append(tuple(filled))
            return
        if rng is not None:
            rng.shuffle(choices)
        for digit in choices:
            filled[best] = digit
            for unit in units[best]:
                taken[unit] ^= 1 << digit
            fill()
            for unit in units[best]:
                taken[unit] ^= 1 << digit
            filled[best] = -1
            if len(found) >= limit:
                return

    fill()
    return found


def grids(count: int, box: tuple[int, int], seed: int) -> Tensor:
    """Draws distinct filled grids (at most count, side, side)."""
    rng, side = random.Random(seed), box[0] * box[1]
    found = {solutions([-1] * side**2, box, 1, rng)[0]: None for _ in range(count)}
    return torch.tensor([*found]).view(-1, side, side)


def by_logic(clues: Tensor, box: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Fills boards (n, side, side, side) of candidates, 1 where a digit stands, by singles alone.

    In a round, every candidate without a rival left in its cell, or for its digit in its row,
    column or box, is filled in. What is filled completely so has no other solution.

    Returns:
        what is filled, and the rounds (n,) that it took.
    """
    rounds = torch.zeros(len(clues), dtype=torch.long, device=clues.device)
    while True:
        ruled_out = torch.stack(_counts(clues, box)).sum(0) > 0  # by what stands in one of its groups
        alone = (torch.stack(_counts((~ruled_out).to(clues), box)) == 1).any(0)
        single = alone & ~ruled_out
        found = single.flatten(1).any(1)
        if not bool(found.any()):
            return clues, rounds
        clues, rounds = torch.where(single, 1.0, clues), rounds + found


def _counts(marked: Tensor, box: tuple[int, int]) -> list[Tensor]:
    """Counts the marked candidates in each one's cell, row, column and box."""
    height, width = box
    boxes = marked.unflatten(1, (-1, height)).unflatten(3, (-1, width)).sum((2, 4), keepdim=True)
    spread = boxes.expand(-1, -1, height, -1, width, -1).flatten(3, 4).flatten(1, 2)
    return [marked.sum(axis, keepdim=True).expand_as(marked) for axis in (3, 2, 1)] + [spread]


def dig(grid: Tensor, clues: Tensor, box: tuple[int, int], generator: Generator) -> Tensor:
    """Takes clues away in random order while `by_logic` still fills the board: digits, −1 where empty.

    Arguments:
        grid: filled grids (n, side, side).
        clues: how many are left at least (n,); 0 takes away as many as will go.
        box: (height, width) of a box.
        generator: draws the order.
    """
    side, cells = grid.shape[-1], grid.flatten(1).clone()
    for place in torch.rand(cells.shape, generator=generator).argsort(1).unbind(1):
        rows = ((cells >= 0).sum(1) > clues).nonzero().squeeze(1)
        trial = cells[rows].scatter(1, place[rows, None], -1)
        marked = F.one_hot(trial.view(-1, side, side) + 1, side + 1)[..., 1:].float()
        fits = by_logic(marked, box)[0].sum((1, 2, 3)) == side**2
        cells[rows[fits]] = trial[fits]
    return cells.view_as(grid)
