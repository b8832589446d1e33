"""Sudoku boards made offline: grids by random search, clues by digging while simple logic still
fills the board."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ebm_ired.network import group_means

__all__ = ["by_logic", "dig", "grids", "one_hot", "solutions"]


def one_hot(grid: Tensor) -> Tensor:
    """Turns digits (…, side, side), −1 for an empty cell, into candidates (…, side, side, side) of
    0 and 1."""
    return F.one_hot(grid + 1, grid.shape[-1] + 1)[..., 1:].float()


def solutions(
    board: Sequence[int], box: tuple[int, int], limit: int = 2, rng: random.Random | None = None
) -> list[tuple[int, ...]]:
    """Lists at most `limit` ways to fill a board (side * side digits from 0, −1 for empty), by
    search; in random order with rng.

    >>> solutions([0, 1, -1, -1, -1, -1, 0, 1, 1, 0, -1, -1, -1, -1, 1, 0], box=(2, 2))
    [(0, 1, 2, 3, 2, 3, 0, 1, 1, 0, 3, 2, 3, 2, 1, 0), (0, 1, 2, 3, 3, 2, 0, 1, 1, 0, 3, 2, 2, 3, 1, 0)]
    """
    height, width = box
    side = height * width
    filled, found = list(board), []
    taken = [[0] * side for _ in range(3)]  # the digits, as bits, of each row, column and box

    def units(cell: int) -> tuple[int, int, int]:
        row, column = divmod(cell, side)
        return row, column, row // height * height + column // width

    def toggle(cell: int, digit: int) -> None:
        for kind, unit in zip(taken, units(cell), strict=True):
            kind[unit] ^= 1 << digit

    def free(cell: int) -> list[int]:
        row, column, square = units(cell)
        used = taken[0][row] | taken[1][column] | taken[2][square]
        return [digit for digit in range(side) if not used >> digit & 1]

    def fill() -> None:
        empty = [cell for cell, digit in enumerate(filled) if digit < 0]
        if not empty:
            found.append(tuple(filled))
            return
        cell = min(empty, key=lambda cell: len(free(cell)))
        digits = free(cell)
        if rng is not None:
            rng.shuffle(digits)
        for digit in digits:
            filled[cell] = digit
            toggle(cell, digit)
            fill()
            toggle(cell, digit)
            filled[cell] = -1
            if len(found) >= limit:
                return

    for cell, digit in enumerate(board):
        if digit >= 0:
            toggle(cell, digit)
    fill()
    return found


def grids(count: int, box: tuple[int, int], seed: int) -> Tensor:
    """Draws distinct filled grids (at most count, side, side)."""
    rng, side = random.Random(seed), box[0] * box[1]
    found = {solutions([-1] * side**2, box, 1, rng)[0]: None for _ in range(count)}
    return torch.tensor([*found]).view(-1, side, side)


def by_logic(clues: Tensor, box: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Fills boards (…, side, side, side) by singles alone: (what is filled, the rounds (…,) that it
    took).

    In a round, every candidate without a rival left in its cell, or for its digit in its row,
    column or box, is filled in. What is filled completely so has no other solution.
    """
    filled = clues
    rounds = torch.zeros(clues.shape[:-3], dtype=torch.long)
    while True:
        ruled_out = _counts(filled, box).sum(0) > 0.5  # by what is filled in one of its groups
        single = ~ruled_out & ((_counts((~ruled_out).to(clues), box) - 1).abs() < 0.5).any(0)
        found = single.flatten(-3).any(-1)
        if not found.any():
            return filled, rounds
        filled, rounds = torch.where(single, 1.0, filled), rounds + found


def _counts(marked: Tensor, box: tuple[int, int]) -> Tensor:
    """Counts the candidates that are marked in each candidate's cell, row, column and box: (4, …,
    side, side, side)."""
    means = group_means(marked.unsqueeze(-1), box)
    return torch.stack([marked.shape[-1] * mean.squeeze(-1).expand_as(marked) for mean in means])


def dig(grid: Tensor, clues: Tensor, box: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Takes clues away in random order while `by_logic` still fills the board: digits (n, side,
    side), −1 where empty.

    Arguments:
        grid: filled grids (n, side, side).
        clues: how many are left at least (n,); 0 takes away as many as will go.
        box: (height, width) of a box.
        generator: draws the order.
    """
    cells = grid.flatten(1).clone()
    order = torch.rand(cells.shape, generator=generator).argsort(1)
    for place in order.unbind(1):
        rows = ((cells >= 0).sum(1) > clues).nonzero().squeeze(1)
        trial = cells[rows].scatter(1, place[rows, None], -1)
        filled, _ = by_logic(one_hot(trial.view(-1, *grid.shape[1:])), box)
        fits = filled.sum((1, 2, 3)) == cells.shape[1]
        cells[rows[fits]] = trial[fits]
    return cells.view_as(grid)
