"""Noise ladders: every row of a batch gets a level, and its energy from that level's landscape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ebm.interfaces import Batch, EnergyFn, bind, evaluate


def spread(data: Tensor, levels: int, generator: Generator | None = None) -> dict[int, Tensor]:
    """Gives every row a level, as evenly as possible: {level: its rows}, without empty levels.

    >>> groups = spread(torch.zeros(5, 2), 3, torch.Generator().manual_seed(0))
    >>> sorted(map(len, groups.values())), sorted(torch.cat([*groups.values()]).tolist())
    ([1, 2, 2], [0, 1, 2, 3, 4])
    """
    if levels == 1:
        return {0: torch.arange(len(data), device=data.device)}
    order = torch.randperm(len(data), generator=generator, device=data.device)
    # The first row's level is random, or the last levels would get fewer rows of small batches.
    first = int(torch.randint(levels, (), generator=generator, device=data.device))
    return {(first + place) % levels: order[place::levels] for place in range(min(levels, len(data)))}


def at_rows(values: Sequence[float], groups: dict[int, Tensor], like: Tensor) -> Tensor:
    """Lists values[level] for every row (rows,)."""
    found = like.new_empty(len(like))
    for level, rows in groups.items():
        found[rows] = values[level]
    return found


@dataclass(frozen=True)
class PerRow:
    """Scores every row on its own level's landscape: what `per_row` returns."""

    energy: EnergyFn  # by this name samplers find the module to hold in eval mode
    parts: list[tuple[EnergyFn, Tensor]]
    order: Tensor

    def __call__(self, y: Tensor) -> Tensor:
        return torch.cat([evaluate(landscape, y[rows]) for landscape, rows in self.parts])[self.order]


def per_row(energy: EnergyFn, batch: Batch, groups: dict[int, Tensor]) -> PerRow:
    """Binds every group of rows, with their context, to its level's landscape."""
    parts = [(bind(energy, batch.rows(rows).context, level), rows) for level, rows in groups.items()]
    return PerRow(energy, parts, torch.cat([*groups.values()]).argsort())
