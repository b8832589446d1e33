"""How lattices are written as tensors, and what one gradient says about every site of them.

Spins y are -1 or 1, of shape (*chains, *lattice). Sites with q values are one-hot, of shape
(*chains, *lattice, q). Both are floating, so that an energy is an ordinary differentiable function
of them, off the lattice too.

A table (*chains, sites, values) says what every site could be: the energy with that site at that
value, minus E(y). An energy that is linear in each site (Ising, Potts, any Boltzmann machine with
its hidden units kept) has all of it in one gradient:

    spins: (v - yᵢ) ∂E/∂yᵢ,    one-hot: ∂E/∂yᵢᵥ - Σₐ yᵢₐ ∂E/∂yᵢₐ.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from ebm.interfaces import EnergyFn, evaluate

__all__ = ["Differences", "States", "check_lattice", "check_words", "draw", "evaluated_table", "read", "table", "write"]

States: TypeAlias = Literal["spins", "one-hot"]
Differences: TypeAlias = Literal["gradient", "evaluations"]


def check_words(who: object, states: str, differences: str = "gradient") -> None:
    """Raises ValueError for words that mean nothing here."""
    if states not in ("spins", "one-hot") or differences not in ("gradient", "evaluations"):
        raise ValueError(
            f"{type(who).__name__}(states={states!r}, differences={differences!r}): states are spins or one-hot, and differences "
            f"come from one gradient (energies that are linear in each site) or from evaluations (all energies)"
        )


def check_lattice(who: object, y: Tensor, states: States) -> None:
    """Raises ValueError where y is not on the lattice."""
    if states == "spins" and not bool((y.abs() == 1).all()):
        raise ValueError(f"{type(who).__name__} of spins: y holds other numbers than -1 and 1 (one-hot sites: states='one-hot')")
    if states == "one-hot" and not bool((((y == 0) | (y == 1)).all(-1) & (y.sum(-1) == 1)).all()):
        raise ValueError(f"{type(who).__name__} of one-hot sites: y's last axis is not a one among zeros (spins: states='spins')")


def read(y: Tensor, chains: int, states: States) -> Tensor:
    """Numbers the values of y, whose first `chains` axes are chains: (*chains, sites)."""
    index = (y > 0).long() if states == "spins" else y.argmax(-1)
    return index.reshape(*y.shape[:chains], -1)


def write(index: Tensor, like: Tensor, states: States) -> Tensor:
    """Makes the configuration whose values have these numbers (*chains, sites), of the shape and
    dtype of `like`.

    >>> write(torch.tensor([[0, 1]]), torch.ones(1, 2), "spins")
    tensor([[-1.,  1.]])
    """
    values = 2 * index - 1 if states == "spins" else nn.functional.one_hot(index, like.shape[-1])
    return values.to(like).reshape(like.shape)


def table(y: Tensor, grad: Tensor, chains: int, states: States) -> Tensor:
    """Reads off a gradient what every alternative would cost: (*chains, sites, values).

    >>> y = torch.tensor([[-1.0, 1.0]])                       # E(y) = -y₁ y₂, so ∇E = (-y₂, -y₁)
    >>> table(y, -y.flip(-1), 1, "spins")                     # a flip of either lowers E by 2
    tensor([[[-0., -2.],
             [-2.,  0.]]])
    """
    if states == "spins":
        costs = (y.new_tensor([-1.0, 1.0]) - y[..., None]) * grad[..., None]
    else:
        costs = grad - (y * grad).sum(-1, keepdim=True)
    return costs.reshape(*y.shape[:chains], -1, costs.shape[-1])


def evaluated_table(energy: EnergyFn, y: Tensor, chains: int, states: States, sites: Tensor | None = None) -> Tensor:
    """Evaluates every alternative of some sites, or of all: (*chains, sites, values), whatever the
    energy is."""
    index, rows = read(y, chains, states), []
    for site in range(index.shape[-1]) if sites is None else sites.tolist():
        values = []
        for number in range(2 if states == "spins" else y.shape[-1]):
            changed = index.clone()
            changed[..., site] = number
            values.append(evaluate(energy, write(changed, y, states)))
        every = torch.stack(values, -1)
        rows.append(every - every.gather(-1, index[..., site, None]))
    return torch.stack(rows, -2)


def draw(costs: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draws values with probability ∝ exp(-cost) over the last axis: their numbers."""
    cumulative = costs.neg().softmax(-1).cumsum(-1)
    level = torch.rand(costs.shape[:-1], generator=generator, dtype=costs.dtype, device=costs.device)
    return (level[..., None] >= cumulative).sum(-1).clamp(max=costs.shape[-1] - 1)
