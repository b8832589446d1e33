"""Choosing among candidates: each chain keeps the one of the highest score."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

from torch import Tensor


class Candidates(NamedTuple):
    """What candidates can be chosen by, (candidates, *chains) each but y."""

    y: Tensor  # (candidates, *chains, *event): where thinking ended, logits where answers are symbols
    energy: Tensor  # of the end
    first: Tensor  # of the start
    residual: Tensor  # how far the last step moved the point, root mean square


Choice: TypeAlias = Callable[[Candidates], Tensor]
Select: TypeAlias = Literal["min", "max", "max-drop", "residual", "confidence", "vote"] | Choice


def lowest(found: Candidates) -> Tensor:
    """Scores candidates by how low their energy is: self-verification (arXiv 2507.02092)."""
    return -found.energy


def highest(found: Candidates) -> Tensor:
    """Scores candidates by how high their energy is."""
    return found.energy


def fallen(found: Candidates) -> Tensor:
    """Scores candidates by how far their energy has fallen."""
    return found.first - found.energy


def calmest(found: Candidates) -> Tensor:
    """Scores candidates by how little the last step moved them."""
    return -found.residual


def surest(found: Candidates) -> Tensor:
    """Scores candidates of symbols by their confidence: the mean log of the largest probability.

    y holds logits along its last axis.
    """
    return _symbols(found).log_softmax(-1).amax(-1).mean(-1)


def elected(found: Candidates) -> Tensor:
    """Scores candidates of symbols by how many agree with them in all positions, then by energy.

    >>> y = torch.tensor([[0.0, 1.0], [0.0, 2.0], [3.0, 0.0]])[:, None, None]    # symbols 1, 1 and 0
    >>> elected(Candidates(y, energy=torch.tensor([[5.0], [4.0], [0.0]]), first=y, residual=y)).argmax(0)
    tensor([1])
    """
    answers = _symbols(found).argmax(-1)
    votes = (answers[:, None] == answers[None]).all(-1).sum(1)
    rank = found.energy.argsort(0).argsort(0)
    return votes - rank / len(rank)


def _symbols(found: Candidates) -> Tensor:
    """Arranges logits as (candidates, *chains, positions, symbols)."""
    if found.y.ndim < found.energy.ndim + 1:
        shape = tuple(found.y.shape)
        raise ValueError(f"y of shape {shape} has no axis of symbols for each chain: choose by energy or residual")
    return found.y.reshape(*found.energy.shape, -1, found.y.shape[-1])


CHOICES: dict[str, Choice] = {
    "min": lowest,
    "max": highest,
    "max-drop": fallen,
    "residual": calmest,
    "confidence": surest,
    "vote": elected,
}


def choice_of(select: Select) -> Choice:
    """Reads a way of choosing: its name, or a function of `Candidates`."""
    if callable(select):
        return select
    if select not in CHOICES:
        raise ValueError(f"select={select!r}: choose min, max or max-drop, residual, confidence or vote, or pass a function")
    return CHOICES[select]


def check_choices(
    candidates: int,
    select: Select,
    patience: int | None,
    tolerance: float = 0.0,
    residual: float | None = None,
    familiar: float | None = None,
) -> None:
    """Raises ValueError for choices of thinking that cannot work."""
    if candidates < 1:
        raise ValueError(f"candidates={candidates}: pass a number of at least 1")
    choice_of(select)
    if patience is not None and patience < 1:
        raise ValueError(f"patience={patience}: pass a number of at least 1, or None")
    if not 0 <= tolerance < 1 or (tolerance and patience is None):
        raise ValueError(f"tolerance={tolerance}, patience={patience}: pass a share in [0, 1), and the patience that it is for")
    if residual is not None and not residual > 0:
        raise ValueError(f"residual={residual}: pass a positive distance, or None")
    if familiar is not None and not math.isfinite(familiar):
        raise ValueError(f"familiar={familiar}: pass a finite energy of a number, or None")


def pick(chosen: Tensor, values: Tensor) -> Tensor:
    """Takes each chain's chosen candidate of values (candidates, *chains, …): chosen is (*chains,)."""
    index = chosen.reshape(1, *chosen.shape, *(1,) * (values.ndim - 1 - chosen.ndim)).expand(1, *values.shape[1:])
    return values.gather(0, index)[0]
