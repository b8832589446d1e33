"""Gradient accumulation: a batch in pieces, whose gradients add up to the whole batch's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ebm.interfaces import Batch, Loss


def pieces(batch: Batch, count: int) -> list[tuple[Batch, Tensor | float]]:
    """Cuts a batch into at most `count` pieces of rows: (piece, its share of the batch's mean).

    >>> [(part.target.tolist(), share) for part, share in pieces(Batch(torch.arange(3)), 2)]
    [([0, 1], 0.6666666666666666), ([2], 0.3333333333333333)]
    """
    if count == 1:
        return [(batch, 1.0)]
    rows = next(len(leaf) for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor))
    size = -(-rows // count)
    parts = [batch.rows(slice(first, first + size)) for first in range(0, rows, size)]
    weights = [None] * len(parts) if batch.weight is None else batch.weight.split(size)
    counts = [len(range(rows)[place * size :][:size]) if w is None else w.sum() for place, w in enumerate(weights)]
    total: Any = sum(counts)
    total = torch.where(total > 0, total, torch.ones_like(total)) if isinstance(total, Tensor) else total
    return [(part, count / total) for part, count in zip(parts, counts, strict=True)]


def whole(losses: Sequence[Loss], shares: Sequence[Any]) -> Loss:
    """Averages the losses of pieces, and their terms, by the pieces' shares."""
    if len(losses) == 1:
        return losses[0]

    def mean(values: Sequence[Tensor]) -> Tensor:
        return torch.stack([share * value.detach() for value, share in zip(values, shares, strict=True)]).sum()

    names = [name for name in losses[0].terms if all(name in loss.terms for loss in losses)]
    return Loss(mean([loss.value for loss in losses]), {name: mean([loss.terms[name] for loss in losses]) for name in names})
